"""report.html: one file that needs no network, with what was kept, what is doubtful, and why."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import torch
from PIL import Image
from torch import Tensor

from prunetune.base.errors import InputError
from prunetune.base.publish import write_text
from prunetune.data.images.decoded import Decoded
from prunetune.own.files import class_percentiles
from prunetune.own.subset import Subset
from prunetune.own.suspects import Suspects, suspect_labels

SHOWN = 5  # Images of each kind that are shown for each class.
MOST_CLASSES_SHOWN = 60  # The images of further classes are left out, and the page says so.
MOST_LISTED = 50  # Suspect labels, groups of duplicates and leaks that are listed.
MOST_POINTS = 3000  # Points on the map. Of more samples that many are drawn evenly.
THUMBNAIL = 96  # Pixels of the longer side.
MAP = (640, 420)  # Width and height of the map.


@dataclass(frozen=True)
class Card:
    """One sample as the page shows it: its name, class, what happened to it, and its picture as a data URI."""

    name: str
    class_name: str
    state: str
    percentile: str
    picture: str | None
    note: str = ""


@dataclass(frozen=True)
class ClassPart:
    """What the page says about one class; the lists of cards are empty where images are left out."""

    name: str
    total: int
    kept: int
    copies: int
    typical: list[Card]
    hardest: list[Card]
    dropped: list[Card]


def write_page(
    path: Path, subset: Subset, features: Tensor, pixels: Decoded | None, advice: Sequence[str] = ()
) -> None:
    """Write the report of one pruning.

    Args:
        path: the HTML file.
        subset: the outcome.
        features: [N, D] float32 in the order of the pool.
        pixels: gives the pictures; None for embeddings.
        advice: sentences of `prunetune advise`, which come first.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("prunetune.own", "."), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.get_template("report.html.jinja")
    write_text(path, template.render(_content(subset, features, pixels, advice)))


def _content(subset: Subset, features: Tensor, pixels: Decoded | None, advice: Sequence[str]) -> dict[str, Any]:
    cards = _Cards(subset, pixels)
    suspects, why_not = _suspects(subset, features)
    return {
        "subset": subset,
        "advice": advice,
        "description": subset.data.described(),
        "classes": _classes(subset, features, cards),
        "num_shown": min(len(subset.pool.classes), MOST_CLASSES_SHOWN) if pixels is not None else 0,
        "suspects": [] if suspects is None else _suspect_cards(subset, suspects, cards),
        "num_suspects": 0 if suspects is None else len(suspects.ranking),
        "why_no_suspects": why_not,
        "groups": [[cards.card(position) for position in group] for group in subset.duplicates.groups[:MOST_LISTED]],
        "num_groups": len(subset.duplicates.groups),
        "num_conflicts": len(subset.duplicates.conflicts(subset.pool.labels)) if subset.data.is_labelled else 0,
        "leaks": _leaks(subset, cards),
        "num_leaks": len({position for position, _ in subset.duplicates.leaks}),
        "left_out": list(subset.data.left_out.items())[:MOST_LISTED],
        "num_left_out": len(subset.data.left_out),
        "map": _map(subset, features),
        "map_size": MAP,
        "most_listed": MOST_LISTED,
    }


