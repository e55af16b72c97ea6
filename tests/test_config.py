"""Config: every key has a type, and whatever is unknown or of another type is refused by name."""

import functools
import json

import pytest
from ml_collections import ConfigDict

from vit_jax.config import default_config, flatten, known_keys, model_overrides, resolve, set_key
from vit_jax.config_differences import MATHEMATICS_FREE, differences
from vit_jax.data.presets import OFF
from vit_jax.errors import UserError

OPTIONAL = {
    "init_from": str,
    "surgery.positions": str,
    "data.dir": str,
    "data.val_split": str,
    "data.classes": str,
    "data.image_size": int,
    "data.resize": int,
    "train.class_weights": str,
    "train.clip_norm": float,
    "train.label_threshold": float,
    "train.ema_decay": float,
    "train.early_stopping": str,
    "optimizer.adam_lr": float,
    "optimizer.layer_decay": float,
    "optimizer.frozen": str,
    "distill.teacher": str,
    "distill.place": str,
}
"""The keys that may be None, with their types."""

AUGMENT = {f"augment.{key}": value for key, value in OFF.items()}
"""The augmentation keys, which are None until the preset fills them, with what they are without one."""

PLAIN = {
    "model.name": "vit_s16",
    "data.interpolation": "bilinear",
    "data.antialias": True,
    "data.mean": (0.5, 0.5, 0.5),
    "data.std": (0.5, 0.5, 0.5),
}
"""The keys that are None until weights fill them, with what they are without weights."""

FILLED = AUGMENT | PLAIN

BY_DEFAULT = OPTIONAL | {key: type(value) for key, value in FILLED.items()}


def value_of(config: ConfigDict, key: str) -> object:
    return functools.reduce(lambda group, name: group[name], key.split("."), config)


def setting(*pairs: tuple[str, str]) -> ConfigDict:
    """Returns the resolved defaults after those `--config.key=text`."""
    config = default_config()
    for key, text in pairs:
        set_key(config, key, text)
    return resolve(config)


DEFAULT_KEYS = [key for key in known_keys(default_config()) if not key.startswith("model.") or key == "model.name"]


@pytest.mark.parametrize("key", DEFAULT_KEYS)
def test_every_default_has_a_plain_type_or_is_a_typed_placeholder(key):
    config = default_config()
    value = value_of(config, key)
    *groups, last = key.split(".")
    group = value_of(config, ".".join(groups)) if groups else config
    assert (value is None) == (key in BY_DEFAULT)
    assert group.get_type(last) is BY_DEFAULT.get(key, type(value))
    assert type(value) in (bool, int, float, str, tuple, type(None))
    if isinstance(value, tuple):
        assert {type(part) for part in value} == {float}


def test_defaults_resolve_to_themselves_and_no_augmentation():
    resolved = resolve(default_config())
    assert flatten(resolved) == flatten(default_config()) | {key: as_json(value) for key, value in FILLED.items()}
    assert flatten(resolve(resolved)) == flatten(resolved)


