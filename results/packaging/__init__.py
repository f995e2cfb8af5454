"""A submission package from run folders."""
