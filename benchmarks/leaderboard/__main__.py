"""`python -m benchmarks.leaderboard`."""

import sys

from benchmarks.leaderboard.board import get_parser, main
from helper_functions.config import run_script

if __name__ == "__main__":
    sys.exit(run_script(get_parser, main, goes_on=True))
