"""``python -m softeq`` is the command ``softeq``."""

import sys

from softeq.experiments.cli import main

if __name__ == "__main__":
    sys.exit(main())
