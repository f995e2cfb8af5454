"""Runs become scores, rows and groups that may be ranked."""
