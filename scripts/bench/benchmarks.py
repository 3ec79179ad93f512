"""Code that the benchmarks share: real or embedded data, measurements in separate processes, and tables.

A benchmark script calls itself with `--child '<JSON>'` for every measurement. The last line that a child prints is a
JSON object with at least "seconds". `run_apart` adds the peak memory of the child and of the processes that it starts.
Procedures to compare run in turn (A B A B) and the table shows medians, so that ratios are reliable even if other
programs use the machine.
"""

import argparse
import csv
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_module

from prunetune.base.devices import describe_device, resolve_device
from prunetune.base.peak_memory import peak_memory
from prunetune.config.build import build
from prunetune.config.parse import build_dataset
from prunetune.data.pool import Pool
from prunetune.networks.backbone import Network
from prunetune.report.rounding import short_commit
from prunetune.runs.records import commit
from scripts.real_data import backbones, check_folder, datasets

EMBEDDED = {"textures": ["dataset=textures", "backbone=micro"]}
SECONDS_BETWEEN_LOOKS = 0.25  # The memory of a running child is read at this interval.
Row = dict[str, Any]


@dataclass(frozen=True)
class Column:
    """A column of a table: the row's key, its heading, and how its numbers are shown.

    show: "text", "bytes" (as MiB), or a format of a number such as ".2f". The CSV has every value as it is.
    """

    key: str
    heading: str
    show: str = "text"


SECONDS = Column("seconds", "seconds", ".2f")
SPREAD = Column("seconds_spread", "spread", ".2f")  # Spread of the repeats, relative to the median.
CPU = Column("cpu_seconds", "CPU s", ".1f")  # Of all threads and processes. Other programs do not change it much.
PEAK = Column("peak_bytes", "peak MiB", "bytes")


def parser_of(doc: str) -> argparse.ArgumentParser:
    """Return a parser with the options that every benchmark has."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with data/ and weights/ (default: embedded textures)")
    parser.add_argument("--out", type=Path, default=Path("results/bench"), help="folder for the tables")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each procedure; the tables show medians")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    return parser


def settings(data: Path | None, wanted: Sequence[str] = (), networks: Sequence[str] = ("vit_tiny",)) -> dict[str, list]:
    """Return the overrides that name each pool and backbone, by "<data set>, <backbone>".

    Args:
        data: folder with data/ and weights/, or None for the embedded textures with the micro network.
        wanted: real data sets, by default all.
        networks: their backbones.
    """
    if data is None:
        return {"textures, micro": EMBEDDED["textures"]}
    check_folder(data)
    data = data.resolve()
    images, models = datasets(data), backbones(data)
    chosen = wanted or list(images)
    return {f"{name}, {model}": [*images[name], *models[model]] for name in chosen for model in networks}


def composed(overrides: Sequence[str]) -> Any:
    """Return the configuration of a run with these overrides."""
    with initialize_config_module("prunetune.configs", version_base="1.3"):
        return compose("config", overrides=list(overrides))


def opened(overrides: Sequence[str]) -> tuple[Pool, Pool, Network]:
    """Return pool, test set and network that overrides name."""
    cfg = composed(overrides)
    dataset = build_dataset(cfg.dataset)
    return dataset.pool("train"), dataset.pool("test"), build(cfg.backbone).load()


def run_apart(module: str, job: Mapping[str, Any], limit: float = 1800) -> Row:
    """Run one measurement in a process of its own.

    Args:
        module: the benchmark's full name, `__spec__.name`, also where it runs as `python -m`.
        job: the JSON object for `--child`.
        limit: seconds after which the child is stopped.

    Returns:
        The JSON object that the child printed last, with "peak_bytes" (of the child and the processes that it starts)
        and "outcome", which is "finished". If the child failed, only "outcome" with the reason.
    """
    command = [sys.executable, "-m", module, "--child", json.dumps(job)]
    end, highest = time.monotonic() + limit, 0
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=-1) as child:
        while True:
            try:
                out, errors = child.communicate(timeout=SECONDS_BETWEEN_LOOKS)
                break
            except subprocess.TimeoutExpired:
                family = _descendants(child.pid)
                if len(family) > 1:  # A single process reports its own peak.
                    highest = max(highest, sum(map(_private_share, family)))
            if time.monotonic() > end:
                child.kill()
                child.communicate()
                return {"outcome": f"stopped after {limit:g} s"}
    lines = errors.strip().splitlines() or [f"ended with {child.returncode}"]
    if child.returncode != 0:
        return {"outcome": f"failed: {lines[-1]}"}
    found = json.loads(out.splitlines()[-1])
    return {**found, "peak_bytes": max(highest, found.get("peak_bytes", 0)), "outcome": "finished"}


class Clock:
    """Measures seconds since it was made, and CPU seconds of this process and of its children that have ended."""

    def __init__(self) -> None:
        self._start, self._cpu = time.perf_counter(), sum(os.times()[:4])

    def read(self) -> Row:
        """Return "seconds" and "cpu_seconds" so far."""
        return {"seconds": time.perf_counter() - self._start, "cpu_seconds": sum(os.times()[:4]) - self._cpu}


def finish(result: Mapping[str, Any]) -> None:
    """Print a child's result with its peak memory."""
    print(json.dumps({**result, "peak_bytes": peak_memory()}))


