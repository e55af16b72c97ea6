"""One file over HTTP: resumed where it broke off, and in its place only when it is whole."""

import http.client
import os
import pathlib
import re
import socket
import time
import urllib.error
import urllib.request

from tqdm import tqdm

from vit_jax.errors import explained_writes

ATTEMPTS = 5
PAUSE = 1.0
"""Seconds before the second attempt; each further pause is twice as long."""
TIMEOUT = 30
"""Seconds that a server may say nothing."""
CHUNK = 1 << 20


class Truncated(OSError):
    """The connection ended before the file did."""


def transfer(url: str, path: pathlib.Path, credentials: dict[str, str]) -> None:
    """Downloads a file to `path`, continuing with `path.part` where the server still has the same file.

    Args:
      url: an http or https address.
      path: where the whole file appears, in one step; its folder exists.
      credentials: the Authorization header for each origin (`https://host`); other hosts, to which an origin may
        redirect, do not see it.

    Raises:
      OSError, http.client.HTTPException, ValueError: the server cannot be reached, refuses, or breaks off every time.
      UserError: the file cannot be written.
    """
    part, tag = (path.with_name(path.name + end) for end in (".part", ".part.tag"))
    opener = urllib.request.build_opener(_Redirects(credentials))
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(PAUSE * 2 ** (attempt - 1))
        try:
            _receive(opener, _request(url, part, tag, credentials), part, tag, path.name)
            break
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 416:
                part.unlink(missing_ok=True)
            elif error.code < 500 and error.code not in (408, 429):
                raise
            if attempt == ATTEMPTS - 1:
                raise
        except (OSError, http.client.HTTPException) as error:
            cannot_connect = isinstance(error, urllib.error.URLError | http.client.InvalidURL)
            if attempt == ATTEMPTS - 1 or (cannot_connect and attempt == 0):
                raise
    with explained_writes(str(path)):
        os.replace(part, path)
        tag.unlink(missing_ok=True)


def why(error: Exception) -> str:
    """Returns in a few words why a transfer failed."""
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP {error.code} {error.reason}"
    if isinstance(error, urllib.error.URLError):
        error = error.reason if isinstance(error.reason, Exception) else error
    if isinstance(error, socket.gaierror):
        return "its host is not found; is there a network?"
    if isinstance(error, http.client.IncompleteRead):
        return "the connection ended before the file did"
    if isinstance(error, TimeoutError):
        return f"no answer within {TIMEOUT} s"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects; urllib would pass an ordinary Authorization header on to any host."""

    def __init__(self, credentials: dict[str, str]):
        self.credentials = credentials

    def redirect_request(self, *arguments):
        request = super().redirect_request(*arguments)
        return request and _authorised(request, self.credentials)


def _authorised(request: urllib.request.Request, credentials: dict[str, str]) -> urllib.request.Request:
    secret = credentials.get(f"{request.type}://{request.host}")
    if secret:
        request.add_unredirected_header("Authorization", secret)
    return request


def _request(url: str, part: pathlib.Path, tag: pathlib.Path, credentials: dict[str, str]) -> urllib.request.Request:
    """Returns the request for what is missing; for all of it where no validator says which file `part` is of."""
    request = urllib.request.Request(url, headers={"User-Agent": "vit_jax", "Accept-Encoding": "identity"})
    start = part.stat().st_size if part.exists() else 0
    if start and tag.exists() and (validator := tag.read_text()):
        request.add_header("Range", f"bytes={start}-")
        request.add_header("If-Range", validator)
    return _authorised(request, credentials)


def _receive(opener, request, part: pathlib.Path, tag: pathlib.Path, name: str) -> None:
    """Writes what the server sends, after what `part` holds if the server agrees that it belongs there."""
    with opener.open(request, timeout=TIMEOUT) as response, explained_writes(str(part)):
        start, total = _extent(response)
        if start and start != part.stat().st_size:
            part.unlink()
            raise Truncated(f"the server continued at byte {start}, which was not asked for")
        with (
            part.open("ab" if start else "wb") as file,
            tqdm(total=total, initial=start, desc=name, unit="B", unit_scale=True, disable=None) as bar,
        ):
            if not start:
                tag.write_text(_validator(response.headers))
            received = start
            while chunk := response.read(CHUNK):
                file.write(chunk)
                received += len(chunk)
                bar.update(len(chunk))
            file.flush()
            os.fsync(file.fileno())
        if total is not None and received != total:
            raise Truncated(f"only {received} of {total} bytes came")


def _extent(response: http.client.HTTPResponse) -> tuple[int, int | None]:
    """Returns where the answer starts in the file, and the file's length if the server says it."""
    length = response.headers.get("Content-Length")
    total = int(length) if length and length.isdigit() else None
    if response.status != 206:
        return 0, total
    found = re.match(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
    if not found:
        raise Truncated("the server sent a part of the file without saying which")
    start, end = int(found[1]), found[2]
    return start, int(end) if end != "*" else total and start + total


def _validator(headers: http.client.HTTPMessage) -> str:
    """Returns what If-Range may hold: a strong ETag or a date; "" where the server gives neither."""
    tag = headers.get("ETag", "")
    return tag if tag.startswith('"') else headers.get("Last-Modified", "")
