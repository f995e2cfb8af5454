"""The training step and what feeds it, each beside a named peer."""
