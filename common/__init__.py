"""What every package uses: errors and exit statuses, help, progress, locks, limits, file formats."""
