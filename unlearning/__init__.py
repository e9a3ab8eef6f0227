"""What to optimise so that data is forgotten."""
