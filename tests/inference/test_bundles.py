"""Bundles: what is written gives the answers of the model, and what is damaged says so."""

import dataclasses
import hashlib
import json
import pathlib
import random
import shutil

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.inference.bundles import assert_close, bundle, pictures
from tests.pretrained.examples import same_params, small_weights
from vit_jax.data.preprocessing import Preprocessing
from vit_jax.errors import UserError
from vit_jax.inference import bundle_writer, stablehlo
from vit_jax.inference.bundle_writer import Options, export_bundle
from vit_jax.inference.exported import ExportedModel
from vit_jax.inference.model import LoadedModel, load_model
from vit_jax.pretrained.load import load_weights

PICTURES = pictures(5)


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """A StableHLO bundle and the live model."""
    return bundle(tmp_path_factory.mktemp("bundle") / "stablehlo", "stablehlo", count=7)


@pytest.fixture(scope="module")
def pixels(tmp_path_factory):
    """The same with the preprocessing inside."""
    folder = tmp_path_factory.mktemp("bundle") / "pixels"
    return bundle(folder, "stablehlo", count=7, with_preprocessing=True)


@pytest.fixture
def copy(program, tmp_path):
    """A copy that may be damaged."""
    return pathlib.Path(shutil.copytree(program[0], tmp_path / "copy"))


def refused(folder, **overrides) -> str:
    """Returns the one line with which a bundle is refused."""
    with pytest.raises(UserError) as error:
        load_model(folder, **overrides)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_program_is_the_model_for_any_batch(program):
    folder, live = program
    loaded = load_model(folder)
    assert isinstance(loaded, ExportedModel)
    assert loaded.class_names == live.class_names
    assert loaded.preprocessing == live.preprocessing
    x = np.random.default_rng(0).normal(size=(32, 8, 8, 3)).astype(np.float32)
    expected = live.logits(x)
    assert np.ptp(expected, axis=0).min() > 0.1
    for batch in (1, 3, 32):
        assert_close(loaded.logits(x[:batch]), expected[:batch])
    assert_close(loaded.predict(PICTURES), live.predict(PICTURES))


def test_what_verification_saw(program):
    folder, _ = program
    said = json.loads((folder / "verification.json").read_text())
    assert said["images"] == 7
    assert said["batches"] == [1, 3]
    assert said["top1_agreement"] == 1
    assert said["tolerance"] == pytest.approx(1e-4 * said["output_range"])
    assert 0 <= said["max_abs_difference"] < 1e-5 * said["output_range"]


def test_it_is_for_all_platforms_with_an_open_batch_and_exact_products(program):
    exported = jax.export.deserialize(bytearray((program[0] / "model.stablehlo").read_bytes()))
    assert exported.platforms == ("cpu", "cuda", "tpu")
    assert [str(aval) for aval in exported.in_avals] == ["float32[batch,8,8,3]"]
    products = [line for line in exported.mlir_module().splitlines() if "stablehlo.dot_general" in line]
    assert products
    assert all("HIGHEST" in line for line in products)


def test_a_program_with_its_preprocessing_takes_pixels(pixels):
    folder, live = pixels
    loaded = load_model(folder)
    views = np.stack([live.view(picture) for picture in PICTURES])
    assert loaded.preprocessing.normalised(views) is views
    expected = live.predict(PICTURES)
    assert_close(loaded.outputs(views), expected)
    assert_close(loaded.predict(PICTURES), expected)
    logits = live.logits(live.preprocessing.normalised(views))
    centred = [values - values.mean(axis=-1, keepdims=True) for values in (loaded.logits(views), logits)]
    assert_close(*centred, 1e-4)


def test_a_wrong_size_or_type_is_refused(program, pixels):
    float32, uint8 = (np.zeros((2, 8, 8, 3), dtype) for dtype in (np.float32, np.uint8))
    for (folder, _), wrong in ((program, uint8), (pixels, float32), (program, float32[:, :4]), (program, float32[0])):
        with pytest.raises(UserError, match=r"takes images as \w+ \[batch, 8, 8, 3\], not \w+ \["):
            load_model(folder).logits(wrong)


def test_a_program_cannot_be_another(program):
    folder, _ = program
    assert "8x8 pixels and takes no 16x16" in refused(folder, image_size=16)
    assert "its heads cannot be changed" in refused(folder, heads=4)
    assert load_model(folder, image_size=8).preprocessing.size == (8, 8)


