"""Constrained unlearning: the problem, the trainer, the targets, the line search."""
