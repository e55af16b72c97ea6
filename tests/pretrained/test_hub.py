"""Repositories of the hub: what is fetched of them, what is never fetched, and who sees the token."""

import contextlib
import json

import pytest

from tests.pretrained.web import CONTENT, Web, serving
from vit_jax.errors import UserError
from vit_jax.pretrained import download
from vit_jax.pretrained.download import cache_path, fetch, fetch_hub

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture
def hub(web, monkeypatch) -> Web:
    monkeypatch.setattr(download, "HUB", web.origin)
    root = "/org/name/resolve/main"
    web.files = {f"{root}/config.json": b"{}", f"{root}/model.safetensors": CONTENT}
    return web


@contextlib.contextmanager
def offline(web: Web):
    """Makes sure that nothing is asked."""
    before = len(web.asked)
    yield
    assert len(web.asked) == before


@pytest.mark.parametrize("name", ["org/name", "hf://org/name", "hf-hub:org/name", "org/name@main"])
def test_a_repository_becomes_a_folder(hub, name):
    folder = fetch_hub(name)
    assert folder == cache_path(f"{hub.origin}/org/name/resolve/main/config.json").parent
    assert (folder / "config.json").read_bytes() == b"{}"
    assert (folder / "model.safetensors").read_bytes() == CONTENT
    assert not (folder / "preprocessor_config.json").exists()
    with offline(hub):
        assert fetch_hub(name) == folder


def test_shards_come_with_their_index(hub):
    root = "/org/name/resolve/refs%2Fpr%2F1"
    shards = {"model-00001-of-00002.safetensors": b"first", "model-00002-of-00002.safetensors": b"second"}
    index = {"weight_map": dict(zip(("cls", "norm.weight", "norm.bias"), (*shards, *shards), strict=False))}
    hub.files = {f"{root}/{name}": content for name, content in shards.items()}
    hub.files[f"{root}/model.safetensors.index.json"] = json.dumps(index).encode()
    folder = fetch_hub("org/name", "refs/pr/1")
    assert {name: (folder / name).read_bytes() for name in shards} == shards
    with offline(hub):
        assert fetch_hub("org/name@refs/pr/1") == folder


@pytest.mark.parametrize("shard", ["../../../secret.safetensors", "/etc/passwd", "weights.bin"])
def test_shards_lie_beside_their_index(hub, shard):
    hub.files = {
        "/org/name/resolve/main/model.safetensors.index.json": json.dumps({"weight_map": {"a": shard}}).encode()
    }
    with pytest.raises(UserError, match="is no index of shards"):
        fetch_hub("org/name")


def test_weights_put_there_by_hand_do_without_a_network(hub):
    folder = cache_path(f"{hub.origin}/org/other/resolve/main/model.safetensors").parent
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"by hand")
    hub.statuses = {f"/org/other/resolve/main/{name}": 403 for name in download.DESCRIPTIONS}
    assert fetch_hub("org/other") == folder
    assert len(hub.asked) == 2


def test_a_repository_of_pickles_is_refused(hub):
    hub.files = {"/org/name/resolve/main/config.json": b"{}", "/org/name/resolve/main/pytorch_model.bin": b"pickle"}
    with pytest.raises(UserError, match=r"has no model\.safetensors .* pickles .* never loaded") as error:
        fetch_hub("org/name")
    assert "\n" not in str(error.value)
    assert not any("bin" in path for path in hub.paths)


@pytest.mark.parametrize("name", ["name", "a/b/c", "org/name@", "../name", "org/..", "org/name@../x", "hf://"])
def test_what_is_no_id_is_refused(hub, name):
    with offline(hub), pytest.raises(UserError, match="is no Hugging Face hub id"):
        fetch_hub(name)


def test_the_token_goes_to_the_hub_and_to_nobody_else(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "secret")
    root = "/org/name/resolve/main"
    with serving() as elsewhere:
        elsewhere.files["/storage/weights"] = CONTENT
        hub.redirects = {
            f"{root}/model.safetensors": f"{elsewhere.origin}/storage/weights",
            f"{root}/config.json": f"{root}/renamed.json",
        }
        hub.files[f"{root}/renamed.json"] = b"{}"
        assert (fetch_hub("org/name") / "model.safetensors").read_bytes() == CONTENT
        fetch(f"{elsewhere.origin}/storage/weights")
    assert {headers.get("authorization") for _, headers in hub.asked} == {"Bearer secret"}
    assert elsewhere.paths == ["/storage/weights"] * 2
    assert not any("authorization" in headers or "secret" in str(headers) for _, headers in elsewhere.asked)


def test_a_resumed_redirect_asks_for_the_rest_of_the_file(hub):
    with serving() as elsewhere:
        elsewhere.files["/weights"], elsewhere.cuts = CONTENT, [40_000]
        hub.redirects = {"/org/name/resolve/main/model.safetensors": f"{elsewhere.origin}/weights"}
        assert (fetch_hub("org/name") / "model.safetensors").read_bytes() == CONTENT
        assert [headers.get("range") for _, headers in elsewhere.asked] == [None, "bytes=40000-"]


def test_private_repositories_ask_for_a_token(hub):
    hub.statuses = {f"/org/name/resolve/main/{name}": 401 for name in ("config.json", "model.safetensors")}
    with pytest.raises(UserError, match=r"HTTP 401 .* set HF_TOKEN"):
        fetch_hub("org/name")


def test_the_weights_are_what_a_person_is_told_to_fetch(hub):
    place = cache_path(f"{hub.origin}/org/name/resolve/main/model.safetensors")
    hub.statuses = dict.fromkeys(hub.files, 403)
    with pytest.raises(UserError, match=f"belongs at {place}"):
        fetch_hub("org/name")


def test_a_description_that_cannot_be_read_is_not_taken_for_missing(hub):
    hub.statuses = {"/org/name/resolve/main/config.json": 403}
    with pytest.raises(UserError, match=r"config\.json: HTTP 403"):
        fetch_hub("org/name")
    hub.statuses = {}
    assert (fetch_hub("org/name") / "config.json").exists()
