"""Preparing TFDS sets on first use: CIFAR from made-up archives without TensorFlow, and every way to fail."""

import contextlib
import errno
import functools
import http.server
import io
import pathlib
import shutil
import sys
import tarfile
import threading
import types

import numpy as np
import pytest
import requests
from PIL import Image
from tensorflow_datasets.core.download import download_manager, downloader, extractor
from tensorflow_datasets.core.download.checksums import compute_url_info
from tensorflow_datasets.core.features import image_feature
from tensorflow_datasets.core.utils import tf_utils
from tensorflow_datasets.image_classification import cifar

from vit_jax.data import preparation
from vit_jax.data.tfds_source import find_builder, tfds_source, tfds_split_lengths
from vit_jax.errors import UserError

BUILDERS = {"cifar10": cifar.Cifar10, "cifar100": cifar.Cifar100}
ADDRESSES = {name: f"https://www.cs.toronto.edu/~kriz/cifar-{name[5:]}-binary.tar.gz" for name in BUILDERS}
ROWS_PER_FILE = 4
FILES = {
    "cifar10": {"train": [f"data_batch_{i}.bin" for i in range(1, 6)], "test": ["test_batch.bin"]},
    "cifar100": {"train": ["train.bin"], "test": ["test.bin"]},
}
NAMES = {
    "cifar10": {"batches.meta.txt": [f"class {i}" for i in range(10)]},
    "cifar100": {
        "coarse_label_names.txt": [f"coarse {i}" for i in range(20)],
        "fine_label_names.txt": [f"fine {i}" for i in range(100)],
    },
}
USERS = (cifar, extractor, image_feature, tf_utils)
"""TFDS's modules that call TensorFlow while CIFAR is prepared."""

Examples = dict[str, list[tuple[int, bytes]]]
"""Label and pixels (height, width, channel) of every example, by split."""


