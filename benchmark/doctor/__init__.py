"""`python -m benchmark doctor`: what this machine can run, and the remedy for what it cannot."""
