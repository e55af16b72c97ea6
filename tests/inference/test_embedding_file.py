"""An `.npz` of embeddings: written whole or not at all."""

import pathlib

import numpy as np
import pytest

from vit_jax.errors import UserError
from vit_jax.inference.embedding_file import EmbeddingFile


def test_what_is_added_is_read_back_without_pickle(tmp_path):
    generator = np.random.default_rng(0)
    parts = [generator.normal(size=(rows, 6)).astype(np.float32) for rows in (3, 3, 1)]
    names = ["a.jpg", "ä ö.jpg", "new\nline", b"bad\xff".decode("utf-8", "surrogateescape"), "x" * 300, "", "b"]
    path = tmp_path / "new" / "x.npz"
    with EmbeddingFile(path, keep="nothing") as store:
        for first, part in zip((0, 3, 6), parts, strict=True):
            store.add(names[first : first + len(part)], part)
        assert list(path.parent.iterdir()) in ([], [*path.parent.glob("tmp*")])
        assert store.write() == (7, 6)
    assert list(path.parent.iterdir()) == [path]
    with np.load(path, allow_pickle=False) as stored:
        assert stored["embeddings"].dtype == np.float32
        np.testing.assert_array_equal(stored["embeddings"], np.concatenate(parts))
        assert stored["paths"].tolist() == names


def test_other_types_and_strides_become_float32(tmp_path):
    rows = np.arange(12, dtype=np.float64).reshape(3, 4).T
    with EmbeddingFile(tmp_path / "x.npz", keep="") as store:
        store.add(list("abcd"), rows)
        store.write()
    np.testing.assert_array_equal(np.load(tmp_path / "x.npz")["embeddings"], rows.astype(np.float32))


def test_what_is_not_finished_leaves_the_old_file(tmp_path):
    (tmp_path / "x.npz").write_bytes(b"old")
    with EmbeddingFile(tmp_path / "x.npz", keep="") as store:
        store.add(["a"], np.ones((1, 3), np.float32))
    assert (tmp_path / "x.npz").read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [tmp_path / "x.npz"]


@pytest.mark.parametrize("name", ["x", "x.csv", "folder.npz", "file/x.npz"])
def test_places_where_nothing_can_be_written(name, tmp_path):
    (tmp_path / "folder.npz").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=name):
        EmbeddingFile(tmp_path / name, keep="")


def test_the_checkpoint_is_not_overwritten(tmp_path):
    weights = tmp_path / "weights.npz"
    weights.touch()
    (tmp_path / "link.npz").symlink_to(weights)
    for name in ("weights.npz", "link.npz"):
        with pytest.raises(UserError, match="would overwrite the checkpoint"):
            EmbeddingFile(pathlib.Path(tmp_path / name), keep=str(weights))
