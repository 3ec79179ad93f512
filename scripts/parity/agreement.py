"""Code that the parity scripts share: made inputs for other code and ours, and the table of agreement."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prunetune.base.seeding import stream
from prunetune.data.pool import Pool
from prunetune.runs.scores import compute_scores
from prunetune.samplers import Sampler, TopK
from prunetune.scorers import Scorer
from prunetune.signals.contract import Signals
from prunetune.signals.proxy import RecordedProxy
from prunetune.signals.tensors import TensorSignals

RATIOS = (0.1, 0.3, 0.5)
SEED = 0
# Unequal sizes, 239 in all. No class is so small that it keeps a single image, since DeepCore's k-center would fail.
CLASS_SIZES = (61, 23, 40, 97, 18)
WIDTH = 64  # Gradients must have full rank. Picks beyond the rank would have gains that are only rounding errors.
EPOCHS = 12
EXACT = "exact ties"  # A cause that begins like this says that both sets are equally good.
TIES = "exact ties at the cut, which they break by an unstable sort and we by position"
REPEATS = 3


@dataclass(frozen=True)
class Row:
    """One line of the table. cause: why the sets differ. note: what was changed for a fair comparison."""

    method: str
    balance: bool
    ratio: float
    num_kept_theirs: int
    num_kept_ours: int
    jaccard: float
    cause: str
    note: str


@dataclass(frozen=True)
class Material:
    """Features [N, D], labels in a pool, and proxies whose last layer reads the features."""

    pool: Pool
    features: Tensor
    proxies: tuple[RecordedProxy, ...]

    @property
    def labels(self) -> Tensor:
        """The labels, [N] int64."""
        return self.pool.labels

    @property
    def signals(self) -> Signals:
        """The same inputs as signals for our scorers."""
        return TensorSignals(self.features, pool=self.pool, proxies=self.proxies)

    def as_one_class(self) -> "Material":
        """Return the same images as a single class, for methods that rank the whole pool."""
        pool = replace(self.pool, labels=torch.zeros_like(self.labels))
        return Material(pool, self.features, self.proxies)


def made_material(scale: float = 1.0) -> Material:
    """Return clusters of features, and made proxies whose logits move towards the labels from epoch to epoch.

    scale: factor of the logits. With 60, many float32 probabilities are exactly 0 or 1.
    """
    labels = torch.repeat_interleave(torch.arange(len(CLASS_SIZES)), torch.tensor(CLASS_SIZES))
    labels = labels[torch.randperm(len(labels), generator=stream("parity labels"))]
    centres = torch.randn(len(CLASS_SIZES), WIDTH, generator=stream("parity centres"))
    noise = torch.randn(len(labels), WIDTH, generator=stream("parity noise"))
    features = (0.6 * centres[labels] + noise).relu()
    proxies = tuple(_made_proxy(features, centres, repeat, scale) for repeat in range(REPEATS))
    ids = tuple(f"image{position:03d}" for position in range(len(labels)))
    return Material(Pool("parity", labels, ids, ("train",) * len(ids), tuple("abcde")), features, proxies)


def _made_proxy(features: Tensor, centres: Tensor, repeat: int, scale: float) -> RecordedProxy:
    heads = []
    for epoch in range(EPOCHS):
        drift = torch.randn(centres.shape, generator=stream("parity drift", repeat, epoch))
        weight = scale * (0.15 * centres * (1 + epoch) / EPOCHS + 0.12 * drift)
        heads.append((weight, scale * 0.1 * torch.randn(len(centres), generator=stream("parity bias", repeat, epoch))))
    recorded = [torch.addmm(bias, features, weight.T) for weight, bias in heads]
    epochs = range(1, EPOCHS + 1)
    return RecordedProxy(recorded, dict.fromkeys(epochs, features), dict(zip(epochs, heads, strict=True)))


def our_scores(scorer: Scorer, material: Material, signals: Signals | None = None) -> Tensor:
    """Return a scorer's scores [N] of the material, or of the given signals if these have more inputs."""
    return compute_scores(scorer, signals or material.signals, SEED)


def kept(scores: Tensor, material: Material, ratio: float, balance: bool, sampler: Sampler | None = None) -> Tensor:
    """Return the positions that top-k keeps of each class, or of the whole pool, [M] int64, ascending.

    The other code has no minimum per class, so ours is turned off.
    """
    labels = material.labels if balance else torch.zeros_like(material.labels)
    return (sampler or TopK(min_per_class=0)).select(scores, labels, ratio, stream("parity draw", ratio))


