"""Benches of the training step and its data loading, each compared with a named peer."""
