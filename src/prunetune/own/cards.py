"""The samples as the report shows them: picture, name, and what happened to each."""

import base64
import io
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from prunetune.data.images.decoded import Decoded
from prunetune.own.files import class_percentiles
from prunetune.own.subset import Subset

SHOWN = 5  # Images of each kind that are shown for each class, if there are few classes.
MOST_PICTURES = 2000  # Of more classes fewer images each are shown, so that a browser can open the file.
THUMBNAIL = 96  # Pixels of the longer side.


@dataclass(frozen=True)
class Card:
    """One sample: its name, label, what happened to it, and its picture as a data URI.

    label: the index of its class. class_name: empty without labels. state: kept or dropped. percentile: empty without
    a score.
    """

    name: str
    label: int
    class_name: str
    state: str
    percentile: str
    picture: str | None
    note: str = ""


@dataclass(frozen=True)
class ClassPart:
    """What the report says about one class; the lists of cards are empty where no images are shown."""

    label: int
    name: str
    total: int
    kept: int
    copies: int
    typical: list[Card]
    hardest: list[Card]
    dropped: list[Card]


class Cards:
    """Makes the cards of one report.

    Args:
        subset: the outcome.
        pixels: gives the pictures; None for embeddings.
    """

    def __init__(self, subset: Subset, pixels: Decoded | None) -> None:
        self._subset, self._pixels = subset, pixels
        self._percentiles = class_percentiles(subset.pool_scores, subset.pool.labels)
        self._kept = set(subset.kept.tolist())

    def card(self, position: int, note: str = "") -> Card:
        """Return the card of the candidate at a position of the pool."""
        data, percentile = self._subset.data, float(self._percentiles[position])
        label = int(data.pool.labels[position])
        return Card(
            name=data.names[position],
            label=label,
            class_name=data.pool.classes[label] if data.is_labelled else "",
            state="kept" if position in self._kept else "dropped",
            percentile="" if percentile != percentile else f"{percentile:.0f}",
            picture=self._picture(position),
            note=note,
        )

    def classes(self, features: Tensor) -> list[ClassPart]:
        """Return the parts of all classes, features [N, D]; see `num_shown` for how many have cards."""
        return [self._part(label, features) for label in range(len(self._subset.pool.classes))]

    @property
    def num_shown(self) -> int:
        """How many classes have cards, those with the smallest indices."""
        return 0 if self._pixels is None else min(len(self._subset.pool.classes), MOST_PICTURES // 3)

    def _part(self, label: int, features: Tensor) -> ClassPart:
        subset = self._subset
        members = torch.nonzero(subset.pool.labels == label).flatten()
        each = max(1, min(SHOWN, MOST_PICTURES // (3 * len(subset.pool.classes)))) if label < self.num_shown else 0
        order = members[_distances(features[members]).argsort(stable=True)].tolist() if each else []
        dropped = [position for position in order if position not in self._kept]
        return ClassPart(
            label=label,
            name=subset.pool.classes[label] if subset.data.is_labelled else "all samples",
            total=len(members),
            kept=sum(position in self._kept for position in members.tolist()),
            copies=sum(position in subset.duplicates.copies for position in members.tolist()),
            typical=[self.card(position) for position in order[:each]],
            hardest=[self.card(position) for position in order[: -each - 1 : -1]],
            dropped=[self.card(position) for position in dropped[:each]],
        )

    def _picture(self, position: int) -> str | None:
        if self._pixels is None:
            return None
        image = Image.fromarray(self._pixels.decode(position).permute(1, 2, 0).numpy())
        image.thumbnail((THUMBNAIL, THUMBNAIL))
        file = io.BytesIO()
        image.save(file, "JPEG", quality=75)
        return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def _distances(features: Tensor) -> Tensor:
    """Return 1 - cosine of each feature with the mean of its class, features [n, D] to [n]."""
    unit = torch.nn.functional.normalize(features, dim=1)
    return 1 - unit @ torch.nn.functional.normalize(unit.mean(dim=0), dim=0)
