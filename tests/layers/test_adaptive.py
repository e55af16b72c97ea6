"""Adaptive patches: the quadtree against a greedy search, its leaves, and the plain embedding in the limit."""

import heapq

import jax
import numpy as np
import pytest

from vit_jax.layers.adaptive import AdaptiveEmbed
from vit_jax.layers.patch_embed import PatchEmbed
from vit_jax.layers.quadtree import Quadtree, shrinking_errors, shrunken


def boxes_of(layer, images):
    """Returns the leaves' boxes in pixels, and which leaf each smallest patch belongs to."""

    def both(images):
        leaves = layer.leaves(images)
        return layer.boxes(leaves, images.shape[1:3]), leaves.assignment

    return jax.tree.map(np.asarray, jax.jit(both)(images))


def placed(layer, params, images, positions):
    """Returns the tokens, their grid and their places, compiled."""
    grids = []

    def applied(params):
        tokens, grid, places = layer.apply({"params": params}, images, positions, method="placed")
        grids.append(grid)
        return tokens, places

    tokens, places = jax.jit(applied)(params)
    return tokens, grids[0], places


def greedy(image, patch, scales, count):
    """Returns the boxes of the leaves, always splitting the one that loses most."""
    largest = patch << (scales - 1)
    height, width = image.shape[:2]

    def loss(box):
        """Of a box shrunk to `patch` pixels each way."""
        factor, (top, left, side) = box[2] // patch, box
        part = image[top : top + side, left : left + side].astype(np.float64)
        cells = part.reshape(patch, factor, patch, factor, -1)
        return ((cells - cells.mean((1, 3), keepdims=True)) ** 2).sum()

    leaves = [(i, j, largest) for i in range(0, height, largest) for j in range(0, width, largest)]
    heap, done = [(-loss(box), box) for box in leaves], []
    heapq.heapify(heap)
    while len(heap) + len(done) < count:
        _, (top, left, side) = heapq.heappop(heap)
        for i in (top, top + side // 2):
            for j in (left, left + side // 2):
                box = (i, j, side // 2)
                done.append(box) if side // 2 == patch else heapq.heappush(heap, (-loss(box), box))
    return sorted((i, j, side, side) for i, j, side in done + [box for _, box in heap])


@pytest.mark.parametrize(
    ("patch", "scales", "count"), [(2, 3, 28), (2, 3, 64), (2, 3, 4), (1, 3, 79), (2, 2, 40), (1, 4, 31)]
)
def test_the_leaves_are_those_of_a_greedy_search(normal, patch, scales, count):
    images = (normal(3, 16, 16, 3) * np.linspace(0, 3, 16)[:, None] ** 2).astype(np.float32)
    boxes, _ = boxes_of(AdaptiveEmbed((patch, patch), 5, patch_scales=scales, patch_tokens=count), images)
    for image, found in zip(images, boxes, strict=True):
        assert sorted(map(tuple, found.tolist())) == greedy(image, patch, scales, count)


@pytest.mark.parametrize("kind", ["noise", "constant", "point", "ramp"])
def test_the_leaves_tile_any_image_with_as_many_as_asked_for(normal, kind):
    shapes = {"noise": normal(2, 24, 16, 3), "constant": np.full((2, 24, 16, 3), 0.3, np.float32)}
    shapes["point"] = np.zeros((2, 24, 16, 3), np.float32)
    shapes["point"][:, 5, 9] = 1.0
    shapes["ramp"] = np.broadcast_to(np.linspace(-1, 1, 16, dtype=np.float32)[:, None], (2, 24, 16, 3))
    boxes, assignment = boxes_of(AdaptiveEmbed((2, 2), 5, patch_tokens=39), shapes[kind])
    for leaves, owners in zip(boxes, assignment, strict=True):
        covered = np.zeros((24, 16), int)
        owner = np.full((24, 16), -1)
        for n, (top, left, height, width) in enumerate(leaves):
            covered[top : top + height, left : left + width] += 1
            owner[top : top + height, left : left + width] = n
        assert len(leaves) == 39
        np.testing.assert_array_equal(covered, 1)
        np.testing.assert_array_equal(owners.reshape(12, 8), owner[::2, ::2])
        assert [tuple(box) for box in leaves[:, :2].tolist()] == sorted(map(tuple, leaves[:, :2].tolist()))


def test_small_patches_are_where_there_is_detail(normal):
    """A flat image with noise in one corner, whose leaves are the smallest."""
    image = np.zeros((1, 32, 32, 3), np.float32)
    image[:, 16:24, 8:16] = normal(1, 8, 8, 3)
    (boxes,), _ = boxes_of(AdaptiveEmbed((2, 2), 5, patch_tokens=16 + 3 * 5), image)
    inside = (boxes[:, 0] >= 16) & (boxes[:, 0] < 24) & (boxes[:, 1] >= 8) & (boxes[:, 1] < 16)
    assert set(boxes[inside, 2].tolist()) == {2}
    assert set(boxes[~inside, 2].tolist()) == {8}


@pytest.mark.parametrize("scales", [2, 3])
def test_with_all_leaves_the_smallest_it_is_the_plain_embedding(normal, random_params, scales):
    images, plain = normal(2, 8, 16, 3), PatchEmbed((2, 2), 5)
    params, positions = random_params(plain, images), normal(1, 32, 5)
    params["scale"] = normal(scales - 1, 5)
    layer = AdaptiveEmbed((2, 2), 5, patch_scales=scales, patch_tokens=32)
    tokens, grid, places = placed(layer, params, images, positions)
    np.testing.assert_allclose(tokens, plain.apply({"params": params}, images) + positions, rtol=1e-6, atol=1e-6)
    assert grid == (4, 8)
    np.testing.assert_array_equal(places, np.broadcast_to(np.stack(np.mgrid[:4, :8], -1).reshape(1, 32, 2), (2, 32, 2)))


def test_a_large_leaf_is_shrunk_and_has_the_mean_position_and_its_size(normal):
    images, positions = normal(2, 8, 8, 3), normal(1, 16, 5)
    params = {"kernel": normal(2, 2, 3, 5), "bias": normal(5), "scale": normal(2, 5)}
    layer = AdaptiveEmbed((2, 2), 5, patch_tokens=7)
    tokens, _, places = placed(layer, params, images, positions)
    boxes, _ = boxes_of(layer, images)
    grid = positions.reshape(4, 4, 5)
    for i, leaves in enumerate(boxes):
        assert sorted(leaves[:, 2].tolist()) == [2, 2, 2, 2, 4, 4, 4]
        for n, (top, left, side, _) in enumerate(leaves):
            part = images[i, top : top + side, left : left + side].reshape(2, side // 2, 2, side // 2, 3).mean((1, 3))
            rows, columns = (slice(first // 2, (first + side) // 2) for first in (top, left))
            expected = np.einsum("hwc,hwcd->d", part, params["kernel"]) + params["bias"]
            expected = expected + grid[rows, columns].mean((0, 1)) + (params["scale"][0] if side == 4 else 0)
            np.testing.assert_allclose(tokens[i, n], expected, rtol=1e-5, atol=1e-5)
            np.testing.assert_allclose(places[i, n], [(first + side / 2) / 2 - 0.5 for first in (top, left)])


def test_errors_are_those_of_rebuilt_patches_and_parents_lose_no_less(normal):
    images = normal(1, 8, 8, 3)
    errors = shrinking_errors(shrunken(images, 3), (2, 2))
    rebuilt = [
        np.repeat(np.repeat(level, 8 // n, 1), 8 // n, 2)
        for level, n in zip(shrunken(images, 3), (8, 4, 2), strict=True)
    ]
    np.testing.assert_allclose(errors[0, 0], ((images - rebuilt[2]) ** 2).sum(), rtol=1e-5)
    lost = ((images - rebuilt[1]) ** 2).reshape(2, 4, 2, 4, 3).sum((1, 3, 4)).reshape(-1)
    np.testing.assert_allclose(errors[0, 1:], lost, rtol=1e-5)
    assert errors[0, 1:].sum() <= errors[0, 0]


def test_gradients_are_finite_in_bfloat16(normal, random_params):
    layer = AdaptiveEmbed((2, 2), 5, dtype="bfloat16")
    images, positions = np.concatenate([normal(1, 8, 8, 3), np.zeros((1, 8, 8, 3), np.float32)]), normal(1, 16, 5)
    params = {"kernel": normal(2, 2, 3, 5), "bias": normal(5), "scale": normal(2, 5)}

    def loss(params, images):
        return (layer.apply({"params": params}, images, positions, method="placed")[0] ** 2).mean()

    gradients = jax.jit(jax.grad(loss, argnums=(0, 1)))(params, images)
    assert all(np.isfinite(leaf).all() and np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradients))


def test_half_of_the_smallest_patches_where_no_number_is_given():
    """Or the next lower number that can be."""
    layer = AdaptiveEmbed((2, 2), 5)
    for size, count in (((16, 16), 31), ((8, 8), 7), ((32, 16), 64 - 2)):
        assert layer.count(layer.tree(size)) == count


@pytest.mark.parametrize(
    ("fields", "size", "message"),
    [
        ({}, (8, 12), "4x6 patches are not whole squares of 4x4"),
        ({"patch_tokens": 8}, (8, 8), "8 tokens cannot cover 4x4 patches: .* take 7 or 10"),
        ({"patch_tokens": 20}, (8, 8), r"take 16\b"),
        ({"patch_tokens": 0}, (8, 8), r"take 1\b"),
        ({"patch_scales": 1}, (8, 8), "patch_scales must be at least 2, not 1"),
        ({}, (9, 8), "image height 9 is not a multiple of patch height 2"),
    ],
)
def test_what_does_not_fit_is_an_error(fields, size, message):
    layer = AdaptiveEmbed((2, 2), 5, **fields)
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(layer.leaves, np.ones((1, *size, 3), np.float32))


def test_the_nodes_of_a_tree():
    tree = Quadtree((4, 8), 3)
    assert (tree.roots, tree.patches, len(tree.boxes)) == (2, 32, 2 + 8 + 32)
    assert tree.boxes[[0, 1, 2, 9, 10, 41]].tolist() == [
        [0, 0, 4, 4],
        [0, 4, 4, 4],
        [0, 0, 2, 2],
        [2, 6, 2, 2],
        [0, 0, 1, 1],
        [3, 7, 1, 1],
    ]
    assert tree.parents[[0, 1, 2, 9, 10, 41]].tolist() == [0, 1, 0, 1, 2, 9]
