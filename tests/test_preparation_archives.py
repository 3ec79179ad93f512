import errno
import io
import logging
import random
import shutil
import signal
import stat
import subprocess
import sys
import tarfile
import zipfile
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import pytest

from made_data import cut_in_half
from prunetune.base.errors import InputError
from prunetune.data.prepare.archives import MOST_BYTES, MOST_HEADER_BYTES, extract, inside, member_names
from prunetune.data.prepare.disk import explained, link_or_copy, staging
from prunetune.data.prepare.official import require_files
from prunetune.data.prepare.record import require_free

Make = Callable[[Path, dict[str, bytes]], Path]


def make_tar(path: Path, files: dict[str, bytes], *specials: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        for member in specials:
            archive.addfile(member)
    return path


def make_zip(path: Path, files: dict[str, bytes], links: dict[str, str] | None = None) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
        for name, target in (links or {}).items():
            member = zipfile.ZipInfo(name)
            member.external_attr = (stat.S_IFLNK | 0o777) << 16
            archive.writestr(member, target)
    return path


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


def as_it_is(name: str) -> str:
    return name


@pytest.mark.parametrize("make", [make_tar, make_zip])
def test_chosen_members_are_written_where_they_belong(tmp_path: Path, make: Make) -> None:
    archive = make(tmp_path / "archive", {"top/a/1.png": b"one", "./top/b.txt": b"two", "top/.hidden": b"", "x": b""})
    out = tmp_path / "out"
    out.mkdir()
    assert extract(archive, out, inside("top")) == 2
    assert {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()} == {
        "a/1.png": b"one",
        "b.txt": b"two",
    }
    assert member_names(archive) == ["top/a/1.png", "top/b.txt", "top/.hidden", "x"]


@pytest.mark.parametrize("make", [make_tar, make_zip])
@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/evil", "C:/evil", "..\\evil"])
def test_a_name_that_leads_outside_refuses_the_archive(tmp_path: Path, make: Make, name: str) -> None:
    archive = make(tmp_path / "archive", {"good": b"", name: b"evil"})
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(InputError, match="is refused: .* would be written outside"):
        extract(archive, out, as_it_is)
    assert not list(tmp_path.rglob("*evil"))


def test_a_file_without_a_name_refuses_the_archive(tmp_path: Path) -> None:
    archive = make_tar(tmp_path / "archive.tar.gz", {"good": b"", "": b"nameless"})
    with pytest.raises(InputError, match="is refused: a file in it has no name"):
        member_names(archive)


@pytest.mark.parametrize("name", ["/etc/hostname", "moss/../../other.jpg"])
def test_a_list_that_leads_outside_refuses_the_archive(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="which is outside the images' folder"):
        require_files(tmp_path, [name])


@pytest.mark.parametrize("name", ["../evil", "/evil"])
def test_an_unsafe_member_refuses_the_archive_even_if_it_is_not_chosen(tmp_path: Path, name: str) -> None:
    archive = make_tar(tmp_path / "a.tar.gz", {name: b"evil", "good": b""})
    with pytest.raises(InputError, match="is refused"):
        extract(archive, tmp_path, lambda member: member if member == "good" else None)
    with pytest.raises(InputError, match="is refused"):
        member_names(archive)


@pytest.mark.parametrize(
    "member",
    [
        special("link", tarfile.SYMTYPE, "/etc/passwd"),
        special("link", tarfile.LNKTYPE, "good"),
        special("device", tarfile.CHRTYPE),
        special("pipe", tarfile.FIFOTYPE),
    ],
    ids=["symlink", "hard link", "device", "pipe"],
)
def test_links_and_devices_in_a_tar_refuse_it(tmp_path: Path, member: tarfile.TarInfo) -> None:
    archive = make_tar(tmp_path / "a.tar.gz", {"good": b""}, member)
    with pytest.raises(InputError, match=f"'{member.name}' is a link or a device"):
        extract(archive, tmp_path, as_it_is)
    assert not (tmp_path / member.name).exists()


def test_links_in_a_zip_refuse_it(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "a.zip", {"good": b""}, links={"link": "/etc/passwd"})
    with pytest.raises(InputError, match="'link' is a link or a device"):
        extract(archive, tmp_path, as_it_is)


@pytest.mark.parametrize("make", [make_tar, make_zip])
def test_a_truncated_archive_gives_a_one_line_error(tmp_path: Path, make: Make) -> None:
    archive = cut_in_half(make(tmp_path / "archive", {f"{number}": bytes(range(256)) * 99 for number in range(9)}))
    with pytest.raises(InputError, match="archive is not a readable tar or zip archive .* download it again"):
        extract(archive, tmp_path, as_it_is)


KINDS = {"gz": ".tar.gz", "bz2": ".tar.bz2", "xz": ".tar.xz"}


@pytest.mark.parametrize("kind", KINDS)
def test_a_flipped_bit_in_a_compressed_tar_is_one_line(tmp_path: Path, kind: str) -> None:
    whole = tmp_path / f"a{KINDS[kind]}"
    with tarfile.open(whole, f"w:{kind}") as archive:
        member = tarfile.TarInfo("pixels")
        member.size = 20_000
        archive.addfile(member, io.BytesIO(random.Random(0).randbytes(member.size)))
    content, refused = whole.read_bytes(), 0
    assert extract(whole, tmp_path, as_it_is) == 1
    for place in range(40, len(content) - 10, len(content) // 50):  # The first 40 bytes may hold a name or a date.
        whole.write_bytes(content[:place] + bytes([content[place] ^ 16]) + content[place + 1 :])
        with pytest.raises(InputError, match="is not a readable tar or zip archive"):
            extract(whole, tmp_path, as_it_is)
        refused += 1
    assert refused >= 48


def test_the_checksum_and_the_length_at_the_end_of_a_gzip_are_compared(tmp_path: Path) -> None:
    whole = make_tar(tmp_path / "a.tar.gz", {"good": b"content"})
    content = whole.read_bytes()
    for damaged in (content[:-8] + bytes(8), content[:-4] + bytes(4), content[:-8], content[:-1], content + b"more"):
        whole.write_bytes(damaged)
        with pytest.raises(InputError, match="is not a readable tar or zip archive"):
            extract(whole, tmp_path, as_it_is)
        with pytest.raises(InputError, match="is not a readable tar or zip archive"):
            member_names(whole)


def test_a_member_that_is_too_large_refuses_the_archive_before_it_is_read(tmp_path: Path) -> None:
    huge = special("huge", tarfile.REGTYPE)
    huge.size = MOST_BYTES + 1  # The content does not follow, so that reading it would fail otherwise.
    sparse = special("sparse", tarfile.REGTYPE)
    sparse.pax_headers = {"size": str(2**50)}
    name = special("a", tarfile.XHDTYPE)
    name.size = MOST_HEADER_BYTES + 1
    for member in (huge, sparse, name):
        archive = make_tar(tmp_path / "a.tar.gz", {"good": b""}, member)
        with pytest.raises(InputError, match=r"is refused: '.*' has \d+ bytes, and a member may have"):
            extract(archive, tmp_path, as_it_is)
    archive = make_zip(tmp_path / "a.zip", {"good": b"", "huge": b"12"})
    content = archive.read_bytes()
    size = content.rindex(b"PK\x01\x02") + 24  # The size of the last member in the directory at the end of a zip.
    archive.write_bytes(content[:size] + (2**31).to_bytes(4, "little") + content[size + 4 :])
    with pytest.raises(InputError, match="is refused: 'huge' has 2147483648 bytes"):
        member_names(archive)


def test_the_progress_of_a_long_extraction_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("prunetune.base.progress.SECONDS_BETWEEN_LINES", -1.0)
    noise = random.Random(0).randbytes(3 * 2**19)
    with caplog.at_level(logging.INFO):
        extract(make_tar(tmp_path / "a.tar.gz", {"noise": noise}), tmp_path, as_it_is)
        extract(make_zip(tmp_path / "a.zip", {"one": b"", "two": b""}), tmp_path, as_it_is)
    assert "reading a.tar.gz, MiB: 1 of 2" in caplog.text
    assert "reading a.zip, members: 2 of 2" in caplog.text


def test_a_text_file_and_a_missing_file_are_no_archives(tmp_path: Path) -> None:
    (tmp_path / "page.zip").write_text("<html>")
    with pytest.raises(InputError, match="is not a readable tar or zip archive"):
        member_names(tmp_path / "page.zip")
    with pytest.raises(InputError, match="expected an archive at .*, found no file"):
        member_names(tmp_path / "missing.zip")


def test_a_full_disk_during_extraction_gives_a_one_line_error_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    archive = make_tar(tmp_path / "a.tar.gz", {"good": b"content"})
    monkeypatch.setattr(shutil, "copyfileobj", full)
    with pytest.raises(InputError, match="the disk of .* is full"), staging(tmp_path / "out") as partial:
        extract(archive, partial, as_it_is)
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar.gz"]


def test_a_zip_that_does_not_fit_on_the_disk_is_refused_beforehand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = make_zip(tmp_path / "a.zip", {"good": bytes(6000), "other": bytes(10**6)})
    usage = namedtuple("usage", "total used free")(10**9, 10**9, 6500)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    (tmp_path / "out").mkdir()
    extract(archive, tmp_path / "out", lambda name: name if name == "good" else None)
    with pytest.raises(InputError, match=r"a\.zip needs 0\.00 GB"):
        extract(archive, tmp_path / "out", as_it_is)


def test_a_failed_block_leaves_no_folder(tmp_path: Path) -> None:
    def fail() -> None:
        with staging(tmp_path / "out") as partial:
            (partial / "half").write_text("")
            raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_something_in_it_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("")
    with pytest.raises(InputError, match="out exists already; delete it"), staging(tmp_path / "out") as partial:
        (partial / "theirs").write_text("")
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "mine"]


KILLED = """
import os, shutil, signal, sys
from pathlib import Path
from prunetune.data.prepare.archives import extract
from prunetune.data.prepare.disk import staging

copied = []

def copy(source, file, size):
    file.write(source.read()[:3])
    file.flush()
    copied.append(file)
    if len(copied) == 3:
        os.kill(os.getpid(), signal.SIGKILL)

shutil.copyfileobj = copy
with staging(Path(sys.argv[2])) as partial:
    extract(Path(sys.argv[1]), partial, lambda name: name)
"""


def test_a_killed_extraction_leaves_nothing_mistaken_for_data(tmp_path: Path) -> None:
    archive, out = make_tar(tmp_path / "a.tar.gz", {f"{number}": b"content" for number in range(9)}), tmp_path / "out"
    killed = subprocess.run([sys.executable, "-c", KILLED, str(archive), str(out)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not out.exists()
    assert len(list(tmp_path.glob(".partial-*/*"))) == 3
    with staging(out) as partial:
        assert extract(archive, partial, as_it_is) == 9
    assert {path.name for path in tmp_path.iterdir()} == {"a.tar.gz", "out"}


def test_a_linked_file_is_the_same_file_and_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "original").write_text("content")
    (tmp_path / "symbolic").symlink_to("original")
    link_or_copy(tmp_path / "symbolic", tmp_path / "new" / "name")
    assert (tmp_path / "new" / "name").samefile(tmp_path / "original")
    assert not (tmp_path / "new" / "name").is_symlink()


def test_a_file_on_another_disk_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def other_disk(*arguments: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    (tmp_path / "original").write_text("content")
    monkeypatch.setattr("os.link", other_disk)
    link_or_copy(tmp_path / "original", tmp_path / "name")
    assert (tmp_path / "name").read_text() == "content"
    assert not (tmp_path / "name").samefile(tmp_path / "original")


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.ENOSPC, "the disk of data is full; free some space or go elsewhere"),
        (errno.EDQUOT, "the disk of data is full; free some space or go elsewhere"),
        (errno.EACCES, "data/x cannot be used (words); change its permissions or go elsewhere"),
        (errno.EROFS, "data/x cannot be used (words); change its permissions or go elsewhere"),
        (errno.ENOENT, "data/x cannot be used (words); check the path or go elsewhere"),
        (errno.EIO, "data/x cannot be used (words); check the path or go elsewhere"),
    ],
)
def test_an_error_of_the_disk_gives_a_one_line_error(number: int, message: str) -> None:
    with pytest.raises(InputError) as error, explained(Path("data"), "go elsewhere"):
        raise OSError(number, "words", "data/x")
    assert str(error.value) == message


def test_a_place_that_cannot_be_written_is_refused_before_anything_is_downloaded(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(
        InputError, match=r"file/data cannot be used \(Not a directory\); check the path or pass --root"
    ):
        require_free(tmp_path / "file" / "data" / "dtd", "dtd")
    with pytest.raises(InputError, match=r"cannot be used \(File name too long\); shorten the name or pass --root"):
        require_free(tmp_path / ("x" * 300), "dtd")
    require_free(tmp_path / "data" / "dtd", "dtd")
    assert list((tmp_path / "data").iterdir()) == []
