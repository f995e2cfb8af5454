"""`python -m benchmark doctor`: what this machine can run, and what to do about problems."""
