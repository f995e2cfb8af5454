"""DeepSpeech2: features, network, alphabet, greedy decoding, and the FLOPs of a step."""
