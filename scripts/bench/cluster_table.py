"""The table of the benchmark of the cluster engine, from results/bench/cluster.csv."""

import csv
import math
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from prunetune.report.rounding import short_commit

Row = dict[str, Any]
METHODS = {  # Maps the data to methods, and each method to its number of classes and its planned sizes.
    "images": {method: (10, (10_000, 30_000, 100_000, 1_000_000)) for method in ("decode", "plain", "dlc")},
    "embeddings": {
        **{method: (1000, (100_000, 1_000_000, 10_000_000)) for method in ("random", "topk", "flexrand", "herding")},
        **{method: (20, (1_000_000,)) for method in ("one_level", "two_levels")},
    },
}
KEEP = {"images": 0.1, "embeddings": 0.02}  # The fraction of each class that is kept.
STAGES = ("listing", "passes", "scores", "sorting", "selecting", "products")
STAGES_OF_LOG = {  # Maps what the log calls a stage to its column.
    "listing shards": "listing",
    "reading embeddings": "passes",
    "class means": "scores",
    "losses": "scores",
    "sorting by class": "sorting",
    "selecting": "selecting",
    "cutting large classes": "selecting",
    "first level": "selecting",
    "second level": "selecting",
    "loss of two levels": "selecting",
    "writing products": "products",
}
KINDS = ("lists", "passes", "scores", "runs", "choices", "products", "out")  # The folders that hold products.
ENGINES = ("local", "ray")
NOT_RUN = "not run"
NOT_ASKED = f"{NOT_RUN}: nobody has asked for it yet"
SPEED, GROWTH = 0.8, 1.05  # The goals: at least this ratio of rows a second, at most this exponent.
DRIVER, A_ROW, WORKER = 2**30, 16, 2 * 2**30  # The limits of memory in bytes.
TEXTS = ("data", "method", "engine", "outcome", "commit", "device")


def planned(repeats: int = 1) -> list[Row]:
    """Return all rows of the table, small sizes first and the engines in turn."""
    rows = [
        {"data": data, "method": method, "classes": classes, "size": size, "engine": engine, "repeat": repeat}
        for data, methods in METHODS.items()
        for method, (classes, sizes) in methods.items()
        for size in sizes
        for repeat in range(repeats)
        for engine in ENGINES
        if not (engine == "local" and method == "two_levels")  # The engine in process has one level.
    ]
    return sorted(rows, key=lambda row: row["size"])


def read(file: Path) -> list[Row]:
    """Return the rows of the CSV file; what was not measured is None."""
    if not file.is_file():
        return []
    with file.open(newline="") as opened:
        return [{key: _value(key, text) for key, text in row.items()} for row in csv.DictReader(opened)]


def _value(key: str, text: str) -> Any:
    if key in TEXTS:
        return text
    if text == "":
        return None
    return float(text) if key.endswith("seconds") else int(text)


def medians(rows: Iterable[Row]) -> dict[tuple[str, str, int, str], Row]:
    """Return the median of the finished repeats of each row, by data, method, size and engine."""
    groups: dict[tuple[str, str, int, str], list[Row]] = {}
    for row in rows:
        if row["outcome"] == "finished":
            groups.setdefault((row["data"], row["method"], row["size"], row["engine"]), []).append(row)
    return {name: {key: _median(key, group) for key in group[0]} for name, group in groups.items()}


def _median(key: str, group: Sequence[Row]) -> Any:
    values = [row[key] for row in group if row[key] is not None]
    return values[-1] if key in TEXTS and values else statistics.median(values) if values else None


def write(rows: list[Row], file: Path) -> None:
    """Write the Markdown table."""
    found = medians(rows)
    sections = [
        _head(rows),
        _missed(found),
        _speed(found),
        _growth(found),
        _stages(found),
        _memory(found),
        _bytes(found),
        _absent(rows),
    ]
    file.write_text("\n".join(line for section in sections for line in section) + "\n", encoding="utf-8")


