"""Discriminators of two kinds of pairs of outputs: their inputs, their training and their held-out AUC."""