def jaccard(one: Tensor, other: Tensor) -> float:
    """Return the Jaccard index of two sets of positions. It is 1 for two empty sets."""
    one, other = set(one.tolist()), set(other.tolist())
    return len(one & other) / len(one | other) if one | other else 1.0


def are_ties(theirs: Tensor, ours: Tensor, scores: Tensor, labels: Tensor) -> bool:
    """Return whether two sets differ only in images whose score equals the threshold of their class."""
    cut = {label: scores[ours[labels[ours] == label]].min() for label in labels[ours].unique().tolist()}
    differing = set(theirs.tolist()) ^ set(ours.tolist())
    return all(scores[i] == cut.get(int(labels[i])) for i in differing)


@dataclass(frozen=True)
class Remarks:
    """Remarks about a comparison.

    note: what was changed in the other code or its input. cause: why the sets differ, if they do.
    """

    note: str = ""
    cause: str = ""


NO_REMARKS = Remarks()


@dataclass(frozen=True)
class Ranking:
    """Our scores [N], and the labels [N] of the classes that are cut one by one."""

    scores: Tensor
    labels: Tensor


def compare(
    method: str,
    balance: bool,
    ratio: float,
    theirs: Tensor,
    ours: Tensor,
    remarks: Remarks = NO_REMARKS,
    ranking: Ranking | None = None,
) -> Row:
    """Return a line of the table.

    Args:
        method: name of the line.
        balance: the balance flag of the other code.
        ratio: fraction kept.
        theirs: [M] int64.
        ours: [M'] int64.
        remarks: remarks about the comparison.
        ranking: scores and classes to detect differences by exact ties. Without it no difference counts as a tie.
    """
    share, cause = jaccard(theirs, ours), remarks.cause
    if share < 1 and ranking is not None and are_ties(theirs, ours, ranking.scores, ranking.labels):
        cause = TIES
    cause = cause if share < 1 else ""
    return Row(method, balance, ratio, len(theirs), len(ours), round(share, 4), cause, remarks.note)


def write_rows(path: Path, rows: Sequence[Row]) -> str:
    """Write the table, one line for each method, flag and ratio.

    Returns:
        An error line that names the differences without a cause, "" if there are none.
    """
    _write(path, Row, rows)
    unexplained = [f"{row.method} at {row.ratio:g}" for row in rows if row.jaccard < 1 and not row.cause]
    print(f"{path}: {sum(row.jaccard == 1 for row in rows)} of {len(rows)} lines identical")
    return f"error: {path}: these differ without a cause: {', '.join(unexplained)}" if unexplained else ""


def read_rows(path: Path) -> list[Row]:
    """Return the lines of a table that `write_rows` wrote."""
    with path.open(newline="") as file:
        return [
            Row(
                line["method"],
                line["balance"] == "True",
                float(line["ratio"]),
                int(line["num_kept_theirs"]),
                int(line["num_kept_ours"]),
                float(line["jaccard"]),
                line["cause"],
                line["note"],
            )
            for line in csv.DictReader(file)
        ]


@dataclass(frozen=True)
class Verdict:
    """One method of one peer in a line.

    code: repository and commit. verdict: "identical", "up to ties" or "differs". compared: number of comparisons.
    lowest_jaccard: over all of them. cause, note: what the comparisons say, each once.
    """

    peer: str
    code: str
    method: str
    verdict: str
    compared: int
    lowest_jaccard: float
    cause: str
    note: str


def write_summary(folder: Path, code: Mapping[str, str]) -> None:
    """Write methods.csv: a line for every method of every peer whose table lies in the folder.

    Args:
        folder: where `write_rows` wrote <peer>.csv.
        code: repository and commit of each peer, by name.
    """
    verdicts = []
    for peer in sorted(code):
        rows = read_rows(folder / f"{peer}.csv") if (folder / f"{peer}.csv").is_file() else []
        for method in dict.fromkeys(row.method for row in rows):
            own = [row for row in rows if row.method == method]
            causes = list(dict.fromkeys(row.cause for row in own if row.cause))
            is_tied = all(cause.startswith(EXACT) for cause in causes)
            verdict = "identical" if not causes else "up to ties" if is_tied else "differs"
            lowest, notes = min(row.jaccard for row in own), dict.fromkeys(row.note for row in own if row.note)
            counts = peer, code[peer], method, verdict, len(own), lowest
            verdicts.append(Verdict(*counts, "; ".join(causes), "; ".join(notes)))
    _write(folder / "methods.csv", Verdict, verdicts)


def _write(path: Path, kind: type, lines: Sequence[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([field.name for field in fields(kind)])
        writer.writerows(astuple(line) for line in lines)
