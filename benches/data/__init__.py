"""Benches of preparing and verifying datasets, compared with the standard tools."""
