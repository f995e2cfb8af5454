"""From logs and records on disk to runs, this benchmark's and those of published MLPerf rounds."""
