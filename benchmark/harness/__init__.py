"""One timed run, from the user's settings to the record: start reading at `run`."""