def test_a_classifier_gives_no_vectors(program, pixels):
    for (folder, _), held in ((program, "logits"), (pixels, "probabilities")):
        with pytest.raises(UserError, match=f"gives {held} only"):
            load_model(folder).embed(PICTURES)


def test_a_program_has_no_weights_to_give(program):
    with pytest.raises(UserError, match="holds a compiled program, whose weights cannot be taken out"):
        load_weights(str(program[0]))


def test_a_model_without_classes_gives_vectors(tmp_path):
    folder, live = bundle(tmp_path / "out", "stablehlo", small_weights(num_classes=0), with_preprocessing=True)
    loaded = load_model(folder)
    assert loaded.num_classes == 0
    assert_close(loaded.embed(PICTURES), live.embed(PICTURES))
    assert not (folder / "labels.txt").exists()
    assert json.loads((folder / "verification.json").read_text())["top1_agreement"] is None
    with pytest.raises(UserError, match="has no classifier"):
        loaded.predict(PICTURES)


def test_bfloat16_is_smaller_and_near(tmp_path):
    folder, live = bundle(tmp_path / "out", "stablehlo", small_weights(width=64, mlp_dim=256), dtype="bfloat16")
    views = np.stack([live.view(picture) for picture in PICTURES])
    x = live.preprocessing.normalised(views)
    difference = np.abs(load_model(folder).logits(x) - live.logits(x)).max() / np.ptp(live.logits(x))
    assert 1e-5 < difference < 0.02
    assert (folder / "model.stablehlo").stat().st_size < 3 * sum(a.size for a in live.weights.params.values())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_too_large_for_one_file_lie_beside(tmp_path, monkeypatch, dtype):
    monkeypatch.setattr(stablehlo, "WEIGHTS_BESIDE", 1000)
    folder, live = bundle(tmp_path / "out", "stablehlo", dtype=dtype)
    assert (folder / "weights.npz").is_file()
    tolerance = 1e-5 if dtype == "float32" else 0.02
    assert_close(load_model(folder).predict(PICTURES), live.predict(PICTURES), tolerance)
    (folder / "weights.npz").unlink()
    assert "weights.npz: No such file" in refused(folder)


def test_scan_remat_and_kernels_of_one_platform_are_left_behind(tmp_path):
    folder, live = bundle(tmp_path / "out", "stablehlo", small_weights(scan_layers=True, remat="full"))
    assert_close(load_model(folder).predict(PICTURES), live.predict(PICTURES))
    module = jax.export.deserialize(bytearray((folder / "model.stablehlo").read_bytes())).mlir_module()
    assert "stablehlo.while" not in module
    assert bundle_writer.program_of(live, Options("stablehlo")).module.attention_kernel == "plain"


@pytest.mark.parametrize(
    ("kind", "options"),
    [("safetensors", {}), ("safetensors", {"names": "huggingface"}), ("npz", {}), ("vit_jax", {})],
)
def test_weights_come_back_bit_for_bit_with_what_belongs_to_them(kind, options, tmp_path):
    weights = small_weights() if kind != "safetensors" else small_weights(gelu="exact")
    folder, live = bundle(tmp_path / "out", kind, weights, **options)
    loaded = load_model(folder)
    assert isinstance(loaded, LoadedModel)
    assert same_params(loaded.weights.params, live.weights.params)
    assert loaded.preprocessing == live.preprocessing
    assert loaded.class_names == live.class_names
    assert loaded.module == live.module
    assert json.loads((folder / "verification.json").read_text())["max_abs_difference"] == 0
    file = {"safetensors": "model.safetensors", "npz": "weights.npz"}.get(kind)
    if file:
        assert load_model(folder / file).preprocessing == live.preprocessing


def test_the_bundle_tells_the_preprocessing_better_than_its_file(tmp_path):
    """An .npz knows none, timm's config.json no resize without antialiasing."""
    seen = Preprocessing((8, 8), 12, "bilinear", antialias=False, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    weights = dataclasses.replace(small_weights(), preprocessing=seen)
    for kind in ("npz", "safetensors"):
        folder, live = bundle(tmp_path / kind, kind, weights)
        assert load_weights(str(folder)).preprocessing == seen
        assert_close(load_model(folder).predict(PICTURES), live.predict(PICTURES))


def test_the_names_and_shapes_of_timm(tmp_path):
    golden = pathlib.Path(__file__).parents[1] / "goldens" / "timm_vit" / "weights.safetensors"
    folder = tmp_path / "out"
    live = load_model(golden, heads=2)
    export_bundle(live, folder, Options("safetensors"), PICTURES[:1])
    theirs, ours = load_file(golden), load_file(folder / "model.safetensors")
    assert {name: array.shape for name, array in ours.items()} == {name: array.shape for name, array in theirs.items()}
    assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)


