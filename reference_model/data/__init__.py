"""From the manifest to batches: order, audio decoding, augmentation, data loader workers."""
