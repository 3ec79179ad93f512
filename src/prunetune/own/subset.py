"""The outcome of pruning: what is kept, in the words and in the order of the user's data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from prunetune.base.errors import InputError
from prunetune.data.pool import Pool
from prunetune.own.data import OwnData
from prunetune.own.duplicates import Duplicates
from prunetune.own.kept_dataset import KeptDataset
from prunetune.runs.records import write_csv

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False, repr=False)
class Subset:
    """The kept part of a user's data.

    data: the N candidates. kept: [M] int64, ascending positions in `data.pool`. pool_scores: [N] float64 in the order
    of `data.pool`, NaN for a candidate that has no score, such as a duplicate. pool_weights: [M] float64 in the order
    of `kept`, for methods that weight the kept images (craig, gradmatch), else None. method: what was run, in words.
    duplicates: the groups that were found. dropped: maps the position in the pool of each sample that was left out
    because of a suspect label to the class that it looks like.
    """

    data: OwnData
    kept: Tensor
    pool_scores: Tensor
    pool_weights: Tensor | None = None
    method: str = ""
    duplicates: Duplicates = field(default_factory=Duplicates)
    dropped: Mapping[int, int] = field(default_factory=dict)

    @property
    def pool(self) -> Pool:
        """The candidates, sorted by sample_id."""
        return self.data.pool

    @cached_property
    def order(self) -> Tensor:
        """[M] int64, the entries of `kept` in the order of the user's rows."""
        return self.kept[self.data.rows[self.kept].argsort()]

    @cached_property
    def positions(self) -> Tensor:
        """[M] int64, ascending: the kept rows of the user's data, such as indices of a data set."""
        return self.data.rows[self.order]

    @cached_property
    def scores(self) -> Tensor:
        """[num_rows] float64 in the order of the user's rows; larger means harder, or picked earlier.

        Rows that were no candidates, duplicates and samples that were left out because of their labels have NaN.
        """
        scores = torch.full((self.data.num_rows,), torch.nan, dtype=torch.float64)
        scores[self.data.rows] = self.pool_scores
        return scores

    @cached_property
    def weights(self) -> Tensor | None:
        """[M] float64 in the order of `positions`: how much each kept image counts; None where all count alike."""
        if self.pool_weights is None:
            return None
        return self.pool_weights[self.data.rows[self.kept].argsort()]

    @cached_property
    def sample_ids(self) -> tuple[str, ...]:
        """The ids of the M kept images, in the order of `positions`."""
        return tuple(self.pool.sample_ids[position] for position in self.order.tolist())

    @property
    def kept_names(self) -> tuple[str, ...]:
        """The M kept samples as the user gave them, in the order of `positions`."""
        return tuple(self.data.names[position] for position in self.order.tolist())

    @property
    def kept_paths(self) -> tuple[Path, ...]:
        """The files of the M kept samples, in the order of `positions`.

        Raises:
            InputError: the data are not files.
        """
        return self._paths(self.order)

    @property
    def dropped_paths(self) -> tuple[Path, ...]:
        """The files of the N - M candidates that are not kept, in the order of the user's rows.

        Raises:
            InputError: the data are not files.
        """
        is_dropped = torch.ones(len(self.pool), dtype=torch.bool)
        is_dropped[self.kept] = False
        dropped = torch.nonzero(is_dropped).flatten()
        return self._paths(dropped[self.data.rows[dropped].argsort()])

    def reason(self, position: int) -> str:
        """Return why the candidate at this position of the pool is kept or not."""
        copies = self.duplicates.copies
        if position in copies:
            return f"duplicate of {self.data.names[copies[position]]}"
        if position in self.dropped:
            return f"suspect label: looks like {self.pool.classes[self.dropped[position]]}"
        return "kept" if position in self._kept_set else "not chosen"

    def __len__(self) -> int:
        return len(self.kept)

    def __repr__(self) -> str:
        classes = f" of {len(self.pool.classes)} classes" if self.data.is_labelled else ""
        return f"Subset: {len(self)} of {len(self.pool)} samples{classes} kept by {self.method}"

    def to_csv(self, path: str | Path) -> None:
        """Write position (the user's row), sample_id, label and weight, the columns of a run's subset.csv."""
        weights = [1] * len(self) if self.weights is None else self.weights.tolist()
        labels = self.pool.labels[self.order].tolist()
        rows = zip(self.positions.tolist(), self.sample_ids, labels, [f"{w:.17g}" for w in weights], strict=True)
        write_csv(Path(path), ("position", "sample_id", "label", "weight"), rows, "pass another path")

    @property
    def _is_dataset(self) -> bool:
        return self.data.layout in ("dataset", "hugging_face") and not isinstance(self.data.source, Pool)

    @cached_property
    def _kept_set(self) -> frozenset[int]:
        return frozenset(self.kept.tolist())

    def _paths(self, positions: Tensor) -> tuple[Path, ...]:
        paths = tuple(self.data.paths[position] for position in positions.tolist())
        if None in paths:
            raise InputError("these data are not image files; use positions or sample_ids")
        return paths

    def to_frame(self) -> pd.DataFrame:
        """Return a line about each candidate as a data frame: the columns of all.csv, without suspect labels."""
        import pandas as pd

        from prunetune.own.files import COLUMNS, described

        return pd.DataFrame(described(self), columns=list(COLUMNS))

    def to_folder(self, folder: str | Path, form: str = "link") -> Path:
        """Write the kept images into a new folder, and return it.

        Args:
            folder: it must not exist, or be empty.
            form: link (symbolic links to the user's files), copy, hf or coco, as `--export`.

        Raises:
            InputError: the folder has content, or the data have no images.
        """
        from prunetune.base import checks
        from prunetune.base.disk import explained
        from prunetune.base.publish import TakenError, new_folder
        from prunetune.own.export import FORMS, export

        checks.choice("form", form, FORMS)
        folder = Path(folder)
        try:
            with explained(folder, "give another folder"), new_folder(folder) as partial:
                export(self, partial, form, "")
        except TakenError:
            raise InputError(f"{folder} has content already; give a new or empty folder") from None
        return folder

    def as_hf(self) -> Any:
        """Return the kept samples as a `datasets.Dataset`; needs the extra `data`.

        Data of Hugging Face give their own rows with all columns. Other images have the columns image and label.

        Raises:
            InputError: the extra `data` is not installed, or the data are embeddings.
        """
        from prunetune.own.export import as_hf

        return as_hf(self)

    def as_torch(
        self, dataset: Any = None, transform: Callable[[Any], Any] | None = None
    ) -> torch.utils.data.Dataset[Any]:
        """Return the kept samples as a map-style dataset of torch, in the order of `positions`.

        Args:
            dataset: a map-style dataset with the items of the pruned data, whose kept part is returned. By default it
                is the dataset that was pruned, with its own transform. Other data (a folder, a table, arrays ...) then
                give items (image, label), a PIL image and the index of the class; embeddings give (row, label).
            transform: what is done with each image of such other data, such as a transform of torchvision.

        Raises:
            InputError: the dataset has another number of items than the pruned data, or has its own transform.
        """
        if dataset is None and not self._is_dataset:
            return KeptDataset(self.data, self.order, transform)
        if transform is not None:
            raise InputError("the kept part of a dataset has the transform of the dataset; leave transform out")
        dataset = self.data.source if dataset is None else dataset
        if not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__"):
            raise InputError(f"dataset must be a map-style dataset, got {type(dataset).__name__}")
        if len(dataset) != self.data.num_rows:
            raise InputError(f"the dataset should have the {self.data.num_rows} items, has {len(dataset)}")
        return torch.utils.data.Subset(dataset, self.positions.tolist())
