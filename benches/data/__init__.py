"""Preparing and verifying datasets, beside the usual tools."""
