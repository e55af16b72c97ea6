"""Tables of names and the forms in which arrays lie."""

import numpy as np
import pytest

from vit_jax.errors import UserError
from vit_jax.pretrained.names import (
    Convolution,
    Flat,
    Packed,
    Plain,
    Stacked,
    Transposed,
    entry,
    families,
    read,
    write,
)

FORMS = [
    (Plain(), [(3, 2)], (3, 2)),
    (Flat(), [(2, 4)], (8,)),
    (Transposed(), [(3, 2, 4)], (8, 3)),
    (Transposed(2), [(2, 4, 3)], (3, 8)),
    (Convolution(), [(2, 3, 4, 5)], (5, 4, 2, 3)),
    (Packed(Transposed()), [(3, 2, 4)] * 3, (24, 3)),
    (Packed(Flat()), [(2, 4)] * 2, (16,)),
    (Stacked(), [(3, 2)] * 4, (4, 3, 2)),
]


def numbered(shape, start=0) -> np.ndarray:
    return np.arange(start, start + np.prod(shape), dtype=np.float32).reshape(shape)


@pytest.mark.parametrize(("form", "ours", "theirs"), FORMS, ids=lambda value: str(value)[:30])
def test_every_form_there_and_back(form, ours, theirs):
    arrays = [numbered(shape, 1000 * i) for i, shape in enumerate(ours)]
    written = form.write(arrays)
    assert written.shape == theirs
    for array, back in zip(arrays, form.read(written, ours), strict=True):
        np.testing.assert_array_equal(back, array)


@pytest.mark.parametrize(("form", "ours", "theirs"), FORMS, ids=lambda value: str(value)[:30])
def test_every_form_refuses_other_shapes(form, ours, theirs):
    for wrong in ((*theirs[:-1], theirs[-1] + 1), (theirs[0] + 1, *theirs[1:]), (*theirs, 2), (7,)):
        with pytest.raises(ValueError):  # noqa: PT011
            form.read(numbered(wrong), ours)


def test_plain_ignores_axes_of_length_one_only():
    assert Plain().read(numbered((1, 1, 3, 2)), [(3, 2)])[0].shape == (3, 2)
    with pytest.raises(ValueError):  # noqa: PT011
        Plain().read(numbered((2, 3)), [(3, 2)])


def test_a_linear_layer_multiplies_alike():
    """PyTorch's `weight @ x` is our `x @ kernel`, heads apart."""
    weight, x = numbered((8, 3)) / 7, numbered((5, 3)) / 3
    kernel = Transposed().read(weight, [(3, 2, 4)])[0]
    np.testing.assert_allclose(np.einsum("nd,dhk->nhk", x, kernel).reshape(5, 8), x @ weight.T, rtol=1e-6)


TABLE = [entry("w", ("a", "b"), Stacked()), entry("v", "c")]
SHAPES = {"a": (2,), "b": (2,), "c": (3,)}
ARRAYS = {"w": numbered((2, 2)), "v": numbered((3,)), "more": numbered((1,))}


def test_a_table_reads_and_names_what_it_does_not_know():
    found, unknown = read(TABLE, ARRAYS, SHAPES, "file")
    assert {name: list(array) for name, array in found.items()} == {"a": [0, 1], "b": [2, 3], "c": [0, 1, 2]}
    assert unknown == ["more"]
    written = write(TABLE, found, "kind")
    assert written.keys() == {"w", "v"}
    np.testing.assert_array_equal(written["w"], ARRAYS["w"])


@pytest.mark.parametrize(
    ("table", "arrays", "said"),
    [
        (TABLE, {"w": ARRAYS["w"]}, "file: v is missing"),
        (TABLE, ARRAYS | {"v": numbered((4,))}, "file: v has shape (4,), which does not fit c (3,)"),
        (TABLE[1:], ARRAYS, "nothing in the file holds a"),
    ],
)
def test_what_does_not_fit_is_said(table, arrays, said):
    with pytest.raises(UserError) as error:
        read(table, arrays, SHAPES, "file")
    assert said in str(error.value)


def test_parameters_without_a_place_are_never_dropped():
    params = {name: numbered(shape) for name, shape in SHAPES.items()}
    with pytest.raises(UserError, match=r"the kind format has no place for d and 1 more"):
        write(TABLE, params | {"d": numbered((1,)), "e": numbered((1,))}, "kind")


@pytest.mark.parametrize(
    ("names", "lines"),
    [
        ([], []),
        (["head/kernel"], ["head/kernel"]),
        (["encoder/block_3/x"], ["encoder/block_3/x"]),
        ([f"encoder/block_{i}/x/y" for i in (0, 2, 1)], ["encoder/block_{0..2}/x/y"]),
        (["blocks.0.x", "head", "blocks.3.x"], ["blocks.{0,3}.x", "head"]),
        (["a/block_1/x", "a/block_1/y", "a/block_2/x"], ["a/block_{1..2}/x", "a/block_1/y"]),
        ([f"blocks.{i}.ls1.gamma" for i in range(12)], ["blocks.{0..11}.ls1.gamma"]),
        (["block_1", "dense_0"], ["block_1", "dense_0"]),
    ],
)
def test_repeated_names_are_written_once(names, lines):
    assert families(names) == lines
