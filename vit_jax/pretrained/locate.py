"""From what a person writes as CHECKPOINT to a file or folder on this computer."""

import dataclasses
import pathlib
import re

from vit_jax.errors import UserError, nearest
from vit_jax.pretrained.catalogue import Published, published, published_at, published_names
from vit_jax.pretrained.download import HUB, HUB_ID, HUB_SCHEMES, SCHEMES, fetch, fetch_hub

FORMS = (
    "a path, gs://… or https://…, a Hugging Face hub id (org/name, org/name@revision), or a short name such as "
    "vit_b16_in21k, dinov2_s14 or augreg/B_16"
)
FOLDERS = tuple(sorted({name.split("/")[0] + "/" for name in published_names() if "/" in name}))
"""What short names with a slash begin with; such a name is never a hub id."""


@dataclasses.dataclass(frozen=True)
class Located:
    """Where a checkpoint lies, and what the catalogue knows of it (None: nothing)."""

    path: pathlib.Path
    published: Published | None


def locate(checkpoint: str) -> Located:
    """Returns where a checkpoint lies on this computer; downloads it where that is needed.

    An existing path comes first, then addresses, short names of the catalogue, and ids of the Hugging Face hub.

    Raises:
      UserError: there is no such file or name, or it cannot be downloaded.
    """
    path = _expanded(checkpoint)
    if checkpoint and _exists(path):
        return Located(path, None)
    if checkpoint.startswith(SCHEMES):
        page = re.fullmatch(f"{re.escape(HUB)}/([^/?#]+/[^/?#]+?)(?:/tree/([^?#]+))?/?", checkpoint)
        if page:
            return Located(fetch_hub(page[1], page[2] or "main"), published_at(page[1]))
        return Located(fetch(checkpoint), published_at(checkpoint))
    ends = checkpoint.endswith((".npz", ".safetensors")) and "://" not in checkpoint
    if checkpoint.startswith((".", "/", "~")) or (ends and not checkpoint.startswith(FOLDERS)):
        raise UserError(f"no such file: {checkpoint}{_nearest_sibling(path)}")
    if entry := published(checkpoint):
        hub = entry.address.startswith(HUB_SCHEMES)
        return Located(fetch_hub(entry.address) if hub else fetch(entry.address), entry)
    plain = checkpoint.removeprefix("hf://").removeprefix("hf-hub:")
    if not HUB_ID.fullmatch(plain) or checkpoint.startswith(FOLDERS):
        close = nearest(checkpoint, published_names())
        raise UserError(f"{checkpoint!r} is no checkpoint{close}; it may be {FORMS}")
    if plain == checkpoint and _exists(path.parent):
        hint = f"for the Hugging Face hub's repository of that name write hf://{checkpoint}"
        raise UserError(f"no such file: {checkpoint}{_nearest_sibling(path)}; {hint}")
    return Located(fetch_hub(checkpoint), published_at(plain))


def _expanded(checkpoint: str) -> pathlib.Path:
    try:
        return pathlib.Path(checkpoint).expanduser()
    except RuntimeError:  # ~someone whom this computer does not know
        return pathlib.Path(checkpoint)


def _exists(path: pathlib.Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def _nearest_sibling(path: pathlib.Path) -> str:
    try:
        return nearest(path.name, [entry.name for entry in path.parent.iterdir()])
    except OSError:
        return f"; there is no folder {path.parent} either"
