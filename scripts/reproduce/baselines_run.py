"""Every method on real images: dtd10 and caltech101 with ViT-Tiny, four ratios, five seeds, linear probe.

python -m scripts.reproduce.baselines_run --data <folder with data/ and weights/> [--results results]
    [--methods herding el2n ...]

Training dynamics come from the linear-probe proxy (scores are called <scorer>_probe). On dtd10 the methods that read a
proxy also run with the fully fine-tuned one, with one seed. Methods run in grids of eight. If a grid fails, each of its
methods runs alone, so that only the failing method is lost and its name is printed. Finished runs are skipped, so the
command can be given again. The script writes baselines.md, baselines.csv and baselines_runs.csv (every run) into
results/tables. Earlier rows of baselines_runs.csv are kept unless their run was repeated. Methods that have only runs
of the earlier recipe have tables of their own, baselines_older.md and baselines_older.csv. --tables-only makes the
tables from the finished runs.
"""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from prunetune.config import catalogue, names
from prunetune.config.methods import METHODS
from prunetune.report import collect, tables
from scripts.real_data import ROOT, backbones, check_folder, datasets

RATIOS, WHOLE = "ratios=[0.05,0.1,0.3,0.5]", "ratios=[1.0]"
VIEWS, AT_ONCE = 4, 8
SKIPPED = {
    "grand_released": "needs the fully fine-tuned proxy",
    "herding_finetuned": "needs the fully fine-tuned proxy",
    "k_center_finetuned": "needs the fully fine-tuned proxy",
    "dlc_finetuned": "needs the fully fine-tuned proxy: with a linear probe nothing is fine-tuned",
}
RUN_COLUMNS = (  # The columns of baselines_runs.csv. They are enough to make the tables again.
    *(*collect.NAMES, "ratio", "seed", "accuracy", "worst_class_accuracy"),
    *("gamma", "selection_rule", "budgets", "precision", "views", "num_classes", "num_pool", "num_kept"),
    *("num_test", "score_seconds", "search_seconds", "sample_seconds", "score_peak_memory_bytes", "device", "commit"),
    *("dataset_fingerprint", "recipe"),
)
OLDER_RECIPE = """# Runs of the earlier recipe

These methods were not run again with `finetune.last_batch=balanced`, since on one of the two sets their scores take
more than ten minutes of a core. Their trainings kept a shorter last batch (`finetune.last_batch=keep`,
`proxy.last_batch=keep`); nothing else of the recipe has changed. So compare them
only with the rows `random` and `whole pool` of this page, which are of the same recipe."""
ELSEWHERE = (
    "Methods whose scores take more than ten minutes of a core on one of the sets (DeepFool, GraNd of all weights, DLC "
    "with 50 networks, all that read a full fine-tuning) were not run again with balanced batches. They are in "
    "baselines_older.md, beside runs of random with the same recipe."
)
# Samplers that have changed since their runs: the commits of those runs, and how the sampler worked then.
CHANGED = {
    "d2": (("2bd075d4", "44d11af4", "7b12fb90"), "it worked on a directed graph, as d2_directed does now"),
}
# These methods have no runs with the fully fine-tuned proxy. A test compares the list with the table.
NOT_YET = {
    "d2_directed": "the rows of d2 that are marked as older were made by it",
    "nucs": "it is newer than the runs of the other methods",
    "tdds_released": "it is newer than the runs of the other methods",
}
# These methods need a backward pass for every image, so they run last.
LAST = ("grand", "grand_released", "deepfool", "deepfool_deepcore")
DATASETS, PROXIES = ["dtd10", "caltech101"], ["linear_probe", "full"]


def methods() -> list[str]:
    """Return every method of the table, random first."""
    return ["random", *sorted(set(METHODS) - {"random"})]


