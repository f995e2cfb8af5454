"""One timed run, from the user's settings to the record: `run` is the place to start reading."""
