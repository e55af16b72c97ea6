"""The code in a bundle's README.md runs, where vit_jax is not installed, and says what the model says."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from tests.inference.bundles import bundle, code_of, pictures, run_alone
from tests.pretrained.examples import small_weights
from vit_jax.data.preprocessing import Preprocessing
from vit_jax.inference import stablehlo
from vit_jax.inference.bundle_readme import readme
from vit_jax.pretrained.bundle import read_bundle

SEEN = {
    "crop": Preprocessing((8, 8), 11, "bicubic", mean=(0.4, 0.5, 0.6), std=(0.3, 0.2, 0.1)),
    "squash": Preprocessing((8, 8), None, "lanczos"),
    "wide": Preprocessing((8, 12), 9, "nearest"),
    "plain": Preprocessing((8, 8), 11, "bilinear", antialias=False),
    "opencv": Preprocessing((8, 8), None, "bicubic", antialias=False),
}


def weights(seen: str):
    """Returns weights that see pictures in one of these ways."""
    return dataclasses.replace(small_weights(size=SEEN[seen].size), preprocessing=SEEN[seen])


def ranked(text: str) -> dict[str, float]:
    """Returns the probabilities that lines such as `0.123  name` tell, the largest first."""
    return {name: float(value) for value, name in (line.split("  ", 1) for line in text.splitlines())}


def said_by_readme(folder, tmp_path, *packages) -> dict[str, float]:
    Image.fromarray(pictures()[0]).save(folder / "photo.jpg", "PNG")  # loses nothing; Pillow goes by the content
    return ranked(run_alone(code_of(folder), folder, tmp_path / "site", *packages))


def assert_as_the_model(said, live):
    (expected,) = live.predict(pictures()[0])
    assert np.ptp(expected) > 0.1
    assert list(said) == [live.class_names[i] for i in np.argsort(-expected)]
    np.testing.assert_allclose(list(said.values()), np.sort(expected)[::-1], rtol=0, atol=0.0006)


@pytest.mark.parametrize("seen", list(SEEN))
def test_the_code_makes_what_the_model_takes(seen, tmp_path):
    folder, live = bundle(tmp_path / "out", "npz", weights(seen))
    facts = dataclasses.replace(read_bundle(folder), format="onnx")
    (folder / "README.md").write_text(readme(facts, "title", "timm", [], False))
    Image.fromarray(pictures()[0]).save(folder / "photo.jpg", "PNG")
    lines = code_of(folder).partition("model = ")[0].replace("import onnxruntime\n", "")
    packages = ("numpy", "pillow", *(["opencv"] if seen == "opencv" else []))
    printed = run_alone(lines + "print(x.dtype, x.tobytes().hex())", folder, tmp_path / "site", *packages)
    dtype, hexadecimal = printed.split()
    x = np.frombuffer(bytes.fromhex(hexadecimal), dtype).reshape(1, *SEEN[seen].size, 3)
    # Pillow's plain bilinear filter cuts to whole grey levels, OpenCV's rounds.
    level = 1.01 / 255 / np.array(SEEN[seen].std) if seen == "plain" else 1e-6
    assert (np.abs(x - live.preprocess(pictures()[0])) <= level).all()


@pytest.mark.parametrize("beside", [False, True])
def test_stablehlo_of_pixels_and_with_weights_beside(beside, tmp_path, monkeypatch):
    monkeypatch.setattr(stablehlo, "WEIGHTS_BESIDE", 1000 if beside else 2**31)
    folder, live = bundle(tmp_path / "out", "stablehlo", weights("crop"), with_preprocessing=not beside)
    assert_as_the_model(said_by_readme(folder, tmp_path, "jax", "numpy", "pillow"), live)


def test_without_class_names_or_classes(tmp_path, monkeypatch, capsys):
    nameless = dataclasses.replace(weights("crop"), class_names=None)
    for name, made in (("a", nameless), ("b", small_weights(num_classes=0))):
        folder, live = bundle(tmp_path / name, "stablehlo", made)
        Image.fromarray(pictures()[0]).save(folder / "photo.jpg", "PNG")
        monkeypatch.chdir(folder)
        exec(code_of(folder), {})
        said = capsys.readouterr().out
        if live.num_classes:
            (expected,) = live.predict(pictures()[0])
            assert list(ranked(said)) == [f"class {i}" for i in np.argsort(-expected)]
        else:
            assert said == "(1, 16)\n"


def test_the_program_is_compiled_once_for_many_pictures(tmp_path, monkeypatch):
    """The line that answers may be given one batch after the other."""
    folder, live = bundle(tmp_path / "out", "stablehlo", weights("crop"))
    Image.fromarray(pictures()[0]).save(folder / "photo.jpg", "PNG")
    monkeypatch.chdir(folder)
    code, names = code_of(folder), {}
    exec(code, names)
    (line,) = (line for line in code.splitlines() if line.startswith("logits = "))
    for x in (names["x"] + 1, names["x"] + 2):
        exec(line, names := names | {"x": x})
        np.testing.assert_allclose(names["logits"], live.logits(x), atol=1e-5 * np.ptp(live.logits(x)))
    assert names["model"]._cache_size() == 1


@pytest.mark.parametrize("kind", ["npz", "vit_jax"])
def test_of_weights_that_vit_jax_reads(kind, tmp_path, monkeypatch, capsys):
    folder, live = bundle(tmp_path / "out", kind, weights("crop"))
    Image.fromarray(pictures()[0]).save(folder / "photo.jpg", "PNG")
    monkeypatch.chdir(folder)
    exec(code_of(folder), {})
    assert_as_the_model(ranked(capsys.readouterr().out), live)


@pytest.mark.parametrize(
    ("names", "made"),
    [
        ("timm", 'timm.create_model("local-dir:.", pretrained=True)'),
        ("huggingface", 'transformers.ViTForImageClassification.from_pretrained(".")'),
    ],
)
def test_of_weights_that_other_libraries_read(names, made, tmp_path):
    """They are not installed here."""
    folder, _ = bundle(tmp_path / "out", "safetensors", weights("crop"), names=names)
    code = code_of(folder)
    assert f"model = {made}.eval()\n" in code
    compile(code, "README.md", "exec")


@pytest.mark.parametrize(
    ("fields", "answer"),
    [
        ({"num_classes": 0}, ".last_hidden_state[:, 0].detach()"),
        ({"num_classes": 0, "pre_logits": 16}, ".pooler_output.detach()"),
    ],
)
def test_the_embedding_of_transformers_is_ours(fields, answer, tmp_path):
    """A pre-logits layer is their pooler, whose output is not among the hidden states."""
    folder, _ = bundle(tmp_path / "out", "safetensors", small_weights(**fields), names="huggingface")
    assert f"answer = model(torch.from_numpy(x).permute(0, 3, 1, 2)){answer}" in code_of(folder)
    assert 'transformers.ViTModel.from_pretrained(".")' in code_of(folder)
