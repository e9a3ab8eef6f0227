"""`python -m unlearning.methods` prints the table of docs/methods.md from the methods' docstrings and defaults."""

from unlearning.methods import METHODS
from unlearning.methods.method import method_row

if __name__ == "__main__":
    print(*(method_row(name, method) for name, method in METHODS.items()), sep="\n")
