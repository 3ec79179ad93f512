"""Try the faults of the drill and print a table. Every column of it but `tried` and `right` should be 0.

Without options all cases are tried, and the table is written to results/drill/.
"""

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from scripts.drill.cases import RIGHT, SKIPPED, Case, Suite
from scripts.drill.runner import Drill
from scripts.drill.suites import SUITES
from scripts.drill.table import Report, miss_lines


def parsed(words: Sequence[str] | None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(prog="python -m scripts.drill", description=__doc__)
    parser.add_argument("--only", metavar="TEXT", help="cases whose '<kind>: <name>' contains this text")
    parser.add_argument("--sample", action="store_true", help="the cases that also belong to make test")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="every N-th case of each kind")
    parser.add_argument("--workers", type=int, default=2, help="cases at the same time")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="where to write drill.csv and drill.md")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="an empty folder to work in; misses stay there")
    parser.add_argument("--list", action="store_true", help="print the cases and try none")
    return parser.parse_args(words)


def chosen(options: argparse.Namespace) -> list[tuple[Suite, Case]]:
    """Return the cases that the options ask for, with their suites."""
    pairs = [(suite, case) for suite in SUITES for case in suite.cases]
    pairs = [pair for pair in pairs if pair[1].is_sampled or not options.sample]
    pairs = [pair for pair in pairs if (options.only or "") in pair[1].title]
    seen: Counter[str] = Counter()
    kept = []
    for suite, case in pairs:
        if seen[case.kind] % options.every == 0:
            kept.append((suite, case))
        seen[case.kind] += 1
    return kept


def main(words: Sequence[str] | None = None) -> int:
    """Carry the drill out, and return 0 if every tried case is right."""
    options, start = parsed(words), time.monotonic()
    pairs = chosen(options)
    if options.list or not pairs:
        print("\n".join(case.title for _, case in pairs) or "no case has this text; --list shows them all")
        return 0 if pairs else 1
    is_whole = len(pairs) == sum(len(suite.cases) for suite in SUITES)
    with nullcontext(options.keep) if options.keep else tempfile.TemporaryDirectory(prefix="drill-") as work:
        Path(work).mkdir(parents=True, exist_ok=True)
        verdicts = []
        for verdict in Drill(pairs, Path(work).resolve(), options.keep is not None).verdicts(options.workers):
            verdicts.append(verdict)
            if verdict.outcome not in (RIGHT, SKIPPED):
                print("\n".join(miss_lines(verdict)), flush=True)
    from prunetune.runs.records import commit

    report = Report(verdicts, list(dict.fromkeys(case.kind for _, case in pairs)), commit(), time.monotonic() - start)
    out = options.out or (Path("results/drill") if is_whole else None)
    if out is not None:
        report.write(out)
    print("\n".join(report.table()))
    return int(bool(report.misses))


if __name__ == "__main__":
    sys.exit(main())
