"""The submission check: rules as data and plain functions, one finding for each thing that is wrong."""
