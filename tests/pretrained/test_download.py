"""Downloads from a server on this computer: resumed, whole or not there at all, and one line for each failure."""

import errno
import pathlib
import socket
import subprocess
import sys
import threading

import pytest

from tests.pretrained.web import CONTENT, serving
from vit_jax.errors import UserError
from vit_jax.pretrained import download, transfer
from vit_jax.pretrained.download import NotFound, cache_directory, cache_path, fetch, web_address

pytestmark = pytest.mark.usefixtures("cache")


def left(cache: pathlib.Path) -> list[str]:
    """Returns the names of all files in the cache, locks aside."""
    return sorted(path.name for path in cache.rglob("*") if path.is_file() and path.parent.name != ".locks")


def refused(address: str) -> str:
    """Returns the one line with which an address is refused, and checks that it says where a file belongs."""
    with pytest.raises(UserError) as error:
        fetch(address)
    assert "\n" not in str(error.value)
    assert address in str(error.value)
    assert str(cache_path(address)) in str(error.value)
    return str(error.value)


def test_the_cache_is_where_the_environment_says(monkeypatch, tmp_path):
    assert cache_directory() == tmp_path / "cache"
    monkeypatch.delenv("VIT_JAX_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_directory() == tmp_path / "xdg" / "vit_jax"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_directory() == tmp_path / "home" / ".cache" / "vit_jax"


def test_the_cache_mirrors_addresses(cache):
    place = cache / "storage.googleapis.com/vit_models/imagenet21k/R50+ViT-B_16.npz"
    assert cache_path("gs://vit_models/imagenet21k/R50+ViT-B_16.npz") == place
    assert cache_path("https://storage.googleapis.com/vit_models/imagenet21k/R50%2BViT-B_16.npz") == place
    assert cache_path("https://storage.googleapis.com/vit_models/imagenet21k/R50+ViT-B_16.npz") == place


@pytest.mark.parametrize(
    "address",
    [
        "https://h/../../etc/passwd",
        "https://h/%2e%2e/%2e%2e/x",
        "https://h/a/..%2f..%2fx",
        "https://../x",
        "gs://../../x",
    ],
)
def test_no_address_leads_out_of_the_cache(cache, address):
    place = cache_path(address)
    assert ".." not in place.parts
    assert place.resolve().is_relative_to(cache.resolve())
    assert len(place.relative_to(cache).parts) > 1


def test_queries_are_part_of_the_name():
    plain, first, second = (cache_path(f"https://h/a.npz{query}") for query in ("", "?v=1", "?v=../2"))
    assert len({plain, first, second}) == 3
    assert {plain.parent} == {first.parent, second.parent}
    assert first.suffix == second.suffix == ".npz"


def test_names_in_buckets_are_quoted():
    assert web_address("gs://b/R50+ViT x?#.npz") == "https://storage.googleapis.com/b/R50%2BViT%20x%3F%23.npz"
    assert web_address("https://h/R50%2BViT.npz?a=b") == "https://h/R50%2BViT.npz?a=b"


def test_the_page_about_a_file_means_the_file():
    page = "https://huggingface.co/org/name/blob/main/model.safetensors"
    assert web_address(page) == "https://huggingface.co/org/name/resolve/main/model.safetensors"


@pytest.mark.parametrize("address", ["https://host", "https://host/", "gs://bucket/folder/", "https:///x", "ftp://h/x"])
def test_what_names_no_file_is_refused(address):
    with pytest.raises(UserError, match="is no address"):
        fetch(address)


def test_a_file_comes_once(web, cache):
    path = fetch(f"{web.origin}/a/b.npz")
    assert path == cache_path(f"{web.origin}/a/b.npz")
    assert path.read_bytes() == CONTENT
    web.files.clear()
    assert fetch(f"{web.origin}/a/b.npz") == path
    assert web.paths == ["/a/b.npz"]
    assert left(cache) == ["b.npz"]


def test_buckets_are_reached_over_https_at_their_quoted_names(web, monkeypatch):
    monkeypatch.setattr(download, "BUCKETS", web.origin)
    web.files["/vit_models/R50%2BViT-B_16.npz"] = b"hybrid"
    assert fetch("gs://vit_models/R50+ViT-B_16.npz").read_bytes() == b"hybrid"


def test_a_file_put_there_by_hand_is_found_without_a_network():
    path = cache_path("gs://vit_models/sam/ViT-B_16.npz")
    path.parent.mkdir(parents=True)
    path.write_bytes(b"by hand")
    assert fetch("gs://vit_models/sam/ViT-B_16.npz") == path


def test_a_transfer_that_breaks_off_continues_where_it_did(web, cache):
    web.cuts = [30_000, 20_000]
    assert fetch(f"{web.origin}/a/b.npz").read_bytes() == CONTENT
    assert [headers.get("range") for _, headers in web.asked] == [None, "bytes=30000-", "bytes=50000-"]
    assert left(cache) == ["b.npz"]


def test_a_later_process_continues_too(web, cache):
    web.cuts = [10_000] * transfer.ATTEMPTS
    message = refused(f"{web.origin}/a/b.npz")
    assert f"only {10_000 * transfer.ATTEMPTS} of {len(CONTENT)} bytes came" in message
    assert left(cache) == ["b.npz.part", "b.npz.part.tag"]
    web.asked.clear()
    assert fetch(f"{web.origin}/a/b.npz").read_bytes() == CONTENT
    assert web.asked[0][1]["range"] == f"bytes={10_000 * transfer.ATTEMPTS}-"


def test_a_server_without_ranges_starts_over(web):
    web.ranges, web.cuts = False, [30_000, 99_999]
    assert fetch(f"{web.origin}/a/b.npz").read_bytes() == CONTENT
    assert [headers.get("range") for _, headers in web.asked] == [None, "bytes=30000-", "bytes=99999-"]


@pytest.mark.parametrize("tag", ["", 'W/"weak"'])
def test_without_a_tag_that_identifies_the_bytes_no_range_is_asked_for(web, tag):
    web.cuts, web.tags["/a/b.npz"] = [30_000], tag
    assert fetch(f"{web.origin}/a/b.npz").read_bytes() == CONTENT
    assert [headers.get("range") for _, headers in web.asked] == [None, None]


def test_a_date_identifies_the_bytes_where_there_is_no_tag(web):
    web.cuts, web.tags["/a/b.npz"], web.dates["/a/b.npz"] = [30_000], "", "Wed, 21 Oct 2015 07:28:00 GMT"
    assert fetch(f"{web.origin}/a/b.npz").read_bytes() == CONTENT
    assert [headers.get("range") for _, headers in web.asked] == [None, "bytes=30000-"]


def test_a_file_that_changed_meanwhile_is_not_mixed_with_the_old_one(web):
    web.cuts = [30_000] * transfer.ATTEMPTS
    web.tags["/a/b.npz"] = '"old"'
    web.ranges = False
    refused(f"{web.origin}/a/b.npz")
    web.ranges, web.files["/a/b.npz"], web.tags["/a/b.npz"] = True, CONTENT[::-1], '"new"'
    assert fetch(f"{web.origin}/a/b.npz").read_bytes() == CONTENT[::-1]
    assert web.asked[-1][1]["if-range"] == '"old"'


def test_more_than_the_file_is_thrown_away(web):
    web.tags["/a/b.npz"] = '"tag"'
    part = cache_path(f"{web.origin}/a/b.npz.part")
    part.parent.mkdir(parents=True)
    part.write_bytes(CONTENT + b"more")
    part.with_name("b.npz.part.tag").write_text('"tag"')
    assert fetch(f"{web.origin}/a/b.npz").read_bytes() == CONTENT
    assert [headers.get("range") for _, headers in web.asked] == ["bytes=100004-", None]


def test_a_file_of_unknown_length_is_taken(web):
    web.lengths = False
    assert fetch(f"{web.origin}/a/b.npz").read_bytes() == CONTENT


def test_nothing_is_in_the_files_place_before_it_is_whole(cache):
    gate = threading.Event()
    with serving(gate) as web:
        web.files["/x.npz"] = CONTENT
        place = cache_path(f"{web.origin}/x.npz")
        thread = threading.Thread(target=fetch, args=(f"{web.origin}/x.npz",))
        thread.start()
        part = place.with_name("x.npz.part")
        while not part.exists():
            assert thread.is_alive()
            thread.join(0.01)
        assert not place.exists()
        gate.set()
        thread.join(20)
    assert place.read_bytes() == CONTENT


def test_two_processes_fetch_a_file_once(cache):
    gate = threading.Event()
    with serving(gate) as web:
        web.files["/x.npz"] = CONTENT
        code = f"from vit_jax.pretrained.download import fetch; print(fetch({web.origin + '/x.npz'!r}))"
        others = [
            subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            for _ in range(2)
        ]
        assert _first_line(others) == "waiting for another process, which downloads x.npz\n"
        gate.set()
        printed = [process.communicate(timeout=30)[0].strip() for process in others]
        assert printed == [str(cache_path(f"{web.origin}/x.npz"))] * 2
    assert pathlib.Path(printed[0]).read_bytes() == CONTENT
    assert web.paths == ["/x.npz"]


def _first_line(processes: list[subprocess.Popen]) -> str:
    """Returns the first line that any of the processes writes to stderr."""
    lines, ready = [], threading.Event()

    def read(process):
        lines.append(process.stderr.readline())
        ready.set()

    for process in processes:
        threading.Thread(target=read, args=(process,), daemon=True).start()
    assert ready.wait(60)
    return lines[0]


def test_what_is_not_there_is_said(web, cache):
    address = f"{web.origin}/none.npz"
    assert "HTTP 404 Not Found" in refused(address)
    with pytest.raises(NotFound):
        fetch(address)
    assert left(cache) == []


@pytest.mark.parametrize(("status", "times"), [(401, 1), (403, 1), (500, transfer.ATTEMPTS), (429, transfer.ATTEMPTS)])
def test_refusals_are_final_and_faults_are_tried_again(web, status, times):
    web.statuses["/a/b.npz"] = status
    assert f"HTTP {status}" in refused(f"{web.origin}/a/b.npz")
    assert len(web.asked) == times


def test_a_port_where_nobody_listens():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        assert "Connection refused" in refused(f"http://127.0.0.1:{taken.getsockname()[1]}/a.npz")


def test_a_host_that_is_not_found(monkeypatch):
    def unknown(*_, **__):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    assert "its host is not found" in refused("gs://vit_models/sam/ViT-B_16.npz")


def test_a_server_that_says_nothing(monkeypatch):
    monkeypatch.setattr(transfer, "TIMEOUT", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        assert "no answer within" in refused(f"http://127.0.0.1:{mute.getsockname()[1]}/a.npz")


def test_a_full_disk_is_said_and_nothing_is_fetched_again_for_it(web, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(transfer.os, "fsync", full)
    with pytest.raises(UserError, match="no space left on the device"):
        fetch(f"{web.origin}/a/b.npz")
    assert len(web.asked) == 1


def test_a_cache_that_cannot_be_one(web, cache):
    cache.write_text("a file")
    assert "File exists" in refused(f"{web.origin}/a/b.npz") or "Not a directory" in refused(f"{web.origin}/a/b.npz")
