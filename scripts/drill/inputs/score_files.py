"""Hostile files of imported scores."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

from scripts.drill.cases import Suite, finished
from scripts.drill.inputs.hostile import EITHER, REFUSED, SAME, Hostile, cases
from scripts.drill.inputs.odd_files import MEGABYTE, ODD
from scripts.drill.processes import run
from scripts.drill.tiny_runs import TEXTURES, in_folder

KIND = "hostile score file"
NUM_IMAGES = 120
Row = tuple[str, str]  # A sample_id and its score.
Text = Callable[[list[Row]], str | bytes]


def rows() -> list[Row]:
    """Return the scores that the plain file has, by sample_id in the order of the pool."""
    from prunetune.data.readers.textures import Textures

    ids = Textures(num_pool=NUM_IMAGES, num_test=100, size=16).pool("train").sample_ids
    return [(sample_id, f"{(number * 37) % NUM_IMAGES}.{number:03d}") for number, sample_id in enumerate(ids)]


def plain(pairs: list[Row], header: str = "sample_id,score", separator: str = ",", end: str = "\n") -> str:
    """Return the text of a file with a header and two columns."""
    return "".join(f"{line}{end}" for line in [header, *(f"{name}{separator}{score}" for name, score in pairs)])


def with_score(change: Callable[[str], str], only_first: bool = True, header: str = "sample_id,score") -> Text:
    """Return the plain file with changed scores."""

    def text(pairs: list[Row]) -> str:
        changed = [(n, change(s) if row == 0 or not only_first else s) for row, (n, s) in enumerate(pairs)]
        return plain(changed, header)

    return text


def with_line(line: str, row: int = 3) -> Text:
    """Return the plain file with another line in the place of one row."""

    def text(pairs: list[Row]) -> str:
        lines = plain(pairs).splitlines()
        lines[row] = line.format(name=pairs[row - 1][0], score=pairs[row - 1][1])
        return "\n".join(lines) + "\n"

    return text


def numbered(start: int = 0, step: int = 1) -> Text:
    """Return the file with row numbers as ids."""
    return lambda pairs: plain([(str(start + step * row), score) for row, (_, score) in enumerate(pairs)])


def as_json(change: Callable[[dict[str, object], int], object] = lambda row, number: row) -> Text:
    """Return the file as JSON lines, after a change of each row, which is called with its number."""

    def text(pairs: list[Row]) -> str:
        made = [change({"sample_id": name, "score": float(score)}, row) for row, (name, score) in enumerate(pairs)]
        return "".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in made)

    return text


def _first(change: dict[str, object]) -> Callable[[dict[str, object], int], object]:
    return lambda row, number: row if number else row | change


SAME_CSV: dict[str, Text] = {
    "plain": plain,
    "a byte-order mark": lambda pairs: "\ufeff" + plain(pairs),
    "line ends of Windows": lambda pairs: plain(pairs, end="\r\n"),
    "quoted fields": lambda pairs: plain([(f'"{name}"', f'"{score}"') for name, score in pairs]),
    "columns in another order": lambda pairs: plain([(score, name) for name, score in pairs], "score,sample_id"),
    "another column": lambda pairs: plain([(name, f"{score},7") for name, score in pairs], "sample_id,score,label"),
    "rows in another order": lambda pairs: plain(pairs[::-1]),
    "exponents": lambda pairs: plain([(name, f"{float(score) * 100:.3f}e-2") for name, score in pairs]),
    "row numbers as ids": numbered(),
}
REFUSED_CSV: dict[str, Text] = {
    "decimal commas": lambda pairs: plain([(name, score.replace(".", ",")) for name, score in pairs]),
    "a decimal comma in one row": with_score(lambda score: score.replace(".", ",")),
    "quoted decimal commas": lambda pairs: plain([(n, '"' + s.replace(".", ",") + '"') for n, s in pairs]),
    "semicolons": lambda pairs: plain(pairs, "sample_id;score", ";"),
    "semicolons and decimal commas": lambda pairs: plain(
        [(name, score.replace(".", ",")) for name, score in pairs], "sample_id;score", ";"
    ),
    "separators of thousands": with_score(lambda score: "1,500"),
    "quoted separators of thousands": with_score(lambda score: '"1,500"'),
    "points of thousands": with_score(lambda score: "1.234.567"),
    "spaces of thousands": with_score(lambda score: "1 500"),
    "underscores of thousands": with_score(lambda score: "1_500"),
    "two score columns": lambda pairs: plain(
        [(n, f"{s},{row}") for row, (n, s) in enumerate(pairs)], "sample_id,score,score"
    ),
    "two id columns": lambda pairs: plain(
        [(name, f"{s},x{row}") for row, (name, s) in enumerate(pairs)], "sample_id,score,sample_id"
    ),
    "another header": lambda pairs: plain(pairs, "id,value"),
    "a header in capitals": lambda pairs: plain(pairs, "SAMPLE_ID,SCORE"),
    "no header": lambda pairs: plain(pairs[1:], ",".join(pairs[0])),
    "a header alone": lambda pairs: "sample_id,score\n",
    "an empty score": with_score(lambda score: ""),
    "nan": with_score(lambda score: "nan"),
    "inf": with_score(lambda score: "-inf"),
    "a number too large": with_score(lambda score: "1e999"),
    "a word": with_score(lambda score: "high"),
    "a percent sign": with_score(lambda score: "50%"),
    "a hexadecimal number": with_score(lambda score: "0x1p3"),
    "a fraction": with_score(lambda score: "1/2"),
    "digits of another script": with_score(lambda score: "\u0661\u0662"),
    "a formula": with_score(lambda score: "=A1+1"),
    "an id twice": lambda pairs: plain([*pairs, pairs[0]]),
    "an id twice with two scores": lambda pairs: plain([*pairs, (pairs[0][0], "9")]),
    "a missing id": lambda pairs: plain(pairs[1:]),
    "a row of one field": with_line("{name}"),
    "a row of three fields": with_line("{name},{score},7"),
    "a row of a thousand fields": with_line("{name},{score}" + ",7" * 1000),
    "an open quote": with_line('"{name},{score}'),
    "a NUL byte": with_line("{name},{score}\0"),
    "row numbers from 1": numbered(1),
    "row numbers in twos": numbered(0, 2),
    "row numbers up to another pool": lambda pairs: plain([(str(n), "1.5") for n in range(len(pairs) - 20)]),
    "row numbers and ids": lambda pairs: plain([("0", pairs[0][1]), *pairs[1:]]),
    "UTF-16": lambda pairs: plain(pairs).encode("utf-16"),
    "Latin-1": lambda pairs: plain([*pairs, ("\xe9", "1")]).encode("latin-1"),
    "a line of a megabyte": with_line("{name}," + "1" * MEGABYTE),
    "an id of a megabyte": with_line("a" * MEGABYTE + ",{score}"),
    "the columns of a spreadsheet beside each other": with_line("{name},{score},{name},{score}"),
}
JSON: dict[str, tuple[str, Text]] = {
    "JSON lines": (SAME, as_json()),
    "JSON lines with NaN": (REFUSED, as_json(_first({"score": float("nan")}))),
    "JSON lines with null": (REFUSED, as_json(_first({"score": None}))),
    "JSON lines with true": (REFUSED, as_json(_first({"score": True}))),
    "JSON lines with a list": (REFUSED, as_json(_first({"score": [1, 2]}))),
    "JSON lines with a decimal comma": (REFUSED, as_json(_first({"score": "0,731"}))),
    "JSON lines with a number as text": (EITHER, as_json(_first({"score": "0.731"}))),
    "JSON lines with a huge number": (REFUSED, as_json(_first({"score": 10**400}))),
    "JSON lines without a score": (REFUSED, as_json(lambda row, number: row if number else {"sample_id": "a"})),
    "JSON lines with a key twice": (
        REFUSED,
        as_json(lambda row, number: row if number else '{"sample_id": "x", "score": 1, "score": 2}\n'),
    ),
    "JSON lines with a cut line": (REFUSED, as_json(lambda row, number: row if number else '{"sample_id": "x", \n')),
    "JSON lines nested very deep": (REFUSED, as_json(lambda row, number: row if number else "[" * 100000 + "\n")),
    "a JSON list": (REFUSED, lambda pairs: json.dumps([{"sample_id": n, "score": float(s)} for n, s in pairs])),
}


def _case(name: str, expected: str, text: Text, suffix: str) -> Hostile:
    def words(folder: Path) -> list[str]:
        content = text(rows())
        path = folder / f"scores{suffix}"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return command(path)

    return Hostile(name, expected, words)


def command(path: Path) -> list[str]:
    """Return the command line of a run that reads a score file."""
    return [
        "run",
        *TEXTURES,
        "ratio=0.3",
        "sampler=topk",
        "scorer=from_file",
        f"scorer.path={path}",
        "scorer.name=mine",
    ]


def inputs() -> list[Hostile]:
    """Return all score files."""
    found = [_case(name, SAME, text, ".csv") for name, text in SAME_CSV.items()]
    found += [_case(name, REFUSED, text, ".csv") for name, text in REFUSED_CSV.items()]
    found += [_case(name, expected, text, ".jsonl") for name, (expected, text) in JSON.items()]
    for name, make in ODD.items():
        for suffix in (".csv", ".jsonl", ".parquet"):
            if suffix == ".csv" or name in ("random bytes", "a pipe", "a link to /dev/zero", "an empty file"):
                found.append(_odd(f"{name} named scores{suffix}", make, suffix))
    return found


def _odd(name: str, make: Callable[[Path], None], suffix: str) -> Hostile:
    def words(folder: Path) -> list[str]:
        make(folder / f"scores{suffix}")
        return command(folder / f"scores{suffix}")

    return Hostile(name, REFUSED, words)


def prepare(shared: Path) -> None:
    """Run with the plain file."""
    with (shared / "scores.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("sample_id", "score"), *rows()])
    finished(run([*command(shared / "scores.csv"), in_folder(shared / "calm")], shared))


SUITE = Suite("score files", cases(KIND, inputs()), prepare)
