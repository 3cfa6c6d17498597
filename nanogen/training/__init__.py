"""Training runs: settings, the loop, checkpoints, pictures and evaluation."""
