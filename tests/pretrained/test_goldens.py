"""The outputs of the libraries whose weights are read: every array that they gave, compared."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.explanation.attention import attention_maps
from vit_jax.inference.model import load_model
from vit_jax.models.convnext import ConvNeXt
from vit_jax.models.mobilevit import MobileViT
from vit_jax.models.resnet import ResNet
from vit_jax.models.swin import PatchMerging, SwinTransformer

GOLDENS = pathlib.Path(__file__).parents[1] / "goldens"
CASES = sorted(path.name for path in GOLDENS.iterdir())
TOLERANCE = 5e-6
"""Of the largest value; float32 gives about 1e-6."""
CHANNELS_FIRST = (ConvNeXt, MobileViT, ResNet)
"""Models whose maps the libraries give as `[batch, channels, rows, columns]`."""


def loaded(case: str):
    """Returns the model of a case; timm's files do not tell the heads."""
    folder = GOLDENS / case
    arguments = json.loads((folder / "meta.json").read_text()).get("arguments", {})
    heads = arguments.get("num_heads")
    known = {} if heads is None else {"heads": heads if isinstance(heads, int) else tuple(heads)}
    return load_model(folder if case.startswith("hf_") else next(folder.glob("weights.*")), **known)


def swin_state(module, number: int, x):
    """Returns the map that enters a stage, its patches merged, or that after the last one."""
    if number in (0, module.depth):
        return module.intermediates(x, [-1])[0] if number else module.first_map(x)
    params = module.variables["params"]["encoder"][f"stage_{number}"]["downsample"]
    merging = PatchMerging(module.widths[number], module.version, parent=None)
    return merging.apply({"params": params}, module.intermediates(x, [number - 1])[0])


def output(module, name: str, x):
    """Returns what the libraries call `name`, inside `module.apply`."""
    name, _, number = name.rpartition("_") if name[-1].isdigit() else (name, "", 0)
    if isinstance(module, SwinTransformer) and name.endswith("hidden_states"):
        state = swin_state(module, int(number), x)
        flat = state.reshape(len(x), -1, state.shape[-1])
        return flat if name == "hidden_states" else state.transpose(0, 3, 1, 2)
    if name == "hidden_states":
        first = module.tokens if hasattr(module, "tokens") else module.first_map
        return module.intermediates(x, [int(number) - 1])[0] if int(number) else first(x, train=False)
    return {
        "logits": lambda: module(x),
        **dict.fromkeys(("pre_logits", "pooler_output"), lambda: module.embed(x)),
        **dict.fromkeys(("features", "encoded", "last_hidden_state"), lambda: module.features(x)),
        **dict.fromkeys(("cls_logits", "logits_cls"), lambda: module.token_logits(x)[0]),
        **dict.fromkeys(("distillation_logits", "logits_dist"), lambda: module.token_logits(x)[1]),
        "blocks": lambda: jnp.stack(module.intermediates(x, range(module.depth)))[:, :, module.prefix_tokens :],
    }[name]()


def outputs(model, names: list[str], image: np.ndarray) -> dict[str, np.ndarray]:
    """Returns what the model gives for images, by the libraries' names; compiled once for all of them."""
    maps = [name for name in names if name.startswith("attention")]

    def compute(variables, image):
        def given(module, x):
            return {name: output(module, name, x) for name in names if name not in maps}

        found = model.module.apply(variables, image, method=given)
        layers = attention_maps(model.module, variables, image) if maps else []
        if isinstance(model.module, SwinTransformer) and maps:  # of each stage the last block's
            layers = [layers[sum(model.module.depths[: i + 1]) - 1] for i in range(model.module.depth)]
        numbered = {f"attentions_{i}": layer for i, layer in enumerate(layers)}
        every = {"attention": jnp.stack(layers)} if "attention" in maps else {}
        return found | {name: array for name, array in (numbered | every).items() if name in maps}

    quickly = {"xla_backend_optimization_level": 0}
    variables = model.variables_for(image.shape[1:3])
    return jax.device_get(jax.jit(compute, compiler_options=quickly)(variables, image))


def test_all_cases_are_there():
    families = [case.split("_")[0] for case in CASES]
    assert {name: families.count(name) for name in families} == {"google": 5, "bigvision": 4, "timm": 14, "hf": 7}


@pytest.mark.parametrize("case", CASES)
def test_outputs_are_the_librarys(case):
    with np.load(GOLDENS / case / "io.npz") as stored:
        expected = dict(stored)
    image = expected.pop("image")
    model = loaded(case)
    found = outputs(model, list(expected), image)
    assert "logits" in expected or "last_hidden_state" in expected
    for name, array in expected.items():
        if array.ndim == 4 and isinstance(model.module, CHANNELS_FIRST):
            array = array.transpose(0, 2, 3, 1)
        assert found[name].shape == array.shape, name
        assert np.abs(found[name] - array).max() <= TOLERANCE * np.abs(array).max(), name
