"""What the repeats of a measurement say together."""

import statistics
from collections.abc import Sequence


def spread(samples: Sequence[float]) -> float:
    """Returns half of the distance between the quartiles, as a share of the median; 0 for a single sample."""
    if len(samples) < 2:
        return 0.0
    low, middle, high = statistics.quantiles(samples, n=4)
    return (high - low) / 2 / middle


def percentile(samples: Sequence[float], share: float) -> float:
    """Returns the smallest sample that is at least as large as that share of all (the nearest-rank percentile)."""
    ordered = sorted(samples)
    return ordered[max(0, -int(-share * len(ordered) // 1) - 1)]
