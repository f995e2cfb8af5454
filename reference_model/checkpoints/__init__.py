"""Checkpoints: those of this trainer, and those of the MLPerf speech reference and TBD."""
