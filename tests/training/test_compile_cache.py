"""Compiled programs that are kept."""

import jax
import jax.numpy as jnp
import pytest
from jax.experimental.compilation_cache import compilation_cache

from vit_jax.errors import UserError
from vit_jax.main import parse
from vit_jax.training.compile_cache import use_compile_cache

SETTINGS = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")


@pytest.fixture
def settings():
    """Gives the other tests their cache back."""
    before = {name: getattr(jax.config, name) for name in SETTINGS}
    compilation_cache.reset_cache()
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


@pytest.mark.parametrize("named", [True, False])
def test_a_program_is_kept_where_it_is_asked_for(settings, tmp_path, monkeypatch, named):
    monkeypatch.setenv("VIT_JAX_CACHE", str(tmp_path))
    use_compile_cache(str(tmp_path / "compiled") if named else "")
    jax.jit(lambda x: jnp.sin(x) * (3 + named))(jnp.ones(7)).block_until_ready()
    assert list((tmp_path / "compiled").glob("jit__lambda*"))


def test_a_folder_that_cannot_be_made(settings, tmp_path, monkeypatch):
    def refused(*arguments, **options):
        raise PermissionError(13, "Permission denied")  # tests may run as root, who may write everywhere

    monkeypatch.setattr("pathlib.Path.mkdir", refused)
    with pytest.raises(UserError, match=r"cannot write compiled programs to .*: permission denied"):
        use_compile_cache(str(tmp_path / "compiled"))


@pytest.mark.parametrize(
    ("flags", "folder"), [([], None), (["--compile_cache"], ""), (["--compile_cache=DIR"], "DIR")], ids=str
)
def test_it_is_off_unless_asked_for(flags, folder):
    assert parse(["--config=x.py", *flags])[0].compile_cache == folder
