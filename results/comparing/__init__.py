"""Computes scores, table rows, groups and speed-ups from runs."""
