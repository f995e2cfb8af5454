"""What MLPerf's package_checker checks of a result and of a system description, besides the single logs."""
