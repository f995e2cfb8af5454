"""From the manifest to batches: order, decoding of audio, augmentation, loader processes."""
