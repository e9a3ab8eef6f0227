"""Convex problems on which the solver is measured."""
