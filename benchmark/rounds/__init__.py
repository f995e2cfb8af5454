"""MLPerf's published rounds: their folder trees, the rules of each round, the log forms of the first ones, power logs."""
