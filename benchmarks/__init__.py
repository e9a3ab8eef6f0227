"""Speed and robustness, measured."""
