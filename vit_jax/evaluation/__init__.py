"""Evaluation: exact classification metrics. Knows nothing of training."""
