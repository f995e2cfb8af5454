"""LibriSpeech: downloading and unpacking its published archives and assembling the dataset."""
