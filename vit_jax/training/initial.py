"""Where a run starts from: the weights that `init_from` names, made to fit its model."""

import pathlib

import jax
from ml_collections import ConfigDict

from vit_jax.config import resolve
from vit_jax.config_fill import RUN_FIELDS
from vit_jax.errors import UserError
from vit_jax.models.lora import LORA
from vit_jax.models.registry import field_types
from vit_jax.pretrained import own
from vit_jax.pretrained.load import load_weights
from vit_jax.pretrained.surgery import Surgery, fit
from vit_jax.pretrained.weights import Weights, flat, variables_of
from vit_jax.training.experiment import Experiment, preprocessing_of
from vit_jax.training.saved import checkpoint_folder, read_facts, read_newest, say
from vit_jax.training.sharding import on_host, placed
from vit_jax.training.state import TrainState


def resolved(config: ConfigDict, workdir: str | None = None) -> tuple[ConfigDict, Weights | None]:
    """Returns the config with nothing left open, and the weights of `init_from`, or None where it names none.

    Args:
      workdir: of the run, which may continue.

    Raises:
      UserError: the config is wrong, or the weights cannot be read or are not of its model.
    """
    weights = initial_weights(config, workdir)
    return resolve(config, weights), weights


def initial_weights(config: ConfigDict, workdir: str | None) -> Weights | None:
    """Returns the weights of `init_from`, or None where the config names none.

    A run that continues has their parameters in its own checkpoint: of those weights only the description is returned,
    so that their file may be gone by then.
    """
    if config.get("init_from") is None:
        return None
    if not isinstance(config.init_from, str):
        raise UserError(f"config key 'init_from' must be str, not {config.init_from!r}")
    if workdir is not None and (facts := newest_facts(workdir)) is not None:
        return own.described_by(facts, {})
    return load_weights(config.init_from, **told(config))


def newest_facts(workdir: str) -> dict | None:
    """Returns what was saved beside the state of a workdir's newest checkpoint, or None where it has none.

    One whose facts are damaged is named and left where it is: another process may be training there.

    Raises:
      UserError: it has some, but none can be read.
    """
    if not own.is_workdir(pathlib.Path(workdir)):
        return None
    folder = checkpoint_folder(workdir)
    found = read_newest(folder, lambda step: read_facts(folder / str(step)))
    if found is None:
        return None
    for wrong in found.damaged.values():
        say(f"{wrong}: step {found.step} is read instead")
    return found.value


def told(config: ConfigDict) -> dict[str, object]:
    """Returns the model fields that a file may not tell, where the config does."""
    heads = config.model.get("heads") if "model" in config else None
    return {} if heads is None else {"heads": heads}


def with_weights(experiment: Experiment, state: TrainState, weights: Weights, whole: bool = False) -> TrainState:
    """Returns a state that starts from weights, its average included, and prints what became of each parameter.

    Args:
      whole: every parameter must come from the weights, as in evaluation.

    Raises:
      UserError: the weights do not fit the model.
    """
    surgery = Surgery(**experiment.config.surgery)
    params = {name: part for name, part in state.params.items() if name != LORA}
    base = {"params": params, "batch_stats": state.batch_stats}
    fitted, report = fit(weights, experiment.model, experiment.transform.size, lambda: flat(on_host(base)), surgery)
    if jax.process_index() == 0:
        print("\n".join(report.lines()))
        for line in seen_differently(weights, experiment):
            print(f"  unlike those weights: {line}")
    if whole and report.initialised:
        raise UserError(
            f"{weights.source} does not hold all of the model to evaluate: {'; '.join(report.initialised)} would be "
            "random; leave model.* as it was trained"
        )
    layouts = experiment.shardings
    shardings = {"params": {name: layouts.params[name] for name in params}, "batch_stats": layouts.batch_stats}
    read = placed({"batch_stats": {}, **variables_of(fitted)}, base, shardings)
    state = state.replace(params={**state.params, **read["params"]}, batch_stats=read["batch_stats"])
    if state.ema_params is None:
        return state
    averages = jax.tree.map(jax.numpy.copy, (state.params, state.batch_stats))
    return state.replace(ema_params=averages[0], ema_batch_stats=averages[1])


def seen_differently(weights: Weights, experiment: Experiment) -> list[str]:
    """Returns how the model is made, images are prepared or classes named otherwise than for the weights."""
    now = preprocessing_of(experiment.config, experiment.transform.size)
    seen = weights.preprocessing.at_size(now.size)
    lines = [
        f"data.{name} was {getattr(seen, name)!r}, is {getattr(now, name)!r}"
        for name in ("resize", "interpolation", "antialias", "mean", "std")
        if getattr(seen, name) != getattr(now, name)
    ]
    shared = field_types(type(weights.module)).keys() & field_types(type(experiment.model)).keys()
    for field in sorted(shared - {*RUN_FIELDS, "head", "head_bias", "pre_logits"}):
        was, now_is = getattr(weights.module, field), getattr(experiment.model, field)
        if was != now_is:
            lines.append(f"model.{field} was {was!r}, is {now_is!r}")
    if (other := weights.first_other_class(experiment.source.class_names)) is not None:
        lines.append(f"{other} (surgery.new_head=True starts with a new head)")
    return lines
