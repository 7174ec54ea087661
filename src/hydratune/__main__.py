"""``python -m hydratune``: the same as the ``hydratune`` script."""

import sys

from hydratune.cli import main

if __name__ == "__main__":
    sys.exit(main())
