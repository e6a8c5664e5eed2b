"""Downloads from a server on this machine: checked, resumed, refused when wrong."""

from __future__ import annotations

import gzip
import hashlib
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from fedsim import cli
from fedsim.data import SOURCES
from fedsim.data.fetch import fetch
from fedsim.data.mnist import Mnist
from fedsim.data.published import Published, Remote
from fedsim.errors import BadInput

CONTENT = bytes(range(256)) * 4000
PACKED = gzip.compress(CONTENT, mtime=0)


class Server(ThreadingHTTPServer):
    """Serves ``files``; cuts an answer short after ``cut`` bytes; knows ranges unless told not to."""

    files: dict[str, bytes]
    cut: int | None = None
    ranges = True
    asked: list[tuple[str, str | None]]
    url: str


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self):
        wanted = self.headers.get("Range")
        self.server.asked.append((self.path, wanted))
        content = self.server.files.get(self.path)
        if content is None:
            self.send_error(404)
            return
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and self.server.ranges else 0
        if start and start >= len(content):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start : None if self.server.cut is None else start + self.server.cut])

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Server(("127.0.0.1", 0), Handler) as running:
        running.files, running.asked = {"/a.bin": CONTENT, "/b.gz": PACKED}, []
        running.url = f"http://127.0.0.1:{running.server_port}"
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def published(server: Server, *names: str, content: bytes = CONTENT) -> Published:
    checksum = hashlib.sha256(content).hexdigest()
    return Published("example.org", tuple(Remote(name, f"{server.url}/{name}", checksum) for name in names))


def silent(name: str, done: int, total: int | None) -> None:
    pass


def test_files_are_downloaded_checked_by_their_content_and_kept(server, tmp_path):
    seen = []
    files = fetch("x", published(server, "a.bin", "b.gz"), tmp_path / "new", lambda *step: seen.append(step))
    assert [file.read_bytes() for file in files] == [CONTENT, PACKED]
    assert sorted(file.name for file in (tmp_path / "new").iterdir()) == ["a.bin", "b.gz"]
    assert ("a.bin", len(CONTENT), len(CONTENT)) in seen
    assert ("b.gz", len(PACKED), len(PACKED)) in seen
    server.asked.clear()
    assert fetch("x", published(server, "a.bin", "b.gz"), tmp_path / "new", silent) == files
    assert server.asked == [], "what is there already is not asked for again"


def test_a_packed_file_may_be_packed_otherwise(server, tmp_path):
    server.files["/b.gz"] = gzip.compress(CONTENT, 1)
    assert gzip.decompress(fetch("x", published(server, "b.gz"), tmp_path, silent)[0].read_bytes()) == CONTENT


@pytest.mark.parametrize("ranges", [True, False], ids=["ranges", "no ranges"])
def test_an_interrupted_download_goes_on_where_it_stopped(server, tmp_path, ranges):
    server.cut = 300_000
    with pytest.raises(BadInput, match="run the same command to go on"):
        fetch("x", published(server, "a.bin"), tmp_path, silent)
    there = (tmp_path / "a.bin.part").stat().st_size
    assert 0 < there <= 300_000
    assert not (tmp_path / "a.bin").exists()
    server.cut, server.ranges = None, ranges
    assert fetch("x", published(server, "a.bin"), tmp_path, silent)[0].read_bytes() == CONTENT
    assert server.asked == [("/a.bin", None), ("/a.bin", f"bytes={there}-")]
    assert [file.name for file in tmp_path.iterdir()] == ["a.bin"]


def test_a_part_that_is_whole_needs_nothing_more(server, tmp_path):
    (tmp_path / "a.bin.part").write_bytes(CONTENT)
    assert fetch("x", published(server, "a.bin"), tmp_path, silent)[0].read_bytes() == CONTENT


