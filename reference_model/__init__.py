"""DeepSpeech2 and its trainer: the part of the benchmark that a submitter may change, and the only one with torch."""
