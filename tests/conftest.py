"""Eight simulated CPU devices and exact products for every test."""

import os
import tempfile

# Most of the tests' time is compiling. Read when jax is imported, by the commands that tests start too.
FLAGS = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
os.environ["XLA_FLAGS"] = f"{FLAGS} {os.environ.get('XLA_FLAGS', '')}"

import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_default_matmul_precision", "highest")
# Many tests build the same small run: what one has compiled, the next ones load, and those of other processes.
# The folder goes when the process that made it ends.
if "VIT_JAX_TESTS_CACHE" not in os.environ:
    CACHE = tempfile.TemporaryDirectory(prefix="vit_jax_tests_", ignore_cleanup_errors=True)
    os.environ["VIT_JAX_TESTS_CACHE"] = CACHE.name
jax.config.update("jax_compilation_cache_dir", os.environ["VIT_JAX_TESTS_CACHE"])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)


@pytest.fixture
def one_device():
    """The first device, for runs that must not be split."""
    return jax.devices()[:1]
