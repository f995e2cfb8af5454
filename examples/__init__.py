"""Small programs to begin one's own from."""
