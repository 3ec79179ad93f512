"""Identical and nearly identical samples: within a class, across classes, and across splits.

Two images are identical if their files or pixels are. They are nearly identical if their perceptual hashes, their
colours and their features agree. One of these alone can agree by chance: stripes of any colours have the same hash.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from prunetune.data.images.decoded import Decoded
from prunetune.data.pool import Pool

HASH_BITS = 64
BANDS = 5  # Hashes that differ in at most 4 bits agree in at least one of 5 bands.
MOST_IN_BUCKET = 2000  # Plain images can share a band by the thousand. Only this many of them are compared.
# Two images count as nearly identical from these numbers on: (most differing bits, least cosine of centred features).
# Measured on 150 images each of dtd10 and Caltech-101 with ViT-Tiny. Images that are encoded again at JPEG quality 50,
# or halved in size, differ in at most 4 bits in 95 % of cases, and their cosines begin at 0.53. Unrelated images differ
# in at least 14 bits. Crops of 97 % differ in up to 12 bits, and their cosines begin at 0.82.
NEAR = ((4, 0.5), (10, 0.9))
# Images of 16 x 16 pixels of the same pair differ by at most 2.5 of 255 on average (JPEG quality 50), 8.3 (halved and
# quality 30), and 3.9 in the median for crops of 97 %. Stripes of dtd10 with equal hashes differ by 23 and more.
COLOUR_SIDE, COLOUR_DIFFERENCE = 16, 8


@dataclass(frozen=True)
class Duplicates:
    """Groups of duplicates among N samples.

    groups: each the ascending positions of at least two samples. leaks: pairs (position, position in another split).
    """

    groups: tuple[tuple[int, ...], ...] = ()
    leaks: tuple[tuple[int, int], ...] = ()

    @cached_property
    def copies(self) -> dict[int, int]:
        """Maps each sample of a group but its first one to the first one, which stands for the group."""
        return {position: group[0] for group in self.groups for position in group[1:]}

    @cached_property
    def group_of(self) -> dict[int, int]:
        """Maps each sample that has duplicates to the number of its group."""
        return {position: number for number, group in enumerate(self.groups) for position in group}

    def conflicts(self, labels: Tensor) -> tuple[tuple[int, ...], ...]:
        """Return the groups whose samples do not all have the same label, labels [N]."""
        return tuple(group for group in self.groups if len({int(labels[position]) for position in group}) > 1)

    def alone(self, count: int) -> Tensor:
        """Return the positions of N = `count` samples without the copies, [n] int64 ascending."""
        return torch.tensor([position for position in range(count) if position not in self.copies], dtype=torch.int64)


FeaturesOf = Callable[[Tensor], Tensor]  # Maps positions [n] to features [n, D].


@dataclass(frozen=True)
class Prints:
    """What N images are compared by.

    digests: N hashes of their contents. hashes: [N] uint64 perceptual hashes. colours: [N, 768] uint8, the images in 16
    x 16 pixels. features_of: gives the features of some of the images; it is asked only for those whose hashes are
    close to another's.
    """

    digests: Sequence[str]
    hashes: np.ndarray
    colours: np.ndarray
    features_of: FeaturesOf


def prints_of(pool: Pool, pixels: Decoded, features_of: FeaturesOf) -> Prints:
    """Return what the N images of a pool are compared by; `pixels` gives their pixels."""
    positions = range(len(pool))
    with ThreadPoolExecutor() as workers:
        digests = list(workers.map(pool.images.digest, positions))
        seen = list(workers.map(lambda position: _hash_and_colours(pixels.decode(position)), positions))
    hashes = np.packbits(np.stack([bits for bits, _ in seen]), axis=1).view(np.uint64).ravel()
    return Prints(digests, hashes, np.stack([colours for _, colours in seen]), features_of)


def find_duplicates(own: Prints, others: Prints | None = None) -> Duplicates:
    """Return the groups of duplicates, and those that images of other splits belong to.

    Args:
        own: the N candidates.
        others: the images of the other splits; they are compared with the candidates, not with each other.
    """
    num_own, parts = len(own.digests), [own] if others is None else [own, others]
    digests = [digest for part in parts for digest in part.digests]
    pairs = set(_identical(digests)) | set(_near(parts))
    # A group is a set of pairs of candidates. Through an image of another split two candidates can also be equal.
    leaks = sorted(pair for pair in pairs if pair[0] < num_own <= pair[1])
    groups = groups_of([pair for pair in pairs if pair[1] < num_own])
    return Duplicates(groups, tuple((first, second - num_own) for first, second in leaks))


def identical_rows(features: Tensor) -> Duplicates:
    """Return the groups of equal rows of embeddings [N, D]."""
    digests = [row.tobytes() for row in features.numpy()]
    return Duplicates(groups_of(list(_identical(digests))))


def _hash_and_colours(image: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return the perceptual hash (pHash) of an image [3, h, w] uint8, [64] bool, and its colours, [768] uint8."""
    import imagehash  # Imported here, since it imports scipy.

    shown = Image.fromarray(image.permute(1, 2, 0).numpy())
    small = shown.resize((COLOUR_SIDE, COLOUR_SIDE), Image.Resampling.BOX)
    return imagehash.phash(shown).hash.flatten(), np.asarray(small).ravel()


