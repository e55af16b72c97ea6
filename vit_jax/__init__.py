"""vit_jax: Vision Transformers in JAX and Flax Linen."""

__version__ = "0.1.0"

_ROOMS = {
    "create_model": "vit_jax.models",
    "list_models": "vit_jax.models",
    "load_model": "vit_jax.inference.model",
    "train": "vit_jax.training.run",
}

__all__ = ["create_model", "explanation", "list_models", "load_model", "train"]


def __getattr__(name: str):
    # Loaded on use: a command that only prints help does not wait for jax.
    import importlib

    if name == "explanation":
        return importlib.import_module("vit_jax.explanation")
    if name in _ROOMS:
        return getattr(importlib.import_module(_ROOMS[name]), name)
    raise AttributeError(f"module 'vit_jax' has no attribute {name!r}")
