"""The data sets' door: `python -m datasets COMMAND ...`."""

from __future__ import annotations

import sys

from .cli import main
from .errors import run_door

if __name__ == "__main__":
    sys.exit(run_door(main))
