"""What one host has seen and all must act upon, lest they part ways."""

import jax
import numpy as np
from jax.experimental import multihost_utils


def anywhere(happened: bool) -> bool:
    """Returns whether something happened on any host; every host must ask."""
    if jax.process_count() == 1:
        return happened
    return bool(np.any(multihost_utils.process_allgather(np.asarray(happened))))
