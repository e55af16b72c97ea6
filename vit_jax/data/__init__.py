"""Data: sources, decoding and cropping, augmentation, batching, mixing. Knows nothing of models and training."""
