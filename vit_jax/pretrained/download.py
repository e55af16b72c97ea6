"""Files of weights from the web and the Hugging Face hub, kept in a cache and found there without a network.

The cache mirrors the addresses: `gs://vit_models/sam/ViT-B_16.npz` lies at
`~/.cache/vit_jax/storage.googleapis.com/vit_models/sam/ViT-B_16.npz`, whether it was downloaded or put there by hand.
"""

import contextlib
import hashlib
import http.client
import json
import os
import pathlib
import re
import sys
import urllib.error
import urllib.parse
from collections.abc import Iterator

from vit_jax.errors import UserError, explained_writes
from vit_jax.pretrained.files import INDEX, WEIGHTS
from vit_jax.pretrained.transfer import transfer, why

try:
    import fcntl
except ImportError:  # Windows: two processes that fetch the same file at once are not kept apart
    fcntl = None

HUB = "https://huggingface.co"
BUCKETS = "https://storage.googleapis.com"
SCHEMES = ("https://", "http://", "gs://")
HUB_SCHEMES = ("hf://", "hf-hub:")
HUB_ID = re.compile(r"(?P<id>[\w-][\w.-]*/[\w-][\w.-]*)(@(?P<revision>[\w][\w./-]*))?", re.ASCII)
DESCRIPTIONS = ("config.json", "preprocessor_config.json")


class NotFound(UserError):
    """The server answered, and has no such file."""


def cache_directory() -> pathlib.Path:
    """Returns `$VIT_JAX_CACHE`, else `$XDG_CACHE_HOME/vit_jax`, else `~/.cache/vit_jax`."""
    if chosen := os.environ.get("VIT_JAX_CACHE"):
        return pathlib.Path(chosen).expanduser()
    return pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "vit_jax"


def web_address(address: str) -> str:
    """Returns the http or https address of an address, as a server takes it.

    Raises:
      UserError: it is no address, or names no file.
    """
    if address.startswith("gs://"):
        address = f"{BUCKETS}/{urllib.parse.quote(address.removeprefix('gs://'))}"
    try:
        scheme, host, path, query, _ = urllib.parse.urlsplit(address)
        hostname = urllib.parse.urlsplit(address).hostname
    except ValueError as error:
        raise UserError(f"{address!r} is no address: {error}") from error
    if scheme not in ("http", "https") or not hostname or not path.strip("/") or path.endswith("/"):
        raise UserError(f"{address!r} is no address of a file, such as gs://bucket/file.npz or https://host/file.npz")
    if f"{scheme}://{host}" == HUB:
        path = re.sub("^(/[^/]+/[^/]+)/blob/", r"\1/resolve/", path)  # the page about a file, from a browser
    path, query = (urllib.parse.quote(text, safe="/%:@!$&'()*+,;=~?") for text in (path, query))
    return urllib.parse.urlunsplit((scheme, host, path, query, ""))


def cache_path(address: str) -> pathlib.Path:
    """Returns where the file of an address is kept: below the cache, at the address's host and path.

    A query becomes a part of the file's name, and `..` a name like any other.

    Raises:
      UserError: it is no address, or names no file.
    """
    _, host, path, query, _ = urllib.parse.urlsplit(web_address(address))
    parts = [host.lower(), *urllib.parse.unquote(path).split("/")]
    place = cache_directory().joinpath(*(_plain(part) for part in parts if part))
    if query:
        place = place.with_name(f"{place.stem}-{hashlib.sha256(query.encode()).hexdigest()[:8]}{place.suffix}")
    return place


def _plain(part: str) -> str:
    """Returns a part of a path that is a file's name on any system and never means another folder."""
    if not part.strip("."):
        return part.replace(".", "%2E")
    return re.sub(r'[\x00-\x1f\\:*?"<>|]', lambda found: f"%{ord(found[0]):02X}", part)


