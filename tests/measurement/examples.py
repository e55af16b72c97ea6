"""Programs that need no device, and small cases, for the tests of measurements."""

import contextlib
import dataclasses

from vit_jax.measurement.cases import Case, cases_of
from vit_jax.measurement.flops import Products
from vit_jax.measurement.programs import Facts, Work

SMALL = {"model": "vit", "batch_size": "8", "image_size": "8", "depth": "2"}
SIZES = [("model.width", "16"), ("model.heads", "2"), ("model.mlp_dim", "24"), ("model.patch_size", "4")]
SIZES += [("model.num_classes", "5")]
"""A ViT that compiles in a second: flags and config keys."""


def small_cases(overrides: list[tuple[str, str]] = (), **axes: str) -> list[Case]:
    """Returns the small case with other values along some axes."""
    return cases_of(SMALL | axes, None, [*SIZES, *overrides])


@dataclasses.dataclass
class FakeProgram:
    """Writes down what is done with it.

    Attributes:
      log: shared by several; gets one entry an event.
      fails: the event at which it runs out of memory, or None.
    """

    label: str
    log: list[str]
    fails: str | None = None
    by: str = "fake"
    work: Work = dataclasses.field(default_factory=lambda: Work(4, 10, Products(8e9, 2e9)))
    case: Case = dataclasses.field(default_factory=lambda: small_cases()[0])

    def event(self, what: str) -> None:
        """Notes an event, or fails at it."""
        self.log.append(f"{what} {self.label}")
        if what == self.fails:
            raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 99999 bytes.\nmore of it")

    def prepare(self) -> Facts:
        """Pretends to compile."""
        self.event("prepare")
        return Facts(1.5, 2**20, Products(9e9, 2e9))

    @contextlib.contextmanager
    def running(self):
        """Pretends to run."""
        self.event("begin")
        yield lambda: self.event("call"), lambda: self.event("wait")
        self.event("end")

    def trace(self, folder: str) -> bool:
        """Has nothing to trace."""
        return False
