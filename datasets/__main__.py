"""The command line of the datasets: `python -m datasets COMMAND ...`."""

from __future__ import annotations

import sys

from common.errors import run_cli
from datasets.commands import main

if __name__ == "__main__":
    sys.exit(run_cli(main))
