"""Windows of Swin Transformers in files: which are told, which are assumed, and where libraries have others."""

import functools

import numpy as np
import pytest

from tests.pretrained.examples import arrays_of, refused, same_params, torch_folder
from vit_jax.data.preprocessing import Preprocessing
from vit_jax.errors import UserError
from vit_jax.inference.model import LoadedModel
from vit_jax.models.registry import create_model
from vit_jax.pretrained.load import load_weights
from vit_jax.pretrained.save import save_weights
from vit_jax.pretrained.weights import Weights, make_weights, parameter_shapes

SMALL = {
    "num_classes": 5,
    "patch_size": (2, 2),
    "depths": (2, 2),
    "widths": (4, 8),
    "heads": (1, 2),
    "window_size": 3,
    "mlp_ratio": 2.0,
}
ONE_STAGE = {"depths": (2,), "widths": (4,), "heads": (2,)}


@functools.cache
def random_weights(size: tuple[int, int], **fields) -> Weights:
    """Returns weights with random parameters; made once, not to be changed in place."""
    fields, name = {**SMALL, **fields}, "swinv2" if fields.get("version") == 2 else "swin"
    fields.pop("version", None)
    shapes, generator = parameter_shapes(create_model(name, **fields), size), np.random.default_rng(0)
    params = {key: generator.normal(size=shape).astype(np.float32) / 2 for key, shape in sorted(shapes.items())}
    return make_weights(name, fields, params, size, Preprocessing(size), "random", [f"class {i}" for i in range(5)])


