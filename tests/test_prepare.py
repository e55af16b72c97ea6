"""The command that prepares data sets: what it says, its mistakes, and TFRecord files that it converts."""

import json
import pathlib
import shutil
import struct

import pytest
import tensorflow_datasets as tfds
from array_record.python.array_record_data_source import ArrayRecordDataSource

from tests.data.test_preparation import Examples, give_archive, read
from vit_jax import prepare
from vit_jax.data import preparation
from vit_jax.data.tfds_source import tfds_source
from vit_jax.data.tfrecord import read_tfrecord
from vit_jax.errors import UserError
from vit_jax.prepare import main


@pytest.fixture(autouse=True)
def without_tensorflow(monkeypatch):
    """The machine of most people; also where TensorFlow is installed."""
    monkeypatch.setattr(preparation, "has_tensorflow", lambda: False)


@pytest.fixture
def place(tmp_path) -> pathlib.Path:
    """A data.dir whose folder of archives by hand is there and empty."""
    (tmp_path / "downloads" / "manual").mkdir(parents=True)
    return tmp_path


@pytest.fixture
def examples(place, monkeypatch) -> Examples:
    """What the archive of CIFAR-10 holds that is there."""
    return give_archive("cifar10", place, monkeypatch)


def succeeds(capsys, *arguments) -> str:
    """Runs the command, checks that it ends well and silently, and returns what it prints."""
    assert main([str(argument) for argument in arguments]) == 0
    captured = capsys.readouterr()
    assert "vit_jax:" not in captured.err
    return captured.out


def fails(capsys, *arguments) -> str:
    """Runs the command, checks that it ends in one line and status 1, and returns the line."""
    assert main([str(argument) for argument in arguments]) == 1
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("vit_jax: ")
    return captured.err


def test_a_set_is_prepared_once(place, examples, capsys):
    set_ = f"{place}/cifar10/3.0.2"
    assert succeeds(capsys, "cifar10", f"--data_dir={place}") == (
        f"preparing cifar10/3.0.2 in {set_}\ncifar10/3.0.2 is prepared in {set_}: train 20, test 4 images\n"
    )
    assert sorted(read("cifar10", "train", place)) == sorted(examples["train"])
    again = f"cifar10/3.0.2 was prepared already in {set_}: train 20, test 4 images\n"
    assert succeeds(capsys, "cifar10", "--data_dir", place) == again


def test_archives_by_hand_and_a_data_dir_that_is_made(place, examples, tmp_path, capsys):
    fetched = shutil.copytree(place / "downloads" / "manual", tmp_path / "fetched")
    new = tmp_path / "new" / "dir"
    succeeds(capsys, "cifar10", f"--data_dir={new}", f"--manual_dir={fetched}")
    assert sorted(read("cifar10", "test", new)) == sorted(examples["test"])


def test_default_data_dir_is_that_of_tfds(place, examples, monkeypatch, capsys):
    monkeypatch.setattr(tfds.core.constants, "DATA_DIR", str(place))
    assert f"is prepared in {place}/cifar10/3.0.2" in succeeds(capsys, "cifar10")
    assert len(tfds_source("cifar10", "train")) == 20


@pytest.mark.parametrize("name", ["digits", "folder:/some/where"])
def test_sets_that_need_no_preparation(name, capsys):
    assert succeeds(capsys, name) == f"{name} needs no preparation\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: DATASET; see --help"),
        (["cifar10", "cifar100"], "unrecognized arguments: cifar100"),
        (["cifar10", "--dir=x"], "unrecognized arguments: --dir=x"),
        (["cifar10", "--data_dir"], "argument --data_dir: expected one argument"),
        (["cifar1O"], "no data set 'cifar1O' (did you mean 'cifar10'?)"),
        (["cifar10:9.9.9"], "data set 'cifar10:9.9.9': Dataset cifar10 cannot be loaded at version 9.9.9"),
        (["celeb_a"], "celeb_a is no classification set: it has image, landmarks, attributes, identity, not"),
        (["cifar10", "--manual_dir={tmp}/nowhere"], "--manual_dir '{tmp}/nowhere' is no directory"),
        (["cifar10", "--data_dir={tmp}/file"], "--data_dir '{tmp}/file' is a file"),
        (["mnist", "--data_dir={tmp}"], "needs TensorFlow, this once: pip install 'vit-jax[prepare]', then python -m"),
        (["imagenet2012", "--data_dir={tmp}", "--manual_dir={tmp}"], "prepare imagenet2012 --data_dir={tmp} --manual"),
    ],
)
def test_each_mistake_is_one_line_and_writes_nothing(arguments, message, capsys, tmp_path):
    (tmp_path / "file").touch()
    line = fails(capsys, *(word.format(tmp=tmp_path) for word in arguments))
    assert message.format(tmp=tmp_path) in line
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_missing_archives_of_imagenet_are_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(preparation, "has_tensorflow", lambda: True)
    (tmp_path / "ILSVRC2012_img_train.tar").touch()
    line = fails(capsys, "imagenet2012", f"--data_dir={tmp_path}", f"--manual_dir={tmp_path}")
    assert f"{tmp_path} lacks ILSVRC2012_img_val.tar; fetch ILSVRC2012_img_train.tar and" in line
    assert [file.name for file in tmp_path.iterdir()] == ["ILSVRC2012_img_train.tar"]


def test_debug_shows_the_traceback():
    with pytest.raises(UserError, match="no data set 'cifar1O'"):
        main(["cifar1O", "--debug"])


