"""The memory that a compiled program needs, and how running out of it shows."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes on each device, as XLA has planned them.

    Attributes:
      arguments: what the program is given: in training the state and the batch.
      outputs: what it returns.
      temporaries: what it holds while it runs.
      aliased: the part of the outputs that takes the place of donated arguments.
    """

    arguments: int
    outputs: int
    temporaries: int
    aliased: int

    @property
    def peak(self) -> int:
        """Bytes that must be free at once."""
        return self.arguments + self.outputs + self.temporaries - self.aliased


def program_memory(compiled) -> Memory | None:
    """Returns the memory of a compiled program (`jax.stages.Compiled`), or None where the backend does not tell it."""
    stats = compiled.memory_analysis()
    if stats is None:
        return None
    parts = (f"{part}_size_in_bytes" for part in ("argument", "output", "temp", "alias"))
    return Memory(*(getattr(stats, part) for part in parts))


def out_of_memory(error: BaseException) -> bool:
    """Returns whether an error of JAX, XLA, PyTorch or Python says that there is not enough memory."""
    text = str(error)
    return isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in text or "out of memory" in text
