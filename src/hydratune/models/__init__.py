"""Models and adapters: where they come from, what is trained, what the machine can do."""

import logging

# On a CPU it recommends a kernel package that the default needs nothing of, wherever PEFT is imported.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