class _Cards:
    """Makes the cards of one page."""

    def __init__(self, subset: Subset, pixels: Decoded | None) -> None:
        self._subset, self._pixels = subset, pixels
        self._percentiles = class_percentiles(subset.pool_scores, subset.pool.labels)
        self._kept = set(subset.kept.tolist())

    def card(self, position: int, note: str = "", with_picture: bool = True) -> Card:
        data, percentile = self._subset.data, float(self._percentiles[position])
        return Card(
            name=data.names[position],
            class_name=data.pool.classes[int(data.pool.labels[position])] if data.is_labelled else "",
            state="kept" if position in self._kept else "dropped",
            percentile="" if percentile != percentile else f"{percentile:.0f}",
            picture=self._picture(position) if with_picture else None,
            note=note,
        )

    def _picture(self, position: int) -> str | None:
        if self._pixels is None:
            return None
        image = Image.fromarray(self._pixels.decode(position).permute(1, 2, 0).numpy())
        image.thumbnail((THUMBNAIL, THUMBNAIL))
        file = io.BytesIO()
        image.save(file, "JPEG", quality=75)
        return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def _classes(subset: Subset, features: Tensor, cards: _Cards) -> list[ClassPart]:
    """Return the parts of all classes; only the first ones have cards."""
    pool, kept = subset.pool, set(subset.kept.tolist())
    parts = []
    for label, name in enumerate(pool.classes):
        members = torch.nonzero(pool.labels == label).flatten()
        if len(members) == 0:
            continue
        has_cards = cards._pixels is not None and label < MOST_CLASSES_SHOWN
        order = members[_distances(features[members]).argsort(stable=True)].tolist() if has_cards else []
        dropped = [position for position in order if position not in kept]
        parts.append(
            ClassPart(
                name=name if subset.data.is_labelled else "all samples",
                total=len(members),
                kept=sum(position in kept for position in members.tolist()),
                copies=sum(position in subset.duplicates.copies for position in members.tolist()),
                typical=[cards.card(position) for position in order[:SHOWN]],
                hardest=[cards.card(position) for position in order[: -SHOWN - 1 : -1]],
                dropped=[cards.card(position) for position in dropped[:SHOWN]],
            )
        )
    return parts


def _distances(features: Tensor) -> Tensor:
    """Return 1 - cosine of each feature with the mean of its class, features [n, D] to [n]."""
    unit = torch.nn.functional.normalize(features, dim=1)
    return 1 - unit @ torch.nn.functional.normalize(unit.mean(dim=0), dim=0)


def _suspects(subset: Subset, features: Tensor) -> tuple[Suspects | None, str]:
    """Return the suspect labels, or None and the reason why there are none."""
    if not subset.data.is_labelled:
        return None, "the data have no labels"
    try:
        return suspect_labels(features, subset.pool.labels), ""
    except InputError as error:
        return None, str(error)


def _suspect_cards(subset: Subset, suspects: Suspects, cards: _Cards) -> list[Card]:
    classes = subset.pool.classes
    return [
        cards.card(position, f"looks like {classes[int(suspects.suggested[position])]}")
        for position in suspects.ranking[:MOST_LISTED].tolist()
    ]


def _leaks(subset: Subset, cards: _Cards) -> list[tuple[Card, str]]:
    others = subset.data.others
    return [
        (cards.card(position), others.sample_ids[other]) for position, other in subset.duplicates.leaks[:MOST_LISTED]
    ]


def _map(subset: Subset, features: Tensor) -> dict[str, Any]:
    """Return the points of the map: the two directions in which the features vary most."""
    count = len(features)
    rows = torch.linspace(0, count - 1, min(count, MOST_POINTS)).round().long().unique()
    centred = features - features.mean(dim=0)
    _, _, directions = torch.pca_lowrank(centred[rows], q=min(4, *centred[rows].shape), center=False)
    flat = centred[rows] @ directions[:, :2]  # [P, 2]
    if flat.shape[1] < 2:
        flat = torch.cat([flat, torch.zeros(len(flat), 1)], dim=1)
    low, high = flat.amin(dim=0), flat.amax(dim=0)
    placed = (flat - low) / (high - low).clamp_min(1e-12) * torch.tensor([MAP[0] - 20.0, MAP[1] - 20.0]) + 10
    share = float((flat.var(dim=0).sum() / centred[rows].var(dim=0).sum().clamp_min(1e-12)).clamp(0, 1))
    kept = set(subset.kept.tolist())
    points = [
        {"x": round(x, 1), "y": round(y, 1), "kept": row in kept, "class": int(subset.pool.labels[row])}
        for row, (x, y) in zip(rows.tolist(), placed.tolist(), strict=True)
    ]
    return {"points": sorted(points, key=lambda point: point["kept"]), "share": share, "count": len(points)}