def test_bfloat16_kernels(tmp_path):
    folder, live = bundle(tmp_path / "out", "safetensors", dtype="bfloat16")
    stored = load_file(folder / "model.safetensors")
    assert stored["blocks.0.mlp.fc1.weight"].dtype == ml_dtypes.bfloat16
    assert stored["blocks.0.norm1.weight"].dtype == np.float32
    loaded, params = load_model(folder).weights.params, live.weights.params
    for name, array in params.items():
        rounded = array.astype(ml_dtypes.bfloat16) if name.endswith("/kernel") else array
        np.testing.assert_array_equal(loaded[name], rounded.astype(np.float32))


def test_positions_for_the_size_that_is_seen(tmp_path):
    """The grid was learned at 16 pixels, pictures come at 8: the bundle holds what is used."""
    weights = dataclasses.replace(small_weights(size=(16, 16)), preprocessing=small_weights().preprocessing)
    live = LoadedModel(weights)
    folder = tmp_path / "out"
    _, notes = export_bundle(live, folder, Options("safetensors"), PICTURES[:1])
    assert notes == ["positions are resized from 16x16 to 8x8 pixels, which the preprocessing makes"]
    loaded = load_model(folder)
    assert loaded.weights.image_size == (8, 8)
    assert_close(loaded.predict(PICTURES), live.predict(PICTURES))


@pytest.mark.parametrize("end", [0, 10, 1000, -1])
def test_a_program_that_is_cut_off(copy, end):
    file = copy / "model.stablehlo"
    file.write_bytes(file.read_bytes()[:end])
    assert "model.stablehlo is damaged or was changed" in refused(copy)


def test_a_program_that_this_jax_cannot_read(copy):
    """Its digest is right, its content is none that jax knows."""
    (copy / "model.stablehlo").write_bytes(b"from the future" * 100)
    stated = json.loads((copy / "preprocessing.json").read_text())
    stated["files"]["model.stablehlo"] = hashlib.sha256(b"from the future" * 100).hexdigest()
    stated["jax"] = "9.9"
    (copy / "preprocessing.json").write_text(json.dumps(stated))
    assert f"jax {jax.__version__} cannot read {copy / 'model.stablehlo'}, which jax 9.9 wrote" in refused(copy)


@pytest.mark.parametrize("name", ["preprocessing.json", "labels.txt", "model.stablehlo"])
def test_a_file_that_is_missing(copy, name):
    (copy / name).unlink()
    assert name in refused(copy)


def test_weights_that_are_cut_off(tmp_path):
    for kind, file in (("safetensors", "model.safetensors"), ("npz", "weights.npz"), ("vit_jax", "run/metadata")):
        folder, _ = bundle(tmp_path / kind, kind)
        whole = (folder / file).read_bytes()
        (folder / file).write_bytes(whole[: len(whole) // 2])
        assert f"{file} is damaged or was changed" in refused(folder)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"mean": None}, "'mean' is None, not three numbers"),
        ({"mean": [0.1, 0.2]}, "'mean' is [0.1, 0.2], not three numbers"),
        ({"mean": [0.1, 0.2, float("nan")]}, "'mean'"),
        ({"std": [1, 0, 1]}, "'std' is [1, 0, 1], not three numbers above 0"),
        ({"size": [8]}, "'size' is [8], not [height, width] in pixels"),
        ({"size": [8, True]}, "'size'"),
        ({"size": [16, 16]}, "less than the image size"),
        ({"resize": 4}, "less than the image size"),
        ({"resize": 11.5}, "'resize' is 11.5, not a whole number"),
        ({"interpolation": "cubic"}, "'interpolation' is 'cubic', not \"nearest\" or"),
        ({"antialias": 1}, "'antialias' is 1, not true or false"),
        ({"format": "pickle"}, "'format'"),
        ({"version": 2}, "'version' is 2, not 1"),
        ({"outputs": 0}, "'outputs'"),
        ({"outputs": 6}, "labels.txt has 5 names for 6 classes"),
        ({"input": "uint8"}, "tells of uint8 [8, 8, 3] to 5 outputs, but the program takes float32 [8, 8, 3] to 5"),
        ({"size": [8, 4]}, "tells of float32 [8, 4, 3] to 5 outputs"),
        ({"outputs": 4, "labels": False}, "tells of float32 [8, 8, 3] to 4 outputs"),
        ({"files": {"\0": "0"}}, "null byte"),
        ({"files": {}}, "'files'"),
        ({"files": {"../model.stablehlo": "0"}}, "outside of the bundle"),
        ({"files": {"/etc/hostname": "0"}}, "outside of the bundle"),
        ({"crop": 1}, "'crop' is unknown"),
    ],
)
def test_a_changed_document(copy, change, said):
    path = copy / "preprocessing.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    message = refused(copy)
    assert said in message
    assert message.endswith("export it again")


