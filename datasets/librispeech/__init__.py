"""LibriSpeech: its published archives, fetched, unpacked and made into a dataset."""
