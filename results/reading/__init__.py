"""Reads logs and records into runs: those of this benchmark and of published MLPerf rounds."""
