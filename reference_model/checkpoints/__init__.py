"""Checkpoints: those that the trainer writes, and those of the MLPerf speech reference and TBD."""
