"""Procedural textures with a known difficulty: unequal classes that differ in the arrangement of lines, not in colour.

Every image has colours, polarity, orientation, scale and phase of its own, so that no class can be told by its mean,
its contrast or its main frequency. `difficulty` moves an image away from what is typical of its class: it lays the
texture of another class over it, bends the lines and lowers the contrast.

The same settings give the same bytes on every machine: raw PCG64 output, one stream per image, and only operations
that IEEE 754 rounds exactly (no sines, no library sums).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from prunetune.base import checks
from prunetune.base.errors import InputError
from prunetune.base.seeding import derive_seed
from prunetune.data.images.decode import ImageArrays
from prunetune.data.pool import Dataset, Pool

Array = np.ndarray
SHARES = {  # Each class has this share of the images. The shares add up to 100.
    "bricks": 16,
    "chevron": 8,
    "cracks": 10,
    "crosses": 6,
    "honeycomb": 13,
    "rings": 7,
    "scales": 11,
    "tiles": 5,
    "waves": 14,
    "weave": 10,
}
CLASSES = tuple(SHARES)
SUPERSAMPLING = 2
WARP_KNOTS = 5
NUM_PAINTS = 9  # The colours of an image take this many uniform draws.
NUM_SCALARS = 10 + NUM_PAINTS  # An image takes this many uniform draws before its tables.
TORUS = 6  # The cell centres of the cracks repeat after this many cells.
# Of one part of the data set. The most frequent class has less than a fifth of the images, so its image numbers, which
# have four digits, are enough.
MAX_NUM_IMAGES = 50_000
PIXELS_TOGETHER = 2**18


@dataclass(frozen=True)
class Textures(Dataset):
    """Ten classes of size x size RGB images; a quarter of every class of the pool is its split "val"."""

    num_pool: int = 1000
    num_test: int = 400
    size: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("num_pool", "num_test"):
            checks.whole_number(f"dataset.{name}", getattr(self, name), 100, MAX_NUM_IMAGES, what="a number of images")
        checks.whole_number("dataset.size", self.size, 16, 256, what="the side in pixels")
        super().__post_init__()

    def pool(self, part: str) -> Pool:
        labels, numbers = self._rows(part)
        names = [CLASSES[label] for label in labels]
        val = "val" if part == "train" else "test"
        return Pool(
            name="textures",
            labels=torch.from_numpy(labels),
            sample_ids=tuple(f"{part}/{name}/{number:04d}" for name, number in zip(names, numbers, strict=True)),
            splits=tuple(val if number % 4 == 0 else part for number in numbers),
            classes=CLASSES,
            images=ImageArrays(self._draw(labels, self._seeds(part))),
        )

    def difficulty(self, part: str) -> Tensor:
        """Return [N] float64 in [0, 1), 0 = typical of its class, in the order of `pool(part)`."""
        return torch.tensor([uniform_draws(seed, 1)[0] for seed in self._seeds(part)], dtype=torch.float64)

    def _rows(self, part: str) -> tuple[Array, Array]:
        """Return each image's class index and number within its class, both [N] int64, in the pool's order."""
        if part not in ("train", "test"):
            raise InputError(f"textures: part must be 'train' or 'test', got {part!r}")
        counts = class_counts(self.num_pool if part == "train" else self.num_test)
        labels = np.repeat(np.arange(len(CLASSES)), counts)
        return labels, np.concatenate([np.arange(1, count + 1) for count in counts])

    def _seeds(self, part: str) -> list[int]:
        """Return a seed for each image that depends on its own names only."""
        rows = zip(*self._rows(part), strict=True)
        return [derive_seed("textures", self.seed, part, CLASSES[label], int(number)) for label, number in rows]

    def _draw(self, labels: Array, seeds: list[int]) -> Array:
        """Return [N, size, size, 3] uint8, rendered in pieces of a few megabytes."""
        num_draws = NUM_SCALARS + 2 * WARP_KNOTS**2 + 2 * TORUS**2 + self.size**2
        num_together = max(1, PIXELS_TOGETHER // (SUPERSAMPLING * self.size) ** 2)
        pieces = []
        for start in range(0, len(seeds), num_together):
            rows = slice(start, start + num_together)
            draws = np.stack([uniform_draws(seed, num_draws) for seed in seeds[rows]])
            pieces.append(render(labels[rows], draws, self.size))
        return np.concatenate(pieces)


def class_counts(total: int) -> list[int]:
    """Return how many of `total` images each class gets; the first class takes what rounding leaves."""
    counts = [total * share // 100 for share in SHARES.values()]
    return [counts[0] + total - sum(counts), *counts[1:]]


def render(labels: Array, draws: Array, size: int) -> Array:
    """Return [N, size, size, 3] uint8 images from labels [N] and the images' uniform draws [N, draws]."""
    scalars, warp, centres, noise = np.split(draws, np.cumsum([NUM_SCALARS, 2 * WARP_KNOTS**2, 2 * TORUS**2]), axis=1)
    difficulty = scalars[:, 0, None, None]  # [N, 1, 1]
    centres = centres.reshape(-1, TORUS, TORUS, 2)
    u, v = _coordinates(scalars, warp.reshape(-1, 2, WARP_KNOTS, WARP_KNOTS), size)
    others = (labels + 1 + (scalars[:, 1] * (len(CLASSES) - 1)).astype(np.int64)) % len(CLASSES)
    own = _intensity(labels, u, v, centres)
    over = _intensity(others, v + 0.5 * u + scalars[:, 2, None, None], u - 0.5 * v + scalars[:, 3, None, None], centres)
    intensity = own + 0.45 * difficulty * (over - own)  # The texture of the other class has a weight below one half.
    intensity = _shrink(intensity) + (0.05 + 0.1 * difficulty) * (2 * noise.reshape(-1, size, size) - 1)
    return paint(0.5 + (intensity - 0.5) * (1 - 0.4 * difficulty), scalars[:, -NUM_PAINTS:])


