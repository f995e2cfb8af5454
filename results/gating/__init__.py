"""The gate for the CI of a trainer: new runs against a baseline, and the history of such comparisons."""