def images(size: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(1, *size, 3)).astype(np.float32)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("square_windows", [False, True])
@pytest.mark.parametrize(
    ("size", "same"), [((24, 36), True), ((24, 24), True), ((12, 24), False), ((24, 12), False), ((24, 32), False)]
)
def test_files_are_written_where_windows_and_shifts_are_the_same(size, same, square_windows, version, tmp_path):
    """Maps of 12x18 and 6x9 places; with a side of 3 places in the second stage timm shifts the other side alone.

    Of 16 columns the last window is padded, which Hugging Face does before it shifts.
    """
    fields = {"version": version, "square_windows": square_windows}
    if version == 2 and square_windows:
        fields["deciding_rows"] = (size[0] // 2, size[0] // 4)
    weights = random_weights(size, **fields)
    own, other = ("huggingface", "timm")[:: 1 if square_windows else -1]
    save_weights(weights, tmp_path / own, own)
    back = load_weights(str(tmp_path / own))
    assert same_params(back.params, weights.params)
    assert back.module == weights.module
    if not same:
        with pytest.raises(UserError, match=f"cannot express square_windows={square_windows} .* for {size[0]}x"):
            save_weights(weights, tmp_path / other, other)
        return
    save_weights(weights, tmp_path / other, other)
    back = load_weights(str(tmp_path / other))
    assert back.module.square_windows != square_windows
    assert back.module.windows(size) == weights.module.windows(size)
    x = images(size)
    np.testing.assert_array_equal(LoadedModel(back).logits(x), LoadedModel(weights).logits(x))


def test_a_refusal_says_how_the_file_can_be_written_all_the_same(tmp_path):
    weights = random_weights((24, 12), version=2)
    with pytest.raises(UserError, match=r"--model.square_windows=True --model.deciding_rows=12,6 writes"):
        save_weights(weights, tmp_path / "x", "huggingface")
    square = random_weights((24, 12), version=2, square_windows=True)  # by the columns, which are fewer
    with pytest.raises(UserError, match=r"others; --model.deciding_rows=12,6 writes"):
        save_weights(square, tmp_path / "x", "huggingface")
    tiny = random_weights((2, 12), version=2, square_windows=True)
    with pytest.raises(UserError, match="2x12 are too small for Hugging Face's Swin V2 of 2 stages"):
        save_weights(tiny, tmp_path / "x", "huggingface")


def test_hugging_faces_version_2_goes_by_the_rows_that_it_was_built_for(tmp_path):
    """Counted down: of 10 patches 10 and 5, of 11 also, though 11 patches make a map of 6 rows."""
    arrays = arrays_of(random_weights((20, 20), version=2), "timm", tmp_path)
    assert load_weights(str(torch_folder(tmp_path, arrays)), window_size=3).module.deciding_rows == 0
    weights = random_weights((20, 20), version=2, square_windows=True, deciding_rows=(10, 5))
    arrays = arrays_of(weights, "huggingface", tmp_path)
    for size, rows in (((20, 20), (10, 5)), ((23, 31), (11, 5)), ((12, 40), (6, 3))):
        config = {"model_type": "swinv2", "image_size": list(size), "window_size": 3}
        back = load_weights(str(torch_folder(tmp_path, arrays, config=config)))
        assert back.module.deciding_rows == rows
        assert back.module.square_windows
    assert [shift for _, shift, _ in back.module.windows((40, 40))] == [(1, 1), (0, 0)]
    bare = load_weights(str(torch_folder(tmp_path, arrays)), image_size=(24, 40), window_size=3)
    assert bare.module.deciding_rows == (12, 6)


@pytest.mark.parametrize("version", [1, 2])
def test_images_that_the_patch_does_not_divide(version, tmp_path):
    rows = {"deciding_rows": (12, 6)} if version == 2 else {}
    weights, x = random_weights((25, 25), version=version, square_windows=True, **rows), images((25, 25))
    save_weights(weights, tmp_path / "x", "huggingface")
    back = load_weights(str(tmp_path / "x"))
    assert back.module == weights.module
    np.testing.assert_array_equal(LoadedModel(back).logits(x), LoadedModel(weights).logits(x))
    with pytest.raises(UserError, match="no Swin Transformers for 25x25 images: image height 25 is not a multiple"):
        save_weights(weights, tmp_path / "y", "timm")


def test_tables_of_maps_that_are_smaller_than_their_windows(tmp_path):
    """Maps of 6x10 and 3x5 places in windows of 4: the second's table has 5x7 places, which are no square's."""
    weights, x = random_weights((12, 20), window_size=4), images((12, 20))
    file = torch_folder(tmp_path, arrays_of(weights, "timm", tmp_path))
    for known in ({}, {"window_size": 4}):
        back = load_weights(str(file), image_size=(12, 20), **known)
        assert back.module == weights.module
        assert not any("windows" in note for note in back.notes)
        np.testing.assert_array_equal(LoadedModel(back).logits(x), LoadedModel(weights).logits(x))
        said = refused(file, **known)
        assert "stage 1 has 35 relative positions, which are those of no square window" in said
        assert "image_size=..., window_size=..." in said
    assert "stage 0 has 49 relative positions, which are those of no window on a map of 3x3" in refused(
        file, image_size=(6, 6)
    )
    assert "model.window_size must be" in refused(file, image_size=(12, 20), window_size="small")


@pytest.mark.parametrize(("size", "window", "square"), [((2, 10), 5, 2), ((4, 28), 14, 5)])
def test_tables_that_are_a_squares_by_chance(size, window, square, tmp_path):
    """A map of 1x5 places has 1 * 9 relative positions, and one of 2x14 has 3 * 27."""
    weights = random_weights(size, window_size=window, **ONE_STAGE)
    file = torch_folder(tmp_path, arrays_of(weights, "timm", tmp_path))
    back = load_weights(str(file), image_size=size)
    assert back.module == weights.module
    assert not any("windows" in note for note in back.notes)
    assumed = load_weights(str(file))
    assert assumed.module.window_size == square
    assert f"nothing tells the windows: {square} places a side are assumed" in assumed.notes[0]


def test_windows_of_version_2_are_assumed_where_nothing_tells_them(tmp_path):
    weights = random_weights((24, 24), version=2)
    for kind in ("timm", "huggingface"):
        file = torch_folder(tmp_path, arrays_of(weights, kind, tmp_path))
        back = load_weights(str(file))
        assert back.module.window_size == 8
        assert "nothing tells the windows: 8 places a side are assumed (window_size=N" in back.notes[0]
        back = load_weights(str(file), window_size=3)
        assert back.module.window_size == 3
        assert not any("windows" in note for note in back.notes)
