"""DeepSpeech2 and its trainer: what a submitter may change, and the only package that imports torch."""
