"""The toy calculators are a module that tests import by name."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
