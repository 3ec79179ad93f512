"""How much chance there is in DLC + FlexRand, and what an ensemble of heads on several of its draws is worth.

python -m scripts.survey.draws --data <folder with data/ and weights/> --store <store of the study>

On five sub-pools of each set: 20 draws from one score and 20 heads on one selection; five seeds of random masks (micro
only, since each seed costs the masked passes anew); five heads on five draws, whose logits are averaged, beside one
head on a draw five times as large and beside herding. Finished sub-pools are kept in --parts. The script writes
draws.md, masks.md and ensembles.md, each with its .csv.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor

from prunetune.base.publish import write_json
from prunetune.base.seeding import derive_seed, stream
from prunetune.runs.scores import compute_scores
from prunetune.signals.part import PartSignals
from prunetune.training.linear_probe import Probe, head_path, train_probes
from scripts.bench.benchmarks import Column, write_table
from scripts.real_data import check_folder
from scripts.reproduce.study_cells import Opened
from scripts.survey.given_images import Given, sub_pool
from scripts.survey.robustness import BUDGETS, SETS, SUB_POOLS, Sets, shown

DLC, NUM_DRAWS, NUM_MASKS = "dlc_0.25", 20, 5
DRAWN = {"random": "random", DLC: "DLC + FlexRand, gamma .25"}
MASKED_SETS = ("textures-micro", "digits-micro")
HEADS, ENSEMBLES = 5, {"0.02": "0.1", "0.05": "0.25", "0.1": "0.5"}
Found = dict[str, Any]
AT = tuple(Column(budget, budget.removeprefix("0")) for budget in BUDGETS)
DRAW_COLUMNS = (Column("set", "set"), Column("varies", "what varies"), *AT)
MASK_COLUMNS = (
    *(Column("set", "set"), Column("same", "rank correlation of two seeds", ".2f")),
    *(Column("l1", "with l1 masks", ".2f"), Column("what", "accuracy"), *AT),
)
ENSEMBLE_COLUMNS = (
    *(Column("set", "set"), Column("draws", "draws"), Column("budget", "a draw has")),
    *(Column("images", "images", ".0f"), Column("images_five", "of five draws", ".0f")),
    Column("images_large", "5 x", ".0f"),
    *(Column("one", "one head", ".1f"), Column("heads", "five heads", ".1f"), Column("large", "5 x, one head", ".1f")),
    *(Column("herding", "herding", ".1f"), Column("herding_large", "herding, 5 x", ".1f")),
    Column("to_large", "five heads to 5 x, one head"),
    Column("to_herding", "five heads to herding"),
    Column("to_herding_large", "five heads to herding, 5 x"),
)


def main() -> None:
    """Measure the sub-pools that --parts lacks, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with data/ and weights/")
    parser.add_argument("--out", type=Path, default=Path("results/study"), help="folder for the tables")
    parser.add_argument("--store", type=Path, default=Path("results/store"), help="folder for features")
    parser.add_argument("--parts", type=Path, default=Path("results/store/draws"), help="finished sub-pools")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS)
    parser.add_argument("--sub-pools", type=int, default=SUB_POOLS)
    arguments = parser.parse_args()
    check_folder(arguments.data)
    sets = Sets(arguments.data.resolve(), arguments.store)
    found = {
        name: [_kept(sets, name, n, arguments.parts) for n in range(arguments.sub_pools)] for name in arguments.sets
    }
    write_tables(arguments.out, found)


def _kept(sets: Sets, name: str, number: int, parts: Path) -> Found:
    """Return what was found on one sub-pool, from its file if it was measured before."""
    file = parts / f"{name}_{number}.json"
    if not file.is_file():
        user = sub_pool(sets.images(name), number)
        found: Found = {"draws": chances(user), "ensembles": ensembles(user)}
        if name in MASKED_SETS:
            found["masks"] = masks(user, sets.opened(name))
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, found)
        print(file, flush=True)
    return json.loads(file.read_text())


def drawn(user: Given, method: str, scores: Tensor, budget: str, draw: int) -> Tensor:
    """Return what a method keeps in one of its draws, positions [k] int64."""
    [sampler] = user.images.run(method, float(budget)).candidates.values()
    generator = stream("draw", user.number, budget, draw)
    return sampler.select(scores, user.labels, float(budget), generator, user.signals)


def _scores(user: Given, method: str) -> Tensor:
    return compute_scores(user.images.run(method, 0.5).scorer, user.signals, user.number)


def _accuracies(user: Given, kept: Sequence[Tensor], heads: Sequence[int]) -> list[float]:
    """Return the accuracy of a probe on each of the kept parts, which begins with the head of this number."""
    images, probes = user.images, []
    for some, head in zip(kept, heads, strict=True):
        probes.append(Probe(user.rows[some], user.labels[some], *images.test, derive_seed("head", user.number, head)))
    recipe = images.run("random", 0.5).recipe
    results = train_probes(images.features.unsqueeze(0), probes, images.num_classes, recipe, "cpu")
    return [float(result.history[-1].test_accuracy) for result in results]