def _identical(digests: Sequence[str | bytes]) -> Iterator[tuple[int, int]]:
    """Yield the pairs of neighbours in each run of equal digests, the smaller position first."""
    first: dict[str | bytes, int] = {}
    for position, digest in enumerate(digests):
        if digest in first:
            yield first[digest], position
        else:
            first[digest] = position


def _near(parts: Sequence[Prints]) -> Iterator[tuple[int, int]]:
    """Yield the pairs that are nearly identical, the smaller position first. Positions count through all parts."""
    hashes, num_own = np.concatenate([part.hashes for part in parts]), len(parts[0].hashes)
    colours = np.concatenate([part.colours for part in parts])
    found = [pair for pair in _candidates(hashes, num_own) if len(pair)]
    pairs = np.unique(np.concatenate(found), axis=0) if found else np.zeros((0, 2), dtype=np.int64)
    apart = np.array([np.abs(np.subtract(*colours[pair].astype(np.int64))).mean() for pair in pairs])
    pairs = pairs[apart <= COLOUR_DIFFERENCE] if len(pairs) else pairs
    if len(pairs) == 0:
        return
    bits = np.bitwise_count(hashes[pairs[:, 0]] ^ hashes[pairs[:, 1]])
    close = _cosines(parts, pairs)
    for most, least in NEAR:
        yield from map(tuple, pairs[(bits <= most) & (close >= least)].tolist())


def _cosines(parts: Sequence[Prints], pairs: np.ndarray) -> np.ndarray:
    """Return the cosine of the centred features of each pair, pairs [P, 2] to [P]."""
    num_own = len(parts[0].hashes)
    own = parts[0].features_of(torch.arange(num_own))
    centre, wanted = own.mean(dim=0), np.unique(pairs)
    features = {int(position): own[position] for position in wanted[wanted < num_own]}
    if (beyond := wanted[wanted >= num_own]).size:
        rows = parts[1].features_of(torch.from_numpy(beyond - num_own))
        features |= dict(zip(beyond.tolist(), rows, strict=True))
    unit = {position: torch.nn.functional.normalize(row - centre, dim=0) for position, row in features.items()}
    return np.array([float(unit[first] @ unit[second]) for first, second in pairs.tolist()])


def _candidates(hashes: np.ndarray, num_own: int) -> Iterator[np.ndarray]:
    """Yield pairs [P, 2] of hashes [N] uint64 that agree in a band and differ in few bits, the smaller position first.

    A pair has at least one candidate, which are the first `num_own` hashes.
    """
    for band in range(BANDS):
        low, high = HASH_BITS * band // BANDS, HASH_BITS * (band + 1) // BANDS
        part = (hashes >> np.uint64(low)) & np.uint64(2 ** (high - low) - 1)
        order = np.argsort(part, kind="stable")
        for bucket in np.split(order, np.flatnonzero(np.diff(part[order])) + 1):
            members = np.sort(bucket[:MOST_IN_BUCKET])
            if len(members) < 2 or members[0] >= num_own:
                continue
            first, second = (members[side] for side in np.triu_indices(len(members), 1))
            is_close = np.bitwise_count(hashes[first] ^ hashes[second]) <= NEAR[-1][0]
            yield np.stack([first, second], axis=1)[is_close & (first < num_own)]


def groups_of(pairs: Sequence[tuple[int, int]]) -> tuple[tuple[int, ...], ...]:
    """Return the connected groups of pairs, each ascending, in the order of their first members."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    if not pairs:
        return ()
    first, second = np.array(sorted(pairs)).T
    size = int(second.max()) + 1
    _, labels = connected_components(coo_array((np.ones(len(first)), (first, second)), shape=(size, size)))
    members: dict[int, list[int]] = {}
    for position in sorted({*first.tolist(), *second.tolist()}):
        members.setdefault(int(labels[position]), []).append(position)
    return tuple(tuple(group) for group in members.values())
