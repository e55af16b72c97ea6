"""Small loaded models of several families, with random parameters."""

import functools

import numpy as np

from vit_jax.data.preprocessing import Preprocessing
from vit_jax.inference.model import LoadedModel
from vit_jax.models.registry import create_model
from vit_jax.pretrained.weights import STATISTICS, make_weights, parameter_shapes

VIT = {"num_classes": 5, "patch_size": (4, 4), "width": 16, "depth": 2, "heads": 2, "mlp_dim": 24}
FAMILIES = {
    "vit": (VIT, (8, 12)),
    "vit_distilled": (VIT, (8, 12)),
    "beit": (VIT, (8, 12)),
    "mixer": ({**{k: VIT[k] for k in ("num_classes", "patch_size", "width", "depth")}, "tokens_mlp_dim": 8}, (8, 12)),
    "swin": (
        {"num_classes": 5, "patch_size": (2, 2), "depths": (2, 1), "widths": (6, 8), "heads": (1, 2), "window_size": 3},
        (12, 20),
    ),
    "convnext": ({"num_classes": 5, "depths": (1, 1), "widths": (8, 12)}, (16, 24)),
    "efficientformer": (
        {"num_classes": 5, "depths": (1, 2), "widths": (8, 12), "heads": 2, "head_dim": 4, "value_dim": 6},
        (16, 24),
    ),
    "mobilevit": (
        {
            **{"num_classes": 5, "depths": (1, 2), "widths": (8, 8), "heads": 2, "stem_width": 4, "last_width": 12},
            **{"transformer_depths": (0, 2), "transformer_widths": (0, 8)},
        },
        (16, 24),
    ),
}
"""Fields and image size of each."""


@functools.cache
def loaded(family: str = "vit", size: tuple[int, int] | None = None, scale: float = 0.5, **fields) -> LoadedModel:
    """Returns a model, made once for each set of fields; its variables are not to be changed in place.

    Running variances are positive; other parameters are normal with the standard deviation `scale`.
    """
    own, usual = FAMILIES[family]
    fields, size = {**own, **fields}, size or usual
    generator = np.random.default_rng(0)
    shapes = parameter_shapes(create_model(family, **fields), size)
    params = {name: generator.normal(size=shape).astype(np.float32) * scale for name, shape in sorted(shapes.items())}
    params |= {name: np.abs(array) + 0.5 for name, array in params.items() if name.startswith(STATISTICS)}
    seen = Preprocessing(size, mean=(0.4, 0.5, 0.6), std=(0.3, 0.2, 0.1))
    names = [f"class {i}" for i in range(fields["num_classes"])] or None
    return LoadedModel(make_weights(family, fields, params, size, seen, f"small {family}", names))


def pictures(model: LoadedModel, count: int = 2) -> np.ndarray:
    """Returns random pictures of the size that a model sees, uint8."""
    return np.random.default_rng(1).integers(0, 256, (count, *model.preprocessing.size, 3), dtype=np.uint8)


def random_attention(*shape: int, seed: int = 0) -> np.ndarray:
    """Returns random weights whose rows sum to 1, far from equal."""
    weights = np.random.default_rng(seed).random(shape, np.float32) ** 4
    return weights / weights.sum(-1, keepdims=True)
