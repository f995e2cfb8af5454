"""Builds submission packages from run folders."""