def as_json(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def test_preset_gives_what_is_not_set():
    config = setting(("augment.preset", "deit"), ("augment.mixup", "0.0"), ("augment.affine.rotation", "3.0"))
    assert config.augment.cutmix == 1.0  # of the preset
    assert config.augment.mixup == 0.0  # set to what it is without a preset, and yet it wins
    assert (config.augment.affine.rotation, config.augment.affine.shear) == (3.0, 0.0)
    assert config.augment.area == (0.08, 1.0)
    before = setting(("augment.mixup", "0.0"), ("augment.affine.rotation", "3.0"), ("augment.preset", "deit"))
    assert flatten(before) == flatten(config)
    with pytest.raises(UserError, match=r"augment\.preset must be one of none, light1, .*, not 'diet'"):
        setting(("augment.preset", "diet"))


def test_checkpoints_from_before_a_key_count_as_without_augmentation():
    now = flatten(resolve(default_config()))
    old = {key: value for key, value in now.items() if key not in ("augment.erasing", "augment.area")}
    assert differences(old, now) == ([], [])
    assert differences(old, now | {"augment.erasing": 0.5})[1] == ["augment.erasing was 0.0, is 0.5"]


def test_defaults_are_made_anew():
    default_config().train.batch_size = 7
    assert default_config().train.batch_size == 128


@pytest.mark.parametrize("key", MATHEMATICS_FREE)
def test_keys_that_leave_the_mathematics_alone_exist(key):
    assert key in known_keys(default_config()) or any(known.startswith(f"{key}.") for known in DEFAULT_KEYS)


@pytest.mark.parametrize(
    ("key", "text", "expected"),
    [
        ("seed", "3", 3),
        ("mesh.data", "-1", -1),
        ("train.batch_size", "256", 256),
        ("optimizer.lr", "3e-4", 3e-4),
        ("optimizer.lr", "1", 1.0),
        ("augment.flip", "True", True),
        ("augment.affine.rotation", "15", 15.0),
        ("train.duration", "5 epochs", "5 epochs"),
        ("data.train_split", "train[:98%]", "train[:98%]"),
        ("data.name", "123", "123"),
        ("data.dir", "/data", "/data"),
        ("data.dir", "3", "3"),
        ("data.image_size", "224", 224),
        ("data.classes", "0, 3", "0, 3"),
        ("optimizer.frozen", "^(?!head/)", "^(?!head/)"),
        ("train.clip_norm", "1", 1.0),
        ("data.mean", "(0.1, 0.2, 0.3)", (0.1, 0.2, 0.3)),
        ("data.mean", "[0, 0, 0]", (0.0, 0.0, 0.0)),
        ("optimizer.betas", "0.9, 0.95", (0.9, 0.95)),
        ("model.name", "vit_b16", "vit_b16"),
        ("init_from", "runs/a:best", "runs/a:best"),
    ],
)
def test_set_key_takes_the_type_of_the_key(key, text, expected):
    value = value_of(setting((key, text)), key)
    assert type(value) is type(expected)
    assert value == expected


@pytest.mark.parametrize(
    ("key", "text", "message"),
    [
        ("seed", "1.5", "'seed' must be int, not 1.5"),
        ("seed", "one", "'seed' must be int, not 'one'"),
        ("seed", "True", "'seed' must be int, not True"),
        ("train.batch_size", "1e3", "'train.batch_size' must be int, not 1000.0"),
        ("optimizer.lr", "fast", "'optimizer.lr' must be float, not 'fast'"),
        ("optimizer.lr", "False", "'optimizer.lr' must be float, not False"),
        ("optimizer.lr", "{[]: 1}", "'optimizer.lr' must be float, not '{[]: 1}'"),
        ("augment.flip", "1", "'augment.flip' must be bool, not 1"),
        ("augment.flip", "true", "'augment.flip' must be bool, not 'true'"),
        ("data.image_size", "224.0", "'data.image_size' must be int, not 224.0"),
        ("train.clip_norm", "off", "'train.clip_norm' must be float, not 'off'"),
        ("data.mean", "0.5", "'data.mean' must be tuple, not 0.5"),
        ("data.mean", "(0.5, 0.5)", "'data.mean' must be 3 numbers, not (0.5, 0.5)"),
        ("augment.area", "(0, 'a')", "'augment.area' must be 2 numbers, not (0, 'a')"),
        ("optimizer.betas", "(0.9, True)", "'optimizer.betas' must be 2 numbers, not (0.9, True)"),
    ],
)
def test_set_key_refuses_other_types(key, text, message):
    with pytest.raises(UserError) as error:
        setting((key, text))
    assert message in str(error.value)


@pytest.mark.parametrize("key", OPTIONAL)
def test_optional_keys_go_back_to_none(key):
    some = {str: "a", int: "3", float: "0.5"}[OPTIONAL[key]]
    if key == "surgery.positions":
        config = default_config()
        set_key(config, key, "linear")
        set_key(config, key, "None")
        assert config.surgery.positions is None
        return
    assert value_of(setting((key, some)), key) == OPTIONAL[key](some)
    assert value_of(setting((key, some), (key, "None")), key) is None


@pytest.mark.parametrize("key", ["seed", "optimizer.lr", "surgery.patches", "optimizer.betas"])
def test_other_keys_refuse_none(key):
    with pytest.raises(UserError, match=f"'{key}' must be .*, not None"):
        setting((key, "None"))


@pytest.mark.parametrize(
    ("key", "near"),
    [
        ("sede", "seed"),
        ("trian.batch_size", "train.batch_size"),
        ("train.batchsize", "train.batch_size"),
        ("clip_norm", "train.clip_norm"),
        ("augment.affine.rotate", "augment.affine.rotation"),
        ("seed.x", "seed"),
        ("model.name.x", "model.name"),
        ("model.drop_path.x", "model.drop_path"),
    ],
)
def test_unknown_keys_name_the_nearest(key, near):
    with pytest.raises(UserError) as error:
        setting((key, "1"))
    assert str(error.value) == f"unknown config key {key!r} (did you mean {near!r}?)"


@pytest.mark.parametrize("key", ["", ".", "train.", ".seed", "something.quite.different"])
def test_malformed_keys_are_unknown(key):
    with pytest.raises(UserError, match="unknown config key"):
        setting((key, "1"))


@pytest.mark.parametrize(("group", "member"), [("eval", "eval.every"), ("augment.affine", "augment.affine.shear")])
def test_a_group_is_no_key(group, member):
    with pytest.raises(UserError, match=f"'{group}' is a group; set one of .*{member}"):
        setting((group, "5"))


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        ({"patch_size": "(8, 4)"}, {"patch_size": (8, 4)}),
        ({"patch_size": "8"}, {"patch_size": (8, 8)}),
        ({"patch_size": "[8, 4]"}, {"patch_size": (8, 4)}),
        ({"drop_path": "0"}, {"drop_path": 0.0}),
        ({"layer_scale": "1"}, {"layer_scale": 1.0}),
        ({"layer_scale": "None"}, {"layer_scale": None}),
        ({"pool": "gap", "width": "64", "scan_layers": "True"}, {"pool": "gap", "width": 64, "scan_layers": True}),
    ],
)
def test_model_fields_take_the_architectures_types(pairs, expected):
    config = setting(*((f"model.{name}", text) for name, text in pairs.items()))
    assert model_overrides(config) == expected
    assert {name: type(value) for name, value in model_overrides(config).items()} == {
        name: type(value) for name, value in expected.items()
    }


