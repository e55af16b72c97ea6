import dataclasses
import functools
import pathlib

import jax
import numpy as np
import pytest
from PIL import Image

from vit_jax.data.preprocessing import Preprocessing
from vit_jax.errors import UserError
from vit_jax.inference import picture_model
from vit_jax.inference.model import LoadedModel, load_model
from vit_jax.models import create_model
from vit_jax.pretrained.save import save_weights
from vit_jax.pretrained.surgery import resize_grid
from vit_jax.pretrained.weights import POSITIONS, Weights, make_weights, parameter_shapes

SEEN = Preprocessing((8, 8), 10, "bicubic", mean=(0.4, 0.5, 0.6), std=(0.3, 0.2, 0.1))
NAMES = ["ant", "bee", "cat", "dog", "eel"]
X = np.random.default_rng(1).normal(size=(2, 8, 8, 3)).astype(np.float32)


def small_weights(size=(8, 8), seen=SEEN, **fields) -> Weights:
    """Returns random weights of a ViT of two blocks, large enough that its answers depend on the picture."""
    fields = {"num_classes": 5, "patch_size": (4, 4), "width": 8, "depth": 2, "heads": 2, "mlp_dim": 12, **fields}
    generator = np.random.default_rng(0)
    shapes = parameter_shapes(create_model("vit", **fields), size)
    params = {name: generator.normal(size=shape) / 2 for name, shape in shapes.items()}
    names = NAMES if fields["num_classes"] else None
    return make_weights("vit", fields, params, size, seen, "small.npz", names)


