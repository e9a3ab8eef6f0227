"""How parameters move: optimizers, sharpness-aware steps, schedules, and solvers of constrained problems."""
