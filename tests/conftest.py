"""Eight simulated CPU devices and exact products for every test."""

import tempfile

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_default_matmul_precision", "highest")
# Many tests build the same small run: what one has compiled, the next ones load.
jax.config.update("jax_compilation_cache_dir", tempfile.mkdtemp(prefix="vit_jax_tests_"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)


@pytest.fixture
def one_device():
    """The first device, for runs that must not be split."""
    return jax.devices()[:1]