@pytest.fixture(scope="module")
def loaded():
    """The model that all tests share, compiled once for each number of images."""
    return LoadedModel(small_weights())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A checkpoint of it, as `vit_jax.convert --to=vit_jax` writes it."""
    folder = tmp_path_factory.mktemp("inference") / "checkpoint"
    save_weights(small_weights(), folder, kind="vit_jax")
    return folder


@pytest.fixture(scope="module")
def pictures():
    """Five pictures of different sizes, uint8."""
    generator = np.random.default_rng(2)
    sizes = [(8, 8), (20, 12), (9, 31), (16, 16), (40, 40)]
    return [generator.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]


@pytest.fixture(scope="module")
def paths(pictures, tmp_path_factory):
    """The same as PNG files, which lose nothing."""
    folder = tmp_path_factory.mktemp("pictures")
    for i, picture in enumerate(pictures):
        Image.fromarray(picture).save(folder / f"{i}.png")
    return [folder / f"{i}.png" for i in range(len(pictures))]


@functools.partial(jax.jit, static_argnames=("module", "method"))
def apply(variables, x, module, method="__call__"):
    return module.apply(variables, x, method=method)


def preprocessed(pictures, seen=SEEN):
    return seen.normalised(np.stack([seen.transform().evaluate(picture) for picture in pictures]))


def softmax(logits):
    exponents = np.exp(np.asarray(logits, np.float64))
    return exponents / exponents.sum(axis=-1, keepdims=True)


@pytest.fixture(scope="module")
def expected(loaded, pictures):
    """The probabilities of the pictures, all in one batch."""
    return softmax(apply(loaded.weights.variables, preprocessed(pictures), loaded.module))


def assert_close(actual, expected, tolerance=1e-5):
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


def test_predict_is_the_softmax_of_the_logits_of_preprocessed_pictures(loaded, pictures, expected):
    probabilities = loaded.predict(pictures)
    assert_close(probabilities, expected)
    np.testing.assert_allclose(probabilities.sum(axis=-1), 1, rtol=1e-5)
    assert np.abs(probabilities - probabilities[:1])[1:].max(axis=-1).min() > 1e-3
    assert loaded.class_names == NAMES


def test_pictures_are_paths_pil_images_or_arrays(loaded, pictures, paths, expected):
    mixed = [pictures[0], paths[1], str(paths[2]), Image.fromarray(pictures[3]), Image.open(paths[4])]
    assert_close(loaded.predict(mixed), expected)
    assert_close(loaded.predict(tuple(paths)), expected)


def test_a_picture_may_stand_alone(loaded, pictures, paths, expected):
    for picture in (pictures[1], paths[1], str(paths[1]), Image.open(paths[1])):
        assert_close(loaded.predict(picture), expected[1:2])
        assert_close(loaded.preprocess(picture), preprocessed(pictures[1:2]))


def test_pictures_of_one_size_may_be_one_array(loaded, pictures, expected):
    stacked = np.stack([pictures[3], pictures[3][::-1]])
    probabilities = loaded.predict(stacked)
    assert probabilities.shape == (2, 5)
    assert_close(probabilities[0], expected[3])


def test_a_last_batch_that_is_not_full_changes_nothing(loaded, pictures, expected, monkeypatch):
    seen = []
    monkeypatch.setattr(picture_model, "BATCH", 2)
    monkeypatch.setattr(loaded, "logits", lambda x: seen.append(x.shape) or LoadedModel.logits(loaded, x))
    assert_close(loaded.predict(pictures), expected)
    assert seen == [(2, 8, 8, 3)] * 3
    assert_close(loaded.embed(pictures), apply(loaded.variables, preprocessed(pictures), loaded.module, "embed"), 1e-4)


def test_grey_and_palettes_are_shown_in_colour(loaded, pictures, tmp_path):
    grey = Image.fromarray(pictures[1]).convert("L")
    grey.save(tmp_path / "grey.png")
    expected = loaded.predict(np.repeat(np.asarray(grey)[..., None], 3, axis=-1))
    assert_close(loaded.predict([grey, tmp_path / "grey.png"]), np.repeat(expected, 2, axis=0))
    palette = Image.fromarray(pictures[1]).quantize(16)
    assert_close(loaded.predict(palette), loaded.predict(np.asarray(palette.convert("RGB"))))


def test_a_camera_held_upright_is_seen_upright_from_a_path_and_from_pil(loaded, pictures, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn clockwise
    Image.fromarray(pictures[1]).save(tmp_path / "turned.png", exif=exif)
    upright = loaded.predict(np.ascontiguousarray(np.rot90(pictures[1], -1)))
    assert np.abs(upright - loaded.predict(pictures[1])).max() > 1e-3
    assert_close(loaded.predict(tmp_path / "turned.png"), upright)
    assert_close(loaded.predict(Image.open(tmp_path / "turned.png")), upright)


def jpeg(path: pathlib.Path, share: float) -> pathlib.Path:
    """Writes the first part of a JPEG file."""
    picture = np.random.default_rng(3).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    Image.fromarray(picture).save(path, "JPEG")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    return path


@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 0.9])
@pytest.mark.parametrize("call", ["predict", "embed", "preprocess"])
def test_a_damaged_file_among_others_is_named_in_one_line(loaded, paths, tmp_path, call, share):
    damaged = jpeg(tmp_path / "holiday.jpg", share)
    with pytest.raises(UserError, match=r"cannot read .*/holiday\.jpg: not a readable image: \w+") as error:
        getattr(loaded, call)([paths[0], damaged, paths[1]])
    assert "\n" not in str(error.value)


def test_a_whole_jpeg_is_read(loaded, tmp_path):
    assert loaded.predict(jpeg(tmp_path / "holiday.jpg", 1.0)).shape == (1, 5)


def test_a_damaged_file_that_pil_has_opened_is_named_too(loaded, tmp_path):
    with pytest.raises(UserError, match=r"cannot read .*/holiday\.jpg: .*truncated"):
        loaded.predict(Image.open(jpeg(tmp_path / "holiday.jpg", 0.9)))


def test_a_file_that_is_missing_or_a_folder_is_named(loaded, tmp_path):
    with pytest.raises(UserError, match=r"cannot read .*/nowhere\.png: No such file"):
        loaded.predict([tmp_path / "nowhere.png"])
    with pytest.raises(UserError, match=f"cannot read {tmp_path}: Is a directory"):
        loaded.predict(str(tmp_path))


@pytest.mark.parametrize(
    ("array", "what"),
    [
        (np.zeros((8, 8, 3), np.float32), r"float32 \(8, 8, 3\)"),
        (np.zeros((8, 8), np.uint8), r"uint8 \(8, 8\)"),
        (np.zeros((8, 8, 4), np.uint8), r"uint8 \(8, 8, 4\)"),
        (np.zeros((0, 8, 3), np.uint8), r"uint8 \(0, 8, 3\)"),
    ],
)
def test_an_array_that_is_no_picture_is_an_error_that_shows_its_shape(loaded, array, what):
    for images in (array, [array]):
        with pytest.raises(UserError, match=rf"an image must be uint8 \[height, width, 3\], not {what}"):
            loaded.predict(images)


def test_no_pictures_are_an_error(loaded):
    for nothing in ([], np.zeros((0, 8, 8, 3), np.uint8)):
        with pytest.raises(UserError, match="no images"):
            loaded.predict(nothing)


def test_embed_logits_and_features_are_those_of_the_module(loaded, pictures):
    variables, module = loaded.weights.variables, loaded.module
    x = preprocessed(pictures)
    assert_close(loaded.preprocess(pictures), x, 1e-6)
    assert_close(loaded.embed(pictures), apply(variables, x, module, "embed"), 1e-4)
    assert_close(loaded.logits(x), apply(variables, x, module), 1e-4)
    features = loaded.features(x)
    assert features.shape == (5, 5, 8)
    assert_close(features, apply(variables, x, module, "features"), 1e-4)
    assert {type(loaded.embed(pictures)), type(features), type(loaded.logits(x))} == {np.ndarray}


def test_intermediates_are_of_all_layers_or_of_some(loaded):
    first, second = loaded.intermediates(X)
    assert first.shape == second.shape == (2, 5, 8)
    assert np.abs(first - second).max() > 1e-2
    assert_close(loaded.intermediates(X, [-1])[0], second)


def test_attention_is_of_every_block(loaded):
    maps = loaded.attention(X)
    assert [weights.shape for weights in maps] == [(2, 2, 5, 5)] * 2
    for weights in maps:
        np.testing.assert_allclose(weights.sum(axis=-1), 1, rtol=1e-5)


def test_without_a_classifier_there_are_vectors_only(pictures):
    loaded = LoadedModel(small_weights(num_classes=0))
    with pytest.raises(UserError, match=r"small\.npz has no classifier; embed\(images\) gives its vectors"):
        loaded.predict(pictures)
    vectors = loaded.embed(pictures[:2])
    assert vectors.shape == (2, 8)
    assert_close(loaded.logits(preprocessed(pictures[:2])), vectors, 1e-4)


def resized_variables(weights, old, new):
    """Returns the variables with the grid of positions resized, the cls token's kept."""
    positions = weights.params[POSITIONS]
    grid = resize_grid(positions[0, 1:].reshape(*old, -1), new, "linear").reshape(1, -1, positions.shape[-1])
    return dataclasses.replace(
        weights, params={**weights.params, POSITIONS: np.concatenate([positions[:, :1], grid], axis=1)}
    ).variables


