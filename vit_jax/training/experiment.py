"""From a resolved config to the parts of a run: data, model, mesh, jitted steps."""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from vit_jax.config import model_overrides
from vit_jax.data.device import DeviceAugment, Normalisation
from vit_jax.data.host import Affine, HostTransform
from vit_jax.data.loading import EvalBatches, HostRows, TrainBatches
from vit_jax.data.memory import kept_in_memory
from vit_jax.data.order import Order
from vit_jax.data.policy import ColorJitter, Policy
from vit_jax.data.preprocessing import Preprocessing
from vit_jax.data.sources import Source, labels_of, open_source
from vit_jax.data.subset import subset
from vit_jax.duration import Clock, to_steps
from vit_jax.errors import UserError
from vit_jax.evaluation.classification import EvalStep
from vit_jax.layers.placement import batch_laid_out, over_batch
from vit_jax.models.lora import merge
from vit_jax.models.registry import create_model
from vit_jax.models.variants import training_variants
from vit_jax.training.distillation import Taught, check_distill, load_teacher, make_distillation
from vit_jax.training.frozen import frozen_pattern, split
from vit_jax.training.lora import lora_scale, with_lora
from vit_jax.training.losses import class_weights, make_loss, weighted
from vit_jax.training.optimizer import make_optimizer
from vit_jax.training.sharding import (
    batch_divisor,
    batch_sharding,
    host_rows,
    make_mesh,
    placed,
    replicated,
    require_divisible,
    state_shardings,
)
from vit_jax.training.state import TrainState, initial_keys
from vit_jax.training.step import TrainStep


