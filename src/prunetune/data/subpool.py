"""A sub-pool: a random part of a pool's images, the same on every machine and in every order."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from prunetune.base import checks
from prunetune.data.pool import Dataset, Pool


@dataclass(frozen=True)
class SubpoolDataset(Dataset):
    """A data set whose pool is a random part of another one's. The test set is that of the other one.

    whole: the other data set. fraction, seed: as in `subpool`.
    """

    whole: Dataset
    fraction: float
    seed: int

    def pool(self, part: str) -> Pool:
        pool = self.whole.pool(part)
        return pool.take(subpool(pool, self.fraction, self.seed)) if part == "train" else pool

    def record(self) -> dict[str, float]:
        """Return the fraction and the seed as result.json records them."""
        return {"fraction": self.fraction, "seed": self.seed}


def subpool(pool: Pool, fraction: float, seed: int) -> Tensor:
    """Draw a random part of every class and return its positions.

    Of a class with n images, the max(1, round(n * fraction)) images are drawn whose SHA-256 of "<seed>:<sample_id>" is
    smallest. So the draw does not depend on the order of the images, on the platform or on a library, and of two
    fractions with one seed the smaller part lies within the larger one.

    Args:
        pool: N images.
        fraction: fraction of each class, in (0, 1].
        seed: a whole number of at least 0. Different seeds give independent draws.

    Returns:
        [M] int64 positions in the pool, ascending.

    Raises:
        InputError: the fraction or the seed is not such a number.
    """
    checks.number("the fraction of a sub-pool", fraction, "(0, 1]")
    checks.whole_number("the seed of a sub-pool", seed, least=0)
    return drawn(pool.labels, pool.sample_ids, fraction, seed)


def drawn(labels: Tensor, sample_ids: Sequence[str], fraction: float, seed: int) -> Tensor:
    """Return the positions [M] int64 that `subpool` draws of a pool with labels [N] and these N names."""
    ranks = [hashlib.sha256(f"{seed}:{sample_id}".encode()).hexdigest() for sample_id in sample_ids]
    rows: list[int] = []
    for label in labels.unique():
        members = torch.nonzero(labels == label).flatten().tolist()
        rows += sorted(members, key=ranks.__getitem__)[: max(1, round(len(members) * fraction))]
    return torch.tensor(sorted(rows), dtype=torch.int64)
