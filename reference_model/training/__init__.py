"""Training: runs, epochs and steps, optimizer, evaluation, several processes."""
