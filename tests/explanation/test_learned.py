"""What was learned: filters, positions, features of tokens, and the image cut up."""

import numpy as np
import pytest

from tests.explanation.examples import loaded, pictures
from vit_jax.errors import UserError
from vit_jax.explanation import (
    embedding_filters,
    feature_maps,
    position_similarities,
    token_colours,
    token_similarity,
    visualize_patches,
)
from vit_jax.explanation.filters import principal_filters
from vit_jax.explanation.patches import apart, cut, enlarged
from vit_jax.explanation.tokens import principal_colours
from vit_jax.layers.position import sincos2d


def test_filters_made_of_two_patterns_have_these_as_components():
    generator = np.random.default_rng(0)
    patterns = np.linalg.qr(generator.normal(size=(12, 2)))[0]
    strengths = generator.normal(size=(2, 50)) * [[5], [1]]
    strengths -= strengths.mean(1, keepdims=True)
    kernel = (patterns @ strengths + 3).reshape(2, 2, 3, 50)
    found = principal_filters(kernel.astype(np.float32), count=2).reshape(2, 12)
    inside = found @ patterns
    np.testing.assert_allclose(np.linalg.norm(inside, axis=1), 1, rtol=1e-5)
    assert abs(inside[0, 0]) > 0.9
    assert (found[np.arange(2), np.abs(found).argmax(1)] > 0).all()


@pytest.mark.parametrize(
    ("family", "shape"), [("vit", (16, 4, 4, 3)), ("convnext", (8, 4, 4, 3)), ("swin", (6, 2, 2, 3))]
)
def test_filters_of_the_first_layer(family, shape):
    found = embedding_filters(loaded(family))
    assert found.shape == shape
    np.testing.assert_allclose(np.linalg.norm(found.reshape(len(found), -1), axis=1), 1, rtol=1e-5)
    assert embedding_filters(loaded(family), 3).shape == (3, *shape[1:])


@pytest.mark.parametrize("fields", [{}, {"pool": "gap"}, {"registers": 2}])
def test_learned_positions_are_those_of_the_patches(fields):
    model = loaded("vit", **fields)
    rows = model.variables["params"]["position_embed"]["embedding"][0, -6:].astype(np.float64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    np.testing.assert_allclose(position_similarities(model).reshape(6, 6), rows @ rows.T, atol=1e-6)


def test_fixed_positions():
    rows = sincos2d(2, 3, 16)
    found = position_similarities(loaded("vit", position="sincos2d", pool="gap"))
    np.testing.assert_allclose(found.reshape(6, 6), rows @ rows.T / (rows**2).sum(1), atol=1e-6)


def test_a_model_without_positions():
    for model in (loaded("mixer"), loaded("swin")):
        with pytest.raises(UserError, match="has no position embeddings"):
            position_similarities(model)
    with pytest.raises(UserError, match=r"no position embeddings are added to the tokens of this model .*'none'"):
        position_similarities(loaded("vit", position="none", pool="gap"))


def test_colours_are_the_principal_components():
    """Three strong directions in many channels become the three colours, in their order."""
    generator = np.random.default_rng(0)
    strengths = generator.normal(size=(2, 5, 7, 3)) * [30, 10, 3]
    features = strengths @ np.linalg.qr(generator.normal(size=(9, 3)))[0].T
    found = principal_colours(features.astype(np.float32))
    assert found.shape == (2, 5, 7, 3)
    assert (found.min(), found.max()) == (0, 1)
    for channel in range(3):
        assert abs(np.corrcoef(found[..., channel].ravel(), strengths[..., channel].ravel())[0, 1]) > 0.95


def test_equal_tokens_have_equal_colours_and_few_channels_suffice():
    assert np.ptp(principal_colours(np.ones((1, 2, 2, 5), np.float32))) == 0
    assert principal_colours(np.random.default_rng(0).normal(size=(1, 3, 3, 2)).astype(np.float32)).shape == (
        1,
        3,
        3,
        3,
    )


def test_similarity_is_the_cosine_with_one_token():
    model = loaded("vit")
    features = feature_maps(model, pictures(model))
    found = token_similarity(model, pictures(model), (1, 2))
    for image, row, column in np.ndindex(2, 2, 3):
        one, other = features[image, row, column], features[image, 1, 2]
        np.testing.assert_allclose(
            found[image, row, column], one @ other / np.linalg.norm(one) / np.linalg.norm(other), atol=1e-5
        )
    with pytest.raises(UserError, match="there are 2x3 places, no 2,0"):
        token_similarity(model, pictures(model), (2, 0))


def test_features_are_the_models_own():
    model = loaded("vit", registers=1)
    x = model.preprocess(pictures(model))
    for layer, tokens in enumerate(model.intermediates(x)):
        np.testing.assert_allclose(
            feature_maps(model, pictures(model), layer).reshape(2, 6, 16), tokens[:, 2:], rtol=1e-5
        )
    swin = loaded("swin")
    last = swin.intermediates(swin.preprocess(pictures(swin)))[0]
    for layer in ("stage_0", "stage_0/block_1", 1):
        np.testing.assert_allclose(feature_maps(swin, pictures(swin), layer), last, rtol=1e-5)


def test_colours_of_pictures_share_their_components():
    model = loaded("vit")
    many = token_colours(model, pictures(model))
    assert many.shape == (2, 2, 3, 3)
    np.testing.assert_array_equal(many, principal_colours(feature_maps(model, pictures(model))))


def test_patches_are_those_of_the_image():
    image = np.arange(4 * 6 * 3).reshape(4, 6, 3)
    patches = cut(image, (2, 2))
    np.testing.assert_array_equal(patches[1, 0], image[2:, :3])
    spread = apart(patches.astype(np.uint8), 1)
    assert spread.shape == (5, 7, 3)
    assert (spread[2] == 255).all()
    assert (spread[:, 3] == 255).all()
    np.testing.assert_array_equal(spread[3:, 4:], image[2:, 3:])


def test_an_image_that_the_grid_does_not_divide_is_enlarged():
    patches = cut(np.arange(5)[:, None, None] * np.ones((1, 4, 3), int), (2, 2))
    assert patches.shape == (2, 2, 3, 2, 3)
    assert patches[1, 0, :, 0, 0].tolist() == [3, 4, 4]
    with pytest.raises(UserError, match="cannot be cut into 9x1 patches"):
        cut(np.zeros((4, 4, 3)), (9, 1))


def test_visualized_patches_are_as_many_as_the_models():
    model = loaded("vit")
    assert visualize_patches(model, pictures(model)[0], gap=1).shape == (8 + 1, 12 + 2, 3)
    assert visualize_patches(loaded("swin"), pictures(loaded("swin"))[0], gap=1).shape == (12 + 5, 20 + 9, 3)


def test_every_pixel_has_the_value_of_its_place():
    found = enlarged(np.array([[1, 2], [3, 4]]), (4, 6))
    np.testing.assert_array_equal(found, np.kron([[1, 2], [3, 4]], np.ones((2, 3))))