def _head(rows: Sequence[Row]) -> list[str]:
    commits = ", ".join(sorted({short_commit(row["commit"]) for row in rows}))
    devices = "; ".join(sorted({row["device"] for row in rows}))
    return [
        "# The cluster engine: speed against the engine in process, growth, memory, bytes",
        "",
        "Images: 32 x 32 JPEG in parquet files, 10 classes, the micro network, 10 % kept. decode: images are only",
        "decoded, to find broken ones (the engine in process keeps the pixels in its store). plain: one pass, its",
        "losses, and FlexRand. dlc: DLC of five levels with FlexRand. Embeddings: [N, 384] float16, 2 % kept; topk and",
        "flexrand take their losses, and herding orders no more rows than are kept (depth=0.02). one_level: herding of",
        "20 classes. two_levels: the same, but a worker holds a quarter of a class.",
        "",
        "Both engines had the same two cores and ran one after another, each row in a process of its own with an empty",
        "store: one run, or the median of its repeats. Little else ran on the machine. CPU seconds are those of all",
        "processes of a row. They count the start of Ray and of its workers, about 9 s of CPU in all.",
        f"X: not measured. Goals: a ratio of rows a second of at least {SPEED}, and an exponent of all seconds of",
        f"at most {GROWTH} (greedy methods have no goal for the exponent).",
        f"By `python -m scripts.bench.cluster`, commit {commits}. {devices}.",
    ]


def _table(title: str, heads: Sequence[str], lines: Iterable[Sequence[str]], texts: int = 2) -> list[str]:
    rule = "|" + "---|" * texts + "---:|" * (len(heads) - texts)
    return ["", f"## {title}", "", f"| {' | '.join(heads)} |", rule, *(f"| {' | '.join(line)} |" for line in lines)]


def _cases(found: dict[Any, Row]) -> list[tuple[str, str, int]]:
    """Return data, method and size of all measured rows, in the order of the plan."""
    cases = [(row["data"], row["method"], row["size"]) for row in planned()]
    order = [(data, method) for data, methods in METHODS.items() for method in methods]
    there = {case for case in cases if any((*case, engine) in found for engine in ENGINES)}
    return sorted(there, key=lambda case: (order.index(case[:2]), case[2]))


def _speed(found: dict[Any, Row]) -> list[str]:
    lines = []
    for data, method, size in _cases(found):
        here, ray = (found.get((data, method, size, engine), {}) for engine in ENGINES)
        cells = [_rate(size, row.get("seconds")) for row in (here, ray)]
        cells += [_ratio(here.get(key), ray.get(key)) for key in ("seconds", "cpu_seconds")]
        cells += [_number(here.get("cpu_seconds"), ".0f"), _number(ray.get("cpu_seconds"), ".0f")]
        lines.append([data, method, f"{size:,}", *cells, _number(ray.get("start_seconds"), ".1f")])
    heads = ["data", "method", "rows", "rows/s in process", "rows/s Ray", "ratio", "ratio of CPU s"]
    heads += ["CPU s in process", "CPU s Ray", "start of Ray, s"]
    about = "Rows a second count the whole command, with the start of Ray. ratio: seconds of the engine in process "
    about += "divided by those of Ray; above 1 Ray is faster. ratio of CPU s: the same of CPU seconds."
    return [*_table("Rows a second", heads, lines), "", about]


def _missed(found: dict[Any, Row]) -> list[str]:
    """Return the measured rows that miss a goal of speed or memory."""
    lines = []
    for data, method, size in _cases(found):
        here, ray = (found.get((data, method, size, engine), {}) for engine in ENGINES)
        name, ratio = f"{data} {method} {size:,}", _ratio(here.get("seconds"), ray.get("seconds"))
        if ratio != "X" and float(ratio) < SPEED:
            lines.append(f"- {name}: {ratio} of the rows a second of the engine in process.")
        if (ray.get("driver_peak_bytes") or 0) > DRIVER + A_ROW * size:
            lines.append(f"- {name}: the driver held {_mebibytes(ray, 'driver_peak_bytes')} MiB.")
        if (ray.get("worker_peak_bytes") or 0) > WORKER:
            lines.append(f"- {name}: a worker held {_mebibytes(ray, 'worker_peak_bytes')} MiB.")
    return ["", "## Missed goals of speed and memory", "", *(lines or ["None of what was measured."])]


def _rate(size: int, seconds: float | None) -> str:
    return "X" if seconds is None else f"{size / seconds:,.0f}"


def _ratio(above: float | None, below: float | None) -> str:
    return "X" if above is None or below is None else f"{above / below:.2f}"


def _number(value: float | None, form: str) -> str:
    return "X" if value is None else format(value, form)


def exponent(small: Row, large: Row, key: str) -> float | None:
    """Return a in value ~ N^a between two rows of different sizes; None if one of them lacks the value."""
    if not small.get(key) or not large.get(key):
        return None
    return math.log(large[key] / small[key]) / math.log(large["size"] / small["size"])


