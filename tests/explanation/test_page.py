"""What `write_page` puts on a page, of small models."""

import base64
import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from tests.explanation.examples import loaded
from tests.explanation.pages import unpacked
from tests.pretrained.examples import small_weights
from vit_jax.errors import UserError
from vit_jax.explanation import page
from vit_jax.explanation.on_pictures import heat_maps
from vit_jax.explanation.page import write_page
from vit_jax.explanation.rollout import rollout
from vit_jax.inference.model import LoadedModel

PICTURES = np.random.default_rng(0).integers(0, 256, (2, 20, 16, 3), dtype=np.uint8)
SIZE = (8, 12)
GRID = [2, 3]


@pytest.fixture(scope="module")
def model():
    """A model with a cls token and two registers, of seven classes."""
    return LoadedModel(small_weights(size=SIZE, registers=2, num_classes=7))


def written(folder, model, pictures=PICTURES[:1], names=("a.png",), classes=()) -> tuple[dict, list[dict]]:
    """Returns the layout of the page that is written of pictures, and the arrays of each."""
    path = folder / "new" / "page.html"
    write_page(path, model, pictures, names, classes)
    assert [file.name for file in path.parent.iterdir()] == ["page.html"]
    text = path.read_text("utf-8")
    layout = json.loads(re.search(r'id="vit-layout">(.*?)</script>', text)[1])
    data = [re.search(rf'id="{image["data"]}">(.*?)</script>', text)[1] for image in layout["images"]]
    return layout, [unpacked(packed, image) for packed, image in zip(data, layout["images"], strict=True)]


def refusal(folder, model, **options) -> str:
    with pytest.raises(UserError) as error:
        written(folder, model, **options)
    assert not list(folder.rglob("*"))
    assert "\n" not in str(error.value)
    return str(error.value)


def assert_held(arrays, name, values):
    """Asserts that a page holds numbers to half a step of each row's largest."""
    numbers, scales = arrays[name].reshape(values.shape), arrays[f"{name}_scales"].reshape(values.shape[:-1])
    off = np.abs(numbers * scales[..., None] / 255 - values)
    assert (off <= 0.502 / 255 * values.max(-1, keepdims=True) + 1e-7).all()


def test_holds_the_attention_and_the_rollout_of_each_image(tmp_path, model):
    layout, arrays = written(tmp_path, model, PICTURES, ["a.png", "b.png"])
    assert layout["grid"] == GRID
    assert layout["prefix"] == ["cls", "register 0", "register 1"]
    assert (layout["layers"], layout["heads"]) == (2, 2)
    assert [image["name"] for image in layout["images"]] == ["a.png", "b.png"]
    attention = model.attention(model.preprocess(PICTURES))
    for i, found in enumerate(arrays):
        assert_held(found, "attention", np.stack(attention)[:, i])
        assert_held(found, "rollout", np.asarray(rollout(attention))[:, i])


def test_shows_what_the_model_sees_of_a_picture(tmp_path, model):
    (image,) = written(tmp_path, model)[0]["images"]
    source = base64.b64decode(image["source"].removeprefix("data:image/png;base64,"))
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(source))), model.view(PICTURES[0]))
    assert (image["height"], image["width"]) == SIZE


def test_relevance_is_that_of_the_five_most_probable_classes_and_of_those_given(tmp_path, model):
    probabilities = model.predict(PICTURES[0])[0]
    order = np.argsort(-probabilities)
    layout, (arrays,) = written(tmp_path, model, classes=[order[6], order[1]])
    listed = layout["images"][0]["classes"]
    wanted = [*order[:5], order[6]]
    assert [found["index"] for found in listed] == wanted
    assert [found["name"] for found in listed] == [f"class {i}" for i in wanted]
    np.testing.assert_allclose([found["probability"] for found in listed], probabilities[wanted], rtol=1e-5)
    maps = np.stack([heat_maps(model, PICTURES[0], "relevance", int(i))[0] for i in wanted]).reshape(6, -1)
    assert np.abs(maps[0] - maps[1]).max() > 0.01 * maps[0].max()
    assert_held(arrays, "relevance", maps)


def test_files_of_images_and_all_tokens_before_the_patches(tmp_path):
    Image.fromarray(PICTURES[0]).save(tmp_path / "a.png")
    for fields, file, prefix in (
        ({"model": "vit_distilled"}, str(tmp_path / "a.png"), ["cls", "dist"]),
        ({"pool": "gap"}, tmp_path / "a.png", []),
    ):
        model = LoadedModel(small_weights(size=SIZE, num_classes=0, **fields))
        assert written(tmp_path, model, [file])[0]["prefix"] == prefix


def test_a_model_without_classes_has_no_relevance(tmp_path):
    model = LoadedModel(small_weights(size=SIZE, num_classes=0))
    layout, (arrays,) = written(tmp_path, model)
    assert layout["images"][0]["classes"] == []
    assert "relevance" not in arrays
    assert "has no classifier" in refusal(tmp_path / "other", model, classes=[0])


def test_of_too_large_maps_the_mean_of_the_heads_is_held_and_that_is_said(tmp_path, model, monkeypatch):
    monkeypatch.setattr(page, "MOST_NUMBERS", 2 * 2 * 9**2)
    with pytest.warns(UserWarning, match="the mean of the 2 heads alone: all of them among 9 tokens") as warned:
        layout, (arrays, _) = written(tmp_path, model, PICTURES, ["a", "b"])
    assert len(warned) == 1
    assert layout["heads"] == 1
    assert layout["notes"] == [str(warned[0].message)]
    assert_held(arrays, "attention", np.stack(model.attention(model.preprocess(PICTURES)))[:, 0].mean(1, keepdims=True))
    monkeypatch.setattr(page, "MOST_NUMBERS", 2 * 2 * 9**2 - 1)
    assert "too much for one page; choose a smaller --image_size" in refusal(tmp_path / "other", model)


@pytest.mark.parametrize(
    ("family", "reason"),
    [
        ("swin", "the layers of a SwinTransformer attend in windows"),
        ("convnext", "has no attention"),
        ("mixer", "no attention"),
    ],
)
def test_attention_in_windows_and_no_attention_are_refused(tmp_path, family, reason):
    said = refusal(tmp_path, loaded(family))
    assert said.startswith("the interactive page shows attention among all patches alone: ")
    assert reason in said


@pytest.mark.parametrize("index", [7, -1])
def test_a_class_that_does_not_exist_is_refused(tmp_path, model, index):
    assert f"has classes 0 to 6, no class {index}" in refusal(tmp_path, model, classes=[index])


def test_merged_tokens_and_unreadable_pictures_are_refused(tmp_path, model):
    merged = LoadedModel(small_weights(size=SIZE, merge_tokens=1))
    assert "load it with merge_tokens=0" in refusal(tmp_path, merged)
    assert "cannot read" in refusal(tmp_path, model, pictures=["nowhere.png"])
    assert "no images" in refusal(tmp_path, model, pictures=[], names=[])


def test_names_must_be_as_many_as_pictures(tmp_path, model):
    with pytest.raises(ValueError, match="2 pictures have 1 names"):
        written(tmp_path, model, PICTURES, ["a.png"])


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path, model):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "page.html", tmp_path / "file" / "new" / "page.html", tmp_path):
        with pytest.raises(UserError, match=r"cannot write .*; give another path"):
            write_page(path, model, PICTURES[:1], ["a.png"])
    assert [file.name for file in tmp_path.iterdir()] == ["file"]
    assert not list(tmp_path.parent.glob("*.part"))
