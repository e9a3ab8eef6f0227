"""Ours: push each forget image until it has reached its target, subject to the retain budget."""

from unlearning.constrained.targets import own_target
from unlearning.methods.method import constrained

METHOD = constrained(own_target)
