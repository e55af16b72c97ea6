"""What a person may write for a checkpoint, in the order in which it is understood."""

import pytest

from tests.pretrained.web import CONTENT
from vit_jax.errors import UserError
from vit_jax.pretrained import download, locate
from vit_jax.pretrained.catalogue import published
from vit_jax.pretrained.download import cache_path
from vit_jax.pretrained.locate import Located

AUGREG = "B_16-i21k-300ep-lr_0.001-aug_medium1-wd_0.1-do_0.0-sd_0.0"


@pytest.fixture(autouse=True)
def here(cache, web, tmp_path, monkeypatch):
    """A working directory, and a server in the place of the hub and the buckets."""
    monkeypatch.setattr(download, "HUB", web.origin)
    monkeypatch.setattr(locate, "HUB", web.origin)
    monkeypatch.setattr(download, "BUCKETS", web.origin)
    web.files = {
        "/vit_models/imagenet21k/ViT-B_16.npz": b"npz",
        f"/vit_models/augreg/{AUGREG}.npz": b"augreg",
        "/facebook/dinov2-small/resolve/main/model.safetensors": b"dino",
        "/org/name/resolve/main/model.safetensors": b"name",
        "/org/name/resolve/v2/model.safetensors": b"second",
    }
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def found(checkpoint: str) -> tuple[bytes, object]:
    """Returns the content of the file, or of the repository's weights, and what is known of it."""
    located = locate.locate(checkpoint)
    path = located.path / "model.safetensors" if located.path.is_dir() else located.path
    return path.read_bytes(), located.published


def refused(checkpoint: str) -> str:
    with pytest.raises(UserError) as error:
        locate.locate(checkpoint)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_path_that_exists_wins_over_everything_else(here, web, monkeypatch):
    for name in ("vit_b16_in21k", "org/name", "model.npz"):
        (here / name).parent.mkdir(exist_ok=True)
        (here / name).write_bytes(CONTENT)
        assert found(name) == (CONTENT, None)
    monkeypatch.setenv("HOME", str(here))
    assert locate.locate("~/model.npz") == Located(here / "model.npz", None)
    assert locate.locate(str(here)) == Located(here, None)
    assert web.asked == []


@pytest.mark.parametrize(
    "form", ["vit_b16_in21k", "gs://vit_models/imagenet21k/ViT-B_16.npz", "{}/vit_models/imagenet21k/ViT-B_16.npz"]
)
def test_short_names_and_addresses_lead_to_the_same_file(web, form):
    assert found(form.format(web.origin)) == (b"npz", published("vit_b16_in21k"))
    assert web.paths == ["/vit_models/imagenet21k/ViT-B_16.npz"]


def test_an_address_that_the_catalogue_lacks(web):
    web.files["/other/deep/x.npz"] = b"other"
    assert found(f"{web.origin}/other/deep/x.npz") == (b"other", None)


@pytest.mark.parametrize("form", [f"augreg/{AUGREG}", f"augreg/{AUGREG}.npz", f"gs://vit_models/augreg/{AUGREG}.npz"])
def test_a_file_of_augreg(form):
    assert found(form) == (b"augreg", published(f"augreg/{AUGREG}"))


@pytest.mark.parametrize(
    "form", ["dinov2_s14", "facebook/dinov2-small", "hf://facebook/dinov2-small", "{}/facebook/dinov2-small"]
)
def test_a_repository_of_the_catalogue(web, form):
    assert found(form.format(web.origin)) == (b"dino", published("dinov2_s14"))


def test_other_repositories_and_revisions(web):
    assert found("org/name") == (b"name", None)
    assert found("org/name@v2") == (b"second", None)
    assert found(f"{web.origin}/org/name/tree/v2") == (b"second", None)


@pytest.mark.parametrize("path", ["./name", "../org/name", "/nowhere/x", "~/x", "model.npz", "org/model.safetensors"])
def test_what_looks_like_a_path_is_never_an_id(web, path):
    assert f"no such file: {path}" in refused(path)
    assert web.asked == []


def test_the_nearest_file_is_named(here):
    (here / "model.npz").write_bytes(b"")
    assert "did you mean 'model.npz'?" in refused("./modle.npz")


def test_beside_what_is_here_an_id_needs_its_prefix(here, web):
    (here / "runs" / "cifar10").mkdir(parents=True)
    message = refused("runs/cifar1O")
    assert "no such file: runs/cifar1O (did you mean 'cifar10'?)" in message
    assert "hf://runs/cifar1O" in message
    assert web.asked == []
    (here / "org").mkdir()
    assert found("hf://org/name") == (b"name", None)


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("dinov2_s15", "dinov2_s14"),
        ("vit_b16_in21", "vit_b16_in21k"),
        ("sam/vit_b61", "sam/vit_b16"),
        ("augreg/B_17", "B_16"),
    ],
)
def test_a_misspelt_name_is_no_id(web, name, near):
    assert f"did you mean '{near}'?" in refused(name)
    assert web.asked == []


@pytest.mark.parametrize("form", ["", "model", "a/b/c", "s3://bucket/x.npz"])
def test_the_forms_are_said(form):
    message = refused(form)
    assert "is no checkpoint" in message
    assert all(said in message for said in ("gs://", "org/name", "short name"))


def test_the_real_addresses_are_the_publishers(monkeypatch, cache):
    monkeypatch.undo()
    monkeypatch.setenv("VIT_JAX_CACHE", str(cache))
    place = cache_path("gs://vit_models/imagenet21k/ViT-B_16.npz")
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(b"by hand")
    assert place.parts[-4] == "storage.googleapis.com"
    assert found("vit_b16_in21k") == (b"by hand", published("vit_b16_in21k"))
