"""A web server in a thread, which can break off, forget ranges, redirect and refuse."""

import contextlib
import dataclasses
import http.server
import threading

CONTENT = bytes(i * i % 251 for i in range(100_000))


@dataclasses.dataclass
class Web:
    """What the server offers and what it was asked.

    Attributes:
      files: content by path, as it stands in the request line.
      tags: the ETag by path; others have the length and a checksum.
      dates: Last-Modified by path.
      ranges: whether requests for a range are honoured.
      cuts: after how many bytes the next answers break off, first come first served.
      lengths: whether Content-Length is sent.
      statuses, redirects: by path, instead of a file.
      asked: path, and headers in lower case, of each request so far.
    """

    origin: str = ""
    files: dict[str, bytes] = dataclasses.field(default_factory=dict)
    tags: dict[str, str] = dataclasses.field(default_factory=dict)
    dates: dict[str, str] = dataclasses.field(default_factory=dict)
    ranges: bool = True
    lengths: bool = True
    cuts: list[int] = dataclasses.field(default_factory=list)
    statuses: dict[str, int] = dataclasses.field(default_factory=dict)
    redirects: dict[str, str] = dataclasses.field(default_factory=dict)
    asked: list[tuple[str, dict[str, str]]] = dataclasses.field(default_factory=list)

    @property
    def paths(self) -> list[str]:
        return [path for path, _ in self.asked]


@contextlib.contextmanager
def serving(gate: threading.Event | None = None):
    """Yields a server on this computer; with a `gate`, it sends the first half of each file and waits for it."""
    web = Web()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            web.asked.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
            if self.path in web.redirects:
                self.send_response(302)
                self.send_header("Location", web.redirects[self.path])
                self.send_header("Content-Length", "0")
                self.end_headers()
            elif self.path not in web.files or self.path in web.statuses:
                self.send_error(web.statuses.get(self.path, 404))
            else:
                self.send_file(web.files[self.path])

        def send_file(self, content):
            tag, start = web.tags.get(self.path, f'"{len(content)}-{sum(content)}"'), 0
            asked = self.headers.get("Range")
            if web.ranges and asked and self.headers.get("If-Range") in (tag, web.dates.get(self.path, tag)):
                start = int(asked.removeprefix("bytes=").removesuffix("-"))
                if start >= len(content):
                    return self.send_error(416)
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            if tag:
                self.send_header("ETag", tag)
            if self.path in web.dates:
                self.send_header("Last-Modified", web.dates[self.path])
            if web.lengths:
                self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            rest = content[start:]
            if gate:
                self.wfile.write(rest[: len(rest) // 2])
                gate.wait(20)
                rest = rest[len(rest) // 2 :]
            self.wfile.write(rest[: web.cuts.pop(0)] if web.cuts else rest)
            self.close_connection = True

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    web.origin = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield web
    finally:
        server.shutdown()
        server.server_close()
