"""scikit-learn's handwritten digits: 1797 grey images of 8 x 8 that come with the library.

Every digit is painted in two colours of its own, light on dark or dark on light. White digits on black hardly need a
network: a linear classifier of the 64 grey levels is right on 97 % of their test images, and on 25 % of the painted
ones.
"""

from dataclasses import dataclass

import numpy as np
import torch

from prunetune.base import checks
from prunetune.base.errors import InputError
from prunetune.base.seeding import derive_seed
from prunetune.data.images.decode import ImageArrays
from prunetune.data.pool import Dataset, Pool
from prunetune.data.readers.textures import NUM_PAINTS, paint, uniform_draws

GREY_LEVELS = 16
SIDE = 8


@dataclass(frozen=True)
class Digits(Dataset):
    """Ten classes, about two thirds in the pool, enlarged to size x size RGB; a quarter of the pool is its split "val".

    The split is a hash of the image's number, hence fixed: `train/0001` is the library's image 1 everywhere.
    is_painted: False leaves the digits white on black.
    """

    size: int = 32
    is_painted: bool = True

    def __post_init__(self) -> None:
        checks.whole_number("dataset.size", self.size, SIDE, 256, what="the side in pixels")
        super().__post_init__()

    def pool(self, part: str) -> Pool:
        if part not in ("train", "test"):
            raise InputError(f"digits: part must be 'train' or 'test', got {part!r}")
        from sklearn.datasets import load_digits  # This import is slow, and only this data set needs it.

        bunch = load_digits()
        splits = [_split(number) for number in range(len(bunch.target))]
        chosen = [number for number, split in enumerate(splits) if (split == "test") == (part == "test")]
        return Pool(
            name="digits",
            labels=torch.from_numpy(bunch.target[chosen].astype(np.int64)),
            sample_ids=tuple(f"{part}/{number:04d}" for number in chosen),
            splits=tuple(splits[number] for number in chosen),
            classes=tuple(str(name) for name in bunch.target_names),
            images=ImageArrays(self._draw(bunch.images[chosen], chosen)),
        )

    def _draw(self, images: np.ndarray, numbers: list[int]) -> np.ndarray:
        """Return [N, size, size, 3] uint8 from grey levels [N, 8, 8] in 0..16."""
        intensity = enlarge(images / GREY_LEVELS, self.size)
        if not self.is_painted:
            return np.repeat(np.floor(255 * intensity + 0.5).astype(np.uint8)[..., None], 3, axis=3)
        seeds = [derive_seed("digits", "paint", number) for number in numbers]
        return paint(intensity, np.stack([uniform_draws(seed, NUM_PAINTS) for seed in seeds]))


def _split(number: int) -> str:
    """Return "test" for a third of the numbers, "val" for a sixth, else "train"."""
    return ("test", "test", "val", "train", "train", "train")[derive_seed("digits", number) % 6]


def enlarge(images: np.ndarray, size: int) -> np.ndarray:
    """Interpolate images [N, 8, 8] linearly to [N, size, size]; exact in float64 where size is a multiple of 8."""
    positions = np.clip((np.arange(size) + 0.5) * SIDE / size - 0.5, 0, SIDE - 1)
    weights = np.maximum(0, 1 - np.abs(positions[:, None] - np.arange(SIDE)))  # [size, 8]
    return weights @ images @ weights.T
