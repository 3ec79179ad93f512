"""Which method, on evidence: every method on sub-pools of several sets, judged by two classifiers and by fine-tuning.

python -m scripts.reproduce.study --data <folder with data/ and weights/> [--folder <images>] [--hours 6] [--plan]

The study is cut into blocks, which run in a fixed order, the most important first: features, linear probes of every
sub-pool, logistic regression, full fine-tuning. A block that is predicted to end after --hours is not begun. Finished
blocks are kept in <results>/store/study, so the same command goes on where it was stopped. Blocks whose cells are in
<out>/cells.csv are not run again either: to measure anew, remove that file and the folder. --plan only prints the
predicted hours. The script writes cells.csv, costs.csv and blocks.csv; docs/study.md is made from them.
"""

import argparse
import csv
import json
import multiprocessing
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from prunetune.base.devices import describe_device, resolve_device
from prunetune.base.publish import new_file, write_text
from prunetune.runs.records import commit
from scripts.real_data import check_folder
from scripts.reproduce.study_cells import (
    BUDGETS,
    GAMMAS,
    METHODS,
    SUB_POOLS,
    Opened,
    Pair,
    Part,
    Selection,
    pairs,
)
from scripts.reproduce.study_rows import (
    COST_COLUMNS,
    FULL,
    FULL_BACKBONE,
    FULL_BUDGETS,
    FULL_METHODS,
    FULL_SUB_POOLS,
    SHARE,
)

LOGISTIC_BUDGETS = BUDGETS[:5]
LOGISTIC_SUB_POOLS = 3
ORACLE_ONLY = {f"dlc_{gamma}" for gamma in GAMMAS} - {"dlc_0.25"}  # These gammas serve the oracle of one judge alone.
METHODS_OF = {
    "linear_probe": tuple(METHODS),
    "logistic_regression": tuple(name for name in METHODS if name not in ORACLE_ONLY),
    FULL: FULL_METHODS,
}
CELL = (
    "set",
    "backbone",
    "sub_pool",
    "method",
    "budget",
    "kept",
    "classes",
    "pool",
    "judge",
    "accuracy",
    "device",
    "commit",
)
MASKED = 5  # Networks of DLC; the first of them is the unmasked one.
COSTED = "0.1"  # The costs are those of this budget.


@dataclass(frozen=True)
class Block:
    """A part of the study. kind: features, linear_probe, logistic_regression or full; features have no sub-pool."""

    kind: str
    pair: Pair
    sub_pool: int = 0

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.pair.name}-{self.sub_pool}"


def blocks(named: Sequence[Pair]) -> list[Block]:
    """Return all blocks, the most important first. Where the time is too short, the last ones are dropped."""
    probes = [Block("linear_probe", pair, number) for number in range(SUB_POOLS) for pair in named]
    last = sorted(named, key=lambda pair: pair.backbone == "mobilenetv2")  # The sort is stable.
    logistic = [Block("logistic_regression", pair, number) for pair in last for number in range(LOGISTIC_SUB_POOLS)]
    tuned = [pair for pair in named if pair.dataset in FULL_BUDGETS and pair.backbone == FULL_BACKBONE]
    full = [Block(FULL, pair, number) for pair in tuned for number in range(FULL_SUB_POOLS)]
    return [*(Block("features", pair) for pair in named), *probes, *logistic, *full]


@dataclass(frozen=True)
class Places:
    """Folders. results: of runs and store. out: of the tables."""

    results: Path
    out: Path

    def file(self, block: Block) -> Path:
        """Return the file of a finished block."""
        return self.results / "store" / "study" / f"{block.name}.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with data/ and weights/")
    parser.add_argument("--folder", type=Path, action="append", default=[], help="another folder of images; repeatable")
    parser.add_argument("--pairs", nargs="+", metavar="SET-BACKBONE", help="run only these, such as dtd10-vit_tiny")
    parser.add_argument("--kinds", nargs="+", choices=("features", *METHODS_OF), help="run only these kinds of blocks")
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder for features and finished blocks")
    parser.add_argument("--out", type=Path, default=Path("results/study"), help="folder for the tables")
    parser.add_argument("--hours", type=float, default=6.0, help="blocks that would end later are not begun")
    parser.add_argument("--workers", type=int, default=2, help="blocks that run at the same time")
    parser.add_argument("--plan", action="store_true", help="print the predicted hours and stop")
    options = parser.parse_args()
    check_folder(options.data)
    named = pairs(options.data.resolve(), [folder.resolve() for folder in options.folder])
    if unknown := set(options.pairs or ()) - {pair.name for pair in named}:
        sys.exit(
            f"error: --pairs names {', '.join(sorted(unknown))}; there are {', '.join(pair.name for pair in named)}"
        )
    wanted = blocks(named)
    places = Places(options.results, options.out)
    restore(wanted, places)
    known = predictions(wanted, places)
    print("\n".join(plan(wanted, places, known, options.workers)), flush=True)
    if not options.plan:
        chosen = [block for block in wanted if not options.pairs or block.pair.name in options.pairs]
        run([block for block in chosen if not options.kinds or block.kind in options.kinds], places, known, options)
        write_tables(wanted, places)


