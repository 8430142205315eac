"""Training: schedules, optimizers, checkpoints, and the loop in `trainer`."""
