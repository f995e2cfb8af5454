"""Checksums of a folder: the normalised tar, its POSIX cksum, and a SHA-256 digest of every file."""