def in_turn(procedures: Mapping[str, Callable[[], Row]], repeats: int, about: str = "") -> dict[str, Row]:
    """Run all procedures in turn, as often as `repeats` says, and return the medians by name.

    Numbers become medians, and "peak_bytes" becomes the maximum. "seconds_spread" is (maximum - minimum) / median.
    Other values are those of the last run. A procedure that fails is not repeated.
    """
    runs: dict[str, list[Row]] = {name: [] for name in procedures}
    for repeat in range(repeats):
        for name, procedure in procedures.items():
            if runs[name] and runs[name][-1].get("outcome", "finished") != "finished":
                continue
            row = procedure()
            runs[name].append(row)
            shown = f"{row['seconds']:.2f} s" if "seconds" in row else row.get("outcome", "")
            print(f"{about}{name} ({repeat + 1} of {repeats}): {shown}", flush=True)
    return {name: median_of(rows) for name, rows in runs.items()}


def median_of(rows: list[Row]) -> Row:
    last = rows[-1]
    if "seconds" not in last:
        return last
    result = dict(last)
    for key, value in last.items():
        if isinstance(value, int | float) and not isinstance(value, bool):
            result[key] = statistics.median(row[key] for row in rows)
    seconds = [row["seconds"] for row in rows]
    result["seconds_spread"] = (max(seconds) - min(seconds)) / result["seconds"]
    result["peak_bytes"] = max(row.get("peak_bytes", 0) for row in rows)
    return result


def write_table(
    out: Path, name: str, title: str, about: str, columns: Sequence[Column], rows: Sequence[Row], notes: Sequence[str]
) -> None:
    """Write `<name>.md` and `<name>.csv` with the device and the commit.

    Args:
        out: folder.
        name: the name of both files.
        title: heading of the Markdown.
        about: what was measured, and how to read it.
        columns: of both files. If rows have a "section", the Markdown has one table per section.
        rows: a missing value is shown as X. A row without measurements says "unmeasured".
        notes: a list below the tables.
    """
    out.mkdir(parents=True, exist_ok=True)
    made_by = {"device": device(), "commit": commit()}
    keys = [column.key for column in columns]
    with (out / f"{name}.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["section", *keys, *made_by], lineterminator="\n", extrasaction="ignore")
        writer.writeheader()
        writer.writerows({"section": "", **row, **made_by} for row in rows)
    lines = [f"# {title}", "", about]
    for section in dict.fromkeys(row.get("section", "") for row in rows):
        lines += ["", *([f"## {section}", ""] if section else [])]
        lines.append("| " + " | ".join(column.heading for column in columns) + " |")
        lines.append("|" + "".join("---|" if column.show == "text" else "---:|" for column in columns))
        for row in rows:
            if row.get("section", "") == section:
                lines.append("| " + " | ".join(_shown(row.get(column.key), column.show) for column in columns) + " |")
    lines += ["", *(f"- {note}" for note in notes)]
    lines += [f"- Device: {made_by['device']}. Commit {short_commit(made_by['commit'], 18)}."]
    (out / f"{name}.md").write_text("\n".join(lines) + "\n")
    print(f"wrote {out / name}.md and {name}.csv")


def _shown(value: Any, show: str) -> str:
    if value is None or value == "":
        return "X"
    if isinstance(value, str) or show == "text":
        return str(value)
    return f"{value / 2**20:,.0f}" if show == "bytes" else format(value, show)


def device() -> str:
    """Return the processor, its cores and threads, and the version of torch."""
    kind = resolve_device("auto")
    return f"{_processor()}, {os.cpu_count()} cores; {describe_device(kind)}; torch {torch.__version__}"


def _processor() -> str:
    try:
        names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
        return names[0].split(":", 1)[1].strip()
    except (OSError, IndexError):
        return platform.processor() or platform.machine()


def ratio(slow: Row, fast: Row, key: str = "seconds") -> float | None:
    """Return how many times faster the second row is, or None if one of them was not measured."""
    return slow[key] / fast[key] if key in slow and key in fast else None


def _descendants(pid: int) -> list[int]:
    """Return a process and all its descendants. On systems other than Linux, only the process itself."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
        except (OSError, ValueError):
            continue
        children.setdefault(parent, []).append(int(folder.name))
    found, waiting = [], [pid]
    while waiting:
        found.append(waiting.pop())
        waiting += children.get(found[-1], [])
    return found


def _private_share(pid: int) -> int:
    """Return the memory of a process in bytes. A page that n processes share counts 1 / n."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    except (OSError, ValueError):
        return 0
