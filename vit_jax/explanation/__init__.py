"""What a model looks at."""

_ROOMS = {
    "attention_distances": "vit_jax.explanation.on_pictures",
    "attention_maps": "vit_jax.explanation.attention",
    "embedding_filters": "vit_jax.explanation.on_pictures",
    "feature_maps": "vit_jax.explanation.on_pictures",
    "figure_of_channels": "vit_jax.explanation.figures",
    "figure_of_distances": "vit_jax.explanation.figures",
    "figure_of_filters": "vit_jax.explanation.figures",
    "figure_of_heat_map": "vit_jax.explanation.figures",
    "figure_of_layers": "vit_jax.explanation.figures",
    "figure_of_pictures": "vit_jax.explanation.figures",
    "figure_of_positions": "vit_jax.explanation.figures",
    "heat_maps": "vit_jax.explanation.on_pictures",
    "layer_attention": "vit_jax.explanation.on_pictures",
    "position_similarities": "vit_jax.explanation.on_pictures",
    "token_colours": "vit_jax.explanation.on_pictures",
    "token_similarity": "vit_jax.explanation.on_pictures",
    "visualize_patches": "vit_jax.explanation.on_pictures",
    "write_page": "vit_jax.explanation.page",
}

__all__ = [*_ROOMS]


def __getattr__(name: str):
    # Loaded on use: the rooms below import the loaded model, which itself imports this package.
    if name in _ROOMS:
        import importlib

        return getattr(importlib.import_module(_ROOMS[name]), name)
    raise AttributeError(f"module 'vit_jax.explanation' has no attribute {name!r}")
