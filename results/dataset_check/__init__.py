"""Verifies that a dataset on disk is bit-identical to its reference."""
