"""`python -m benchmarks.leaderboard`, or `python benchmarks/leaderboard`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # where this file is run by its path

from benchmarks.leaderboard.board import get_parser, main
from helper_functions.config import run_script

if __name__ == "__main__":
    sys.exit(run_script(get_parser, main, goes_on=True))