@dataclasses.dataclass(frozen=True)
class Experiment:
    """The parts of one run, made once from its config by `build`.

    Attributes:
      clock: turns durations into steps; its `total_steps` is the training's length.
      transform: host-side cropping and resizing.
      train_step: jitted (state, batch) -> (state, metrics); donates the state.
      eval_step: jitted (variables, batch) -> per-example results.
      shardings: layout of every array of the state.
      frozen: regular expression of the parameters that are not trained, or None.
    """

    config: ConfigDict
    mesh: Mesh
    model: nn.Module
    source: Source
    clock: Clock
    transform: HostTransform
    augment: DeviceAugment
    init: jax.stages.Wrapped
    train_step: jax.stages.Wrapped | Taught
    eval_step: jax.stages.Wrapped
    shardings: TrainState
    frozen: str | None

    def steps(self, key: str) -> int:
        """Returns the duration of a dotted config key in steps.

        Raises:
          UserError: it is less than one step.
        """
        group, name = key.split(".")
        steps = to_steps(self.config[group][name], self.clock, key)
        if steps < 1:
            raise UserError(f"{key} {self.config[group][name]!r} is less than one step; for never, take 200%")
        return steps

    def train_batches(self) -> TrainBatches:
        """Returns this host's training batches by position."""
        return host_batches(self.config, self.source, host_rows(self.mesh))

    def eval_batches(self, source: Source) -> EvalBatches:
        """Returns this host's evaluation batches of a source by number."""
        return EvalBatches(source, self.config.eval.batch_size, self.transform, host_rows(self.mesh))

    def held_out(self, key: str) -> Source:
        """Returns the source of `val_split` or `eval_split`."""
        return named_source(self.config, key)

    def abstract_state(self) -> TrainState:
        """Returns the shapes and types of the state, each with its layout."""
        return jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            jax.eval_shape(self.init),
            self.shardings,
        )

    def abstract_batch(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Returns the shapes and types of a training batch."""
        size, layout = self.config.train.batch_size, batch_sharding(self.mesh)
        make = functools.partial(jax.ShapeDtypeStruct, sharding=layout)
        image = make((size, *self.transform.size, 3), jnp.uint8)
        return {"image": image, "label": make((size,), jnp.int32), "mask": make((size,), jnp.bool_)}


def named_source(config: ConfigDict, key: str) -> Source:
    """Returns the examples of `train_split`, `val_split` or `eval_split`, kept in memory where they fit.

    Raises:
      UserError: there is no such set or split, or it has not the classes that the config asks for.
    """
    source = subset(open_source(config.data.name, config.data[key], config.data.dir), config.data.classes)
    return kept_in_memory(source, max(config.data.workers, 1)) if config.data.in_memory else source


def host_batches(config: ConfigDict, source: Source, host: HostRows | None = None) -> TrainBatches:
    """Returns the training batches of a source by position; with `host` only its rows of each."""
    order = Order(len(source), config.train.batch_size, config.seed, config.augment.repeats)
    return TrainBatches(source, order, host_transform(config, source), host or HostRows())


def build(config: ConfigDict, source: Source | None = None, devices: Sequence[jax.Device] | None = None) -> Experiment:
    """Returns the parts of a run.

    Args:
      config: resolved (see `vit_jax.config.resolve`).
      source: training examples in place of the set that `config.data` names, of which `data.classes` are taken.
      devices: what the mesh is made of; None is all there are.

    Raises:
      UserError: parts of the config do not fit together.
    """
    check_distill(config)  # before data are prepared, which may take hours
    source = named_source(config, "train_split") if source is None else subset(source, config.data.classes)
    if not len(source):
        raise UserError("there is nothing to train on: the training source is empty")
    mesh = make_mesh(config.mesh, devices)
    divisor = batch_divisor(mesh) * config.train.accumulate
    require_divisible(config.train.batch_size, divisor, "train.batch_size")
    require_divisible(config.eval.batch_size, batch_divisor(mesh), "eval.batch_size")
    clock = Clock(len(source), config.train.batch_size)
    clock = dataclasses.replace(clock, total_steps=to_steps(config.train.duration, clock, "train.duration"))
    if clock.total_steps < 1:
        raise UserError(f"train.duration {config.train.duration!r} is less than one step")
    transform = host_transform(config, source)
    model = build_model(config, source, transform.size)
    augment = device_augment(config, len(source.class_names))
    init_variables = functools.partial(initial_variables, config, model, transform.size)
    abstract_params = jax.eval_shape(init_variables)["params"]
    frozen = frozen_pattern(config, abstract_params)
    optimizer, schedule = make_optimizer(config, clock, abstract_params)
    loss = make_loss(config.train)
    train_loss = loss
    if config.train.class_weights is not None:
        classes = len(source.class_names)
        train_loss = weighted(loss, class_weights(config.train.class_weights, labels_of(source), classes))
    ema_decay = config.train.ema_decay
    teacher, taught_by = load_teacher(config, source.class_names) or (None, None)

    def initial_state() -> TrainState:
        variables = init_variables()
        params, batch_stats = variables["params"], variables["batch_stats"]
        averages = (None, None) if ema_decay is None else jax.tree.map(jnp.copy, (params, batch_stats))
        rng = jax.random.key_data(initial_keys(config.seed)[1])
        opt_state = optimizer.init(split(params, frozen)[0])
        return TrainState(jnp.zeros((), jnp.int32), params, batch_stats, opt_state, *averages, rng)

    shardings = state_shardings(mesh, jax.eval_shape(initial_state))
    train_step = TrainStep(
        model,
        optimizer,
        schedule,
        augment,
        # With the logits laid out as the batch, the head's parameters come to it, not all images' features to them.
        lambda logits, labels: train_loss(over_batch(logits), labels),
        label_threshold=config.train.label_threshold,
        label_smoothing=config.train.label_smoothing,
        accumulate=config.train.accumulate,
        ema_decay=ema_decay,
        frozen=frozen,
        lora_scale=lora_scale(config),
        distillation=None if teacher is None else make_distillation(config, teacher, model, augment.normalisation),
    )
    eval_rows = EvalStep(model, augment.normalisation, loss)

    def eval_step(variables: dict, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        return eval_rows({**variables, "params": merge(variables["params"], lora_scale(config))}, batch)

    batch_layout, whole = batch_sharding(mesh), replicated(mesh)
    laid_out = functools.partial(with_batch_laid_out, batch_layout)
    return Experiment(
        config=config,
        mesh=mesh,
        model=model,
        source=source,
        clock=clock,
        transform=transform,
        augment=augment,
        init=jax.jit(initial_state, out_shardings=shardings),
        train_step=jitted_step(laid_out(train_step), mesh, shardings, taught_by),
        eval_step=jax.jit(laid_out(eval_step), in_shardings=(shardings.evaluated, batch_layout), out_shardings=whole),
        shardings=shardings,
        frozen=frozen,
    )


def jitted_step(step: Callable, mesh: Mesh, shardings: TrainState, teacher: dict | None) -> jax.stages.Wrapped | Taught:
    """Returns a jitted training step, which donates its state.

    Args:
      teacher: the variables of a teacher, on the host, which the step takes too; or None.
    """
    layouts = () if teacher is None else (state_shardings(mesh, teacher),)
    jitted = jax.jit(
        step,
        in_shardings=(shardings, batch_sharding(mesh), *layouts),
        out_shardings=(shardings, replicated(mesh)),
        donate_argnums=0,
    )
    return jitted if teacher is None else Taught(jitted, placed(teacher, teacher, *layouts))


def initial_variables(config: ConfigDict, model: nn.Module, size: tuple[int, int]) -> dict:
    """Returns the first values of all parameters, LoRA's factors included, and of the running statistics.

    The values of the model do not depend on LoRA's factors.

    Raises:
      UserError: the config's LoRA does not fit the model.
    """
    key, _ = initial_keys(config.seed)
    variables = model.init(key, jnp.zeros((1, *size, 3)))
    params = with_lora(jax.random.fold_in(key, 0), variables["params"], config)
    return {"params": params, "batch_stats": variables.get("batch_stats", {})}


def with_batch_laid_out(layout: jax.sharding.NamedSharding, function: Callable) -> Callable:
    """Returns a function to be jitted, the same but for the layout of its activations (see `layers.placement`)."""
    if layout.mesh.size == 1:
        return function

    @functools.wraps(function, updated=())
    def laid_out(*arguments):
        with batch_laid_out(layout):
            return function(*arguments)

    return laid_out


def build_model(config: ConfigDict, source: Source, size: tuple[int, int]) -> nn.Module:
    """Returns the model of a config, with as many classes as the source has.

    Raises:
      UserError: the config asks for another number of classes, or its sizes do not fit the images.
    """
    classes = len(source.class_names)
    overrides = model_overrides(config)
    if overrides.setdefault("num_classes", classes) != classes:
        raise UserError(
            f"model.num_classes is {overrides['num_classes']}, but {config.data.name} has {classes} classes"
        )
    model = create_model(config.model.name, **overrides)
    try:
        for each in dict.fromkeys((model, *training_variants(model))):
            jax.eval_shape(each.init, jax.random.key(0), jax.ShapeDtypeStruct((1, *size, 3), jnp.float32))
    except (ValueError, TypeError, ZeroDivisionError) as error:
        raise UserError(f"model {config.model.name} on {size[0]}x{size[1]} images: {error}") from error
    return model


def host_transform(config: ConfigDict, source: Source) -> HostTransform:
    """Returns the host-side transformation that a config describes.

    Raises:
      UserError: a choice is unknown, or the images have no common size and `data.image_size` is not set.
    """
    data, augment = config.data, config.augment
    if data.image_size is not None:
        size = (data.image_size, data.image_size)
    elif source.image_size is not None:
        size = source.image_size
    else:
        raise UserError(f"images of {data.name} differ in size; set data.image_size")
    try:
        return HostTransform(
            size=size,
            crop=augment.crop,
            pad=augment.pad,
            area=augment.area,
            aspect=augment.aspect,
            affine=Affine(**augment.affine),
            jitter=ColorJitter(augment.color_jitter),
            policy=host_policy(config),
            resize=data.resize or None,
            interpolation=data.interpolation,
            antialias=data.antialias,
        )
    except ValueError as error:
        raise UserError(str(error)) from error


def preprocessing_of(config: ConfigDict, size: tuple[int, int]) -> Preprocessing:
    """Returns what evaluation does to an image, as it is kept beside the weights."""
    data = config.data
    return Preprocessing(size, data.resize or None, data.interpolation, data.antialias, data.mean, data.std)


def host_policy(config: ConfigDict) -> Policy:
    """Returns the policy augmentation that a config describes.

    Pixels from outside are what each system's default has: grey in Google's, the mean colour in timm's, black in
    torchvision's.
    """
    augment = config.augment
    fill = (128, 128, 128)
    if augment.policy == "rand_augment_timm":
        fill = tuple(min(255, round(255 * mean)) for mean in config.data.mean)
    elif augment.policy in ("auto_augment_cifar", "trivial_augment"):
        fill = (0, 0, 0)
    return Policy(augment.policy, augment.layers, augment.magnitude, augment.magnitude_std, fill)


def device_augment(config: ConfigDict, classes: int) -> DeviceAugment:
    """Returns the device-side augmentation that a config describes.

    Raises:
      UserError: a choice is unknown.
    """
    augment = config.augment
    try:
        return DeviceAugment(
            num_classes=classes,
            normalisation=Normalisation(config.data.mean, config.data.std),
            flip=augment.flip,
            erasing=augment.erasing,
            cutout=augment.cutout,
            mixup=augment.mixup,
            cutmix=augment.cutmix,
            mixing=augment.mixing,
        )
    except ValueError as error:
        raise UserError(str(error)) from error


def parameter_bytes(tree) -> int:
    """Returns the bytes of a tree of arrays or abstract arrays."""
    return sum(int(np.prod(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
