"""``python -m softeq`` is the command ``softeq``."""

from softeq.experiments.cli import main

if __name__ == "__main__":
    main()
