"""Whether a dataset on disk is, to the last bit, what it should be."""