@pytest.mark.parametrize(
    ("field", "first", "second"),
    [("patch_size", "(2, 2)", "4"), ("layer_scale", "None", "1e-4"), ("drop_path", "0", "0.1"), ("pool", "1", "gap")],
)
def test_a_later_model_field_replaces_an_earlier_of_another_type(field, first, second):
    pairs = [(f"model.{field}", first), (f"model.{field}", second)]
    assert model_overrides(setting(*pairs)) == model_overrides(setting(pairs[1]))


@pytest.mark.parametrize(
    ("field", "text", "message"),
    [
        ("widht", "64", "model 'vit_s16' has no field 'widht' (did you mean 'width'?)"),
        ("width", "wide", "model.width must be int, not 'wide'"),
        ("width", "6.4", "model.width must be int, not 6.4"),
        ("heads", "True", "model.heads must be int, not True"),
        ("heads", "None", "model.heads must be int, not None"),
        ("pool", "3", "model.pool must be str, not 3"),
        ("cls_token", "1", "model.cls_token must be bool, not 1"),
        ("patch_size", "(4,)", "model.patch_size must be tuple[int, int], not (4,)"),
        ("drop_path", "much", "model.drop_path must be float, not 'much'"),
        ("layer_scale", "much", "model.layer_scale must be float | None, not 'much'"),
    ],
)
def test_model_fields_are_checked(field, text, message):
    with pytest.raises(UserError) as error:
        setting((f"model.{field}", text))
    assert str(error.value) == message


def test_unknown_model_names_the_nearest():
    with pytest.raises(UserError, match=r"no model 'vit_b17' \(did you mean 'vit_b16'\?\)"):
        setting(("model.name", "vit_b17"))


def test_resolved_config_is_a_locked_copy():
    config = default_config()
    resolved = resolve(config)
    config.seed = 9
    assert resolved.seed == 0
    for group in (resolved, resolved.train, resolved.model):
        with pytest.raises(KeyError, match="locked"):
            group["nonsense"] = 1