def _growth(found: dict[Any, Row]) -> list[str]:
    lines = []
    keys = ("seconds", "cpu_seconds", *(f"{stage}_seconds" for stage in STAGES))
    for data, methods in METHODS.items():
        for method in methods:
            rows = [found[case] for case in sorted(found) if case[:2] == (data, method) and case[3] == "ray"]
            for small, large in zip(rows, rows[1:], strict=False):
                cells = [_number(exponent(small, large, key), ".2f") for key in keys]
                lines.append([data, method, f"{small['size']:,} to {large['size']:,}", *cells])
    heads = ["data", "method", "rows", "all, seconds", "all, CPU s", *(f"{stage}, s" for stage in STAGES)]
    return _table("Exponents of Ray: a in seconds ~ N^a", heads, lines, 3)


def _stages(found: dict[Any, Row]) -> list[str]:
    lines = [
        [data, method, f"{size:,}", *(_number(row[f"{stage}_seconds"], ".1f") for stage in STAGES)]
        for (data, method, size) in _cases(found)
        if (row := found.get((data, method, size, "ray")))
    ]
    about = "The stages of the workers, by the log. The rest of a command is the start of Ray and the tables that the "
    about += "driver writes."
    return [*_table("Seconds of the stages of Ray", ["data", "method", "rows", *STAGES], lines), "", about]


def _memory(found: dict[Any, Row]) -> list[str]:
    lines = []
    for data, method, size in _cases(found):
        here, ray = (found.get((data, method, size, engine)) for engine in ENGINES)
        cells = [_mebibytes(here, "driver_peak_bytes"), _mebibytes(ray, "driver_peak_bytes")]
        cells += [f"{(DRIVER + A_ROW * size) / 2**20:,.0f}", _mebibytes(ray, "worker_peak_bytes")]
        lines.append([data, method, f"{size:,}", *cells, "X" if ray is None else f"{ray['workers']:g}"])
    heads = [
        "data",
        "method",
        "rows",
        "in process",
        "driver of Ray",
        "limit of the driver",
        "largest worker",
        "workers",
    ]
    about = "Peaks of resident memory of one process in MiB, with the libraries (about 850 MiB after the imports) and "
    about += (
        f"mapped files. The limit of a worker is {WORKER // 2**20:,} MiB. workers: processes, one after another too."
    )
    return [*_table("Memory", heads, lines), "", about]


def _mebibytes(row: Row | None, key: str) -> str:
    return "X" if row is None or row[key] is None else f"{row[key] / 2**20:,.0f}"


def _bytes(found: dict[Any, Row]) -> list[str]:
    lines = [
        [data, method, f"{size:,}", *(f"{row[f'{kind}_bytes'] / size:,.1f}" for kind in ("input", *KINDS))]
        + [f"{row['written_bytes'] / size:,.1f}"]
        for (data, method, size) in _cases(found)
        if (row := found.get((data, method, size, "ray")))
    ]
    heads = ["data", "method", "rows", "read", *KINDS, "sent to disks"]
    about = (
        "Bytes a row. read: the size of the shards. The others are the sizes of what Ray leaves in the store and the "
        "folder of the outcome: runs are what is shuffled from the order of the shards to that of the classes, choices "
        "are scores, ranks and what is kept in the order of the classes, products the same in the order of the shards. "
        "sent to disks: as Linux counts it for all processes."
    )
    return [*_table("Bytes", heads, lines), "", about]


def _absent(rows: Sequence[Row]) -> list[str]:
    """Return the planned rows that have no measurement, with the reason."""
    said = {_case(row): row["outcome"] for row in rows if row["outcome"] != "finished"}
    done = {_case(row) for row in rows if row["outcome"] == "finished"}
    groups: dict[str, list[str]] = {}
    for row in planned():
        if _case(row) not in done:
            name = f"{row['data']} {row['method']} {row['size']:,} {row['engine']}"
            groups.setdefault(said.get(_case(row), NOT_ASKED), []).append(name)
    lines = [f"- {', '.join(names)}: {outcome}." for outcome, names in groups.items()]
    return ["", "## Not measured", "", *(lines or ["Everything that is planned was measured."])]


def _case(row: Row) -> tuple[Any, ...]:
    return tuple(row[key] for key in ("data", "method", "size", "engine"))