def _coordinates(scalars: Array, warp: Array, size: int) -> tuple[Array, Array]:
    """Return u and v, each [N, S, S] in cells of the texture: turned, scaled, sheared, shifted and bent pixels."""
    side = size * SUPERSAMPLING
    ticks = (np.arange(side) + 0.5) / side - 0.5  # The unit is the side of the image.
    x, y = ticks[None, None, :], ticks[None, :, None]
    # The tangent of half the angle gives a turn by -90 to 90 degrees without computing a sine.
    tangent = 2 * scalars[:, 4, None, None] - 1
    cosine, sine = (1 - tangent * tangent) / (1 + tangent * tangent), 2 * tangent / (1 + tangent * tangent)
    mirror = np.where(scalars[:, 5, None, None] < 0.5, -1.0, 1.0)
    cells = 2.0 + 2.0 * scalars[:, 6, None, None]  # The side of the image has this many cells.
    aspect = 0.75 + 0.5 * scalars[:, 7, None, None]
    bend = (0.05 + 0.25 * scalars[:, 0])[:, None, None]  # The bend grows with the difficulty. Its unit is the cell.
    shift_u, shift_v = (bend * (2 * _interpolate(warp[:, axis], ticks) - 1) for axis in (0, 1))
    u = mirror * (cosine * x - sine * y) * cells * aspect + 7 * scalars[:, 8, None, None] + shift_u
    v = (sine * x + cosine * y) * cells / aspect + 7 * scalars[:, 9, None, None] + shift_v
    return u, v


def _interpolate(knots: Array, ticks: Array) -> Array:
    """Return [N, S, S]: the values [N, k, k] on a grid of knots, smoothly interpolated at ticks [S] in -0.5..0.5."""
    positions = (ticks + 0.5) * (knots.shape[1] - 1)
    hats = np.maximum(0, 1 - np.abs(positions[:, None] - np.arange(knots.shape[1])))  # [S, k]
    weights = hats * hats * (3 - 2 * hats)
    rows = sum(weights[None, :, i, None] * knots[:, None, i, :] for i in range(knots.shape[1]))  # [N, S, k]
    return sum(weights[None, None, :, j] * rows[:, :, None, j] for j in range(knots.shape[1]))


def _intensity(labels: Array, u: Array, v: Array, centres: Array) -> Array:
    """Return [N, S, S] in [0, 1], 1 on the lines of each image's class."""
    intensity = np.empty_like(u)
    for label, name in enumerate(CLASSES):
        rows = labels == label
        distance = _cracks(u[rows], v[rows], centres[rows]) if name == "cracks" else LINES[name](u[rows], v[rows])
        intensity[rows] = _ink(distance)
    return intensity


def _ink(distance: Array) -> Array:
    """Return 1 on a line and 0 away from it, for distances from its middle in cells."""
    ramp = np.clip((0.16 - distance) / 0.1, 0, 1)
    return ramp * ramp * (3 - 2 * ramp)


def _shrink(intensity: Array) -> Array:
    """Average the supersampled pixels: [N, S, S] to [N, size, size]."""
    return (
        intensity[:, ::2, ::2] + intensity[:, 1::2, ::2] + intensity[:, ::2, 1::2] + intensity[:, 1::2, 1::2]
    ) / SUPERSAMPLING**2


