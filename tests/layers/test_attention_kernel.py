"""The choice of the attention kernel. Where there is no NVIDIA GPU, its presence and its faults are pretended."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.layers import attention_kernel
from vit_jax.layers.attention import Attention
from vit_jax.layers.attention_kernel import chosen_kernel, fused_attention
from vit_jax.layers.product import attend

HALF = jnp.zeros((1, 5, 2, 8), "bfloat16")


@pytest.fixture
def nvidia(monkeypatch):
    """Pretends that the default device is an NVIDIA GPU on which cuDNN's kernel compiles."""

    class Device:
        device_kind = "pretended GPU"

        class client:
            platform_version = "cuda 13000"

    monkeypatch.setattr(attention_kernel.jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(attention_kernel.jax, "devices", lambda: [Device])
    monkeypatch.setattr(attention_kernel, "_trial_failure", lambda *_: None)
    attention_kernel.told.cache_clear()
    return monkeypatch


@pytest.mark.filterwarnings("error")
def test_off_a_gpu_plain_products_are_no_fallback():
    if jax.default_backend() == "gpu":
        pytest.skip("there is a GPU")
    assert chosen_kernel("auto", HALF, HALF) == "plain"
    with pytest.raises(ValueError, match="attention_kernel 'cudnn': it needs an NVIDIA GPU, and this is a cpu"):
        chosen_kernel("cudnn", HALF, HALF)


@pytest.mark.filterwarnings("error")
def test_auto_takes_cudnn_where_it_compiles(nvidia):
    assert chosen_kernel("auto", HALF, HALF) == "cudnn"
    assert chosen_kernel("plain", HALF, HALF) == "plain"


@pytest.mark.parametrize(
    ("dtype", "drops", "trial", "reason"),
    [
        ("float32", False, None, "it takes bfloat16, not float32"),
        ("bfloat16", True, None, "does not drop attention weights"),
        ("bfloat16", False, "The head dim must be <= 128", "The head dim must be <= 128"),
    ],
)
def test_a_fallback_is_told_once_and_refused_where_cudnn_is_asked_for(nvidia, recwarn, dtype, drops, trial, reason):
    nvidia.setattr(attention_kernel, "_trial_failure", lambda *_: trial)
    x = HALF.astype(dtype)
    assert [chosen_kernel("auto", x, x, drops) for _ in range(2)] == ["plain", "plain"]
    assert [reason in str(warning.message) for warning in recwarn] == [True]
    with pytest.raises(ValueError, match=reason):
        chosen_kernel("cudnn", x, x, drops)


def test_another_gpu_is_told_too(nvidia):
    nvidia.setattr(attention_kernel.jax.devices()[0].client, "platform_version", "rocm 60000")
    with pytest.warns(UserWarning, match="needs an NVIDIA GPU, and this is a pretended GPU"):
        assert chosen_kernel("auto", HALF, HALF) == "plain"


def test_the_trial_compiles_and_says_why_it_failed(monkeypatch):
    """Without an NVIDIA GPU the trial itself fails, with the compiler's reason."""
    attention_kernel._trial_failure.cache_clear()
    shape, dtype = (5, 2, 8), jnp.dtype("bfloat16")
    if jax.default_backend() != "gpu":
        assert attention_kernel._trial_failure(dtype, shape, shape)
    attention_kernel._trial_failure.cache_clear()
    monkeypatch.setattr(attention_kernel, "fused_attention", attend)
    assert attention_kernel._trial_failure(dtype, shape, shape) is None
    attention_kernel._trial_failure.cache_clear()


def test_attention_hands_the_work_to_the_chosen_kernel(nvidia, normal, random_params):
    """The fused kernel, pretended here by one that doubles the result, is reached, in the layout that it takes."""
    x = normal(2, 5, 8)
    params = random_params(Attention(2, kernel="plain", dtype="bfloat16"), x)
    params["out"]["bias"] = np.zeros(8, np.float32)
    plain = Attention(2, kernel="plain", dtype="bfloat16").apply({"params": params}, x)
    nvidia.setattr("vit_jax.layers.attention_kind.fused_attention", lambda q, k, v: 2 * attend(q, k, v))
    fused = Attention(2, dtype="bfloat16").apply({"params": params}, x)
    np.testing.assert_allclose(fused, 2 * plain, rtol=1e-2, atol=1e-2)
    dropped = Attention(2, dtype="bfloat16", dropout=0.5).apply({"params": params}, x, jax.random.key(0))
    assert not np.allclose(dropped, fused)


def test_an_unknown_kernel_is_an_error():
    with pytest.raises(ValueError, match="attention_kernel must be one of auto, plain, cudnn, not 'flash'"):
        chosen_kernel("flash", HALF, HALF)


@pytest.mark.skipif(jax.default_backend() != "gpu", reason="there is no GPU here")
@pytest.mark.parametrize("tokens", [5, 196, 197])
def test_cudnn_equals_the_plain_products(check_against_float64, normal, tokens):
    def plain(query, key, value):
        scores = jnp.einsum("bqhd,bkhd->bhqk", query, key) / query.shape[-1] ** 0.5
        return jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores, axis=-1), value)

    arguments = [normal(2, tokens, 3, 64, dtype="bfloat16") for _ in range(3)]
    check_against_float64(fused_attention, plain, *arguments, dtype="bfloat16", tolerance=2e-2)