def restore(wanted: Sequence[Block], places: Places) -> None:
    """Write the files of finished blocks that are only in the tables, as in a fresh clone."""
    cells: dict[str, list[dict[str, Any]]] = {}
    for row in _read(places.out / "cells.csv"):
        name = f"{row['judge']}-{row['set']}-{row['backbone']}-{row['sub_pool']}"
        numbers = {key: int(row[key]) for key in ("sub_pool", "kept", "classes", "pool")}
        cells.setdefault(name, []).append({**row, **numbers, "accuracy": float(row["accuracy"])})
    seconds = {
        f"{r['kind']}-{r['pair']}-{r['sub_pool']}": float(r["seconds"]) for r in _read(places.out / "blocks.csv")
    }
    for block in wanted:
        found = cells.get(block.name, ())
        is_whole = {row["method"] for row in found} >= set(METHODS_OF.get(block.kind, (None,)))
        is_whole &= {row["budget"] for row in found} >= set(budgets_of(block))
        if is_whole and not places.file(block).is_file():
            made_by = {"device": found[0].get("device", ""), "commit": found[0]["commit"]}
            content = {"cells": found, "seconds": seconds.get(block.name, 0.0), **made_by}
            write_text(places.file(block), json.dumps(content))


def predictions(wanted: Sequence[Block], places: Places) -> dict[str, float]:
    """Return the seconds that each block should take: the median of finished ones of its kind and pair."""
    measured: dict[tuple[str, str], list[float]] = {}
    for row in _read(places.out / "blocks.csv"):
        measured.setdefault((row["kind"], row["pair"]), []).append(float(row["seconds"]))
    for block in wanted:
        if (file := places.file(block)).is_file():
            measured.setdefault((block.kind, block.pair.name), []).append(json.loads(file.read_text())["seconds"])
    medians = {key: statistics.median(seconds) for key, seconds in measured.items()}
    keys = {block.name: (block.kind, block.pair.name) for block in wanted}
    return {name: medians[key] for name, key in keys.items() if key in medians}


def plan(wanted: Sequence[Block], places: Places, known: dict[str, float], workers: int) -> list[str]:
    """Return one line for each kind of block and pair: how many are finished, and the hours that the others need."""
    lines, total = [f"{'blocks':44} {'finished':>9} {'hours left':>11}"], 0.0
    groups: dict[tuple[str, str], list[Block]] = {}
    for block in wanted:
        groups.setdefault((block.kind, block.pair.name), []).append(block)
    for (kind, pair), group in groups.items():
        left = [block for block in group if not places.file(block).is_file()]
        at_once = 1 if kind == "features" else workers
        hours = None if any(b.name not in known for b in left) else sum(known[b.name] for b in left) / at_once / 3600
        total += hours or 0
        shown = "unknown" if hours is None else f"{hours:.2f}"
        lines.append(f"{kind + ' ' + pair:44} {len(group) - len(left):>4} / {len(group):<2} {shown:>11}")
    return [*lines, f"{'known in all':44} {'':>9} {total:>11.2f}"]


def run(wanted: Sequence[Block], places: Places, known: dict[str, float], options: argparse.Namespace) -> None:
    """Run the blocks that are not finished, in their order, as far as the time allows."""
    end = time.monotonic() + 3600 * options.hours
    todo = [block for block in wanted if not places.file(block).is_file()]

    def fits(block: Block) -> bool:
        does = time.monotonic() + known.get(block.name, 0) <= end
        if not does:
            print(f"not run, since the {options.hours:g} hours would be over: {block.name}", flush=True)
        return does

    needed = {block.pair for block in todo if block.kind != "features"}
    for block in [block for block in todo if block.kind == "features" and block.pair in needed and fits(block)]:
        _finish(block, places)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.workers, context, torch.set_num_threads, (1,)) as workers:
        running: set[Future] = set()
        for block in [block for block in todo if block.kind != "features"]:
            if fits(block):
                running.add(workers.submit(_finish, block, places))
            if len(running) >= options.workers:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                [future.result() for future in done]
        [future.result() for future in running]


def _finish(block: Block, places: Places) -> None:
    """Run a block, and keep what it gives."""
    start = time.monotonic()
    content = (_features if block.kind == "features" else _judged)(block, places)
    seconds = time.monotonic() - start
    made_by = {"device": describe_device(resolve_device("auto")), "commit": commit()}
    write_text(places.file(block), json.dumps({**content, "seconds": seconds, **made_by}))
    print(f"{block.name}: {seconds:.0f} s", flush=True)


@cache  # The blocks go from pair to pair, so every worker meets each pair again.
def _opened(pair: Pair, store: Path) -> Opened:
    return Opened(pair, store)


def _features(block: Block, places: Places) -> dict[str, Any]:
    """Compute the features of a pair. The CPU time of one plain pass over the pool is the unit of all costs."""
    opened = _opened(block.pair, places.results / "store")
    opened.compute()
    return {"plain_pass_seconds": opened.seconds_of_a_pass(), "images": len(opened.pool)}