def paint(intensity: Array, draws: Array) -> Array:
    """Give every image two colours of its own, light on dark or dark on light.

    Args:
        intensity: [N, H, W], about 0 on the ground and 1 on the lines.
        draws: [N, NUM_PAINTS] uniform numbers in [0, 1).

    Returns:
        [N, H, W, 3] uint8.
    """
    polarity = np.where(draws[:, 0] < 0.5, -1.0, 1.0)
    contrast = polarity * (0.22 + 0.13 * draws[:, 1])
    middle = 0.4 + 0.2 * draws[:, 2]
    tints = 0.4 * (draws[:, 3:9].reshape(-1, 2, 3) - 0.5)  # [N, line or ground, RGB]
    line, ground = ((middle + sign * contrast)[:, None] + tints[:, i] for i, sign in enumerate((1, -1)))  # [N, 3]
    colours = ground[:, None, None] + intensity[..., None] * (line - ground)[:, None, None]
    return np.floor(255 * np.clip(colours, 0, 1) + 0.5).astype(np.uint8)


def uniform_draws(seed: int, number: int) -> Array:
    """Return [number] float64 in [0, 1) from PCG64's raw output, which no version of NumPy may change."""
    return (np.random.PCG64(seed).random_raw(number) >> np.uint64(11)) * 2.0**-53


def _to_line(position: Array) -> Array:
    """Return the distance to the nearest integer, in [0, 0.5]."""
    return np.abs(position - np.floor(position + 0.5))


def _norm(u: Array, v: Array) -> Array:
    return np.sqrt(u * u + v * v)


def _is_odd(position: Array) -> Array:
    """Return 1 where the cell's number is odd, else 0."""
    whole = np.floor(position)
    return whole - 2 * np.floor(whole / 2)


def _bricks(u: Array, v: Array) -> Array:
    rows = 1.4 * v
    return np.minimum(_to_line(rows) / 1.4, 1.4 * _to_line(u / 1.4 + 0.5 * _is_odd(rows)))


def _tiles(u: Array, v: Array) -> Array:
    return np.minimum(_to_line(u), _to_line(v))


def _chevron(u: Array, v: Array) -> Array:
    return 0.8 * _to_line(v + 1.6 * _to_line(u / 1.6))


def _waves(u: Array, v: Array) -> Array:
    half = 2 * (u / 1.6 - np.floor(u / 1.6)) - 1  # Two parabolas replace the two arches of a sine.
    return 0.85 * _to_line(v + 1.5 * half * (1 - np.abs(half)))


def _rings(u: Array, v: Array) -> Array:
    return np.abs(_norm(u - np.floor(u) - 0.5, v - np.floor(v) - 0.5) - 0.33)


def _scales(u: Array, v: Array) -> Array:
    rows = 2 * v
    across = u + 0.5 * _is_odd(rows)
    return np.abs(_norm(across - np.floor(across) - 0.5, (rows - np.floor(rows)) / 2) - 0.5)


def _crosses(u: Array, v: Array) -> Array:
    across = u + 0.5 * _is_odd(v)
    x, y = np.abs(across - np.floor(across) - 0.5), np.abs(v - np.floor(v) - 0.5)
    return np.minimum(np.maximum(x, y - 0.22), np.maximum(y, x - 0.22))


def _weave(u: Array, v: Array) -> Array:
    is_upright = np.abs(_is_odd(u) - _is_odd(v))
    across = np.where(is_upright == 1, u, v)
    return _to_line(2 * across) / 1.6


def _honeycomb(u: Array, v: Array) -> Array:
    x, y = 1.1 * u, 1.1 * v / 1.7320508
    first = (x - np.floor(x + 0.5), 1.7320508 * (y - np.floor(y + 0.5)))
    second = (x - np.floor(x) - 0.5, 1.7320508 * (y - np.floor(y) - 0.5))
    to_first, to_second = (np.maximum(np.abs(a), 0.5 * np.abs(a) + 0.8660254 * np.abs(b)) for a, b in (first, second))
    return 0.5 - np.minimum(to_first, to_second)


def _cracks(u: Array, v: Array, centres: Array) -> Array:
    """Return the distances to the borders of irregular cells; centres [N, TORUS, TORUS, 2] in [0, 1) of their cells."""
    column, row = np.floor(u).astype(np.int64), np.floor(v).astype(np.int64)
    image = np.arange(len(u))[:, None, None]
    nearest, second = np.full_like(u, 9.0), np.full_like(u, 9.0)
    for i in (-1, 0, 1):
        for j in (-1, 0, 1):
            offset = centres[image, (row + j) % TORUS, (column + i) % TORUS]  # [N, S, S, 2]
            distance = _norm(column + i + offset[..., 0] - u, row + j + offset[..., 1] - v)
            second = np.minimum(second, np.maximum(nearest, distance))
            nearest = np.minimum(nearest, distance)
    return (second - nearest) / 2


LINES: dict[str, Callable[[Array, Array], Array]] = {
    "bricks": _bricks,
    "chevron": _chevron,
    "crosses": _crosses,
    "honeycomb": _honeycomb,
    "rings": _rings,
    "scales": _scales,
    "tiles": _tiles,
    "waves": _waves,
    "weave": _weave,
}
