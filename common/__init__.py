"""Utilities that every package uses: errors and exit statuses, help, progress, locks, resource limits, file formats."""
