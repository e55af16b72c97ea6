"""Models ready for use: weights, preprocessing and class names together."""
