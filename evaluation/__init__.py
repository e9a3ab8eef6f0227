"""Was it forgotten, and at what price: figures of a model, attacks on it, verdicts and reports."""
