"""Models: one architecture a file, and the registry of their names."""

from vit_jax.models.registry import create_model, list_models

__all__ = ["create_model", "list_models"]
