"""An empty cache, and a server on this computer."""

import pathlib

import pytest

from tests.pretrained.web import CONTENT, serving
from vit_jax.pretrained import transfer


@pytest.fixture
def cache(tmp_path, monkeypatch) -> pathlib.Path:
    """An empty cache, a short pause, and no proxy between the tests and their server."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("VIT_JAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(transfer, "PAUSE", 0.001)
    return tmp_path / "cache"


@pytest.fixture
def web():
    with serving() as server:
        server.files["/a/b.npz"] = CONTENT
        yield server