def test_resolving_twice_changes_nothing():
    once = setting(("model.patch_size", "8"), ("data.mean", "(0, 0, 0)"), ("data.dir", "/data"))
    assert resolve(once) == once


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sede": 1}, "unknown config key 'sede' (did you mean 'seed'?)"),
        ({"train": {"batchsize": 1}}, "unknown config key 'train.batchsize' (did you mean 'train.batch_size'?)"),
        ({"train": {"batch_size": None}}, "config key 'train.batch_size' must be int, not None"),
        ({"train": {"batch_size": True}}, "config key 'train.batch_size' must be int, not True"),
        ({"train": {"batch_size": "128"}}, "config key 'train.batch_size' must be int, not '128'"),
        ({"seed": {"a": 1}}, "unknown config key 'seed.a' (did you mean 'seed'?)"),
        ({"model": {"name": "vit_s16", "depht": 3}}, "model 'vit_s16' has no field 'depht' (did you mean 'depth'?)"),
    ],
)
def test_resolve_refuses_what_is_unknown_or_of_another_type(change, message):
    with pytest.raises(UserError) as error:
        resolve(ConfigDict(change))
    assert str(error.value) == message


def test_resolve_fills_missing_keys_with_defaults():
    resolved = resolve(ConfigDict({"augment": {"flip": True}, "model": {"name": "vit_b16", "depth": 3}}))
    new = {"augment.flip": True, "model.name": "vit_b16", "model.depth": 3}
    assert flatten(resolved) == flatten(resolve(default_config())) | new


def test_json_round_trip():
    config = setting(("model.patch_size", "4"), ("train.clip_norm", "1"), ("data.val_split", "train[:1%]"))
    flat = flatten(config)
    assert json.loads(json.dumps(flat)) == flat
    assert set(known_keys(default_config())) >= set(flat)
    assert flat["model.patch_size"] == [4, 4]
    assert flat["augment.affine.rotation"] == 0.0
    assert flat["data.dir"] is None
    again = resolve(ConfigDict(json.loads(config.to_json_best_effort())))
    assert again == config
    assert flatten(again) == flat


FREE = [("data.dir", "/x"), ("data.workers", "2"), ("data.eval_split", "validation"), ("train.log_every", "1 steps")]
FREE += [("model.remat", "full"), ("model.scan_layers", "True"), ("eval.batch_size", "8"), ("eval.every", "1%")]
FREE += [("checkpoint.keep", "5"), ("mesh.data", "1"), ("mesh.fsdp", "2"), ("model.merge_tokens", "4")]


@pytest.mark.parametrize(("key", "text"), FREE)
def test_differences_that_a_continued_run_may_have(key, text):
    allowed, refused = differences(flatten(setting()), flatten(setting((key, text))))
    assert refused == []
    assert len(allowed) == 1
    assert allowed[0].startswith(f"{key} was ")


@pytest.mark.parametrize(
    ("key", "text", "line"),
    [
        ("seed", "1", "seed was 0, is 1"),
        ("train.batch_size", "8", "train.batch_size was 128, is 8"),
        ("train.duration", "1 epochs", "train.duration was '10 epochs', is '1 epochs'"),
        ("data.name", "cifar10", "data.name was 'digits', is 'cifar10'"),
        ("data.mean", "(0, 0, 0)", "data.mean was [0.5, 0.5, 0.5], is [0.0, 0.0, 0.0]"),
        ("model.depth", "3", "model.depth was 12, is 3"),
        ("init_from", "a.npz", "init_from was None, is 'a.npz'"),
        ("augment.affine.shear", "5", "augment.affine.shear was 0.0, is 5.0"),
    ],
)
def test_differences_that_it_may_not_have(key, text, line):
    allowed, refused = differences(flatten(setting()), flatten(setting((key, text))))
    assert allowed == []
    assert refused == [line]


def test_no_differences():
    flat = flatten(setting(("model.patch_size", "4")))
    assert differences(json.loads(json.dumps(flat)), flat) == ([], [])


def test_a_name_that_only_begins_like_a_free_key_is_not_free():
    one, other = ({"model.name": "vit_b16", "evaluation": number} for number in (1, 2))
    assert differences(one, other) == ([], ["evaluation was 1, is 2"])