def _judged(block: Block, places: Places) -> dict[str, Any]:
    """Select with every method of this kind of block, and judge the selections."""
    opened = _opened(block.pair, places.results / "store")
    _ = opened.features  # Loaded now, so that no method is charged for it.
    part = opened.part(block.sub_pool)
    selections = list(part.selections(METHODS_OF[block.kind], budgets_of(block)))
    costs = {each.method: each.seconds for each in selections if each.budget == COSTED}
    return {"cells": _cells(block, part, selections), "costs": costs}


def _cells(block: Block, part: Part, selections: Sequence[Selection]) -> list[dict[str, Any]]:
    """Judge selections, and return one row each. Methods that keep the same images share one training."""
    marks = [each.rows.numpy().tobytes() for each in selections]
    different = {mark: each.rows for mark, each in zip(marks, selections, strict=True)}
    found = dict(zip(different, part.accuracies(list(different.values()), block.kind), strict=True))
    shared = {"set": block.pair.dataset, "backbone": block.pair.backbone, "sub_pool": block.sub_pool}
    sizes = {"classes": len(part.opened.pool.classes), "pool": len(part.rows), "judge": block.kind}
    return [
        {**shared, **sizes, "method": s.method, "budget": s.budget, "kept": len(s.rows), "accuracy": found[mark]}
        for s, mark in zip(selections, marks, strict=True)
    ]


def budgets_of(block: Block) -> Sequence[str]:
    """Return the budgets of a block."""
    if block.kind == FULL:
        return FULL_BUDGETS.get(block.pair.dataset, ())
    return {"linear_probe": BUDGETS, "logistic_regression": LOGISTIC_BUDGETS}.get(block.kind, ())


def write_tables(wanted: Sequence[Block], places: Places) -> None:
    """Write the cells, the costs and the seconds of all finished blocks. Rows of other blocks and methods stay."""
    done = [(block, json.loads(places.file(block).read_text())) for block in wanted if places.file(block).is_file()]
    places.out.mkdir(parents=True, exist_ok=True)
    cells = [
        {"device": content["device"], "commit": content["commit"], **cell}
        for _, content in done
        for cell in content.get("cells", ())
    ]
    shown = [{**cell, "accuracy": f"{cell['accuracy']:.6f}"} for cell in cells]
    rows = _merged(_read(places.out / "cells.csv"), shown, ("judge", "set", "backbone", "sub_pool", "method", "budget"))
    _write(places.out / "cells.csv", CELL, rows)
    _write(
        places.out / "costs.csv",
        COST_COLUMNS,
        _merged(_read(places.out / "costs.csv"), list(_cost_rows(done)), COST_COLUMNS[:3]),
    )
    seconds = [
        {"kind": b.kind, "pair": b.pair.name, "sub_pool": b.sub_pool, "seconds": f"{content['seconds']:.1f}"}
        for b, content in done
    ]
    named = ("kind", "pair", "sub_pool")
    _write(places.out / "blocks.csv", (*named, "seconds"), _merged(_read(places.out / "blocks.csv"), seconds, named))
    print(f"wrote {len(cells)} cells of {len(done)} blocks to {places.out}")


def _cost_rows(done: Sequence[tuple[Block, dict[str, Any]]]) -> Iterator[dict[str, Any]]:
    """Yield the cost of each method on each pair, in CPU seconds and in plain passes over the images of a sub-pool."""
    for block, content in done:
        if block.kind != "features":
            continue
        parts = [c.get("costs", {}) for b, c in done if b.kind == "linear_probe" and b.pair == block.pair]
        plain = SHARE * content["plain_pass_seconds"]
        for method in METHODS:
            if seconds := [costs[method] for costs in parts if method in costs]:
                select = statistics.median(seconds)
                row = {"set": block.pair.dataset, "backbone": block.pair.backbone, "method": method}
                passes = num_passes(method) + select / plain
                yield {
                    **row,
                    "passes": f"{passes:.3f}",
                    "select_seconds": f"{select:.3f}",
                    "plain_pass_seconds": f"{plain:.2f}",
                }


def num_passes(method: str) -> int:
    """Return how many forward passes over the pool a method needs: DLC one for each masked network."""
    return 0 if method == "random" else MASKED if method.startswith("dlc") else 1


def _merged(
    earlier: Sequence[dict[str, Any]], new: Sequence[dict[str, Any]], key: Sequence[str]
) -> list[dict[str, Any]]:
    """Return the rows of both; where two have the same key, the new one in the place of the earlier."""
    return list({tuple(str(row[name]) for name in key): row for row in [*earlier, *new]}.values())


def _read(file: Path) -> list[dict[str, str]]:
    """Return the rows of a table, none if it is not there."""
    if not file.is_file():
        return []
    with file.open(newline="") as lines:
        return list(csv.DictReader(lines))


def _write(file: Path, columns: Sequence[str], rows: Sequence[dict[str, Any]]) -> None:
    with new_file(file) as partial, partial.open("w", newline="") as lines:
        writer = csv.DictWriter(lines, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