@pytest.mark.parametrize("part", [b"", b"x" * 1000, CONTENT + b"x"], ids=["none", "of another file", "too long"])
def test_a_wrong_checksum_is_refused_and_the_file_is_not_kept(server, tmp_path, part):
    wrong = published(server, "a.bin", content=b"other") if not part else published(server, "a.bin")
    if part:
        (tmp_path / "a.bin.part").write_bytes(part)
    with pytest.raises(BadInput, match="has another SHA-256"):
        fetch("x", wrong, tmp_path, silent)
    assert list(tmp_path.iterdir()) == []
    if part:
        assert fetch("x", wrong, tmp_path, silent)[0].read_bytes() == CONTENT, "the next try begins anew"


def test_a_torn_packed_file_is_a_wrong_checksum(server, tmp_path):
    server.files["/b.gz"] = PACKED[:-9]
    with pytest.raises(BadInput, match="has another SHA-256"):
        fetch("x", published(server, "b.gz"), tmp_path, silent)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_there_but_another_is_left_alone(server, tmp_path):
    (tmp_path / "a.bin").write_bytes(b"mine")
    with pytest.raises(BadInput, match="its checksum differs"):
        fetch("x", published(server, "a.bin"), tmp_path, silent)
    assert (tmp_path / "a.bin").read_bytes() == b"mine"
    assert server.asked == []


def test_a_server_that_sends_another_part_is_not_believed(server, tmp_path, monkeypatch):
    (tmp_path / "a.bin.part").write_bytes(CONTENT[:10])
    monkeypatch.setattr("fedsim.data.fetch._begins_at", lambda response, start: False)
    with pytest.raises(BadInput, match="another part than was asked for"):
        fetch("x", published(server, "a.bin"), tmp_path, silent)
    assert (tmp_path / "a.bin.part").read_bytes() == CONTENT[:10]


@pytest.mark.parametrize("url", ["{}/absent", "http://127.0.0.1:9/x", "nonsense", "http://[/x"])
def test_an_address_that_does_not_answer_is_one_error(server, tmp_path, url):
    url = url.format(server.url)
    with pytest.raises(BadInput, match="could not be downloaded") as caught:
        fetch("x", Published("page", (Remote("a.bin", url, "0"),)), tmp_path, silent)
    assert url in str(caught.value)


def test_a_folder_that_cannot_be_written_is_one_error(server, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="cannot be written to"):
        fetch("x", published(server, "a.bin"), tmp_path / "file", silent)


# The command


def command(monkeypatch, capsys, *words: str) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["fedsim", "data", "fetch", *words])
    try:
        cli.main()
        code = 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    out, err = capsys.readouterr()
    return code, out, err


def test_the_command_puts_files_where_the_source_looks_for_them(server, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Mnist, "published", published(server, "a.bin"))
    monkeypatch.setenv("FEDSIM_DATA", str(tmp_path))
    code, out, err = command(monkeypatch, capsys, "mnist")
    assert (code, err) == (0, "")
    assert out.split() == [str(tmp_path / "mnist" / "a.bin")]
    code, out, _ = command(monkeypatch, capsys, "mnist", "--to", str(tmp_path / "there"))
    assert out.split() == [str(tmp_path / "there" / "a.bin")]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["mnits"], "is no data source; those that can be fetched: mnist, fashion_mnist"),
        (["digits"], "digits has no files to fetch"),
        (["cifar10"], "fetch it by hand: www.cs.toronto.edu"),
        (["mnist"], "Name a folder by --to"),
        (["mnist", "--dataset", "x"], "is for hf alone"),
        (["hf"], "name the data set of the hub by --dataset"),
        (["hf", "--dataset", "a/b", "--to", "."], "exists already"),
    ],
)
def test_what_cannot_be_fetched_is_said(monkeypatch, capsys, words, said):
    monkeypatch.delenv("FEDSIM_DATA", raising=False)
    code, out, err = command(monkeypatch, capsys, *words)
    assert (code, out) == (2, "")
    assert said in err
    assert len(err.splitlines()) == 1


def test_every_published_file_has_an_address_and_a_checksum():
    for source in SOURCES.values():
        for remote in getattr(source, "published", Published("")).files:
            assert remote.url.startswith("https://")
            assert len(bytes.fromhex(remote.sha256)) == 32
            assert "/" not in remote.name