def test_interruption_has_its_own_status(monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(prepare, "run", interrupted)
    assert main(["cifar10"]) == 130
    assert capsys.readouterr().err == "interrupted; the same command begins again\n"


@pytest.fixture
def tfrecord(place, examples) -> pathlib.Path:
    """CIFAR-10 as TFDS prepares it by default: the records of an array_record set in TFRecord files."""
    tfds_source("cifar10", "train", str(place))
    folder = place / "cifar10" / "3.0.2"
    for file in folder.glob("*.array_record*"):
        with open(str(file).replace("array_record", "tfrecord"), "wb") as copy:
            for record in ArrayRecordDataSource(str(file)):
                copy.write(struct.pack("<Q4x", len(record)) + record + bytes(4))
        file.rename(place / file.name)
    facts = folder / "dataset_info.json"
    facts.write_text(facts.read_text().replace('"array_record"', '"tfrecord"'))
    return folder


def unread(place: pathlib.Path) -> str:
    """Returns why the set is not read."""
    with pytest.raises(UserError) as error:
        tfds_source("cifar10", "train", str(place))
    return str(error.value)


def test_tfrecord_is_left_alone_and_its_conversion_named(tfrecord, place):
    before = sorted(tfrecord.iterdir())
    assert unread(place) == (
        f"{tfrecord} holds cifar10/3.0.2 as tfrecord, not as array_record; to add that beside it "
        f"(no TensorFlow needed) run: python -m vit_jax.prepare cifar10 --data_dir={place}"
    )
    assert sorted(tfrecord.iterdir()) == before


def test_tfrecord_gets_array_record_files_beside_it(tfrecord, place, examples, capsys):
    before = {file.name: file.read_bytes() for file in tfrecord.glob("*.tfrecord*")}
    said = succeeds(capsys, "cifar10", f"--data_dir={place}")
    assert said.startswith("cifar10/3.0.2 has array_record files beside its TFRecord files")
    assert sorted(read("cifar10", "train", place)) == sorted(examples["train"])
    for file in place.glob("*.array_record*"):  # those that TFDS wrote
        assert (tfrecord / file.name).read_bytes() == file.read_bytes()
    assert {file.name: file.read_bytes() for file in tfrecord.glob("*.tfrecord*")} == before
    assert len(list(tfrecord.iterdir())) == 2 * len(before) + 3  # and three of metadata
    assert json.loads((tfrecord / "dataset_info.json").read_text())["fileFormat"] == "tfrecord"  # as TFDS reads it
    assert "was prepared already" in succeeds(capsys, "cifar10", f"--data_dir={place}")


def test_tfrecord_beside_another_format_is_converted_too(tfrecord, place, examples, capsys):
    facts = tfrecord / "dataset_info.json"
    content = json.loads(facts.read_text())
    facts.write_text(json.dumps(content | {"fileFormat": "riegeli", "alternativeFileFormats": ["tfrecord"]}))
    assert "as riegeli and tfrecord, not as array_record; to add that" in unread(place)
    succeeds(capsys, "cifar10", f"--data_dir={place}")
    assert sorted(read("cifar10", "train", place)) == sorted(examples["train"])


def test_set_in_another_format_is_not_called_prepared(tfrecord, place, capsys):
    facts = tfrecord / "dataset_info.json"
    facts.write_text(facts.read_text().replace('"tfrecord"', '"riegeli"'))
    line = fails(capsys, "cifar10", f"--data_dir={place}")
    assert "as riegeli, not as array_record; prepare it in another directory" in line


@pytest.mark.parametrize("cut", [1, 8, 2000])
def test_tfrecord_that_is_cut_short(cut, tfrecord, place, examples, capsys):
    (file,) = tfrecord.glob("*-train.tfrecord*")
    whole = file.read_bytes()
    file.write_bytes(whole[:-cut])
    assert f"{file} is damaged: 19 of 20 records can be read" in fails(capsys, "cifar10", f"--data_dir={place}")
    assert "as tfrecord, not as array_record" in unread(place)
    file.write_bytes(whole)
    succeeds(capsys, "cifar10", f"--data_dir={place}")
    assert sorted(read("cifar10", "train", place)) == sorted(examples["train"])


def test_tfrecord_that_is_missing(tfrecord, place, capsys):
    (file,) = tfrecord.glob("*-test.tfrecord*")
    file.unlink()
    assert f"{file} is missing" in fails(capsys, "cifar10", f"--data_dir={place}")
    assert "as tfrecord, not as array_record" in unread(place)


def test_conversion_without_room(tfrecord, place, monkeypatch, capsys):
    def full(*_):
        raise RuntimeError("write() failed: No space left on device")

    monkeypatch.setattr("array_record.python.array_record_module.ArrayRecordWriter", full)
    line = fails(capsys, "cifar10", f"--data_dir={place}")
    assert f"cannot write {tfrecord}: no space left on the device" in line
    assert not list(tfrecord.glob("*array_record*"))


@pytest.mark.parametrize("length", [0, 1, 1000])
def test_records_of_any_length(length, tmp_path):
    records = [bytes([number]) * length for number in range(3)]
    file = tmp_path / "file"
    file.write_bytes(b"".join(struct.pack("<Q4x", length) + record + bytes(4) for record in records))
    with open(file, "rb") as opened:
        assert list(read_tfrecord(opened)) == records


def test_length_beyond_the_file_is_no_record(tmp_path):
    file = tmp_path / "file"
    file.write_bytes(struct.pack("<Q4x", 2**62) + b"record" + bytes(4))
    with open(file, "rb") as opened:
        assert list(read_tfrecord(opened)) == []
