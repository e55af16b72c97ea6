import jax.numpy as jnp
import pytest

import vit_jax
from vit_jax.errors import UserError
from vit_jax.models import create_model, list_models
from vit_jax.models.registry import architecture, field_types, register
from vit_jax.models.vit import VisionTransformer


def test_lists_names_that_match_a_pattern():
    assert {"vit_ti16", "vit_b16", "vit_h14", "vit_cifar_micro"} <= set(list_models())
    assert list_models("vit_[bs]16") == ["vit_b16", "vit_s16"]
    assert list_models("no such*") == []
    assert list_models() == sorted(set(list_models()))
    assert vit_jax.list_models is list_models


@pytest.mark.parametrize("name", list_models())
def test_every_architecture_can_be_made(name):
    model = create_model(name)
    widths, heads = (getattr(model, name, 1) for name in ("width", "heads"))
    widths = model.widths if hasattr(model, "widths") else (widths,)
    heads = heads if isinstance(heads, tuple) else (heads,) * len(widths)
    assert all(width % number == 0 for width, number in zip(widths, heads, strict=True))
    assert {field: getattr(model, field) for field in architecture(name).fields} == architecture(name).fields


def test_overrides_replace_fields():
    model = create_model("vit_b16", num_classes=10, pool="gap", dtype=jnp.bfloat16)
    assert model == VisionTransformer(num_classes=10, pool="gap", dtype="bfloat16")


@pytest.mark.parametrize(
    ("field", "given", "taken"),
    [
        ("patch_size", 8, (8, 8)),
        ("patch_size", [8, 4], (8, 4)),
        ("drop_path", 0, 0.0),
        ("layer_scale", 1, 1.0),
        ("layer_scale", None, None),
        ("pre_logits", 64, 64),
        ("pre_logits", None, None),
        ("scan_layers", True, True),
    ],
)
def test_value_is_taken_as_the_fields_type(field, given, taken):
    value = getattr(create_model("vit_s16", **{field: given}), field)
    assert value == taken
    assert type(value) is type(taken)


@pytest.mark.parametrize("given", [(), [2], [1, 2, 3, 4], (3, 4, 9)])
def test_tuple_of_any_length_is_taken_as_it_is(given):
    assert create_model("r50_b16", stages=given).stages == tuple(given)


@pytest.mark.parametrize("value", [3, True, (1.0, 2.0), (True,), "3", None, (2, "2")])
def test_tuple_of_any_length_holds_ints_alone(value):
    with pytest.raises(UserError) as error:
        create_model("r50_b16", stages=value)
    assert str(error.value) == f"model.stages must be tuple[int, ...], not {value!r}"


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("width", "768", "int"),
        ("width", 768.0, "int"),
        ("width", None, "int"),
        ("width", True, "int"),
        ("drop_path", "0.1", "float"),
        ("drop_path", True, "float"),
        ("pre_logits", False, "int | None"),
        ("layer_scale", "none", "float | None"),
        ("scan_layers", 1, "bool"),
        ("scan_layers", "true", "bool"),
        ("pool", None, "str"),
        ("patch_size", True, "tuple[int, int]"),
        ("patch_size", (True, True), "tuple[int, int]"),
        ("patch_size", (16,), "tuple[int, int]"),
        ("patch_size", (16.0, 16.0), "tuple[int, int]"),
        ("patch_size", "16", "tuple[int, int]"),
    ],
)
def test_value_of_another_type_is_an_error(field, value, expected):
    with pytest.raises(UserError) as error:
        create_model("vit_s16", **{field: value})
    assert str(error.value) == f"model.{field} must be {expected}, not {value!r}"


def test_unknown_names_are_errors_that_give_the_nearest():
    with pytest.raises(UserError, match=r"no model 'vit_b-16' \(did you mean 'vit_b16'\?\).*list_models"):
        create_model("vit_b-16")
    with pytest.raises(UserError, match=r"model 'vit_b16' has no field 'drop_paths' \(did you mean 'drop_path'\?\)"):
        create_model("vit_b16", drop_paths=0.1)
    with pytest.raises(UserError) as error:
        create_model("qqq")
    assert "did you mean" not in str(error.value)


def test_linens_own_fields_cannot_be_set():
    assert not {"name", "parent"} & set(field_types(VisionTransformer))
    with pytest.raises(UserError, match="has no field 'parent'"):
        create_model("vit_b16", parent=None)


def test_a_name_is_registered_once():
    before = architecture("vit_b16")
    with pytest.raises(ValueError, match="'vit_b16' is registered twice"):
        register("vit_b16", VisionTransformer, width=8)
    assert architecture("vit_b16") is before
