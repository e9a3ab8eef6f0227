"""Ours: push each forget image until it has reached its target, subject to the retain budget."""

from unlearning.methods.method import constrained
from unlearning.targets import own_target

METHOD = constrained(own_target)