def fetch(address: str) -> pathlib.Path:
    """Returns the local file of a `gs://`, `https://` or `http://` address; downloads it unless the cache has it.

    A download that was interrupted is continued. `$HF_TOKEN` is sent to the Hugging Face hub, and to no other host.

    Raises:
      NotFound: there is no such file.
      UserError: it is no address, it cannot be reached or read, or the cache cannot be written.
    """
    url, path = web_address(address), cache_path(address)
    if path.is_file():
        return path
    token = os.environ.get("HF_TOKEN", "").strip()
    try:
        with _locked(path):
            if not path.is_file():
                transfer(url, path, {HUB: f"Bearer {token}"} if token else {})
    except (OSError, http.client.HTTPException, ValueError) as error:
        code = error.code if isinstance(error, urllib.error.HTTPError) else None
        reason = why(error)
        if code in (401, 403) and url.startswith(f"{HUB}/"):
            reason += " (no such repository, or it is private or gated: set HF_TOKEN to a token that may read it)"
        kind = NotFound if code in (404, 410) else UserError
        raise kind(f"cannot download {address}: {reason}; a file fetched by hand belongs at {path}") from error
    return path


@contextlib.contextmanager
def _locked(path: pathlib.Path) -> Iterator[None]:
    """Makes the folder of a file and keeps other processes from downloading the same file meanwhile."""
    locks = cache_directory() / ".locks"
    with explained_writes(str(path)):
        path.parent.mkdir(parents=True, exist_ok=True)
        locks.mkdir(exist_ok=True)
        lock = (locks / hashlib.sha256(str(path).encode()).hexdigest()[:16]).open("w")
    with lock:
        if fcntl:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print(f"waiting for another process, which downloads {path.name}", file=sys.stderr)
                fcntl.flock(lock, fcntl.LOCK_EX)
            except OSError:  # a file system without locks
                pass
        yield


def fetch_hub(repo_id: str, revision: str = "main") -> pathlib.Path:
    """Returns a local folder with a hub repository's safetensors and, where it has them, its two descriptions.

    Args:
      repo_id: `org/name` or `org/name@revision`, with or without `hf://` or `hf-hub:` before it.
      revision: a branch, tag or commit.

    Raises:
      NotFound: it has no safetensors; pickles are never loaded.
      UserError: it is no id, or something cannot be downloaded.
    """
    plain = repo_id
    for scheme in HUB_SCHEMES:
        plain = plain.removeprefix(scheme)
    parsed = HUB_ID.fullmatch(plain)
    if not parsed:
        raise UserError(f"{repo_id!r} is no Hugging Face hub id, such as facebook/dinov2-small or org/name@revision")
    revision = parsed["revision"] or revision
    base = f"{HUB}/{parsed['id']}/resolve/{urllib.parse.quote(revision, safe='')}"
    folder = cache_path(f"{base}/{WEIGHTS}").parent
    described = folder / ".described"
    complete = (folder / WEIGHTS).is_file() or (folder / INDEX).is_file()
    try:
        _fetch_weights(base, folder)
    except NotFound as error:
        raise NotFound(
            f"{HUB}/{parsed['id']} has no {WEIGHTS} at revision {revision!r}, and weights in pickles (.bin, .pth) are "
            f"never loaded; name another repository, or put a {WEIGHTS} into {folder}"
        ) from error
    settled = [_fetch_description(f"{base}/{name}", complete) for name in DESCRIPTIONS if not described.exists()]
    if settled and all(settled):
        with contextlib.suppress(OSError):  # of a cache that is only for reading
            described.touch()
    return folder


def _fetch_description(address: str, complete: bool) -> bool:
    """Fetches a file that a repository may lack, and returns whether it is now known to be there or not.

    Where the weights were `complete` before, as on a computer without a network, it need not be in reach.
    """
    try:
        fetch(address)
    except NotFound:
        return True
    except UserError:
        if not complete:
            raise
        return False
    return True


def _fetch_weights(base: str, folder: pathlib.Path) -> None:
    """Fetches the one file of weights, or the index and the files that it names."""
    if (folder / WEIGHTS).is_file() or not (folder / INDEX).is_file():
        try:
            fetch(f"{base}/{WEIGHTS}")
            return
        except NotFound:
            pass
    index = fetch(f"{base}/{INDEX}")
    try:
        shards = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        if not shards or not all(re.fullmatch(r"[\w-][\w.-]*\.safetensors", shard) for shard in shards):
            raise ValueError("it names no files, or others than .safetensors beside it")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{index} is no index of shards: {error}; remove it to fetch it again") from error
    for shard in shards:
        fetch(f"{base}/{shard}")
