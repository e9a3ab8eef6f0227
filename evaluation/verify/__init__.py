"""The check of a report."""
