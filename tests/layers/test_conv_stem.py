"""The convolutional stem: against convolutions, norms and ReLUs written out, its grid, its published channels."""

import jax
import numpy as np
import pytest

from vit_jax.layers.conv_stem import ConvStem
from vit_jax.layers.patch_embed import PatchEmbed


def halved(x, kernel):
    """Returns the 3x3 convolution with stride 2, padded by one on every side."""
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    rows, columns = (-(-side // 2) for side in x.shape[1:3])
    parts = [
        padded[:, i : i + 2 * rows - 1 : 2, j : j + 2 * columns - 1 : 2] @ kernel[i, j]
        for i in range(3)
        for j in range(3)
    ]
    return np.sum(parts, axis=0)


@pytest.mark.parametrize(("side", "size", "train"), [(2, (6, 8), True), (4, (8, 8), True), (4, (9, 6), False)])
def test_is_convolution_norm_and_relu_then_a_dense_layer(normal, random_params, side, size, train):
    images, layer = normal(3, *size, 3), ConvStem((side, side), 8)
    params = random_params(layer, images)
    shapes = jax.eval_shape(layer.init, jax.random.key(0), images)["batch_stats"]
    statistics = jax.tree.map(lambda leaf: np.abs(normal(*leaf.shape)) + 0.5, shapes)
    variables = {"params": params, "batch_stats": statistics}
    x = images
    for i in range(len(params) - 1):
        norm, running = params[f"conv_{i}"]["norm"], statistics[f"conv_{i}"]["norm"]
        x = halved(x, params[f"conv_{i}"]["conv"]["kernel"])
        mean, var = (x.mean((0, 1, 2)), x.var((0, 1, 2))) if train else (running["mean"], running["var"])
        x = np.maximum((x - mean) / np.sqrt(var + 1e-5) * norm["scale"] + norm["bias"], 0)
    expected = x.reshape(3, -1, 8) @ params["proj"]["kernel"] + params["proj"]["bias"]
    tokens, updated = jax.jit(lambda v: layer.apply(v, images, train, mutable=["batch_stats"]))(variables)
    assert layer.grid(size) == x.shape[1:3]
    np.testing.assert_allclose(tokens, expected, rtol=1e-4, atol=1e-4)
    moved = np.abs(updated["batch_stats"]["conv_0"]["norm"]["mean"] - statistics["conv_0"]["norm"]["mean"]).max()
    assert (moved > 1e-3) == train


def test_its_grid_is_that_of_patches():
    for side, size in ((2, (8, 4)), (4, (8, 12)), (16, (224, 32))):
        assert ConvStem((side, side), 32).grid(size) == PatchEmbed((side, side), 32).grid(size)


@pytest.mark.parametrize(("width", "channels"), [(192, [24, 48, 96, 192]), (384, [48, 96, 192, 384])])
def test_published_channels(width, channels):
    """Of ViT_C-1GF and 4GF."""
    params = jax.eval_shape(ConvStem((16, 16), width).init, jax.random.key(0), np.ones((1, 32, 32, 3)))["params"]
    assert [params[f"conv_{i}"]["conv"]["kernel"].shape[-1] for i in range(4)] == channels
    assert params["proj"]["kernel"].shape == (width, width)


@pytest.mark.parametrize(
    ("patch", "width", "message"),
    [((3, 3), 8, "'conv_stem' halves the map: patch_size must be 2, 4, 8"), ((8, 8), 6, "width 6 / 2.2 is not whole")],
)
def test_what_does_not_fit_is_an_error(patch, width, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(ConvStem(patch, width).init, jax.random.key(0), np.ones((1, 24, 24, 3)))
