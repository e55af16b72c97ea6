"""Learning from a teacher: the losses against their formulas, and whole steps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.pretrained.examples import small_weights
from tests.training.examples import experiment_of, start
from vit_jax.config import default_config, resolve, set_key
from vit_jax.data.device import Normalisation
from vit_jax.errors import UserError
from vit_jax.pretrained.save import save_weights
from vit_jax.training.distillation import Distillation, Teacher, load_teacher, similarity_loss
from vit_jax.training.sharding import batch_sharding, place

UNIT = Normalisation((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


@pytest.fixture(scope="module")
def teacher_folder(tmp_path_factory):
    """A small ViT with random values in every parameter, and a normalisation of its own."""
    folder = tmp_path_factory.mktemp("teacher") / "weights"
    save_weights(small_weights(num_classes=10), folder, "vit_jax")
    return str(folder)


def distillation(**fields) -> Distillation:
    return Distillation(Teacher(None, UNIT, (8, 8)), UNIT, **fields)


def logits(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(6, 5)).astype(np.float32) * 2


MASK = np.ones(6, bool)
NAMES = [f"class {i}" for i in range(10)]


def test_hard_distillation_is_the_cross_entropy_with_the_teachers_class():
    student, teacher = logits(0), logits(1)
    label_loss = np.arange(6, dtype=np.float32)
    found = distillation(kind="hard", alpha=0.3).losses((None, student, None), (teacher, None), label_loss, MASK)
    log = student - np.log(np.exp(student).sum(-1, keepdims=True))
    expected = 0.7 * label_loss - 0.3 * log[np.arange(6), teacher.argmax(-1)]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_soft_distillation_is_the_divergence_of_softened_probabilities():
    student, teacher, tau = logits(0), logits(1), 3.0
    found = distillation(kind="soft", alpha=1.0, temperature=tau).losses(
        (None, student, None), (teacher, None), np.zeros(6), MASK
    )
    p, q = (np.exp(x / tau) / np.exp(x / tau).sum(-1, keepdims=True) for x in (teacher, student))
    np.testing.assert_allclose(found, tau**2 * (p * np.log(p / q)).sum(-1), rtol=1e-4)
    same = distillation(kind="soft", alpha=1.0, temperature=tau).losses(
        (None, teacher, None), (teacher, None), np.zeros(6), MASK
    )
    np.testing.assert_allclose(same, 0, atol=1e-5)


def test_similarities_suit_other_widths_and_do_not_see_masked_rows():
    generator = np.random.default_rng(0)
    x, turn = generator.normal(size=(6, 4)), np.linalg.qr(generator.normal(size=(9, 9)))[0][:4]
    np.testing.assert_allclose(similarity_loss(jnp.array(x), jnp.array(3 * x @ turn), MASK), 0, atol=1e-6)
    other = jnp.array(generator.normal(size=(6, 9)))
    mask = np.array([True, True, False, True, True, True])
    changed = x.copy()
    changed[2] = 100
    whole, masked = (similarity_loss(jnp.array(x), other, m) for m in (MASK, mask))
    assert np.all(whole > 0)
    np.testing.assert_array_equal(masked, similarity_loss(jnp.array(changed), other, mask))
    assert masked[2] == 0


def run(**keys) -> dict:
    """Returns the metrics of one step."""
    experiment = experiment_of(**keys)
    batch = place(experiment.train_batches()(0).batch, batch_sharding(experiment.mesh))
    return jax.device_get(experiment.train_step(start(experiment), batch)[1])


def test_alpha_0_is_training_without_a_teacher(teacher_folder):
    alone, beside = run(), run(distill__teacher=teacher_folder, distill__alpha=0.0)
    assert beside["loss"] == pytest.approx(alone["loss"], rel=1e-6)
    assert run(distill__teacher=teacher_folder)["loss"] != pytest.approx(alone["loss"], rel=1e-3)


@pytest.mark.parametrize("name", ["vit", pytest.param("vit_distilled", marks=pytest.mark.slow)])
def test_every_device_and_micro_batch_learns_the_same(teacher_folder, name):
    keys = {
        "model__name": name,
        "distill__teacher": teacher_folder,
        "distill__kind": "soft",
        "distill__temperature": 3.0,
        "augment__mixup": 0.0,
    }
    whole = run(**keys)
    split = run(**keys, train__accumulate=2)
    assert split["loss"] == pytest.approx(whole["loss"], rel=1e-5)
    several = run(**keys, devices=jax.devices()[:4], mesh__data=2, mesh__fsdp=2)
    assert several["gradient_norm"] == pytest.approx(whole["gradient_norm"], rel=1e-5)


def test_features_pull_the_student(teacher_folder):
    with_features = run(distill__teacher=teacher_folder, distill__features=10.0)
    assert with_features["loss"] > run(distill__teacher=teacher_folder)["loss"] + 0.01
    assert np.isfinite(with_features["gradient_norm"])


@pytest.mark.parametrize("place", ["token", "logits"])
def test_features_are_those_of_a_model_with_a_distillation_token_too(place):
    """It goes by way of two methods whose results are kept; as student and as teacher."""
    weights = small_weights("vit_distilled", num_classes=10)
    module, variables = weights.module, weights.variables
    images = np.random.default_rng(0).normal(size=(2, *weights.image_size, 3)).astype(np.float32)
    expected = module.apply(variables, images, method="features").mean(axis=1)
    (first, second, student), _ = distillation(place=place, features=1.0).outputs(module, variables, images)
    np.testing.assert_allclose(student, expected, rtol=1e-5, atol=1e-6)
    assert np.array_equal(first, second) == (place == "logits")
    _, found = Teacher(module, UNIT, weights.image_size)(variables, images, UNIT, True)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_classes_in_another_order_are_matched_by_name(teacher_folder, capsys):
    config = default_config()
    config.distill.teacher = teacher_folder
    images = np.random.default_rng(0).normal(size=(2, *small_weights().image_size, 3)).astype(np.float32)
    (plain, variables), (turned, _) = load_teacher(config, NAMES), load_teacher(config, NAMES[::-1])
    assert "its classes are in another order; they are matched by name" in capsys.readouterr().err
    expected, found = (teacher(variables, images, UNIT, False)[0] for teacher in (plain, turned))
    np.testing.assert_array_equal(found, expected[:, ::-1])


def test_classes_of_other_names_are_said_and_kept_in_order(teacher_folder, capsys):
    config = default_config()
    config.distill.teacher = teacher_folder
    assert load_teacher(config, [*NAMES[:9], "nine"])[0].order is None
    assert "class 9 was 'class 9', is 'nine': taken to be the same" in capsys.readouterr().err


def test_what_a_teachers_file_does_not_tell_can_be_given(tmp_path, capsys):
    save_weights(small_weights(num_classes=10), tmp_path / "timm", "timm")
    (tmp_path / "timm" / "config.json").unlink()
    config = default_config()
    config.distill.teacher = str(tmp_path / "timm")
    with pytest.raises(UserError, match="does not tell the number of heads"):
        load_teacher(config, NAMES)
    set_key(config, "distill.model.heads", "4")
    teacher, _ = load_teacher(resolve(config), NAMES)
    assert teacher.module.heads == 4
    said = capsys.readouterr().err
    assert f"teacher of {tmp_path / 'timm'}" in said
    assert "note: no config.json beside it" in said


def test_the_teacher_sees_its_own_normalisation_and_size(teacher_folder):
    config = default_config()
    config.distill.teacher = teacher_folder
    teacher, variables = load_teacher(config, NAMES)
    seen = Normalisation((0.1, 0.2, 0.3), (0.5, 0.6, 0.7))
    pixels = np.random.default_rng(0).integers(0, 256, (2, *teacher.size, 3)).astype(np.uint8)
    found, _ = teacher(variables, seen(pixels), seen, False)
    expected = teacher.module.apply(variables, teacher.normalisation(pixels))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    larger, _ = teacher(variables, seen(np.zeros((2, 16, 24, 3), np.uint8)), seen, False)
    assert larger.shape == (2, 10)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"temperature": 3.0, "teacher": "T"}, "distill.temperature=3.0 is of distill.kind=soft"),
        ({"model": {"heads": 2}}, "distill.model.heads is set to 2, but distill.teacher names no teacher"),
        ({"model": {"hedas": 2}, "teacher": "T"}, "hedas"),
        ({"alpha": 0.2}, "distill.alpha is set to 0.2, but distill.teacher names no teacher"),
        ({"teacher": "nowhere"}, "nowhere"),
        ({"kind": "warm", "teacher": "T"}, "distill.kind must be hard or soft, not 'warm'"),
        ({"place": "token", "teacher": "T"}, "distill.place must be logits, or token with a distilled model"),
    ],
)
def test_each_mistake_is_one_line(teacher_folder, keys, said):
    keys = {f"distill__{key}": teacher_folder if value == "T" else value for key, value in keys.items()}
    with pytest.raises(UserError, match=said):
        experiment_of(**keys)


def test_another_number_of_classes_is_refused(teacher_folder):
    config = default_config()
    config.distill.teacher = teacher_folder
    with pytest.raises(UserError, match="has 10 classes, the data has 7"):
        load_teacher(config, NAMES[:7])
