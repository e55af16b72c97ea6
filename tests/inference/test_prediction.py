"""Answers about files: those of the model, for any batch size, whatever lies between the files."""

import threading

import numpy as np
import pytest
from PIL import Image
from scipy.special import softmax

from tests.pretrained.examples import small_weights
from vit_jax.errors import UserError
from vit_jax.inference.model import LoadedModel
from vit_jax.inference.prediction import BATCHES_AHEAD, answers


@pytest.fixture(scope="module")
def model():
    return LoadedModel(small_weights())


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Seven pictures of different sizes and two files that are none, as the third and the last."""
    folder, generator = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    paths = [folder / f"{i}.png" for i in range(9)]
    for i, path in enumerate(paths):
        picture = generator.integers(0, 256, (8 + 3 * i, 31 - 2 * i, 3), dtype=np.uint8)
        Image.fromarray(picture).save(path)
    for path in (paths[2], paths[8]):
        path.write_bytes(b"no picture")
    return [str(path) for path in paths]


@pytest.fixture(scope="module")
def readable(files):
    return [file for i, file in enumerate(files) if i not in (2, 8)]


def gathered(model, files, **options):
    """Returns paths, probabilities, embeddings and the files that could not be read."""
    missed = []
    parts = list(answers(model, files, unreadable=lambda path, error: missed.append((path, str(error))), **options))
    columns = ([getattr(part, name) for part in parts] for name in ("probabilities", "embeddings"))
    probabilities, embeddings = (None if column[0] is None else np.concatenate(column) for column in columns)
    return [path for part in parts for path in part.paths], probabilities, embeddings, missed


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_answers_are_the_models_for_any_batch_size(batch_size, model, files, readable):
    paths, probabilities, embeddings, missed = gathered(model, files, batch_size=batch_size, embeddings=True)
    assert paths == readable
    np.testing.assert_allclose(probabilities, model.predict(readable), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(embeddings, model.embed(readable), rtol=1e-4, atol=1e-5)
    assert np.abs(probabilities - probabilities[0]).max(axis=-1)[1:].min() > 1e-3
    assert [path for path, _ in missed] == [files[2], files[8]]
    assert all(f"cannot read {path}: not a readable image" in reason for path, reason in missed)


def test_every_batch_has_the_same_shape(model, files, monkeypatch):
    shapes = []
    monkeypatch.setattr(model, "logits", lambda x: shapes.append(x.shape) or LoadedModel.logits(model, x))
    gathered(model, files, batch_size=3)
    assert shapes == [(3, 8, 8, 3)] * 3
    shapes.clear()
    gathered(model, files[:2], batch_size=100)
    assert shapes == [(2, 8, 8, 3)]


def test_what_is_not_wanted_is_not_computed(model, readable, monkeypatch):
    monkeypatch.setattr(model, "logits", None)
    _, probabilities, embeddings, _ = gathered(model, readable, classes=False, embeddings=True)
    assert probabilities is None
    assert embeddings.shape == (7, 16)


def test_flip_averages_an_image_and_its_mirror_image(model, readable, monkeypatch):
    views = np.stack([model.view(file) for file in readable])
    both = [model.preprocessing.normalised(pixels) for pixels in (views, views[:, :, ::-1])]
    expected = sum(softmax(model.logits(x).astype(np.float64), axis=-1) for x in both) / 2
    assert np.abs(expected - model.predict(readable)).max() > 1e-3
    for turn in (1, -1):  # the mirror images have the same answers
        monkeypatch.setattr(model, "view", lambda path, turn=turn: LoadedModel.view(model, path)[:, ::turn])
        _, probabilities, embeddings, _ = gathered(model, readable, batch_size=2, flip=True, embeddings=True)
        np.testing.assert_allclose(probabilities, expected, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(embeddings, sum(model.embeddings(x) for x in both) / 2, rtol=1e-4, atol=1e-5)


def test_probabilities_of_a_model_trained_with_the_sigmoid_loss(model, readable, monkeypatch):
    monkeypatch.setattr(model, "loss", "sigmoid")
    _, probabilities, _, _ = gathered(model, readable)
    views = model.preprocessing.normalised(np.stack([model.view(file) for file in readable]))
    logits = model.logits(views).astype(np.float64)
    np.testing.assert_allclose(probabilities, 1 / (1 + np.exp(-logits)), rtol=1e-4, atol=1e-6)


def test_a_file_that_cannot_be_read_is_an_error_where_nobody_is_told(model, files):
    with pytest.raises(UserError, match=r"cannot read .*2\.png"):
        list(answers(model, files))


def test_no_more_files_are_decoded_than_a_few_batches_ahead(model, readable, monkeypatch):
    """The count of what is decoded never runs further ahead of what is answered, however many files there are."""
    decoded, lock, batch_size = [], threading.Lock(), 2

    def view(path):
        with lock:
            decoded.append(path)
        return LoadedModel.view(model, path)

    monkeypatch.setattr(model, "view", view)
    answered = 0
    for part in answers(model, readable * 20, batch_size):
        answered += len(part.paths)
        assert len(decoded) <= answered + BATCHES_AHEAD * batch_size
    assert answered == len(decoded) == 140
    assert decoded != readable[:1] * 140


def decoding_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("vit_jax_predict")]


def test_leaving_early_ends_the_threads(model, readable):
    for part in answers(model, readable * 50, 2):
        assert part.paths == readable[:2]
        break
    for thread in (left := decoding_threads()):
        thread.join(10)
    assert left
    assert not decoding_threads()


def test_a_model_that_gives_no_embeddings_says_so_before_any_answer(model, readable, monkeypatch):
    def refuse(x):
        raise UserError("no embeddings here")

    monkeypatch.setattr(model, "embeddings", refuse)
    with pytest.raises(UserError, match="no embeddings here"):
        next(answers(model, readable, embeddings=True))
