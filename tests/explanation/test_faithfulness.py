import numpy as np
import pytest

from tests.explanation.examples import loaded, pictures
from vit_jax.data.sources import ArraySource
from vit_jax.errors import UserError
from vit_jax.explanation import faithfulness
from vit_jax.explanation.faithfulness import RANDOM, Deletion, deletion, examples, falling, ranks, resized, table
from vit_jax.explanation.faithfulness_report import data_and_count, figure_of_deletion
from vit_jax.explanation.methods import METHODS, Method
from vit_jax.explanation.observation import Observation


def drops(seen: Observation) -> np.ndarray:
    """Returns by how much the probability of each image's class falls as one patch alone is taken away."""
    rows, columns = seen.first_grid
    before = seen.probabilities[np.arange(len(seen.x)), seen.classes]
    found = []
    for patch in range(rows * columns):
        only = np.where(np.arange(rows * columns) == patch, 0, 1).reshape(1, rows, columns).repeat(len(seen.x), 0)
        found.append(before - falling(seen, only, np.array([1]))[:, 0])
    return np.stack(found, axis=1).reshape(-1, rows, columns)


@pytest.fixture
def extremes(monkeypatch):
    """Two methods that know: one ranks by what each patch does alone, the other the other way round."""
    both = {
        "best": Method(lambda seen, options: drops(seen), frozenset(), True, "", ""),
        "worst": Method(lambda seen, options: -drops(seen), frozenset(), True, "", ""),
    }
    for name, method in both.items():
        monkeypatch.setitem(METHODS, name, method)
    return list(both)


def test_what_matters_most_falls_fastest(extremes, monkeypatch):
    monkeypatch.setattr(faithfulness, "BATCH", 8)
    model = loaded("vit", pool="gap")
    views = pictures(model, 24)
    labels = model.predict(views).argmax(1)
    result = deletion(model, views, labels, [*extremes, "attention"])
    assert list(result.curves) == ["best", "worst", "attention", RANDOM]
    assert result.fractions.tolist() == [i / 6 for i in range(7)]
    best, chance, worst = (result.areas(name).mean() for name in ("best", RANDOM, "worst"))
    assert best < chance < worst
    assert result.compared("best", "worst")[0] == pytest.approx(best - worst)
    rows = [line.split()[0] for line in table(result).splitlines()]
    assert (rows[0], rows[1], rows[-1]) == ("method", "best", RANDOM)
    assert figure_of_deletion(result).axes


def test_curves_begin_with_the_image_and_end_with_its_mean_colour():
    model = loaded("vit")
    views = pictures(model, 3)
    result = deletion(model, views, np.array([0, 1, 2]), ["attention"])
    x = model.preprocessing.normalised(views)
    for curve in result.curves.values():
        first, last = (
            np.exp(logits) for logits in (model.logits(x), model.logits(x * 0 + x.mean((1, 2), keepdims=True)))
        )
        for step, exponentials in ((0, first), (-1, last)):
            expected = exponentials[range(3), range(3)] / exponentials.sum(1)
            np.testing.assert_allclose(curve[:, step], expected, rtol=1e-4)


def test_the_highest_places_go_first():
    seen = Observation(loaded("vit"), loaded("vit").preprocess(pictures(loaded("vit"))), np.array([0, 0]))
    heat = np.zeros((2, 2, 3))
    heat[:, 1, 2], heat[:, 0, 0] = 5, 3
    rank = ranks(heat, np.random.default_rng(0).random(heat.shape))
    assert (rank[:, 1, 2] == 0).all()
    assert (rank[:, 0, 0] == 1).all()
    without = seen.x.copy()
    without[:, 4:, 8:] = seen.x.mean((1, 2), keepdims=True)
    expected = np.exp(seen.model.logits(without))
    np.testing.assert_allclose(falling(seen, rank, np.array([1]))[:, 0], expected[:, 0] / expected.sum(1), rtol=1e-4)


def test_equal_places_go_in_an_order_by_chance():
    chance = np.array([[[0.3, 0.1], [0.2, 0.9]]])
    np.testing.assert_array_equal(ranks(np.ones((1, 2, 2)), chance), [[[2, 0], [1, 3]]])


def test_area_of_a_straight_fall():
    result = Deletion(np.array([0, 0.5, 1]), {"a": np.array([[1, 0.5, 0], [1, 0, 0]])})
    np.testing.assert_allclose(result.areas("a"), [0.5, 0.25])


def test_maps_of_another_grid_are_resized():
    coarse = np.array([[[0.0, 1.0]]])
    assert resized(coarse, (1, 2)) is coarse
    np.testing.assert_allclose(resized(coarse, (2, 4))[0, 1], [0, 0.25, 0.75, 1])
    swin = loaded("swin")
    result = deletion(swin, pictures(swin), np.array([0, 1]), ["grad_cam", "attention"])
    assert result.curves["grad_cam"].shape == (2, 21)


def test_examples_are_drawn_the_same_way_each_time():
    model = loaded("vit")
    source = ArraySource(pictures(model, 9), np.arange(9) % 5, [str(i) for i in range(5)])
    views, labels = examples(model, source, 4)
    again, _ = examples(model, source, 4)
    np.testing.assert_array_equal(views, again)
    assert len(views) == 4
    assert len(examples(model, source, 100)[0]) == 9
    for view, label in zip(views, labels, strict=True):
        matches = [i for i in range(9) if np.array_equal(source.images[i], view)]
        assert [i % 5 for i in matches] == [label]


def test_data_of_other_classes():
    model = loaded("vit")
    source = ArraySource(pictures(model), np.zeros(2, int), ["a", "b"])
    with pytest.raises(UserError, match="small vit has 5 classes, the data 2"):
        examples(model, source, None)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("digits", ("digits", None)),
        ("digits:50", ("digits", 50)),
        ("folder:x", ("folder:x", None)),
        ("folder:x/y:7", ("folder:x/y", 7)),
    ],
)
def test_name_and_number_of_a_data_set(text, expected):
    assert data_and_count(text) == expected
    with pytest.raises(UserError, match="a number of images from 1 up"):
        data_and_count("digits:0")
