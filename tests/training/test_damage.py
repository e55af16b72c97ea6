"""Damaged checkpoints: each is noticed whatever file it is in, named, set aside, and the one before it taken."""

import functools
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.errors import UserError
from vit_jax.pretrained.checksums import NOT_COVERED, damage
from vit_jax.training import saved
from vit_jax.training.checkpoint import Checkpoints
from vit_jax.training.initial import newest_facts
from vit_jax.training.state import TrainState

FACTS = {"config": {"model.name": "vit_s16"}, "class_names": ["a", "b"]}


def tiny_state(step: int) -> TrainState:
    """Returns a state of a few arrays, one of which does not compress."""
    noise = jax.random.normal(jax.random.key(step), (64, 64))
    fields = dict.fromkeys(TrainState.__dataclass_fields__)
    named = {"step": jnp.int32(step), "params": {"kernel": noise, "bias": jnp.full(8, step)}, "batch_stats": {}}
    return TrainState(**{**fields, **named, "opt_state": (noise + 1,), "rng": jnp.zeros(2, jnp.uint32)})


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A workdir with the checkpoints 4 and 8, of which 8 is the best."""
    workdir = tmp_path_factory.mktemp("whole")
    checkpoints = Checkpoints(str(workdir))
    for step in (4, 8):
        checkpoints.save(tiny_state(step), step, step, FACTS, {"top1": step / 10})
    checkpoints.close()
    return workdir


@pytest.fixture
def workdir(whole, tmp_path):
    """A copy of that."""
    shutil.copytree(whole, tmp_path / "run")
    return tmp_path / "run"


def flipped(share: float, path: pathlib.Path) -> None:
    content = bytearray(path.read_bytes())
    content[int(share * (len(content) - 1))] ^= 8
    path.write_bytes(content)


DAMAGES = {
    "missing": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    **{f"flip at {share}": functools.partial(flipped, share) for share in (0.03, 0.5, 0.97)},
}


def read(checkpoints: Checkpoints, step: int) -> tuple[dict, TrainState]:
    return checkpoints.facts(step), checkpoints.restore(step, jax.eval_shape(lambda: tiny_state(0)))


def assert_step(found, step: int) -> None:
    """The state and the facts are those that were saved, bit for bit."""
    number, (facts, state) = found
    assert number == step
    assert facts == {"position": step, **FACTS}
    for leaf, expected in zip(jax.tree.leaves(state), jax.tree.leaves(tiny_state(step)), strict=True):
        np.testing.assert_array_equal(np.asarray(leaf), np.asarray(expected))


def test_damage_of_any_kind_to_any_file_is_noticed(whole, tmp_path):
    folder = tmp_path / "8"
    shutil.copytree(whole / "checkpoints" / "8", folder)
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 10
    checksums, *marks = (folder / name for name in NOT_COVERED)
    for path in files:
        content = path.read_bytes()
        for kind, harm in DAMAGES.items():
            harm(path)
            # Orbax's own marks come later than the checksums; and without these there is nothing to compare with.
            missed = path in marks or (path == checksums and kind == "missing")
            assert (damage(folder) is None) == missed, (path, kind)
            path.write_bytes(content)
        assert damage(folder) is None


@pytest.mark.parametrize(
    "file",
    ["state/d/*", "state/_METADATA", "state/manifest.ocdbt", "run/metadata", "metrics/metrics", "checksums.json"],
)
@pytest.mark.parametrize("kind", ["missing", "half", "flip at 0.5"])
def test_the_one_before_is_taken_and_the_damaged_one_set_aside(workdir, capsys, file, kind):
    path = next((workdir / "checkpoints" / "8").glob(file))
    if kind == "flip at 0.5" and file == "checksums.json":
        path.write_text(path.read_text().replace("1", "2"))
    else:
        DAMAGES[kind](path)
    checkpoints = Checkpoints(str(workdir))
    found = checkpoints.newest(functools.partial(read, checkpoints))
    if (file, kind) == ("checksums.json", "missing"):
        assert_step(found, 8)
        return
    assert_step(found, 4)
    assert (workdir / "checkpoints" / "damaged-8").is_dir()
    said = capsys.readouterr().err
    assert "checkpoints/8 is damaged" in said
    assert "moved to damaged-8; going back to step 4" in said
    checkpoints.save(tiny_state(8), 8, 8, FACTS, {"top1": 0.8})
    checkpoints.close()
    again = Checkpoints(str(workdir))
    assert_step(again.newest(functools.partial(read, again)), 8)
    assert again.best() == 8


@pytest.mark.parametrize("name", NOT_COVERED[1:])
@pytest.mark.parametrize("kind", DAMAGES)
def test_orbax_marks_are_either_not_needed_or_missed(workdir, name, kind):
    DAMAGES[kind](workdir / "checkpoints" / "8" / name)
    checkpoints = Checkpoints(str(workdir))
    found = checkpoints.newest(functools.partial(read, checkpoints))
    assert_step(found, found[0])


def test_where_none_can_be_read_nothing_is_moved_and_nothing_begun_anew(workdir):
    for step in ("4", "8"):
        (workdir / "checkpoints" / step / "run" / "metadata").write_text("{")
    checkpoints = Checkpoints(str(workdir))
    with pytest.raises(
        UserError, match=r"no checkpoint can be read: .*checkpoints/8 is damaged.*/4 is damaged.*remove"
    ):
        checkpoints.newest(functools.partial(read, checkpoints))
    assert saved.steps_in(workdir / "checkpoints") == [8, 4]


def test_a_sound_checkpoint_that_does_not_fit_is_not_taken_for_damaged(workdir):
    checkpoints = Checkpoints(str(workdir))
    other = tiny_state(0).replace(params={"kernel": jnp.zeros((64, 64)), "scale": jnp.zeros(8)})
    with pytest.raises(UserError, match="8 is whole, but cannot be restored"):
        checkpoints.newest(lambda step: checkpoints.restore(step, jax.eval_shape(lambda: other)))
    assert saved.steps_in(workdir / "checkpoints") == [8, 4]


def test_a_second_damaged_checkpoint_of_a_step_gets_a_name_of_its_own(workdir):
    for name in ("damaged-8", "damaged-8-2"):
        (workdir / "checkpoints" / name).mkdir()
    (workdir / "checkpoints" / "8" / "run" / "metadata").unlink()
    checkpoints = Checkpoints(str(workdir))
    assert_step(checkpoints.newest(functools.partial(read, checkpoints)), 4)
    assert (workdir / "checkpoints" / "damaged-8-3" / "state").is_dir()


def test_a_save_that_was_cut_off_is_named_and_removed(workdir, capsys):
    shutil.copytree(workdir / "checkpoints" / "8", workdir / "checkpoints" / "12.orbax-checkpoint-tmp")
    checkpoints = Checkpoints(str(workdir))
    assert_step(checkpoints.newest(functools.partial(read, checkpoints)), 8)
    assert "checkpoint 12 was cut off while it was saved: removed" in capsys.readouterr().err
    checkpoints.close()
    assert {path.name for path in (workdir / "checkpoints").iterdir()} == {"4", "8"}


def test_a_reader_says_it_and_moves_nothing(workdir, capsys):
    assert newest_facts(str(workdir))["position"] == 8
    (workdir / "checkpoints" / "8" / "run" / "metadata").write_text('{"position": 9}')
    assert newest_facts(str(workdir)) == {"position": 4, **FACTS}
    assert "8 is damaged (run/metadata is not as it was written): step 4 is read instead" in capsys.readouterr().err
    assert saved.steps_in(workdir / "checkpoints") == [8, 4]


def test_checkpoints_from_before_there_were_checksums_are_read(workdir):
    for step in ("4", "8"):
        (workdir / "checkpoints" / step / "checksums.json").unlink()
    checkpoints = Checkpoints(str(workdir))
    assert_step(checkpoints.newest(functools.partial(read, checkpoints)), 8)
