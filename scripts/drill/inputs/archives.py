"""Hostile archives of a published data set."""

import bz2
import gzip
import io
import lzma
import random
import stat
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from scripts.drill.cases import Suite
from scripts.drill.inputs.hostile import ACCEPTED, EITHER, REFUSED, Hostile, cases
from scripts.drill.inputs.odd_files import MEGABYTE, ODD

KIND = "hostile archive"
FLIPS = 8  # Places of a flipped bit in each kind of archive.
CUTS = (0.02, 0.5, 0.9, 0.999)
Files = dict[str, bytes]
Make = Callable[[Path], None]


def files() -> Files:
    """Return the files of a small DTD, which are not compressible."""
    draws = random.Random(0)
    found = {}
    for split in ("train", "val", "test"):
        names = [f"{label}/{label}_{split}.jpg" for label in ("banded", "dotted")]
        found |= {f"dtd/images/{name}": draws.randbytes(3000) for name in names}
        found[f"dtd/labels/{split}1.txt"] = "".join(f"{name}\n" for name in names).encode()
    return found


def tar(contents: Files, *specials: tarfile.TarInfo) -> bytes:
    """Return a tar file of these contents, with members of other kinds behind them."""
    memory = io.BytesIO()
    with tarfile.open(fileobj=memory, mode="w") as archive:
        for name, content in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        for member in specials:
            archive.addfile(member)
    return memory.getvalue()


