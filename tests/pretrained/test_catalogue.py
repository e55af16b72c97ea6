"""The table of short names, and what AugReg's index makes of a name."""

import csv
import dataclasses
import io
import re

import pytest

from vit_jax.data.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from vit_jax.errors import UserError
from vit_jax.models.registry import architecture
from vit_jax.pretrained.augreg import COLUMNS, MODELS
from vit_jax.pretrained.catalogue import Published, published, published_at, published_names
from vit_jax.pretrained.download import HUB_ID, cache_path, web_address

pytestmark = pytest.mark.usefixtures("cache")

FIXED = [name for name in published_names() if not name.startswith("augreg/")]


def pretrained(model: str, wd: float, ds: str = "i21k", epochs: int = 300) -> str:
    return f"{model}-{ds}-{epochs}ep-lr_0.001-aug_medium1-wd_{wd}-do_0.0-sd_0.0"


def adapted(file: str, dataset: str, size: int, lr: float = 0.01) -> str:
    return f"{file}--{dataset}-steps_20k-lr_{lr}-res_{size}"


def row(
    name: str, ds: str, final_val: object, file: str, dataset: str, size: int, val: object, lr: float = 0.01
) -> dict:
    return {
        "name": name, "ds": ds, "final_val": final_val, "filename": file, "adapt_ds": dataset,
        "adapt_resolution": size, "adapt_final_val": val, "adapt_filename": adapted(file, dataset, size, lr),
    }  # fmt: skip


GOOD, WORSE, SCRATCH, HYBRID = (
    pretrained("B_16", 0.1),
    pretrained("B_16", 0.03),
    pretrained("B_16", 0.1, "i1k"),
    pretrained("R_Ti_16", 0.03),
)
ROWS = [
    row("B/16", "i21k", "nan", pretrained("B_16", 0.6), "cifar100", 224, 0.2),
    row("B/16", "i21k", 0.46, WORSE, "imagenet2012", 224, 0.99),
    row("B/16", "i1k", 0.80, SCRATCH, "imagenet2012", 224, 0.98),
    row("B/16", "i21k_30", 0.90, pretrained("B_16", 0.1, epochs=30), "imagenet2012", 224, 0.97),
    row("B/16", "i21k", 0.47, GOOD, "imagenet2012", 224, 0.84, 0.01),
    row("B/16", "i21k", 0.47, GOOD, "imagenet2012", 224, 0.85, 0.03),
    row("B/16", "i21k", 0.47, GOOD, "imagenet2012", 384, 0.86),
    row("B/16", "i21k", 0.47, GOOD, "oxford-iiit-pet", 224, 0.93),
    row("B/16", "i21k", "", pretrained("B_16", 0.5), "cifar100", 224, 0.2),
    row("R+Ti/16", "i21k", 0.30, HYBRID, "imagenet2012", 224, ""),
    row("R+Ti/16", "i21k", 0.30, HYBRID, "imagenet2012", 384, 0.75),
]


@pytest.fixture
def index(cache):
    """AugReg's index in the cache, so that nothing is downloaded."""
    text = io.StringIO()
    writer = csv.DictWriter(text, ["name", *COLUMNS], lineterminator="\n")
    writer.writeheader()
    writer.writerows(ROWS)
    path = cache_path("gs://vit_models/augreg/index.csv")
    path.parent.mkdir(parents=True)
    path.write_text(text.getvalue())
    return path


@pytest.mark.parametrize("name", FIXED)
def test_every_name_has_a_well_formed_address(name):
    entry = published(name)
    if entry.address.startswith("hf://"):
        assert HUB_ID.fullmatch(entry.address.removeprefix("hf://"))
    else:
        assert entry.address.endswith(".npz")
        assert web_address(entry.address).startswith("https://storage.googleapis.com/")
    assert entry.classes in ("imagenet", "imagenet21k", None)
    assert published_at(entry.address) == entry


def test_no_two_names_share_a_file():
    addresses = [published(name).address for name in FIXED]
    assert len(FIXED) > 40
    assert len(set(addresses)) == len(addresses)


@pytest.mark.parametrize("name", FIXED)
def test_every_preprocessing_can_be_done_and_agrees_with_its_name(name):
    entry = published(name)
    assert entry.preprocessing.transform()
    size = re.search(r"_(224|256|384|512)(_|$)", name)
    usual = 256 if name.startswith(("mobilevit", "swinv2")) else 224
    assert entry.preprocessing.size == (int(size[1]) if size else usual,) * 2


@pytest.mark.parametrize("name", [name for name in FIXED if name.startswith(("deit_", "deit3_"))])
def test_what_the_file_does_not_tell_is_that_of_the_architecture_of_that_name(name):
    told = published(name).fields
    fields = architecture(re.sub("_384|_in22k_in1k", "", name)).fields
    assert told.keys() == ({"heads", "layer_scale"} if name.startswith("deit3_") else {"heads"})
    assert told == {key: fields[key] for key in told}