def reads_proxy(method: str) -> bool:
    """Whether a method's scorer reads the proxy."""
    own = {key.removeprefix("scorer."): value for key, value in METHODS[method].settings.items()}
    return names.reads_proxy(catalogue.settings("scorer", METHODS[method].scorer) | own)


def grid(data: Path, dataset: str, names: list[str], proxy: str, results: Path, ratios: str = RATIOS) -> list[str]:
    """Return the command of one grid."""
    seeds = "seeds=[0,1,2,3,4]" if proxy == "linear_probe" else "seeds=[0]"
    named = [*datasets(data)[dataset], *backbones(data)["vit_tiny"], f"proxy={proxy}", f"methods=[{','.join(names)}]"]
    # precision=bf16 also trains the full proxy in bf16, which halves the time on a CPU; auto would train it in fp32.
    shared = [ratios, seeds, f"finetune.views={VIEWS}", "finetune.evaluate_every=50", "precision=bf16"]
    command = [sys.executable, str(ROOT / "run.py"), "--config-name", "grid", f"results_dir={results}"]
    return [*command, "wandb=disabled", *named, *shared]


def run(command: list[str], about: str) -> str | None:
    """Run one grid, and return the error if it failed."""
    print(about, flush=True)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return None
    last = (done.stderr.strip().splitlines() or ["no message"])[-1]
    print(f"  failed: {last}", flush=True)
    return f"{about}: {last}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(), help="folder with data/ and weights/")
    parser.add_argument("--results", type=Path, default=Path("results"), help="results folder of the runs")
    parser.add_argument("--out", type=Path, help="folder for the tables (default: <results>/tables)")
    parser.add_argument(
        "--methods", nargs="+", choices=methods(), metavar="METHOD", help="methods to run (default: all)"
    )
    parser.add_argument("--datasets", nargs="+", choices=DATASETS, default=DATASETS, help="data sets to run on")
    parser.add_argument("--proxies", nargs="+", choices=PROXIES, default=PROXIES, help="proxies to run with")
    parser.add_argument("--tables-only", action="store_true", help="run nothing, only write the tables")
    options = parser.parse_args()
    if not options.tables_only:
        check_folder(options.data)
    failures = [] if options.tables_only else run_all(options)
    write_tables(options.results, options.out or options.results / "tables")
    if failures:
        sys.exit("\n".join(["error: some methods failed:", *failures]))


def run_all(options: argparse.Namespace) -> list[str]:
    """Run every grid, and return the methods that failed."""
    data, failures = options.data.resolve(), []
    for proxy in options.proxies:
        for dataset in options.datasets if proxy == "linear_probe" else ["dtd10"]:
            names = wanted(options.methods, proxy)
            if "random" in names:
                failures.append(run(grid(data, dataset, ["random"], proxy, options.results, WHOLE), "the whole pool"))
            for group in [names[i : i + AT_ONCE] for i in range(0, len(names), AT_ONCE)]:
                about = f"{dataset}, {proxy} proxy: "
                if run(grid(data, dataset, group, proxy, options.results), about + ", ".join(group)):
                    alone = [run(grid(data, dataset, [name], proxy, options.results), about + name) for name in group]
                    failures += alone
    return [failure for failure in failures if failure]


def wanted(names: list[str] | None, proxy: str) -> list[str]:
    """Return the methods of one table, from the given names or all. With the full proxy, only those that read it."""
    names = names or methods()
    # The sort is stable, so the other methods keep their order.
    names = sorted(names, key=lambda name: LAST.index(name) if name in LAST else -1)
    return [name for name in names if (reads_proxy(name) if proxy == "full" else name not in SKIPPED)]