def zipped(contents: Files, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """Return a zip file of these contents."""
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w", method) as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    return memory.getvalue()


def special(name: str, kind: bytes, target: str = "", size: int = 0) -> tarfile.TarInfo:
    """Return a member that is no ordinary file, or one that claims a size."""
    member = tarfile.TarInfo(name)
    member.type, member.linkname, member.size = kind, target, size
    return member


def squeezed(content: bytes) -> bytes:
    """Return a .gz without a time in its header."""
    return gzip.compress(content, mtime=0)


PACKED: dict[str, Callable[[Files], bytes]] = {
    ".tar.gz": lambda contents: squeezed(tar(contents)),
    ".tar.bz2": lambda contents: bz2.compress(tar(contents)),
    ".tar.xz": lambda contents: lzma.compress(tar(contents)),
    ".zip": zipped,
}
# Bytes at the beginning that no checksum covers: the header of gzip with its time and system.
UNCHECKED = {".tar.gz": 10, ".tar.bz2": 0, ".tar.xz": 0, ".zip": 0}


def flipped(content: bytes, number: int, suffix: str) -> bytes:
    """Flip one bit; `number` spreads the places over the content."""
    start, end = UNCHECKED[suffix], len(content)
    if suffix == ".zip":
        end = content.index(b"PK\x01\x02")  # Names and times in the table at the end have no checksum.
        start = 30 + content[26] + 256 * content[27]  # The first file's data begin here.
        end = content.index(b"PK\x03\x04", start)
    place = start + int((number + 0.5) / FLIPS * (end - start))
    changed = bytearray(content)
    changed[place] ^= 1 << number % 8
    return bytes(changed)


def bomb() -> bytes:
    """Return a .tar.gz of 3 MB whose one image has 3 GB of zeros."""
    memory, size = io.BytesIO(), 3 * 2**30
    with gzip.open(memory, "wb", compresslevel=1) as file:
        file.write(special("dtd/images/banded/bomb.jpg", tarfile.REGTYPE, size=size).tobuf())
        for _ in range(size // (64 * MEGABYTE)):
            file.write(bytes(64 * MEGABYTE))
        file.write(bytes(1024))
    return memory.getvalue()


def zip_bomb() -> bytes:
    """Return a zip that claims and has an image of 3 GB of zeros."""
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        with archive.open("dtd/images/banded/bomb.jpg", "w", force_zip64=True) as file:
            for _ in range(48):
                file.write(bytes(64 * MEGABYTE))
    return memory.getvalue()


def linked_zip(mode: int) -> bytes:
    """Return a zip with a member of another kind."""
    memory = io.BytesIO(zipped(files()))
    with zipfile.ZipFile(memory, "a") as archive:
        member = zipfile.ZipInfo("dtd/images/link.jpg")
        member.external_attr = (mode | 0o777) << 16
        archive.writestr(member, "/etc/passwd")
    return memory.getvalue()


def _with(more: Files) -> bytes:
    return squeezed(tar(files() | more))


def _without(*names: str) -> bytes:
    return squeezed(tar({name: content for name, content in files().items() if name not in names}))


def _special(*members: tarfile.TarInfo) -> Callable[[], bytes]:
    return lambda: squeezed(tar(files(), *members))


def _claimed(size: int) -> bytes:
    """Return a tar whose last member claims more bytes than follow."""
    return tar(files())[:-10240] + special("dtd/images/x.jpg", tarfile.REGTYPE, size=size).tobuf(tarfile.GNU_FORMAT)


def _encrypted() -> bytes:
    content = bytearray(zipped(files()))
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        place = content.find(mark)
        while place >= 0:
            content[place + offset] |= 1
            place = content.find(mark, place + 1)
    return bytes(content)


def _other_method() -> bytes:
    content = zipped(files())
    return content.replace(struct.pack("<HH", 0, 8), struct.pack("<HH", 0, 99))


EVIL = "images/evil.jpg"
MADE: dict[str, tuple[str, str, Callable[[], bytes]]] = {
    "a link": (".tar.gz", REFUSED, _special(special("dtd/images/link", tarfile.SYMTYPE, "/etc"))),
    "a hard link": (".tar.gz", REFUSED, _special(special("dtd/link", tarfile.LNKTYPE, "/etc/passwd"))),
    "a character device": (".tar.gz", REFUSED, _special(special("dtd/null", tarfile.CHRTYPE))),
    "a block device": (".tar.gz", REFUSED, _special(special("dtd/disk", tarfile.BLKTYPE))),
    "a member that is a pipe": (".tar.gz", REFUSED, _special(special("dtd/pipe", tarfile.FIFOTYPE))),
    "a link through which a file is written": (
        *(".tar.gz", REFUSED),
        _special(special("dtd/images/out", tarfile.SYMTYPE, "/tmp"), special("dtd/images/out/evil", tarfile.REGTYPE)),
    ),
    "a name with ..": (".tar.gz", REFUSED, lambda: _with({f"dtd/../../{EVIL}": b""})),
    "an absolute name": (".tar.gz", REFUSED, lambda: _with({f"/{EVIL}": b""})),
    "a name with backslashes": (".tar.gz", REFUSED, lambda: _with({"dtd\\..\\evil": b""})),
    "a name with a drive": (".tar.gz", REFUSED, lambda: _with({"C:/evil": b""})),
    "a name of 300 letters": (".tar.gz", REFUSED, lambda: _with({f"dtd/images/{'a' * 300}.jpg": b""})),
    "a path of 5000 letters": (".tar.gz", REFUSED, lambda: _with({f"dtd/images/{'a/' * 2500}b.jpg": b""})),
    "an empty name": (".tar.gz", EITHER, lambda: _with({"": b""})),
    "a file where a folder is": (".tar.gz", REFUSED, lambda: _with({"dtd/images/banded": b"file"})),
    "a folder where a file is": (
        *(".tar.gz", REFUSED),
        _special(special("dtd/labels/train1.txt/x.txt", tarfile.REGTYPE)),
    ),
    "a member twice": (".tar.gz", EITHER, _special(special("dtd/labels/train1.txt", tarfile.REGTYPE))),
    "names that differ in capitals": (".tar.gz", EITHER, lambda: _with({"dtd/images/BANDED/x.jpg": b"x"})),
    "a member of 3 GB of zeros": (".tar.gz", REFUSED, bomb),
    "a member of 3 GB of zeros, zip": (".zip", REFUSED, zip_bomb),
    "a member that claims 1 TB": (".tar", REFUSED, lambda: _claimed(2**40)),
    "a member that claims a negative size": (".tar", REFUSED, lambda: _claimed(-5)),
    "20,000 empty members": (
        *(".tar.gz", EITHER),
        lambda: _with({f"dtd/images/banded/{number}.jpg": b"" for number in range(20_000)}),
    ),
    "no member": (".tar.gz", REFUSED, lambda: squeezed(tar({}))),
    "no member, zip": (".zip", REFUSED, lambda: zipped({})),
    "another top folder": (".tar.gz", REFUSED, lambda: squeezed(tar({f"x/{n}": c for n, c in files().items()}))),
    "an archive in the archive": (".tar.gz", REFUSED, lambda: squeezed(squeezed(tar(files())))),
    "bytes behind the end": (".tar.gz", EITHER, lambda: squeezed(tar(files())) + b"more"),
    "two archives, one behind the other": (".tar.gz", EITHER, lambda: squeezed(tar(files())) * 2),
    "no list of labels": (".tar.gz", REFUSED, lambda: _without("dtd/labels/val1.txt")),
    "no image of a list": (".tar.gz", REFUSED, lambda: _without("dtd/images/dotted/dotted_val.jpg")),
    "a list in UTF-16": (".tar.gz", REFUSED, lambda: _with({"dtd/labels/val1.txt": "a/b.jpg\n".encode("utf-16")})),
    "a list in Latin-1": (".tar.gz", REFUSED, lambda: _with({"dtd/labels/val1.txt": b"a/\xe9.jpg\n"})),
    "a list that leads outside": (
        ".tar.gz",
        REFUSED,
        lambda: _with({"dtd/labels/val1.txt": b"../../../etc/hostname\n"}),
    ),
    "a list with an absolute path": (".tar.gz", REFUSED, lambda: _with({"dtd/labels/val1.txt": b"/etc/hostname\n"})),
    "a list with a line of a megabyte": (
        *(".tar.gz", REFUSED),
        lambda: _with({"dtd/labels/val1.txt": b"a" * MEGABYTE + b"\n"}),
    ),
    "an empty list": (".tar.gz", EITHER, lambda: _with({"dtd/labels/val1.txt": b""})),
    "a link, zip": (".zip", REFUSED, lambda: linked_zip(stat.S_IFLNK)),
    "a device, zip": (".zip", REFUSED, lambda: linked_zip(stat.S_IFCHR)),
    "a pipe, zip": (".zip", REFUSED, lambda: linked_zip(stat.S_IFIFO)),
    "a name with .., zip": (".zip", REFUSED, lambda: zipped(files() | {f"dtd/../../{EVIL}": b""})),
    "an absolute name, zip": (".zip", REFUSED, lambda: zipped(files() | {f"/{EVIL}": b""})),
    "an encrypted zip": (".zip", REFUSED, _encrypted),
    "an unknown method, zip": (".zip", REFUSED, _other_method),
    "a stored zip": (".zip", ACCEPTED, lambda: zipped(files(), zipfile.ZIP_STORED)),
}


def command(archive: Path) -> list[str]:
    """Return the command line that prepares a data set from an archive."""
    checks = ["--no-checksum", "--no-check-counts"]
    return ["prepare", "dtd", "--root", str(archive.parent / "data" / "dtd"), "--archive", str(archive), *checks]


def _case(name: str, expected: str, suffix: str, make: Make) -> Hostile:
    def words(folder: Path) -> list[str]:
        make(folder / f"archive{suffix}")
        return command(folder / f"archive{suffix}")

    return Hostile(name, expected, words)


def _writing(content: Callable[[], bytes]) -> Make:
    def make(path: Path) -> None:
        path.write_bytes(content())

    return make


def inputs() -> list[Hostile]:
    """Return all archives."""
    found = []
    for suffix, pack in PACKED.items():
        found.append(_case(f"plain {suffix}", ACCEPTED, suffix, _writing(lambda pack=pack: pack(files()))))
        for number in range(FLIPS):

            def flip(pack: Callable[[Files], bytes] = pack, number: int = number, suffix: str = suffix) -> bytes:
                return flipped(pack(files()), number, suffix)

            found.append(_case(f"bit {number + 1} of {FLIPS} flipped, {suffix}", REFUSED, suffix, _writing(flip)))
        for part in CUTS:

            def cut(pack: Callable[[Files], bytes] = pack, part: float = part) -> bytes:
                content = pack(files())
                return content[: int(len(content) * part)]

            found.append(_case(f"cut at {part:.1%}, {suffix}", REFUSED, suffix, _writing(cut)))
    found += [_case(name, expected, suffix, _writing(content)) for name, (suffix, expected, content) in MADE.items()]
    found += [_case(name, REFUSED, ".tar.gz", make) for name, make in ODD.items()]
    return found


def prepare(shared: Path) -> None:
    """Nothing is shared."""


SUITE = Suite("archives", cases(KIND, inputs()), prepare)
