"""Hostile lists of image files."""

from collections.abc import Callable
from pathlib import Path

from scripts.drill.cases import Suite, finished
from scripts.drill.inputs.hostile import EITHER, REFUSED, SAME, Hostile, cases
from scripts.drill.inputs.odd_files import MEGABYTE, ODD
from scripts.drill.processes import run
from scripts.drill.tiny_runs import CLASSES, PER_CLASS, QUICK, in_folder, photos

KIND = "hostile list file"
TEST_FROM = 7  # Images of a class from this number on are test images.
Text = Callable[[list[str]], str | bytes]  # Maps the lines of the plain list to the content of the file.


def lines(is_test: bool) -> list[str]:
    """Return the lines of the plain list: paths below the root."""
    numbers = range(TEST_FROM, PER_CLASS) if is_test else range(TEST_FROM)
    return [f"{name}/{number:02d}.png" for name in CLASSES for number in numbers]


def joined(rows: list[str], end: str = "\n") -> str:
    """Return lines as text."""
    return "".join(row + end for row in rows)


def labelled(separator: str) -> Text:
    """Return the list with the class behind every path."""
    return lambda rows: joined([f"{row}{separator}{row.split('/')[0]}" for row in rows])


def plus(*more: str) -> Text:
    """Return the list with further lines."""
    return lambda rows: joined([*rows, *more])


TEXTS: dict[str, tuple[str, Text]] = {
    "plain": (SAME, joined),
    "a byte-order mark": (SAME, lambda rows: "\ufeff" + joined(rows)),
    "line ends of Windows": (SAME, lambda rows: joined(rows, "\r\n")),
    "line ends of old Macs": (SAME, lambda rows: joined(rows, "\r")),
    "blank lines and spaces": (SAME, lambda rows: "\n\n" + joined([f"  {row}  \n" for row in rows])),
    "another order": (SAME, lambda rows: joined(rows[::-1])),
    "no last line end": (SAME, lambda rows: joined(rows)[:-1]),
    "a header": (REFUSED, lambda rows: joined(["path", *rows])),
    "a comment": (REFUSED, lambda rows: joined(["# my images", *rows])),
    "blank lines alone": (REFUSED, lambda rows: "\n \n\n"),
    "a missing file": (REFUSED, plus("bark/nowhere.png")),
    "ten thousand missing files": (REFUSED, plus(*(f"bark/{number}.jpg" for number in range(10_000)))),
    "a path outside the root": (REFUSED, plus("../outside/00.png")),
    "an absolute path": (REFUSED, plus("/etc/hostname")),
    "a folder as an image": (REFUSED, plus("bark")),
    "a device": (REFUSED, plus("/dev/zero")),
    "a path twice": (REFUSED, lambda rows: joined([*rows, rows[0]])),
    "a path written in two ways": (REFUSED, lambda rows: joined([*rows, f"./{rows[0]}"])),
    "a path of the test list": (REFUSED, plus(f"{CLASSES[0]}/{TEST_FROM:02d}.png")),
    "one class alone": (REFUSED, lambda rows: joined([row for row in rows if row.startswith(CLASSES[0])])),
    "no image of a class": (REFUSED, lambda rows: joined([row for row in rows if not row.startswith(CLASSES[0])])),
    "some labels": (REFUSED, lambda rows: joined([f"{rows[0]} bark", *rows[1:]])),
    "labels of the train list only": (REFUSED, labelled(" ")),
    "quotes": (REFUSED, lambda rows: joined([f'"{row}"' for row in rows])),
    "backslashes": (REFUSED, lambda rows: joined([row.replace("/", "\\") for row in rows])),
    "a NUL byte": (REFUSED, plus("bark/00\0.png")),
    "an escape sequence": (REFUSED, plus("\x1b[31mred\x1b[0m.png")),
    "UTF-16": (REFUSED, lambda rows: joined(rows).encode("utf-16")),
    "Latin-1": (REFUSED, lambda rows: joined([*rows, "bark/\xe9.png"]).encode("latin-1")),
    "a surrogate": (REFUSED, lambda rows: joined(rows).encode() + b"bark/\xed\xa0\x80.png\n"),
    "a line of a megabyte": (REFUSED, plus("bark/" + "a" * MEGABYTE + ".png")),
    "a label of a megabyte": (REFUSED, lambda rows: joined([*(f"{r} x" for r in rows), f"{rows[0]} {'a' * MEGABYTE}"])),
    "a path of 5000 letters": (REFUSED, plus("a/" * 2500)),
    "a JSON list": (REFUSED, lambda rows: str(rows).replace("'", '"')),
}


def command(folder: Path, root: Path) -> list[str]:
    """Return the command line of a run on the lists in a folder. Relative names would be looked for below the root."""
    words = ["run", "experiment=demo", "dataset=image_folder", f"dataset.root={root}", "scorer=random", "ratio=0.3"]
    return [*words, *QUICK, f"dataset.train_list={folder / 'train.txt'}", f"dataset.test_list={folder / 'test.txt'}"]


def _case(name: str, expected: str, make: Callable[[Path], None]) -> Hostile:
    def words(folder: Path) -> list[str]:
        photos(folder / "photos")
        (folder / "test.txt").write_text(joined(lines(is_test=True)))
        make(folder / "train.txt")
        return command(folder, folder / "photos")

    return Hostile(name, expected, words)


def _writing(text: Text) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        content = text(lines(is_test=False))
        path.write_bytes(content if isinstance(content, bytes) else content.encode())

    return make


def inputs() -> list[Hostile]:
    """Return all list files."""
    found = [_case(name, expected, _writing(text)) for name, (expected, text) in TEXTS.items()]
    found += [_case(name, REFUSED, make) for name, make in ODD.items()]
    for separator, about in (("\t", "a tab"), (",", "a comma"), (" ", "a space")):
        found.append(_both_labelled(f"labels behind {about}", separator))
    return found


def _both_labelled(name: str, separator: str) -> Hostile:
    def words(folder: Path) -> list[str]:
        photos(folder / "photos")
        for is_test in (False, True):
            text = labelled(separator)(lines(is_test))
            (folder / ("test.txt" if is_test else "train.txt")).write_text(str(text))
        return command(folder, folder / "photos")

    return Hostile(name, SAME, words)


def prepare(shared: Path) -> None:
    """Run with the plain lists."""
    words = _case("plain", EITHER, _writing(joined)).words(shared)
    finished(run([*words, in_folder(shared / "calm")], shared))


SUITE = Suite("list files", cases(KIND, inputs()), prepare)
