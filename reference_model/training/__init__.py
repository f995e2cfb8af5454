"""Training: steps and epochs, optimiser, evaluation, several processes."""
