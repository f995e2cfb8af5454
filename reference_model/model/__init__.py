"""DeepSpeech2 itself: features, network, alphabet, greedy decoding, and what a step of it computes."""