def chances(user: Given) -> dict[str, dict[str, list[float]]]:
    """Return the accuracies of all draws with one head, and of all heads on herding's selection, by budget."""
    found: dict[str, dict[str, list[float]]] = {}
    for method in DRAWN:
        scores = _scores(user, method)
        kept = [drawn(user, method, scores, budget, draw) for budget in BUDGETS for draw in range(NUM_DRAWS)]
        found[method] = _by_budget(_accuracies(user, kept, [0] * len(kept)), NUM_DRAWS)
    kept = [some for some in user.kept("herding", BUDGETS) for _ in range(NUM_DRAWS)]
    found["herding"] = _by_budget(_accuracies(user, kept, [*range(NUM_DRAWS)] * len(BUDGETS)), NUM_DRAWS)
    return found


def _by_budget(accuracies: Sequence[float], each: int) -> dict[str, list[float]]:
    return {budget: list(accuracies[each * n : each * (n + 1)]) for n, budget in enumerate(BUDGETS)}


def masks(user: Given, opened: Opened) -> Found:
    """Return, for each seed of random masks, the mean accuracy of all draws by budget, and how the scores agree."""
    scorer = replace(user.images.run(DLC, 0.5).scorer, masking="random")
    signals = PartSignals(opened.signals, user.rows)
    all_scores = [compute_scores(scorer, signals, seed) for seed in range(NUM_MASKS)]
    kept = [
        drawn(user, DLC, scores, budget, draw)
        for scores in all_scores
        for budget in BUDGETS
        for draw in range(NUM_DRAWS)
    ]
    accuracies = np.array(_accuracies(user, kept, [0] * len(kept))).reshape(NUM_MASKS, len(BUDGETS), NUM_DRAWS)
    plain = _scores(user, DLC)
    return {
        "accuracies": accuracies.mean(axis=2).tolist(),
        "same": float(np.mean([_rank_correlation(a, b) for a, b in combinations(all_scores, 2)])),
        "l1": float(np.mean([_rank_correlation(plain, scores) for scores in all_scores])),
    }


def _rank_correlation(first: Tensor, second: Tensor) -> float:
    return float(spearmanr(first.numpy(), second.numpy()).statistic)


def ensembles(user: Given) -> dict[str, dict[str, dict[str, float]]]:
    """Return accuracies by method of the draws and by budget of one draw: of one head, five heads, and herding."""
    herding = dict(zip(ENSEMBLES, user.kept("herding", list(ENSEMBLES)), strict=True))
    herding_large = dict(zip(ENSEMBLES, user.kept("herding", list(ENSEMBLES.values())), strict=True))
    found: dict[str, dict[str, dict[str, float]]] = {}
    for method in DRAWN:
        scores = _scores(user, method)
        for budget, five in ENSEMBLES.items():
            draws = [drawn(user, method, scores, budget, head) for head in range(HEADS)]
            large = drawn(user, method, scores, five, 0)
            logits = [_logits(user, some, head) for head, some in enumerate(draws)]
            found.setdefault(method, {})[budget] = {
                "images": len(draws[0]),
                "images_five": len(torch.cat(draws).unique()),
                "images_large": len(large),
                "one": float(np.mean([_accuracy(user, each) for each in logits])),
                "heads": _accuracy(user, torch.stack(logits).mean(dim=0)),
                "large": _accuracy(user, _logits(user, large, 0)),
                "herding": _accuracy(user, _logits(user, herding[budget], 0)),
                "herding_large": _accuracy(user, _logits(user, herding_large[budget], 0)),
            }
    return found


def _logits(user: Given, kept: Tensor, head: int) -> Tensor:
    """Return the logits of a probe on the test images, [N', C] float32."""
    images = user.images
    recipe, seed = images.run("random", 0.5).recipe, derive_seed("head", user.number, head)
    features, labels = images.features[user.rows[kept]], user.labels[kept]
    *_, (weight, bias) = head_path(features, labels, images.num_classes, recipe, seed, "cpu")
    return images.test[0] @ weight + bias


def _accuracy(user: Given, logits: Tensor) -> float:
    return float((logits.argmax(dim=1) == user.images.test[1]).double().mean())


