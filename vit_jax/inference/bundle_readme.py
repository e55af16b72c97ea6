"""The README.md of a bundle: what it is, and a few lines of code that run this very model."""

from vit_jax.data.preprocessing import Preprocessing
from vit_jax.pretrained.bundle import LABELS, PROGRAMS, Bundle

RUNS = {
    "stablehlo": ("jax flatbuffers numpy pillow", ["import jax", "import jax.export"]),
    "onnx": ("onnxruntime numpy pillow", ["import onnxruntime"]),
    "timm": ("timm numpy pillow", ["import timm", "import torch"]),
    "huggingface": ("transformers torch numpy pillow", ["import torch", "import transformers"]),
    "vit_jax": ("vit_jax", []),
}
"""By the way to run a model: the packages that it takes, and what of them is imported."""

OPENCV = {"nearest": "INTER_NEAREST_EXACT", "bicubic": "INTER_CUBIC", "lanczos": "INTER_LANCZOS4"}
"""Filters of fixed support that Pillow does not have."""


def readme(bundle: Bundle, title: str, architecture: str, facts: list[str], beside: bool, pooler: bool = False) -> str:
    """Returns the text.

    Args:
      title: of the model, such as "vit_s16, 22,050,664 parameters".
      architecture: what reads a safetensors bundle: `timm`, or the class of transformers.
      facts: sentences on how it was made and what it needs.
      beside: the weights of a StableHLO program lie beside it.
      pooler: the embedding has gone through a pre-logits layer, which transformers call the pooler.
    """
    way = bundle.format if bundle.format in PROGRAMS else "vit_jax"
    if bundle.format == "safetensors":
        way = "timm" if architecture == "timm" else "huggingface"
    lines = _with_vit_jax(bundle) if way == "vit_jax" else _code(bundle, way, architecture, beside, pooler)
    packages = RUNS[way][0] + (" opencv-python-headless" if "cv2" in "".join(lines) else "")
    height, width = bundle.preprocessing.size
    taken = "pixels from 0 to 255" if bundle.input == "uint8" else "normalised as below"
    given = {"logits": "logits", "probabilities": "class probabilities", "embedding": "the embedding"}[bundle.output]
    return "\n".join(
        [
            f"# {title}",
            "",
            f"Takes `{bundle.input}` `[batch, {height}, {width}, 3]`, {taken}; gives {given}, `float32` "
            f"`[batch, {bundle.outputs}]`, for any batch size."
            if way in PROGRAMS
            else f"Sees images of {height}x{width} pixels; gives {given}, `[batch, {bundle.outputs}]`.",
            *facts,
            "",
            f"`pip install {packages}`; then, in this folder,",
            "",
            "```python",
            *lines,
            "```",
            "",
            "`preprocessing.json` says the same for programs; `verification.json` how close the file is to the model.",
            "",
        ]
    )


def _with_vit_jax(bundle: Bundle) -> list[str]:
    lines = ["import vit_jax", "", 'model = vit_jax.load_model(".")']
    if bundle.output == "embedding":
        return [*lines, 'print(model.embed("photo.jpg").shape)']
    lines += ['probabilities = model.predict("photo.jpg")[0]', *_ranked(bundle)]
    return lines


def _code(bundle: Bundle, way: str, architecture: str, beside: bool, pooler: bool) -> list[str]:
    opens, sees = _sees(bundle.preprocessing, bundle.input)
    imports = sorted([*RUNS[way][1], "import numpy as np", *opens], key=lambda line: (line.startswith("from"), line))
    given = "answer" if bundle.output == "embedding" else bundle.output
    lines = [*imports, "", *sees, *_answers(way, given, architecture, beside, pooler)]
    if bundle.output == "embedding":
        return [*lines, "print(answer.shape)"]
    if bundle.output == "probabilities":
        return [*lines, "probabilities = probabilities[0]", *_ranked(bundle)]
    if bundle.loss == "sigmoid":
        return [*lines, "probabilities = 1 / (1 + np.exp(-logits[0]))", *_ranked(bundle)]
    lines += ["probabilities = np.exp(logits[0] - logits[0].max())", "probabilities /= probabilities.sum()"]
    return [*lines, *_ranked(bundle)]


def _answers(way: str, given: str, architecture: str, beside: bool, pooler: bool) -> list[str]:
    """Returns the lines that load the model and make `given` of `x`."""
    if way == "onnx":
        return [
            'model = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])',
            f'{given} = model.run(None, {{"images": x}})[0]',
        ]
    if way == "stablehlo":
        loaded = ['weights = dict(np.load("weights.npz"))'] if beside else []
        return [
            'program = jax.export.deserialize(bytearray(open("model.stablehlo", "rb").read()))',
            "model = jax.jit(program.call)",
            *loaded,
            f"{given} = np.asarray(model({'weights, ' if beside else ''}x))",
        ]
    made, field = 'timm.create_model("local-dir:.", pretrained=True)', ""
    if way == "huggingface":
        made = f'transformers.{architecture}.from_pretrained(".")'
        vector = ".pooler_output" if pooler else ".last_hidden_state[:, 0]"
        field = vector if given == "answer" else ".logits"
    return [
        f"model = {made}.eval()",
        f"{given} = model(torch.from_numpy(x).permute(0, 3, 1, 2)){field}.detach().numpy()",
    ]


def _ranked(bundle: Bundle) -> list[str]:
    if bundle.class_names is None:
        return ["for i in (-probabilities).argsort()[:5]:", '    print(f"{probabilities[i]:.3f}  class {i}")']
    return [
        f'labels = open("{LABELS}", encoding="utf-8").read().split("\\n")',
        "for i in (-probabilities).argsort()[:5]:",
        '    print(f"{probabilities[i]:.3f}  {labels[i]}")',
    ]


def _sees(seen: Preprocessing, input_type: str) -> tuple[list[str], list[str]]:
    """Returns the imports, and the lines that make the input of a picture."""
    (height, width), imports = seen.size, ["from PIL import Image, ImageOps"]
    lines = ['image = ImageOps.exif_transpose(Image.open("photo.jpg")).convert("RGB")']
    if seen.resize is None:
        target = f"({width}, {height})"
    else:
        target = "(w, h)"
        sides = f"max({seen.resize} * image.width // min(image.size), {width})"
        lines.append(f"w, h = {sides}, max({seen.resize} * image.height // min(image.size), {height})")
    if seen.antialias:
        lines.append(f"image = image.resize({target}, Image.Resampling.{seen.interpolation.upper()})")
    elif seen.interpolation == "bilinear":
        box = "Image.Transform.EXTENT, (0, 0, *image.size), Image.Resampling.BILINEAR"
        lines.append(f"image = image.transform({target}, {box})")
    else:
        imports.append("import cv2")
        lines.append(f"image = cv2.resize(np.asarray(image), {target}, interpolation=cv2.{OPENCV[seen.interpolation]})")
        lines.append("image = Image.fromarray(image)")
    if seen.resize is not None:
        lines.append(f"left, top = round((w - {width}) / 2), round((h - {height}) / 2)")
        lines.append(f"image = image.crop((left, top, left + {width}, top + {height}))")
    if input_type == "uint8":
        return imports, [*lines, "x = np.asarray(image)[None]"]
    mean, std = (f"np.array({list(colour)}, np.float32)" for colour in (seen.mean, seen.std))
    lines += [f"mean, std = {mean}, {std}", "x = ((np.float32(image) / 255 - mean) / std)[None]"]
    return imports, lines