def test_logits_at_another_image_size_resize_the_positions(loaded):
    x = np.random.default_rng(1).normal(size=(2, 12, 8, 3)).astype(np.float32)
    variables = resized_variables(loaded.weights, (2, 2), (3, 2))
    assert variables["params"]["position_embed"]["embedding"].shape == (1, 7, 8)
    assert_close(loaded.logits(x), apply(variables, x, loaded.module), 1e-4)
    assert loaded.features(x).shape == (2, 7, 8)
    assert loaded.attention(x)[0].shape == (2, 2, 7, 7)
    assert_close(loaded.logits(X), apply(loaded.weights.variables, X, loaded.module), 1e-4)


def test_image_size_is_what_the_model_then_sees(folder, pictures):
    """The positions are resized to it, and the same part of a picture is seen."""
    loaded = load_model(folder, image_size=16)
    seen = dataclasses.replace(SEEN, size=(16, 16), resize=20)
    assert loaded.preprocessing == seen
    variables = resized_variables(small_weights(), (2, 2), (4, 4))
    np.testing.assert_allclose(
        loaded.variables["params"]["position_embed"]["embedding"], variables["params"]["position_embed"]["embedding"]
    )
    x = preprocessed(pictures, seen)
    assert_close(loaded.preprocess(pictures), x, 1e-6)
    assert_close(loaded.predict(pictures), softmax(apply(variables, x, loaded.module)), 1e-4)
    assert_close(loaded.logits(X), apply(small_weights().variables, X, loaded.module), 1e-4)


def test_image_size_may_be_height_and_width(folder):
    loaded = load_model(folder, image_size=(4, 12))
    assert loaded.preprocessing.size == (4, 12)
    assert loaded.variables["params"]["position_embed"]["embedding"].shape == (1, 4, 8)
    assert loaded.features(loaded.preprocess(np.zeros((30, 20, 3), np.uint8))).shape == (1, 4, 8)


def test_weights_seen_at_another_size_than_their_positions_are_resized_at_once(pictures):
    """DINOv2's positions are for 518 pixels, but its image processor makes 224."""
    weights = small_weights(size=(16, 16))
    loaded = LoadedModel(weights)
    variables = resized_variables(weights, (4, 4), (2, 2))
    expected = softmax(apply(variables, preprocessed(pictures), loaded.module))
    assert_close(loaded.predict(pictures), expected, 1e-4)
    x = np.zeros((1, 16, 16, 3), np.float32)
    assert_close(loaded.logits(x), apply(weights.variables, x, loaded.module), 1e-4)


def test_image_that_the_patch_does_not_divide_is_an_error(loaded, folder):
    for wrong in (lambda: loaded.logits(np.zeros((1, 8, 10, 3))), lambda: load_model(folder, image_size=(8, 10))):
        with pytest.raises(UserError, match="image width 10 is not a multiple of patch width 4"):
            wrong()


