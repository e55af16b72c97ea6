"""What is timed: a compiled training step or forward pass, with what it starts from and what it is given."""

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Iterator
from typing import Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp

from vit_jax.measurement.cases import Case
from vit_jax.measurement.flops import TRAINING_PASSES, Products, model_flops, products_of
from vit_jax.measurement.memory import program_memory
from vit_jax.training.experiment import Experiment, initial_variables
from vit_jax.training.sharding import batch_sharding

Call = Callable[[], None]


@dataclasses.dataclass(frozen=True)
class Facts:
    """What is known of a program before it is timed.

    Attributes:
      compile_seconds: of the first tracing, lowering and compilation, or None where nothing is compiled.
      peak_bytes: memory on each device, or None where it is not known.
      hardware: the products of one call, recomputation included, on all devices together; None where not known.
      load_seconds: from the file of a checkpoint to a model that can be compiled, None without a file.
      file_bytes: of the model's files, None where there are none or they hold more than the model.
      on_device: whether it runs where the rate of large products was measured.
    """

    compile_seconds: float | None
    peak_bytes: int | None
    hardware: Products | None
    load_seconds: float | None = None
    file_bytes: int | None = None
    on_device: bool = True


@dataclasses.dataclass(frozen=True)
class Work:
    """What one call does, whoever does it.

    Attributes:
      images: that it processes.
      tokens: of an image, inside the model; None where an exported program does not tell.
      products: by the convention (see `vit_jax.measurement.flops`): a training step is three forward passes. None
        where they are not known.
      notes: what a reader must know beside the figures.
    """

    images: int
    tokens: int | None
    products: Products | None
    notes: tuple[str, ...] = ()


class Described(Protocol):
    """What the figures tell of a combination of the axes.

    Attributes:
      settings: the value of every axis that a flag names.
      dtype: the name of the type that is computed in.
    """

    @property
    def settings(self) -> dict[str, str]: ...

    @property
    def dtype(self) -> str: ...


class Program(Protocol):
    """One contender of a measurement.

    Attributes:
      label: the name of its row.
      by: whose it is: vit_jax, linen, timm, timm_compiled; of a bundle, its format.
      case: the sizes.
      work: what one call does.
    """

    label: str
    by: str
    case: Described
    work: Work

    def prepare(self) -> Facts:
        """Compiles, and runs once."""
        ...

    def running(self) -> contextlib.AbstractContextManager[tuple[Call, Call]]:
        """Returns what starts one call and what waits until all are done; inside, its arrays are on the devices."""
        ...

    def trace(self, folder: str) -> bool:
        """Writes a profile of one call into a folder; False where it cannot."""
        ...


@dataclasses.dataclass
class JaxProgram:
    """A jitted function of something that is carried on (state, variables) and an input.

    Outside of `running` nothing of it is on the devices but its code: contenders do not take each other's memory.

    Attributes:
      function: `(carried, inputs) -> result`, jitted with its layouts.
      start: returns `carried`, laid out as `function` takes it.
      inputs: likewise.
      steps: whether the result begins with the next `carried`, in whose place it is donated.
    """

    label: str
    by: str
    case: Case
    work: Work
    function: jax.stages.Wrapped
    start: jax.stages.Wrapped
    inputs: jax.stages.Wrapped
    steps: bool
    compiled: jax.stages.Compiled | None = None

    def prepare(self) -> Facts:
        """Compiles, and runs once.

        Raises:
          Exception: of XLA, where there is not enough memory.
        """
        arguments = jax.eval_shape(self.start), jax.eval_shape(self.inputs)
        begun = time.perf_counter()
        traced = self.function.trace(*arguments)
        self.compiled = traced.lower().compile()
        seconds = time.perf_counter() - begun
        with self.running() as (call, wait):
            call()
            wait()
        memory = program_memory(self.compiled)
        return Facts(seconds, None if memory is None else memory.peak, products_of(traced.jaxpr))

    @contextlib.contextmanager
    def running(self) -> Iterator[tuple[Call, Call]]:
        """Returns what starts one call and what waits until all are done."""
        carried, inputs, result = self.start(), self.inputs(), None
        jax.block_until_ready((carried, inputs))

        def call() -> None:
            nonlocal carried, result
            result = self.compiled(carried, inputs)
            if self.steps:
                carried = result[0]

        yield call, lambda: jax.block_until_ready(result)

    def trace(self, folder: str) -> bool:
        """Writes a profile of one call into a folder, for TensorBoard or Perfetto."""
        with self.running() as (call, wait):
            call()
            wait()
            with jax.profiler.trace(folder):
                call()
                wait()
        return True


def own_program(case: Case, mode: str, label: str) -> JaxProgram:
    """Returns this package's training step (the very one that a run takes), or its model's forward pass.

    Args:
      mode: "train" takes uint8 images and donates its state; "infer" takes float images, and `model.apply` is all.

    Raises:
      UserError: parts of the config do not fit together.
    """
    experiment = case.experiment()
    make = functools.partial(JaxProgram, label, "vit_jax", case, work_of(experiment, mode))
    layout = batch_sharding(experiment.mesh)
    if mode == "train":
        inputs = inputs_of(experiment.abstract_batch(), layout)
        return make(experiment.train_step, experiment.init, inputs, steps=True)
    size, layouts = experiment.transform.size, experiment.shardings
    shardings = {"params": layouts.params, "batch_stats": layouts.batch_stats}
    variables = functools.partial(initial_variables, case.config, experiment.model, size)
    function = jax.jit(experiment.model.apply, in_shardings=(shardings, layout))
    images = jax.ShapeDtypeStruct((case.config.train.batch_size, *size, 3), jnp.float32)
    return make(function, jax.jit(variables, out_shardings=shardings), inputs_of(images, layout), steps=False)


def work_of(experiment: Experiment, mode: str) -> Work:
    """Returns what a training step or a forward pass of an experiment's batch does."""
    model, size, config = experiment.model, experiment.transform.size, experiment.config
    variables = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *size, 3)))
    work = forward_work(model, variables, size, config.train.batch_size)
    if mode != "train":
        return work
    partly = config.optimizer.frozen is not None or config.lora.rank
    notes = ("not all parameters are trained, but a step counts as three forward passes",) if partly else ()
    return dataclasses.replace(work, products=work.products * TRAINING_PASSES, notes=notes)


def forward_work(model: nn.Module, variables: dict, size: tuple[int, int], images: int) -> Work:
    """Returns what a forward pass does.

    Args:
      variables: of the model, maybe abstract.
      size: height and width of the images.
      images: their number.
    """
    features = functools.partial(model.apply, method="features")
    tokens = jax.eval_shape(features, variables, jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)).shape[1]
    return Work(images, tokens, model_flops(model, variables, size) * images)


def inputs_of(shapes, layout: jax.sharding.Sharding) -> jax.stages.Wrapped:
    """Returns a jitted function that makes arrays of these shapes: noise, labels 0 and 1, masks that hide nothing."""

    def make(leaf: jax.ShapeDtypeStruct) -> jax.Array:
        if leaf.dtype == jnp.bool_:
            return jnp.ones(leaf.shape, bool)
        if leaf.dtype == jnp.int32:
            return jnp.arange(leaf.shape[0], dtype=jnp.int32) % 2
        if leaf.dtype == jnp.uint8:
            return jax.random.bits(jax.random.key(0), leaf.shape, jnp.uint8)
        return jax.random.normal(jax.random.key(0), leaf.shape, leaf.dtype)

    return jax.jit(lambda: jax.tree.map(make, shapes), out_shardings=layout)