def test_every_key_is_needed(copy):
    path = copy / "preprocessing.json"
    stated = json.loads(path.read_text())
    for key in stated:
        path.write_text(json.dumps({name: value for name, value in stated.items() if name != key}))
        assert f"{key!r} is missing" in refused(copy)


def test_any_wrong_byte_of_the_document_is_read_or_explained(copy):
    path, generator, told = copy / "preprocessing.json", random.Random(0), []
    whole = path.read_bytes()
    for _ in range(200):
        changed = bytearray(whole)
        changed[generator.randrange(len(whole))] ^= 1 << generator.randrange(8)
        path.write_bytes(changed)
        try:
            load_model(copy)
        except UserError as error:
            told.append(str(error))
    assert len(told) > 100
    assert not any("\n" in message for message in told)


def test_labels_of_another_number(copy):
    with open(copy / "labels.txt", "a") as file:
        file.write("one more\n")
    assert "labels.txt has 6 names for 5 classes" in refused(copy)


def test_labels_are_kept_to_the_letter(tmp_path):
    names = ["Ä \u2028", " two", "", "d\x0b", "class"]
    folder, _ = bundle(tmp_path / "out", "npz", dataclasses.replace(small_weights(), class_names=names))
    assert load_model(folder).class_names == names
    with pytest.raises(UserError, match="line break"):
        bundle(tmp_path / "b", "npz", dataclasses.replace(small_weights(), class_names=["a\nb", *names[1:]]))


def test_nothing_is_left_of_an_export_that_ends_early(tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(bundle_writer, "verify", interrupted)
    with pytest.raises(KeyboardInterrupt):
        bundle(tmp_path / "out", "npz")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["stablehlo", "npz"])
def test_a_file_that_gives_other_answers_is_not_kept(tmp_path, monkeypatch, kind):
    right = bundle_writer.program_of

    def wrong(live, options):
        program = right(live, options)
        params = dict(program.params)
        params["head/bias"] = params["head/bias"] + np.float32(0.01)
        return dataclasses.replace(program, params=params)

    monkeypatch.setattr(bundle_writer, "program_of", wrong)
    with pytest.raises(UserError, match=r"differs from the model by 0\.01, where .* is tolerated .*nothing was kept"):
        bundle(tmp_path / "out", kind)
    assert not list(tmp_path.iterdir())


def test_an_answer_that_is_no_number_is_not_kept(tmp_path):
    weights = small_weights()
    params = {**weights.params, "head/bias": np.full(5, np.nan, np.float32)}
    with pytest.raises(UserError, match="differs from the model by nan"):
        bundle(tmp_path / "out", "npz", dataclasses.replace(weights, params=params))


def test_where_a_bundle_goes(tmp_path):
    (tmp_path / "empty").mkdir()
    folder, _ = bundle(tmp_path / "empty", "npz")
    assert load_model(folder).class_names
    with pytest.raises(UserError, match="holds something already"):
        bundle(folder, "npz")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="holds something already"):
        bundle(tmp_path / "file", "npz")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "file"]


def test_a_head_of_zeros_says_that_comparing_shows_nothing(tmp_path):
    weights = small_weights()
    zeros = {name: np.zeros_like(weights.params[name]) for name in ("head/kernel", "head/bias")}
    live = LoadedModel(dataclasses.replace(weights, params={**weights.params, **zeros}))
    _, notes = export_bundle(live, tmp_path / "out", Options("npz"), PICTURES[:1])
    assert any("comparing them shows nothing" in note for note in notes)
