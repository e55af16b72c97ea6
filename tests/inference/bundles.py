"""Bundles of small models, and Pythons that have nothing but a few packages."""

import importlib.util
import pathlib
import re
import subprocess
import sys

import numpy as np
from PIL import Image

from tests.pretrained.examples import small_weights
from vit_jax.inference.bundle_writer import Options, export_bundle
from vit_jax.inference.model import LoadedModel
from vit_jax.pretrained.weights import Weights

DISTRIBUTIONS = {
    "jax": ["jax", "jaxlib", "ml_dtypes", "opt_einsum", "scipy", "flatbuffers"],
    "onnxruntime": ["onnxruntime", "flatbuffers", "google", "packaging", "coloredlogs", "humanfriendly", "sympy"],
    "numpy": ["numpy"],
    "pillow": ["PIL"],
    "opencv": ["cv2"],
}
"""The folders that packages install, for themselves and for what they need."""


def pictures(count: int = 1) -> list[np.ndarray]:
    """Returns pictures of several sizes, uint8, of which neighbouring pixels resemble each other."""
    generator = np.random.default_rng(3)
    coarse = [generator.integers(0, 256, (4, 5, 3), dtype=np.uint8) for _ in range(count)]
    sizes = [(30 + 7 * i, 41 - 5 * (i % 4)) for i in range(count)]
    return [np.asarray(Image.fromarray(one).resize(size, 3)) for one, size in zip(coarse, sizes, strict=True)]


def bundle(folder: pathlib.Path, kind: str, weights: Weights | None = None, count: int = 1, **options):
    """Writes a bundle of a small model to a folder, verified on so many pictures; returns that and the live model."""
    live = LoadedModel(weights or small_weights())
    export_bundle(live, folder, Options(kind, **options), pictures(count))
    return folder, live


def assert_close(actual, expected, share=1e-5):
    """Asserts that outputs differ by no more than a share of their range."""
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=0, atol=share * np.ptp(expected))


def run_alone(code: str, folder: pathlib.Path, site: pathlib.Path, *packages: str) -> str:
    """Returns what code prints that runs in a folder, in a Python that finds those packages alone.

    Args:
      site: a folder that is made for them, with links to where they are installed.
    """
    site.mkdir()
    for name in {name for package in packages for name in DISTRIBUTIONS[package]}:
        spec = importlib.util.find_spec(name)
        if spec is None:
            continue
        place = pathlib.Path(next(iter(spec.submodule_search_locations)))
        (site / name).symlink_to(place)
        for libraries in place.parent.glob(f"{'pillow' if name == 'PIL' else name}*.libs"):
            (site / libraries.name).symlink_to(libraries)
    start = f"import sys; sys.path.append({str(site)!r})\n"
    alone = "import importlib.util\nassert importlib.util.find_spec('vit_jax') is None\n"
    command = [sys.executable, "-I", "-S", "-c", start + alone + code]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def code_of(folder: pathlib.Path) -> str:
    """Returns the code in the README.md of a bundle."""
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    return code
