import errno
import hashlib
import re
import shutil
import threading
from collections import namedtuple
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from prunetune.base.errors import InputError
from prunetune.data.prepare import download
from prunetune.data.prepare.download import Source, fetch, source

CONTENT = bytes(range(256)) * 40  # The content has 10,240 bytes.
MD5 = hashlib.md5(CONTENT).hexdigest()
SHA256 = hashlib.sha256(CONTENT).hexdigest()
BY_HAND = "Download it by hand and pass --archive FILE"
WEB_PAGE = b"  <!DOCTYPE html><html><body>Google Drive can't scan this file for viruses.</body></html>"


class Site:
    """What the test server answers: a content for each path. The next answers may be cut off or have another status."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {"/file": CONTENT}
        self.types: dict[str, str] = {}
        self.cuts: list[int] = []  # Each of the next answers is cut off after this number of bytes.
        self.statuses: list[int] = []  # The next answers have these statuses instead of 200 or 206.
        self.knows_ranges = True
        self.requests: list[tuple[str, str | None]] = []
        self.url = ""


def _handler(site: Site) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers["Range"]
            site.requests.append((self.path, asked))
            if site.statuses:
                return self.send_error(site.statuses.pop(0))
            if self.path not in site.files:
                return self.send_error(404)
            whole = site.files[self.path]
            start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked and site.knows_ranges else 0
            if asked and site.knows_ranges and start >= len(whole):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(whole)}")
                return self.end_headers()
            self.send_response(206 if asked and site.knows_ranges else 200)
            self.send_header("Content-Length", str(len(whole) - start))
            self.send_header("Content-Type", site.types.get(self.path, "application/octet-stream"))
            if asked and site.knows_ranges:
                self.send_header("Content-Range", f"bytes {start}-{len(whole) - 1}/{len(whole)}")
            self.end_headers()
            self.wfile.write(whole[start:][: site.cuts.pop(0) if site.cuts else None])

        def log_message(self, *arguments: object) -> None:
            pass

    return Handler


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr(download, "PAUSE_SECONDS", 0)
    monkeypatch.setattr(download, "CHUNK_BYTES", 1024)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    made = Site()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(made))
    server.daemon_threads = True
    made.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    server.shutdown()
    thread.join()
    server.server_close()


def wanted(site: Site, *paths: str, **known: str | int | None) -> Source:
    checks: dict[str, str | int | None] = {"num_bytes": len(CONTENT), "md5": MD5, "sha256": SHA256} | known
    return Source("data.bin", tuple(site.url + path for path in paths or ("/file",)), **checks)


def test_a_download_arrives_whole_and_leaves_no_part_file(site: Site, tmp_path: Path) -> None:
    path = fetch(wanted(site), tmp_path / "new", BY_HAND)
    assert path == tmp_path / "new" / "data.bin"
    assert path.read_bytes() == CONTENT
    assert [file.name for file in path.parent.iterdir()] == ["data.bin"]


def test_a_file_that_is_there_is_not_downloaded_again(site: Site, tmp_path: Path) -> None:
    (tmp_path / "data.bin").write_bytes(CONTENT)
    fetch(wanted(site), tmp_path, BY_HAND)
    assert site.requests == []


def test_a_file_that_is_there_and_differs_is_refused(site: Site, tmp_path: Path) -> None:
    (tmp_path / "data.bin").write_bytes(CONTENT[::-1])
    with pytest.raises(InputError, match=rf"data\.bin has md5 .*, expected {MD5}; delete .*data\.bin"):
        fetch(wanted(site), tmp_path, BY_HAND)


def test_a_cut_connection_is_resumed_where_it_broke(site: Site, tmp_path: Path) -> None:
    site.cuts = [3 * 1024, 5 * 1024]
    assert fetch(wanted(site), tmp_path, BY_HAND).read_bytes() == CONTENT
    assert site.requests == [("/file", None), ("/file", "bytes=3072-"), ("/file", "bytes=8192-")]


def test_a_later_command_continues_from_the_part_file(site: Site, tmp_path: Path) -> None:
    (tmp_path / "data.bin.part").write_bytes(CONTENT[:7000])
    assert fetch(wanted(site), tmp_path, BY_HAND).read_bytes() == CONTENT
    assert site.requests == [("/file", "bytes=7000-")]


def test_a_server_that_ignores_ranges_is_read_from_the_start(site: Site, tmp_path: Path) -> None:
    site.knows_ranges = False
    site.cuts = [3 * 1024]
    assert fetch(wanted(site), tmp_path, BY_HAND).read_bytes() == CONTENT
    assert site.requests == [("/file", None), ("/file", "bytes=3072-")]


def test_a_whole_part_file_is_taken_as_it_is(site: Site, tmp_path: Path) -> None:
    (tmp_path / "data.bin.part").write_bytes(CONTENT)
    assert fetch(wanted(site), tmp_path, BY_HAND).read_bytes() == CONTENT
    assert site.requests == [("/file", f"bytes={len(CONTENT)}-")]


def test_a_part_file_of_another_edition_is_thrown_away(site: Site, tmp_path: Path) -> None:
    (tmp_path / "data.bin.part").write_bytes(b"x" * 7000)
    assert fetch(wanted(site), tmp_path, BY_HAND).read_bytes() == CONTENT
    assert site.requests == [("/file", "bytes=7000-"), ("/file", None)]


def test_a_part_file_longer_than_the_file_is_thrown_away(site: Site, tmp_path: Path) -> None:
    (tmp_path / "data.bin.part").write_bytes(CONTENT + b"more")
    assert fetch(wanted(site), tmp_path, BY_HAND).read_bytes() == CONTENT


def test_a_busy_server_is_asked_again(site: Site, tmp_path: Path) -> None:
    site.statuses = [503, 429]
    assert fetch(wanted(site), tmp_path, BY_HAND).read_bytes() == CONTENT


def test_mirrors_are_tried_in_order_with_a_line_for_each_failure(
    site: Site, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    site.files |= {"/page": WEB_PAGE, "/short": CONTENT[:-1], "/other": CONTENT[::-1]}
    with caplog.at_level("INFO"):
        fetch(wanted(site, "/missing", "/page", "/short", "/other", "/file", "/never"), tmp_path, BY_HAND)
    assert [path for path, _ in site.requests] == ["/missing", "/page", "/short", "/other", "/file"]
    lines = [message.removeprefix(site.url) for message in caplog.messages]
    assert lines == [
        "/missing: answered 404 Not Found",
        f"/page: offers {len(WEB_PAGE)} bytes, expected {len(CONTENT)}",
        f"/short: offers {len(CONTENT) - 1} bytes, expected {len(CONTENT)}",
        f"/other: sent a file that has md5 {hashlib.md5(CONTENT[::-1]).hexdigest()}, expected {MD5}",
    ]


@pytest.mark.parametrize("content_type", ["text/html; charset=utf-8", "application/octet-stream"])
def test_a_web_page_instead_of_the_file_is_named_as_such(site: Site, tmp_path: Path, content_type: str) -> None:
    site.files["/file"], site.types["/file"] = WEB_PAGE, content_type
    with pytest.raises(InputError, match=r"/file answered with a web page .*virus-scan page\)\. Download it by hand"):
        fetch(wanted(site, num_bytes=None), tmp_path, BY_HAND)
    assert list(tmp_path.iterdir()) == []


def test_a_web_page_does_not_destroy_what_was_downloaded_before(site: Site, tmp_path: Path) -> None:
    (tmp_path / "data.bin.part").write_bytes(CONTENT[:7000])
    site.files["/file"], site.knows_ranges = WEB_PAGE, False
    with pytest.raises(InputError, match="or run the command again: it continues after 0.0 MB"):
        fetch(wanted(site, num_bytes=None), tmp_path, BY_HAND)
    assert (tmp_path / "data.bin.part").read_bytes() == CONTENT[:7000]


@pytest.mark.parametrize(("known", "name"), [({"sha256": None}, "md5"), ({"md5": None}, "sha256")])
def test_a_wrong_checksum_gives_a_one_line_error_and_leaves_no_file(
    site: Site, tmp_path: Path, known: dict[str, None], name: str
) -> None:
    site.files["/file"] = CONTENT[::-1]
    with pytest.raises(
        InputError, match=rf"sent a file that has {name} \w+, expected \w+\. Download it by hand"
    ) as error:
        fetch(wanted(site, **known), tmp_path, BY_HAND)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_when_all_mirrors_fail_the_error_names_each_and_tells_how_to_download_by_hand(
    site: Site, tmp_path: Path
) -> None:
    with pytest.raises(InputError) as error:
        fetch(wanted(site, "/a", "/b"), tmp_path, BY_HAND)
    assert str(error.value) == (
        f"data.bin could not be downloaded: {site.url}/a answered 404 Not Found; {site.url}/b answered 404 Not Found. "
        "Download it by hand and pass --archive FILE"
    )


def test_a_host_that_does_not_answer_is_given_up_after_three_attempts(site: Site, tmp_path: Path) -> None:
    site.cuts = [0] * 9
    with pytest.raises(InputError, match="/file was interrupted 3 times"):
        fetch(wanted(site), tmp_path, BY_HAND)
    assert len(site.requests) == 3


def test_a_file_without_a_checksum_is_recorded_and_compared_later(site: Site, tmp_path: Path) -> None:
    unknown = wanted(site, md5=None, sha256=None, num_bytes=None)
    path = fetch(unknown, tmp_path, BY_HAND)
    assert (tmp_path / "data.bin.sha256").read_text() == f"{SHA256}  data.bin\n"
    path.unlink()
    fetch(unknown, tmp_path, BY_HAND)
    path.unlink()
    site.files["/file"] = CONTENT[::-1]
    with pytest.raises(InputError, match=f"the first one had {SHA256} "):
        fetch(unknown, tmp_path, BY_HAND)


def test_a_disk_that_cannot_hold_the_file_is_refused_beforehand(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")(10**9, 10**9, 5000)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(
        InputError, match=r"data\.bin needs 0\.00 GB, the disk of .* has 0\.00 GB free; free some space"
    ):
        fetch(wanted(site), tmp_path, BY_HAND)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_up_during_a_download_gives_a_one_line_error_and_keeps_the_beginning(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_after(number: int) -> Callable[..., Iterator[bytes]]:
        def reported(chunks: Iterator[bytes], *arguments: object) -> Iterator[bytes]:
            for count, chunk in enumerate(chunks):
                if count == number:
                    raise OSError(errno.ENOSPC, "No space left on device")
                yield chunk

        return reported

    monkeypatch.setattr(download, "_reported", full_after(4))
    with pytest.raises(InputError, match="the disk of .* is full; free some space or pass --downloads"):
        fetch(wanted(site), tmp_path, BY_HAND)
    assert (tmp_path / "data.bin.part").read_bytes() == CONTENT[:4096]


def test_every_source_except_sketch_has_a_checksum() -> None:
    without = [key for key, entry in download._sources().items() if not (entry.md5 or entry.sha256)]
    assert without == ["sketch"]
    assert len(download._sources()) == 12 + 3 + 1 + 16 + 4


def test_checksums_in_the_source_table_have_the_length_of_their_kind() -> None:
    for entry in download._sources().values():
        assert re.fullmatch(r"[0-9a-f]{32}", entry.md5 or "0" * 32)
        assert re.fullmatch(r"[0-9a-f]{64}", entry.sha256 or "0" * 64)


def test_mirrors_of_a_source_are_its_rows_in_order() -> None:
    assert [url.split("/")[2] for url in source("cifar10").urls] == ["www.cs.toronto.edu", "dataset.bj.bcebos.com"]
    assert source("dtd").num_bytes == 625_239_812


def test_a_file_that_is_no_zip_archive_is_not_recorded_as_the_first_one(tmp_path):
    wrong = tmp_path / "wrong.zip"
    wrong.write_text("hello\n")
    wanted = download.Source("sketches.zip", ())
    assert download.mismatch(wrong, wanted, tmp_path) == "is not a zip archive"
    assert not (tmp_path / "sketches.zip.sha256").exists()