def test_each_publisher_prepares_images_its_own_way():
    squashed = Preprocessing((384, 384), None, "bilinear", False, (0.5,) * 3, (0.5,) * 3)
    assert published("vit_b16_in1k_384").preprocessing == squashed
    assert published("deit_s16").preprocessing == Preprocessing(
        (224, 224), 248, "bicubic", True, IMAGENET_MEAN, IMAGENET_STD
    )
    assert published("deit_b16_384").preprocessing.resize == 384
    assert published("dinov2_s14").preprocessing == Preprocessing(
        (224, 224), 256, "bicubic", True, IMAGENET_MEAN, IMAGENET_STD
    )
    assert published("vit_b16_in1k_224_hf").preprocessing.antialias


def test_some_entries_in_full():
    assert published("vit_b16_in21k") == Published(
        "gs://vit_models/imagenet21k/ViT-B_16.npz", Preprocessing(antialias=False), "imagenet21k"
    )
    assert published("r50_vit_b16_in1k_384").address == "gs://vit_models/imagenet21k+imagenet2012/R50+ViT-B_16.npz"
    assert published("dinov2_s14").address == "hf://facebook/dinov2-small"


def test_entries_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        published("dinov2_s14").address = "gs://elsewhere/x.npz"


def test_what_is_no_name_is_none():
    assert published("vit_b17_in21k") is None
    assert published("") is None


def test_addresses_are_recognised_however_they_are_written():
    entry = published("r50_vit_b16_in21k")
    for place in ("R50+ViT-B_16.npz", "R50%2BViT-B_16.npz"):
        assert published_at(f"https://storage.googleapis.com/vit_models/imagenet21k/{place}") == entry
    assert published_at("facebook/dinov2-small@main") == published("dinov2_s14")
    assert published_at("https://storage.googleapis.com/vit_models/imagenet21k/other.npz") is None
    assert published_at("org/name") is None


def test_a_bare_model_is_the_best_on_imagenet_21k(index):
    assert published("augreg/B_16") == Published(
        f"gs://vit_models/augreg/{GOOD}.npz", Preprocessing(antialias=False), "imagenet21k"
    )
    assert published("augreg/R_Ti_16").address == f"gs://vit_models/augreg/{HYBRID}.npz"


@pytest.mark.parametrize(
    ("name", "file", "size", "classes"),
    [
        ("B_16/imagenet2012@224", adapted(GOOD, "imagenet2012", 224, 0.03), 224, "imagenet"),
        ("B_16/imagenet2012@384", adapted(GOOD, "imagenet2012", 384), 384, "imagenet"),
        ("B_16/imagenet2012", adapted(GOOD, "imagenet2012", 384), 384, "imagenet"),
        ("B_16/oxford_iiit_pet@224", adapted(GOOD, "oxford-iiit-pet", 224), 224, None),
        ("R_Ti_16/imagenet2012", adapted(HYBRID, "imagenet2012", 384), 384, "imagenet"),
    ],
)
def test_a_fine_tuning_is_the_best_one_of_that_pre_training(index, name, file, size, classes):
    entry = published(f"augreg/{name}")
    assert entry.address == f"gs://vit_models/augreg/{file}.npz"
    assert entry.preprocessing == Preprocessing((size, size), antialias=False)
    assert entry.classes == classes


@pytest.mark.parametrize("end", ["", ".npz"])
@pytest.mark.parametrize(
    ("file", "size", "classes"),
    [
        (GOOD, 224, "imagenet21k"),
        (SCRATCH, 224, "imagenet"),
        (adapted(SCRATCH, "imagenet2012", 384), 384, "imagenet"),
        (adapted(GOOD, "cifar100", 384), 384, None),
    ],
)
def test_the_name_of_a_file_needs_no_index(file, size, classes, end):
    entry = published(f"augreg/{file}{end}")
    assert entry.address == f"gs://vit_models/augreg/{file}.npz"
    assert (entry.preprocessing.size, entry.classes) == ((size, size), classes)
    assert published_at(entry.address) == entry


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("B_17", r"no model 'B_17' \(did you mean 'B_16'\?\)"),
        ("B_16/imagenet2012@225", r"no fine-tuning 'imagenet2012@225' of B_16 \(did you mean 'imagenet2012@224'\?\)"),
        ("B_16/flowers", "no fine-tuning 'flowers' of B_16; there are imagenet2012@224, imagenet2012@384, oxford"),
        ("S_16", "no pre-training of S_16"),
        ("B_16/a/b", "no model"),
        ("B_16-i21k-300ep", "is no name of a file of AugReg"),
        ("../B_16-i21k", "is no name of a file of AugReg|no model"),
    ],
)
def test_what_augreg_has_not_is_said(index, name, message):
    with pytest.raises(UserError, match=message) as error:
        published(f"augreg/{name}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>\n", b"name,ds\nB/16,i21k\n", b"\xff\xfe\x00"])
def test_a_damaged_index_is_named(index, content):
    index.write_bytes(content)
    with pytest.raises(UserError, match=r"index\.csv.*remove it to fetch it again"):
        published("augreg/B_16")


def test_names_list_augregs_models():
    assert {f"augreg/{model}" for model in MODELS} <= set(published_names())
