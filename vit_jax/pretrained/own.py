"""Checkpoints of our own: workdirs, step folders, and the folders that `vit_jax.convert --to=vit_jax` writes.

A step folder is Orbax's: `state` with the parameters (`params`, and `ema_params` where an average is kept) and `run`,
a JSON document with the config, the class names and the image size.
"""

import contextlib
import dataclasses
import json
import pathlib
from collections.abc import Iterator

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging

from vit_jax.data.preprocessing import Preprocessing
from vit_jax.errors import UserError, explained_writes
from vit_jax.models.lora import merge
from vit_jax.models.registry import create_model
from vit_jax.pretrained.weights import Weights, flat, make_weights, nominal_size, square_grid

SEEN = {"data.resize": "resize", "data.interpolation": "interpolation", "data.antialias": "antialias"}
SEEN |= {"data.mean": "mean", "data.std": "std"}
"""Config keys that tell the preprocessing, and its fields."""


def is_step(path: pathlib.Path) -> bool:
    """Returns whether a folder is that of one checkpoint."""
    return (path / "state").is_dir() and (path / "run").is_dir()


def is_workdir(path: pathlib.Path) -> bool:
    """Returns whether a folder is that of a training run."""
    return (path / "checkpoints").is_dir() and not any(path.glob("*.safetensors"))


def step_folder(workdir: pathlib.Path, best: bool = False) -> pathlib.Path:
    """Returns the folder of a run's newest checkpoint, or of that with the best validation accuracy.

    Raises:
      UserError: there is none.
    """
    steps = [path for path in (workdir / "checkpoints").iterdir() if path.name.isdigit() and is_step(path)]
    ranked = {path: (int(path.name),) for path in steps}
    if best:
        measured = {path: path / "metrics" / "metrics" for path in steps}
        ranked = {
            path: (json.loads(file.read_text())["top1"], int(path.name))
            for path, file in measured.items()
            if file.is_file()
        }
    if not ranked:
        raise UserError(f"{workdir} holds no {'best' if best else 'complete'} checkpoint")
    return max(ranked, key=ranked.get)


def read_weights(path: pathlib.Path, best: bool = False, **overrides) -> Weights:
    """Returns the parameters that evaluation uses of a workdir's checkpoint or of one step.

    Args:
      best: of a workdir, the checkpoint with the best validation accuracy in place of the newest.
      overrides: model fields that the caller knows better.

    Raises:
      UserError: there is no such checkpoint, or it is damaged.
    """
    with _explained_damage(path):
        step = step_folder(path, best) if is_workdir(path) else path
    with _explained_damage(step):
        facts = json.loads((step / "run" / "metadata").read_text())
        variables, averaged = _read_variables(step / "state")
        described = described_by(facts, _merged(variables, facts["config"]))
    which = ", ".join(word for word, said in (("best", best), ("averaged", averaged)) if said)
    source = f"{path}{f', step {step.name}' if step.name.isdigit() else ''}{f' ({which})' if which else ''}"
    fields = {**described.fields, **overrides}
    return dataclasses.replace(described, fields=fields, source=source)


def _merged(variables: dict, config: dict) -> dict[str, np.ndarray]:
    """Returns the bare model's variables by flat name: what LoRA has learned is added to the kernels."""
    scale = config.get("lora.alpha", 0.0) / (config.get("lora.rank") or 1)
    merged = {**variables, "params": merge(variables["params"], scale)}
    return {name: np.asarray(array) for name, array in flat(merged).items()}


def described_by(facts: dict, params: dict[str, np.ndarray]) -> Weights:
    """Returns weights of the model, the preprocessing and the classes that a checkpoint's facts tell of.

    Args:
      params: by flat name; empty where only the description is wanted.
    """
    config = facts["config"]
    fields = {key.removeprefix("model."): value for key, value in config.items() if key.startswith("model.")}
    name = fields.pop("name")
    fields.pop("attention_kernel", None)  # of the device that the run was on
    fields = {"num_classes": len(facts["class_names"] or ()), **fields}
    size = facts.get("image_size") or _size_of(config, params, create_model(name, **fields))
    size = None if size is None else tuple(size)
    seen = {field: config[key] for key, field in SEEN.items() if config.get(key) is not None}
    seen = {field: tuple(value) if isinstance(value, list) else value for field, value in seen.items()}
    seen["resize"] = seen.get("resize") or None
    seen = Preprocessing(size or (224, 224), **seen)
    resize = facts.get("position_resize", "linear")
    weights = make_weights(name, fields, params, size, seen, "this run", facts["class_names"], resize)
    return dataclasses.replace(weights, loss=config.get("train.loss") or weights.loss)


@contextlib.contextmanager
def _explained_damage(step: pathlib.Path) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # Orbax raises what it likes
        reason = str(error).splitlines()[0][:100] if str(error) else ""
        raise UserError(f"checkpoint {step} is damaged ({type(error).__name__}: {reason})") from error


def _size_of(config: dict, params: dict[str, np.ndarray], module) -> tuple[int, int] | None:
    """Returns the image size of checkpoints that do not state it: the config's, or that of a square grid."""
    if config.get("data.image_size") is not None:
        return config["data.image_size"], config["data.image_size"]
    positions = params.get("position_embed/embedding")
    if positions is None:
        return None
    tokens = positions.shape[1] - (len(module.class_token_names) if module.cls_position else 0)
    return nominal_size(module, tokens) if square_grid(tokens) else None


def _read_variables(directory: pathlib.Path) -> tuple[dict, bool]:
    """Returns the variables that evaluation uses, as NumPy arrays, and whether they are an average."""
    logging.set_verbosity(logging.FATAL)  # Orbax warns when a part of what is saved is read
    with ocp.PyTreeCheckpointer() as checkpointer:
        directory = directory.absolute()  # Orbax finds nothing in a relative one
        saved = checkpointer.metadata(directory).item_metadata.tree
        prefix = "ema_" if saved.get("ema_params") else ""
        wanted = {name: saved[name] for name in (f"{prefix}params", f"{prefix}batch_stats") if saved.get(name)}
        like = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), wanted)
        restore_args = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), like)
        args = ocp.args.PyTreeRestore(item=like, restore_args=restore_args, partial_restore=True)
        read = checkpointer.restore(directory, args=args)
        return {name.removeprefix(prefix): read[name] for name in wanted}, bool(prefix)


def write_weights(weights: Weights, folder: pathlib.Path) -> None:
    """Writes a step folder with the parameters alone, no optimizer state.

    Raises:
      UserError: the folder holds something already, or cannot be written.
    """
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder} holds something already; name another folder")
    seen = weights.preprocessing
    fields = {**weights.fields, "num_classes": weights.classes}
    config = {"model.name": weights.name, **{f"model.{key}": value for key, value in fields.items()}}
    config |= {key: getattr(seen, field) for key, field in SEEN.items()} | {"train.loss": weights.loss}
    facts = {
        "position": 0,
        "config": config,
        "class_names": weights.class_names,
        "image_size": weights.image_size,
        "position_resize": weights.position_resize,
    }
    with (
        explained_writes(f"checkpoint {folder}"),
        ocp.Checkpointer(ocp.CompositeCheckpointHandler("state", "run")) as checkpointer,
    ):
        state = ocp.args.StandardSave(weights.variables)
        run = ocp.args.JsonSave(json.loads(json.dumps(facts)))
        checkpointer.save(folder.absolute(), args=ocp.args.Composite(state=state, run=run), force=True)