def test_weights_of_an_unknown_size_are_read_again_where_they_do_not_fit():
    """Six positions without a size may be of 2x3 or of 3x2 patches; another size is for the reader to judge."""
    unknown = dataclasses.replace(small_weights((8, 12)), image_size=None)
    asked = []

    def read_for(size):
        asked.append(size)
        return small_weights(size, dataclasses.replace(SEEN, size=size))

    loaded = LoadedModel(unknown, None, read_for)
    for size in ((8, 12), (12, 8)):
        x = np.ones((1, *size, 3), np.float32)
        assert_close(loaded.logits(x), apply(unknown.variables, x, loaded.module), 1e-4)
    assert not asked
    assert loaded.logits(X).shape == (2, 5)
    assert asked == [(8, 8)]
    assert loaded.weights.image_size == loaded.preprocessing.size == (8, 8)


def test_load_model_of_a_folder_is_the_model_that_was_written(folder, loaded, pictures, expected):
    again = load_model(str(folder))
    assert again.preprocessing == SEEN
    assert again.class_names == NAMES
    assert again.module == loaded.module
    jax.tree.map(np.testing.assert_array_equal, again.variables, loaded.variables)
    assert_close(again.predict(pictures), expected)


def test_overrides_are_fields_of_the_model(folder, loaded):
    narrow = load_model(folder, dtype="bfloat16")
    assert narrow.module == loaded.module.clone(dtype="bfloat16")
    logits, exact = narrow.logits(X), loaded.logits(X)
    assert logits.dtype == np.float32
    difference = np.abs(logits - exact).max() / np.abs(exact).max()
    assert 1e-6 < difference < 0.05
    with pytest.raises(UserError, match=r"no field 'dtipe' \(did you mean 'dtype'\?\)"):
        load_model(folder, dtipe="bfloat16")


@pytest.mark.parametrize("options", [{}, {"image_size": 16}])
def test_a_checkpoint_that_is_not_there_is_an_error(tmp_path, options):
    with pytest.raises(UserError, match="nowhere"):
        load_model(tmp_path / "nowhere.npz", **options)


def test_weights_that_do_not_tell_their_image_size_ask_for_it(pictures):
    """Twenty-four positions are those of no square image: of 32x48 pixels, which the caller must know."""
    file = pathlib.Path(__file__).parents[1] / "goldens" / "timm_vit_nonsquare" / "weights.safetensors"
    with pytest.raises(UserError, match=r"timm_vit_nonsquare.* 25 rows"):
        load_model(file, heads=2).predict(pictures)
    loaded = load_model(file, heads=2, image_size=(32, 48))
    assert loaded.preprocessing.size == (32, 48)
    assert loaded.predict(pictures[:2]).shape == (2, 5)


def test_merged_tokens_lie_on_the_image(folder):
    plain, merged = load_model(folder, image_size=16), load_model(folder, image_size=16, merge_tokens=3)
    x = np.random.default_rng(1).normal(size=(2, 16, 16, 3)).astype(np.float32)
    found = merged.merged_features(x)
    assert found.tokens.shape == (2, 17 - 2 * 3, 8)
    np.testing.assert_array_equal(merged.features(x), found.tokens)
    np.testing.assert_array_equal(found.sizes.sum(axis=1), 17)
    for sizes, assignment in zip(found.sizes, found.assignment, strict=True):
        np.testing.assert_array_equal(np.bincount(assignment, minlength=11)[1:], sizes[1:])
    assert [tokens.shape[1] for tokens in merged.intermediates(x)] == [14, 11]
    assert merged.weights_in_use().fields["merge_tokens"] == 3
    assert "merge_tokens" not in plain.weights_in_use().fields
    np.testing.assert_array_equal(load_model(folder, image_size=16, merge_tokens=0).logits(x), plain.logits(x))
    assert np.abs(merged.logits(x) - plain.logits(x)).max() > 1e-3


def test_mistakes_about_merged_tokens(folder, loaded):
    with pytest.raises(UserError, match="merges no tokens; load it with merge_tokens=R"):
        loaded.merged_features(X)
    with pytest.raises(UserError, match="attention between merged tokens is not shown; load it with merge_tokens=0"):
        load_model(folder, merge_tokens=1).attention(X)
    with pytest.raises(UserError, match=r"model\.merge_tokens must be int, not 'all'"):
        load_model(folder, merge_tokens="all")
    with pytest.raises(UserError, match="merge_tokens must be a whole number from 0 up, not -1"):
        load_model(folder, merge_tokens=-1)
