"""`python -m benches gpu`: what one GPU makes of this benchmark, section by section, as one table."""
