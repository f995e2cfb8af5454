"""What is done with finished runs: dataset checksum, scores, comparison tables, report page, submission package."""
