"""Models of the same parameters among which training draws."""

import flax.linen as nn


def training_variants(model: nn.Module) -> tuple[nn.Module, ...]:
    """Returns the models among which each training step draws one; of most models that one alone.

    All take the same variables and give outputs of the same shapes.
    """
    return getattr(model, "training_variants", (model,))