def write_tables(results_dir: Path, out: Path) -> None:
    """Write the finished runs of ViT-Tiny as baselines.md and baselines.csv, those of the earlier recipe apart."""
    results, skipped = collect.collect_images(results_dir)
    for line in skipped:
        print(line, file=sys.stderr)
    file = out / "baselines_runs.csv"
    if results.empty and not file.is_file():
        sys.exit(f"error: no finished runs below {results_dir / 'runs'}; run without --tables-only")
    results = with_age(with_earlier(chosen(results) if len(results) else results, file))
    out.mkdir(parents=True, exist_ok=True)
    is_older = results["recipe"].isna()
    _write(results[~is_older], out / "baselines", after=[not_run()])
    _write(results[is_older], out / "baselines_older", before=[OLDER_RECIPE + "\n"])
    results[list(RUN_COLUMNS)].to_csv(file, index=False, lineterminator="\n")
    print(f"wrote baselines.md, baselines_older.md, their CSV files and baselines_runs.csv in {out}")


def _write(results: pd.DataFrame, name: Path, before: Sequence[str] = (), after: Sequence[str] = ()) -> None:
    """Write runs as <name>.md and <name>.csv, if there are any."""
    if results.empty:
        return
    table = tables.summary(results)
    own = [tables.to_markdown(table, tables.footer(results)), tables.costs_markdown(table), *older(results)]
    name.with_suffix(".md").write_text("\n".join([*before, *own, *after]))
    tables.to_csv(table, name.with_suffix(".csv"))


def with_earlier(results: pd.DataFrame, file: Path) -> pd.DataFrame:
    """Return the runs, and those of an earlier baselines_runs.csv that were not repeated.

    Of the earlier recipe, which has no name in the column `recipe`, a method's runs are left out if it has newer ones.
    Only random and the whole pool stay, since the others are compared with them.
    """
    if not file.is_file():
        return results
    identity = list(collect.IDENTITY)
    earlier = pd.read_csv(file).assign(run="")
    both = pd.concat([earlier, results]).drop_duplicates([*identity, "recipe"], keep="last")
    is_older, method = both["recipe"].isna(), ["dataset", "scorer", "sampler", "tag"]
    newer = pd.MultiIndex.from_frame(both.loc[~is_older, method])
    is_replaced = is_older & (both["scorer"] != "random") & pd.MultiIndex.from_frame(both[method]).isin(newer)
    return both[~is_replaced].sort_values(identity, kind="stable").reset_index(drop=True)


def chosen(results: pd.DataFrame) -> pd.DataFrame:
    """Return the runs that belong in the table."""
    is_ours = results["dataset"].isin(DATASETS) & (results["backbone"] == "vit_tiny")
    return results[is_ours & (results["finetune"] == "linear_probe") & (results["precision"] == "bf16")]


def with_age(results: pd.DataFrame) -> pd.DataFrame:
    """Return the runs with a column `older`: how the sampler worked where it has changed since, else None."""
    return results.assign(older=[_how_it_was(run) for run in results[["sampler", "commit"]].to_dict("records")])


def _how_it_was(run: dict) -> str | None:
    commits, how = CHANGED.get(run["sampler"], ((), ""))
    return how if str(run["commit"]).startswith(commits) else None


def older(results: pd.DataFrame) -> list[str]:
    """Return a note on the runs that are older than a change of their method, an empty list if there are none."""
    reasons = results[results["older"].notna()].groupby("older")["sampler"].unique()
    lines = [f"- {', '.join(sorted(samplers))}: {how}" for how, samplers in reasons.items()]
    heading = f"### Older than a change of the method ({tables.OLDER})"
    return ["\n".join([heading, "", *lines, ""])] if lines else []


def not_run() -> str:
    """Return a note on the methods that were not run, with the reasons."""
    skipped, not_yet = ([f"- {name}: {why}" for name, why in reasons.items()] for reasons in (SKIPPED, NOT_YET))
    headings = "### Not run with the linear-probe proxy", "### Not run with the fully fine-tuned proxy"
    return "\n".join([ELSEWHERE, "", headings[0], "", *skipped, "", headings[1], "", *not_yet, ""])


if __name__ == "__main__":
    main()
