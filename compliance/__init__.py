"""Checks logs, runs and submission packages against the rules, with one finding for each violation."""