def write_tables(out: Path, found: dict[str, list[Found]]) -> None:
    """Write the three tables.

    Args:
        out: folder.
        found: what was found on each sub-pool, by set.
    """
    budgets = "Columns .02 to .5: fractions of each class that are kept; five sub-pools of 80 % of each class."
    spread = "± is the standard deviation, in points: the root of its mean square over the sub-pools."
    rows = [row for name, parts in found.items() for row in draw_rows(name, parts)]
    about = "Accuracy of a linear probe in %, and its spread where only one thing varies."
    write_table(out, "draws", "Chance in DLC + FlexRand", about, DRAW_COLUMNS, rows, (budgets, spread))
    rows = [row for name, parts in found.items() if name in MASKED_SETS for row in mask_rows(name, parts)]
    about = "DLC with random masks, five seeds, gamma .25. The accuracy of a seed is the mean over 20 draws."
    notes = (
        *(budgets, spread),
        "rank correlation: Spearman's, of the scores of a sub-pool: two seeds, and a seed with the default masks (l1).",
        "to l1: the mean over seeds less the same draws with l1 masks, with the 95 % interval over the sub-pools.",
    )
    write_table(out, "masks", "Seeds of random masks", about, MASK_COLUMNS, rows, notes)
    rows = [row for name, parts in found.items() for row in ensemble_rows(name, parts)]
    about = "Five heads on five draws, logits averaged, beside one head on a draw five times as large and herding."
    notes = (
        "Accuracy in % on the test images, the mean over five sub-pools. one head: the mean of the five heads alone.",
        "to: paired differences in points with 95 % intervals of Student's t over the sub-pools, which overlap.",
        "images: of one draw, different ones of five draws, and of the draw that is five times as large; a class keeps "
        "a whole number of images and at least one, so that 5 x is not always five times as many.",
    )
    write_table(out, "ensembles", "Ensembles of heads", about, ENSEMBLE_COLUMNS, rows, notes)


def draw_rows(name: str, parts: Sequence[Found]) -> Iterator[dict[str, Any]]:
    """Yield the rows of a set: what varies within a sub-pool, and last the sub-pool itself."""
    names = {method: f"{NUM_DRAWS} draws: {title}" for method, title in DRAWN.items()}
    for method, title in {**names, "herding": f"{NUM_DRAWS} heads: herding"}.items():
        values = np.array([[part["draws"][method][budget] for budget in BUDGETS] for part in parts])  # [S, B, R]
        spread = np.sqrt(values.var(axis=2, ddof=1).mean(axis=0))
        yield {"set": name, "varies": title, **_with_spread(values.mean(axis=(0, 2)), spread)}
    for method, title in {**DRAWN, "herding": "herding"}.items():
        first = np.array([[part["draws"][method][budget][0] for budget in BUDGETS] for part in parts])  # [S, B]
        cells = _with_spread(first.mean(axis=0), first.std(axis=0, ddof=1))
        yield {"set": name, "varies": f"{len(parts)} sub-pools: {title}", **cells}


def _with_spread(means: np.ndarray, spreads: np.ndarray) -> dict[str, str]:
    rows = zip(BUDGETS, means.tolist(), spreads.tolist(), strict=True)
    return {budget: f"{100 * mean:.1f} ± {100 * spread:.1f}" for budget, mean, spread in rows}


def mask_rows(name: str, parts: Sequence[Found]) -> Iterator[dict[str, Any]]:
    """Yield two rows of a set: the spread over seeds of masks, and the difference to l1 masks."""
    values = np.array([part["masks"]["accuracies"] for part in parts])  # [S, seeds, B]
    plain = np.array([[np.mean(part["draws"][DLC][budget]) for budget in BUDGETS] for part in parts])  # [S, B]
    agreement = {key: float(np.mean([part["masks"][key] for part in parts])) for key in ("same", "l1")}
    spread = np.sqrt(values.var(axis=1, ddof=1).mean(axis=0))
    yield {"set": name, **agreement, "what": "over seeds", **_with_spread(values.mean(axis=(0, 1)), spread)}
    differences = values.mean(axis=1) - plain
    cells = {budget: shown(differences[:, column]) for column, budget in enumerate(BUDGETS)}
    yield {"set": name, **agreement, "what": "to l1", **cells}


def ensemble_rows(name: str, parts: Sequence[Found]) -> Iterator[dict[str, Any]]:
    """Yield a row for each kind of draws and each budget of one draw."""
    for method, title in DRAWN.items():
        for budget in ENSEMBLES:
            own = [part["ensembles"][method][budget] for part in parts]
            values = {key: np.array([each[key] for each in own]) for key in own[0]}
            scale = {key: 1 if key.startswith("images") else 100 for key in values}
            row = {key: scale[key] * float(value.mean()) for key, value in values.items()}
            for other in ("large", "herding", "herding_large"):
                row[f"to_{other}"] = shown(values["heads"] - values[other])
            yield {"set": name, "draws": title, "budget": budget.removeprefix("0"), **row}


if __name__ == "__main__":
    main()
