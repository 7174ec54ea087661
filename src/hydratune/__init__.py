"""Config-driven fine-tuning experiments: reproducible, cheap, tracked."""

import logging

__version__ = "0.1.0"

# On a CPU it recommends a kernel package that the default needs nothing of, wherever PEFT is
# imported.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
