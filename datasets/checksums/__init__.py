"""Checksums of a folder: the normalised tar, its POSIX cksum, and the SHA-256 of every file."""
