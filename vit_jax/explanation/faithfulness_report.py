"""The faithfulness of methods on a data set, as a table and a picture."""

import pathlib
from collections.abc import Sequence

from tqdm import tqdm

from vit_jax.data.sources import open_source
from vit_jax.errors import UserError, explained_writes
from vit_jax.explanation.faithfulness import RANDOM, Deletion, deletion, examples, table
from vit_jax.explanation.methods import METHODS, Options, method_named, require_taken
from vit_jax.inference.model import LoadedModel
from vit_jax.measurement.plot import COLOURS

LINES = ("-", "--", "-.", ":")


def report(
    model: LoadedModel,
    data: str,
    split: str,
    data_dir: str | None,
    names: Sequence[str],
    options: Options,
    out: pathlib.Path | None,
) -> Deletion:
    """Prints the table, and draws the curves to `faithfulness.png` where there is a folder for it.

    Args:
      data: the name of a data set, with `:N` for N images of it; without, all.
      names: of methods; `all` is all that the model has, and what it has not is said.

    Raises:
      UserError: there is no such data set or method, or the model has not what a method needs.
    """
    name, count = data_and_count(data)
    source = open_source(name, split, data_dir)
    views, labels = examples(model, source, count)
    methods = available(model, views, labels, options) if "all" in names else list(names)
    for method in methods:
        method_named(method)
    require_taken(options, methods)
    with tqdm(total=len(views) * (len(methods) + 1), desc="images x methods", disable=None) as bar:
        done = dict.fromkeys([*methods, RANDOM], 0)

        def told(method: str, now: int) -> None:
            bar.update(now - done[method])
            done[method] = now

        result = deletion(model, views, labels, methods, options, told=told)
    print(f"probability of the true class as patches are replaced by the mean colour, {len(views)} images of {name}:")
    print(table(result))
    if out is not None:
        path = pathlib.Path(out) / "faithfulness.png"
        with explained_writes(str(path)):
            path.parent.mkdir(parents=True, exist_ok=True)
            figure_of_deletion(result, f"{len(views)} images of {name}").savefig(path, dpi=130)
        print(f"picture {path}")
    return result


def data_and_count(text: str) -> tuple[str, int | None]:
    """Returns the name of a data set and the number after its last colon, if there is one.

    Raises:
      UserError: the number is 0.
    """
    name, colon, count = text.rpartition(":")
    if not (colon and count.isdecimal()):
        return text, None
    if not int(count):
        raise UserError(f"--faithfulness={text}: a number of images from 1 up is needed")
    return name, int(count)


def available(model: LoadedModel, views, labels, options: Options) -> list[str]:
    """Returns the methods that the model has; says which it has not."""
    found = []
    for name in METHODS:
        try:
            deletion(model, views[:1], labels[:1], [name], options)
        except UserError as error:
            print(f"  note: not measured: {name}: {error}")
        else:
            found.append(name)
    return found


def figure_of_deletion(result: Deletion, title: str = ""):
    """Returns the mean curve of every method as a matplotlib figure, the most faithful first."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axis = figure.subplots()
    names = sorted(result.curves, key=lambda name: (name == RANDOM, result.areas(name).mean()))
    for number, name in enumerate(names):
        colour = "#999999" if name == RANDOM else COLOURS[number % len(COLOURS)]
        label = f"{name} ({result.areas(name).mean():.3f})"
        line = LINES[number % len(LINES)]
        axis.plot(100 * result.fractions, result.curves[name].mean(0), line, color=colour, label=label, linewidth=1.6)
    axis.set(xlabel="patches replaced by the mean colour (%)", ylabel="probability of the true class", ylim=(0, None))
    axis.grid(alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize=9, title="area under the curve", title_fontsize=9)
    figure.suptitle(title, fontsize=11)
    return figure
