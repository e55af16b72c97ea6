"""Checkpoints and bundles as contenders: what they are given, what is known of them, and what does not go together."""

import sys

import jax
import numpy as np
import pytest

from tests.inference.bundles import bundle
from tests.pretrained.examples import small_weights
from vit_jax.errors import UserError
from vit_jax.inference import stablehlo
from vit_jax.measurement.checkpoints import checkpoint_programs, short_name
from vit_jax.measurement.exported_flops import onnx_products, stablehlo_products
from vit_jax.measurement.flops import product_flops
from vit_jax.pretrained.save import save_weights


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Returns by name a step folder, bundles of the same model, and that model."""
    root = tmp_path_factory.mktemp("served")
    save_weights(small_weights(), root / "live", "vit_jax")
    made = {"live": root / "live"}
    for kind in ("stablehlo", "safetensors"):
        made[kind], live = bundle(root / kind, kind)
    made["pixels"], _ = bundle(root / "pixels", "stablehlo", with_preprocessing=True)
    made["narrow"], _ = bundle(root / "narrow", "stablehlo", dtype="bfloat16")
    return {name: str(path) for name, path in made.items()} | {"model": live}


def programs(files, *names: str, overrides=(), **axes: str):
    """Returns the programs of checkpoints by their names."""
    return checkpoint_programs(",".join(files[name] for name in names), axes, overrides)


def test_live_ones_have_all_axes_and_programs_their_own(files):
    found = programs(files, "live", "stablehlo", batch_size="1,3", dtype="float32,bfloat16")
    assert [program.label for program in found] == [
        "vit_jax live batch_size=1 float32",
        "vit_jax live batch_size=1 bfloat16",
        "vit_jax live batch_size=3 float32",
        "vit_jax live batch_size=3 bfloat16",
        "stablehlo batch_size=1",
        "stablehlo batch_size=3",
    ]
    assert [program.case.dtype for program in found] == ["float32", "bfloat16", "float32", "bfloat16", *["float32"] * 2]
    assert found[1].case.settings == {"checkpoint": files["live"], "batch_size": "1", "dtype": "bfloat16"}
    assert found[5].case.settings == {"checkpoint": files["stablehlo"], "batch_size": "3"}


@pytest.mark.parametrize("name", ["live", "stablehlo", "safetensors"])
def test_what_is_timed_is_the_model(files, name):
    """The answer that a call gives is that of the model, for the images that it is given."""
    (program,) = programs(files, name, batch_size="3")
    facts = program.prepare()
    images = program.served.images(3)
    assert (images.shape, images.dtype) == ((3, 8, 8, 3), np.float32)
    expected = files["model"].logits(images)
    np.testing.assert_allclose(program.answer(images), expected, atol=1e-5 * np.ptp(expected))
    assert facts.compile_seconds > 0
    assert facts.load_seconds > 0


def test_the_same_model_counts_the_same(files):
    found = programs(files, "live", "stablehlo", "safetensors", "pixels", "narrow", batch_size="2")
    assert len({program.work.products.flops for program in found}) == 1
    assert len({program.work.products.batched for program in found}) == 1
    assert found[0].work.products.batched > 0
    assert all(program.prepare().hardware.flops == program.work.products.flops for program in found[:2])


def test_the_size_of_a_file_is_that_of_the_model_alone(files):
    live, program, weights = (each.prepare() for each in programs(files, "live", "stablehlo", "safetensors"))
    numbers = 4 * sum(array.size for array in files["model"].weights.params.values())
    assert live.file_bytes is None
    assert numbers < program.file_bytes < 4 * numbers
    assert numbers < weights.file_bytes < 2 * numbers
    assert program.peak_bytes > program.file_bytes


def test_weights_beside_a_program_count_as_arguments(tmp_path, monkeypatch):
    monkeypatch.setattr(stablehlo, "WEIGHTS_BESIDE", 1000)
    folder, live = bundle(tmp_path / "out", "stablehlo")
    (program,) = checkpoint_programs(str(folder), {"batch_size": "2"})
    facts = program.prepare()
    numbers = 4 * sum(array.size for array in live.weights.params.values())
    assert facts.file_bytes > numbers
    assert facts.peak_bytes > numbers
    images = program.served.images(2)
    expected = live.logits(images)
    np.testing.assert_allclose(program.answer(images), expected, atol=1e-5 * np.ptp(expected))


def test_pixels_and_types(files):
    pixels, narrow = programs(files, "pixels", "narrow", batch_size="2")
    assert pixels.served.images(2).dtype == np.uint8
    assert (pixels.case.dtype, narrow.case.dtype) == ("float32", "bfloat16")


def test_other_image_sizes_and_fields_of_live_ones(files):
    found = programs(files, "live", image_size="8,8x12", overrides=[("model.gelu", "exact")])
    assert [program.served.images(1).shape for program in found] == [(1, 8, 8, 3), (1, 8, 12, 3)]
    assert [program.work.tokens for program in found] == [5, 7]
    assert [program.work.images for program in found] == [32, 32]
    images, plain = found[0].served.images(32), programs(files, "live")[0]
    for program in (found[0], plain):
        program.prepare()
    assert np.abs(found[0].answer(images) - plain.answer(images)).max() > 1e-5


@pytest.mark.parametrize(
    ("names", "axes", "overrides", "message"),
    [
        (["stablehlo"], {"image_size": "16"}, [], "was compiled for 8x8 pixels and takes no 16x16"),
        (["live", "stablehlo"], {"image_size": "16"}, [], "was compiled for 8x8 pixels and takes no 16x16"),
        (["stablehlo"], {"dtype": "bfloat16"}, [], "--dtype is for live models; an exported program computes as"),
        (["stablehlo"], {}, [("model.heads", "2")], "--config.model.heads is for live models"),
        (["live"], {"model": "vit_s16"}, [], "--model and --checkpoint do not go together"),
        (["live"], {"depth": "2"}, [], "--depth and --checkpoint do not go together"),
        (["live"], {}, [("train.batch_size", "2")], "--config.train.batch_size and --checkpoint do not go together"),
        (["live"], {}, [("model.name", "vit")], "--config.model.name and --checkpoint do not go together"),
        (
            ["live"],
            {"dtype": "bfloat16"},
            [("model.dtype", "float32")],
            "--dtype and --config.model.dtype set the same",
        ),
        (["live"], {}, [("model.hed", "1")], "no field 'hed'"),
        (["live"], {"dtype": "float8"}, [], "dtype"),
        (["live"], {"batch_size": "0"}, [], "--batch_size must be whole numbers from 1 up, not '0'"),
        (["live"], {"batch_size": "two"}, [], "--batch_size must be whole numbers from 1 up, not 'two'"),
        (["live"], {"batch_size": "1,1"}, [], "--batch_size=1,1 names a value twice"),
        (["live"], {"batch_size": "1,"}, [], "--batch_size=1, has an empty value"),
        (["live"], {"image_size": "wide"}, [], "--image_size must be a size such as 224 or 224x320, not 'wide'"),
        (["live"], {"image_size": "9"}, [], "not a multiple of patch"),
        (["live", "live"], {}, [], "names a value twice"),
    ],
)
def test_what_does_not_go_together(files, names, axes, overrides, message):
    with pytest.raises(UserError) as raised:
        programs(files, *names, overrides=overrides, **axes)
    assert message in str(raised.value)


def test_no_such_checkpoint(tmp_path):
    with pytest.raises(UserError, match="nowhere"):
        checkpoint_programs(str(tmp_path / "nowhere"), {})
    with pytest.raises(UserError, match="has an empty value"):
        checkpoint_programs("", {})


def test_short_names_tell_checkpoints_apart():
    names = ["a/x", "b/x", "b/y/"]
    assert [short_name(name, names) for name in names] == ["a/x", "b/x", "y"]


def test_products_of_a_convolution_and_of_an_open_batch():
    """Strided and grouped, exported for any batch size, and lowered for three."""

    def model(x):
        numbers = ("NHWC", "HWIO", "NHWC")
        kernel = np.ones((2, 2, 2, 6), np.float32)
        y = jax.lax.conv_general_dilated(x, kernel, (2, 2), "VALID", dimension_numbers=numbers, feature_group_count=2)
        y = y.reshape(-1, 6) @ np.ones((6, 5), np.float32)
        return y.reshape(x.shape[0], -1, 5)

    (batch,) = jax.export.symbolic_shape("batch")
    exported = jax.export.export(jax.jit(model))(jax.ShapeDtypeStruct((batch, 8, 8, 4), np.float32))
    three = jax.ShapeDtypeStruct((3, 8, 8, 4), np.float32)
    products, dtype = stablehlo_products(jax.jit(exported.call).lower(three))
    assert products == product_flops(model, three)
    assert products.flops == 3 * 16 * (2 * 6 * 2 * 2 * 2 + 2 * 6 * 5)
    assert dtype == "float32"


@pytest.fixture(scope="module")
def onnx_folder(tmp_path_factory):
    pytest.importorskip("jax2onnx", reason="needs the extra 'onnx'")
    pytest.importorskip("onnxruntime", reason="needs the extra 'onnx'")
    return str(bundle(tmp_path_factory.mktemp("served") / "onnx", "onnx")[0])


def test_an_onnx_program(files, onnx_folder):
    live, program = checkpoint_programs(f"{files['live']},{onnx_folder}", {"batch_size": "3", "dtype": "float32"})
    facts = program.prepare()
    images = program.served.images(3)
    expected = files["model"].logits(images)
    np.testing.assert_allclose(program.answer(images), expected, atol=1e-5 * np.ptp(expected))
    assert program.work.products.flops == live.work.products.flops
    assert program.work.products.batched == live.work.products.batched
    assert (facts.compile_seconds, facts.peak_bytes) == (None, None)
    assert facts.file_bytes > 4 * sum(array.size for array in files["model"].weights.params.values())
    assert any("intra-op threads" in note for note in program.work.notes)
    assert not program.trace("nowhere")


def test_onnx_without_the_package_that_counts(onnx_folder, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert onnx_products(tmp_path / "model.onnx") is None
    (program,) = checkpoint_programs(onnx_folder, {"batch_size": "2"})
    assert program.work.products is None
    assert program.prepare().hardware is None
    assert any("pip install onnx" in note for note in program.work.notes)


def test_onnxruntime_that_is_not_installed(onnx_folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match="an ONNX bundle needs onnxruntime"):
        checkpoint_programs(onnx_folder, {})
