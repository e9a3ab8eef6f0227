"""The report of a run: figures, page, tables."""
