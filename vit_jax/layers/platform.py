"""The form of a computation that suits the platform which a program is compiled for."""

import contextlib
import contextvars
from collections.abc import Callable, Iterator

import jax

_portable = contextvars.ContextVar("portable", default=False)


@contextlib.contextmanager
def portable() -> Iterator[None]:
    """What is traced inside leaves platforms out of account, for formats that know none, such as ONNX."""
    token = _portable.set(True)
    try:
        yield
    finally:
        _portable.reset(token)


def by_platform(cpu: Callable, default: Callable) -> Callable:
    """Returns what is `cpu` on CPUs and `default` elsewhere, two equal functions of arrays.

    One traced program may be compiled for several platforms (`jax.export`), so that the choice is the compiler's.
    """

    def chosen(*arguments):
        if _portable.get():
            return default(*arguments)
        return jax.lax.platform_dependent(*arguments, cpu=cpu, default=default)

    return chosen