def write_archive(name: str, folder: pathlib.Path) -> Examples:
    """Writes an archive of random pictures in CIFAR's binary form (Krizhevsky 2009) and returns what is in it."""
    random = np.random.default_rng(0)
    examples: Examples = {"train": [], "test": []}
    prefix = {"cifar10": "cifar-10-batches-bin", "cifar100": "cifar-100-binary"}[name]
    with tarfile.open(folder / f"cifar-{name[5:]}-binary.tar.gz", "w:gz") as archive:

        def add(file: str, content: bytes) -> None:
            member = tarfile.TarInfo(f"{prefix}/{file}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))

        for split, files in FILES[name].items():
            for file in files:
                labels = random.integers(
                    0, [10] if name == "cifar10" else [20, 100], (ROWS_PER_FILE, int(name[5:]) // 90 + 1)
                )
                planes = random.integers(0, 256, (ROWS_PER_FILE, 3, 32, 32), dtype=np.uint8)
                rows = zip(labels.astype(np.uint8), planes, strict=True)
                add(file, b"".join(label.tobytes() + image.tobytes() for label, image in rows))
                for label, image in zip(labels, planes, strict=True):
                    examples[split].append((int(label[-1]), image.transpose(1, 2, 0).tobytes()))
        for file, names in NAMES[name].items():
            add(file, "\n".join(names).encode())
    return examples


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Lets no test leave this machine."""
    send = requests.Session.send

    def local_only(session, request, **options):
        if not request.url.startswith("http://127.0.0.1:"):
            raise AssertionError(f"a test asks for {request.url}")
        return send(session, request, **options)

    monkeypatch.setattr(requests.Session, "send", local_only)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture(autouse=True)
def without_tensorflow(monkeypatch):
    """The machine of most people; also where TensorFlow is installed."""
    monkeypatch.setattr(preparation, "has_tensorflow", lambda: False)


@pytest.fixture
def place(tmp_path) -> pathlib.Path:
    """A data.dir whose folder of archives by hand is there and empty."""
    (tmp_path / "downloads" / "manual").mkdir(parents=True)
    return tmp_path


def give_archive(name: str, place: pathlib.Path, monkeypatch) -> Examples:
    """Puts an archive where TFDS looks for one that a person has fetched, and has TFDS know its checksum."""
    examples = write_archive(name, place / "downloads" / "manual")
    facts = compute_url_info(place / "downloads" / "manual" / f"cifar-{name[5:]}-binary.tar.gz")
    monkeypatch.setitem(BUILDERS[name].url_infos, ADDRESSES[name], facts)
    return examples


def read(name: str, split: str, place: pathlib.Path) -> list[tuple[int, bytes]]:
    source = tfds_source(name, split, str(place))
    rows = [source[row] for row in range(len(source))]
    return [(label, np.asarray(Image.open(io.BytesIO(image))).tobytes()) for image, label in rows]


def complaint(name: str, place: pathlib.Path) -> str:
    """Returns the one line with which a set is not prepared; checks that nothing looks like a prepared set then."""
    with pytest.raises(UserError) as error:
        tfds_source(name, "train", str(place))
    assert not list(place.rglob("dataset_info.json"))
    assert not (place / name).exists() or not list((place / name).iterdir())
    return str(error.value)


@pytest.mark.parametrize("name", BUILDERS)
def test_cifar_is_prepared_when_it_is_first_used(name, place, monkeypatch, capfd):
    examples = give_archive(name, place, monkeypatch)
    before = [module.tf for module in USERS]
    for split in ("train", "test"):
        assert sorted(read(name, split, place)) == sorted(examples[split])
    assert [module.tf for module in USERS] == before
    assert tfds_split_lengths(name, str(place)) == {split: len(rows) for split, rows in examples.items()}
    source = tfds_source(name, "train", str(place))
    assert source.class_names == list(NAMES[name].values())[-1]
    assert source.image_size == (32, 32)
    assert source.describe(3) == f"{name}/3.0.2 train row 3"
    captured = capfd.readouterr()
    assert captured.out == f"preparing {name}/3.0.2 in {place}/{name}/3.0.2\n"  # once; TFDS's own prints are not shown
    assert "%" not in captured.err  # nor its bars, where there is no terminal


def test_bars_are_drawn_on_a_terminal(place, monkeypatch, capsys):
    give_archive("cifar10", place, monkeypatch)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    tfds_source("cifar10", "train", str(place))
    assert "Extraction completed" in capsys.readouterr().err


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("odd")])
def test_stand_in_for_tensorflow_goes(error):
    def fail():
        with preparation.tensorflow():
            assert not any(module.tf is tf for module, tf in zip(USERS, before, strict=True))
            raise error

    before = [module.tf for module in USERS]
    with pytest.raises(type(error)):
        fail()
    assert all(module.tf is tf for module, tf in zip(USERS, before, strict=True))


def test_stand_in_writes_exact_png():
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    with preparation.tensorflow():
        encoded = image_feature.Image(shape=(5, 7, 3)).encode_example(image)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(encoded))), image)


def test_tensorflow_is_used_where_it_is_installed_and_kept_off_the_gpus(monkeypatch):
    hidden = []
    config = types.SimpleNamespace(set_visible_devices=lambda devices, kind: hidden.append((devices, kind)))
    monkeypatch.setitem(sys.modules, "tensorflow", types.SimpleNamespace(config=config))
    monkeypatch.setattr(preparation, "has_tensorflow", lambda: True)
    before = [module.tf for module in USERS]
    with preparation.tensorflow():
        assert all(module.tf is tf for module, tf in zip(USERS, before, strict=True))
    assert hidden == [([], "GPU")]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (KeyboardInterrupt(), None),
        (OSError(errno.ENOSPC, "No space left on device"), "cannot write {set}: no space left on the device"),
        (PermissionError(errno.EACCES, "no"), "cannot write {set}: permission denied"),
        (ValueError("an odd file\nmore"), "cannot prepare cifar10: an odd file"),
        (
            ModuleNotFoundError("No module named 'beam'", name="beam"),
            "needs the package 'beam', which is not installed",
        ),
    ],
)
def test_interrupted_preparation_leaves_nothing_and_begins_again(error, message, place, monkeypatch):
    examples = give_archive("cifar10", place, monkeypatch)
    load = cifar._load_data

    def broken(path, *rest):
        yield from list(load(path, *rest))[:2]
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(cifar, "_load_data", broken)
        if message is None:
            with pytest.raises(KeyboardInterrupt):
                tfds_source("cifar10", "train", str(place))
            assert not list((place / "cifar10").iterdir())
        else:
            assert message.format(set=place / "cifar10" / "3.0.2") in complaint("cifar10", place)
    assert sorted(read("cifar10", "train", place)) == sorted(examples["train"])


def test_directory_of_a_preparation_that_was_killed_is_not_taken_for_prepared(place, monkeypatch):
    examples = give_archive("cifar10", place, monkeypatch)
    left = place / "cifar10" / "incomplete.ABCDEF_3.0.2"
    left.mkdir(parents=True)
    (left / "dataset_info.json").write_text("{}")
    assert sorted(read("cifar10", "test", place)) == sorted(examples["test"])


def test_archive_that_is_not_the_known_one(place, capsys):
    write_archive("cifar10", place / "downloads" / "manual")
    line = complaint("cifar10", place)
    assert "to download" not in capsys.readouterr().out  # it is on this disk
    assert f"{place}/downloads/manual/cifar-10-binary.tar.gz, has wrong checksum: it is damaged" in line
    assert "UrlInfo" not in line


def test_damaged_archive(place, monkeypatch):
    archive = place / "downloads" / "manual" / "cifar-10-binary.tar.gz"
    archive.write_bytes(b"no archive")
    monkeypatch.setitem(cifar.Cifar10.url_infos, ADDRESSES["cifar10"], compute_url_info(archive))
    assert "cannot prepare cifar10: Error while extracting" in complaint("cifar10", place)


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves a folder's files and logs nothing."""

    def log_message(self, *words):
        pass


@contextlib.contextmanager
def served(handler):
    """Runs a web server and yields its address."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def download_from(address: str, monkeypatch, facts=None) -> str:
    """Has CIFAR-10's builder download from an address whose archive has these facts, and returns the archive's."""
    url = f"{address}/cifar-10-binary.tar.gz"
    known = cifar.Cifar10._cifar_info.fget
    monkeypatch.setattr(cifar.Cifar10, "_cifar_info", property(lambda self: known(self)._replace(url=url)))
    facts = facts or cifar.Cifar10.url_infos[ADDRESSES["cifar10"]]
    monkeypatch.delitem(cifar.Cifar10.url_infos, ADDRESSES["cifar10"])
    monkeypatch.setitem(cifar.Cifar10.url_infos, url, facts)
    return url


def test_archive_is_downloaded_once(place, tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("served")
    examples = write_archive("cifar10", folder)
    facts = compute_url_info(folder / "cifar-10-binary.tar.gz")
    with served(functools.partial(Quiet, directory=str(folder))) as address:
        download_from(address, monkeypatch, facts)
        assert sorted(read("cifar10", "train", place)) == sorted(examples["train"])
    shutil.rmtree(place / "cifar10")  # and the server is gone
    assert sorted(read("cifar10", "train", place)) == sorted(examples["train"])


@pytest.mark.parametrize("name", BUILDERS)
def test_size_of_the_download_is_said(name, place, monkeypatch, capsys):
    def unreachable(*_, **__):
        raise requests.ConnectionError("no route")

    monkeypatch.setattr(requests.Session, "get", unreachable)
    line = complaint(name, place)
    size = {"cifar10": 162, "cifar100": 160}[name]
    first = f"preparing {name}/3.0.2 in {place}/{name}/3.0.2 (about {size} MiB to download)\n"
    assert capsys.readouterr().out == first
    assert line == (
        f"the download of {name} failed: no route; try again, or fetch {ADDRESSES[name]} elsewhere and run: "
        f"python -m vit_jax.prepare {name} --data_dir={place} --manual_dir=FOLDER_WITH_IT"
    )


def test_refused_connection(place, monkeypatch, caplog):
    with served(Quiet) as address:
        pass
    monkeypatch.setattr(preparation, "RETRIES", 1)
    download_from(address, monkeypatch)
    assert "failed: Failed to establish a new connection: [Errno 111] Connection refused; try" in complaint(
        "cifar10", place
    )
    assert not caplog.records  # urllib3 warns of every retry


def test_file_that_the_server_does_not_have(place, tmp_path_factory, monkeypatch):
    with served(functools.partial(Quiet, directory=str(tmp_path_factory.mktemp("empty")))) as address:
        url = download_from(address, monkeypatch)
        assert f"Failed to get url {url}. HTTP code: 404; try again" in complaint("cifar10", place)


def test_download_with_the_wrong_checksum_is_not_kept(place, tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("served")
    write_archive("cifar10", folder)
    with served(functools.partial(Quiet, directory=str(folder))) as address:
        download_from(address, monkeypatch)
        assert "has wrong checksum" in complaint("cifar10", place)
    assert "Connection refused" in complaint("cifar10", place)  # it was asked for again


class Endless(Quiet):
    """Sends a file that never ends, until its reader goes away."""

    sent = threading.Event()
    left = threading.Event()

    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        try:
            while True:
                self.wfile.write(bytes(1 << 16))
                self.sent.set()
        except OSError:
            self.left.set()


def test_interrupted_download_ends(place, monkeypatch):
    def interrupted(download, urls):
        download(urls)
        assert Endless.sent.wait(60)
        raise KeyboardInterrupt

    monkeypatch.setattr(download_manager, "_map_promise", interrupted)  # where TFDS waits for its threads
    with served(Endless) as address:
        download_from(address, monkeypatch)
        with pytest.raises(KeyboardInterrupt):
            tfds_source("cifar10", "train", str(place))
        assert Endless.left.wait(60)
    assert (downloader._open_url.__name__, downloader.MAX_RETRIES) == ("_open_url", 10)


def test_set_that_needs_tensorflow_says_so_before_anything_is_downloaded(tmp_path):
    with pytest.raises(UserError) as error:
        tfds_source("oxford_iiit_pet", "train", str(tmp_path))
    assert str(error.value) == (
        "preparing oxford_iiit_pet needs TensorFlow, this once: pip install 'vit-jax[prepare]', then "
        f"python -m vit_jax.prepare oxford_iiit_pet --data_dir={tmp_path}"
    )
    assert not list(tmp_path.iterdir())


def test_set_that_needs_tensorflow_is_prepared_on_first_use_where_it_is_installed(tmp_path, monkeypatch):
    prepared = []
    monkeypatch.setattr(preparation, "has_tensorflow", lambda: True)
    monkeypatch.setattr(preparation, "tensorflow", contextlib.nullcontext)
    builder = find_builder("oxford_iiit_pet", str(tmp_path))
    monkeypatch.setattr(type(builder), "download_and_prepare", lambda self, **options: prepared.append(options))
    preparation.prepare_unattended(builder, "oxford_iiit_pet", str(tmp_path))
    assert [options["file_format"] for options in prepared] == ["array_record"]


@pytest.mark.parametrize("installed", [False, True])
@pytest.mark.parametrize(
    ("name", "steps"),
    [
        (
            "imagenet2012",
            "fetch ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar from https://image-net.org/, then run: "
            "python -m vit_jax.prepare imagenet2012 --data_dir={place} --manual_dir=FOLDER_WITH_THE_TARS",
        ),
        (
            "resisc45",
            "fetch it by hand (Dataset can be downloaded from OneDrive:), then run: python -m vit_jax.prepare resisc45 "
            "--data_dir={place} --manual_dir=FOLDER_WITH_IT",
        ),
    ],
)
def test_set_that_a_person_must_fetch_names_the_command(name, steps, installed, tmp_path, monkeypatch):
    monkeypatch.setattr(preparation, "has_tensorflow", lambda: installed)
    with pytest.raises(UserError) as error:
        tfds_source(name, "train", str(tmp_path))
    assert str(error.value).endswith(": " + steps.format(place=tmp_path))
    assert f"is not prepared in {tmp_path}/{name}/" in str(error.value)
    assert not list(tmp_path.iterdir())


def test_archive_that_is_missing_is_named_before_the_other_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(preparation, "has_tensorflow", lambda: True)
    (tmp_path / "ILSVRC2012_img_train.tar").touch()
    builder = find_builder("imagenet2012", str(tmp_path))
    with pytest.raises(
        UserError, match=f"^{tmp_path} lacks ILSVRC2012_img_val.tar; fetch ILSVRC2012_img_train.tar and"
    ):
        preparation.prepare(builder, "imagenet2012", str(tmp_path), str(tmp_path))
    assert [file.name for file in tmp_path.iterdir()] == ["ILSVRC2012_img_train.tar"]
