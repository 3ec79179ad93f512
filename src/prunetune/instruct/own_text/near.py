"""Near-duplicates of text: by MinHash of word shingles, or by the cosine of hidden states. N samples."""

import re
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from prunetune.base.progress import track
from prunetune.instruct.extra import needed
from prunetune.own.duplicates import Duplicates, groups_of

PERMUTATIONS = 128  # The estimate of a similarity of 0.8 then has a standard error of 0.035; pairs are checked exactly.
HIGHEST = 0.9  # For a higher threshold the index would have too few bands.
WEIGHTS = (0.1, 0.9)  # A candidate too many costs only its check, but a missed one is lost.
SHINGLE = 3  # Words in a row.
ROWS = 2048  # Cosines of at most this many samples to all others are held in memory at once.
WORD = re.compile(r"\w+")


def by_minhash(texts: Sequence[str], threshold: float) -> Duplicates:
    """Return the groups of texts whose sets of shingles are similar.

    Candidates come from MinHash with locality-sensitive hashing (datasketch). Their Jaccard similarity is then computed
    exactly, so that no pair below the threshold is joined; a pair just above it can be missed.

    Args:
        texts: N texts.
        threshold: the least Jaccard similarity, in (0, 1].
    """
    sketches = needed("datasketch")
    index = sketches.MinHashLSH(min(threshold, HIGHEST), PERMUTATIONS, weights=WEIGHTS)
    pairs: list[tuple[int, int]] = []
    first = list(range(len(texts)))  # Leads from each text to the first one of its group.
    for position, text in enumerate(track(texts, "near-duplicates", len(texts))):
        own = _shingles(text)  # Those of all texts would need gigabytes, so that those of a candidate are made again.
        sketch = sketches.MinHash(num_perm=PERMUTATIONS, seed=1)
        sketch.update_batch([shingle.encode("utf-8", "surrogatepass") for shingle in own])
        for other in sorted(index.query(sketch)):
            group = _first_of(other, first)
            # A text is compared with each group until it belongs to it, so that a thousand equal texts are no million
            # pairs.
            if group != _first_of(position, first) and _jaccard(own, _shingles(texts[other])) >= threshold:
                pairs.append((other, position))
                low, high = sorted((group, _first_of(position, first)))
                first[high] = low
        index.insert(position, sketch)
    return Duplicates(groups_of(pairs))


def _first_of(position: int, first: list[int]) -> int:
    while first[position] != position:
        first[position] = first[first[position]]
        position = first[position]
    return position


def by_states(states: Tensor, threshold: float) -> Duplicates:
    """Return the groups of samples whose centred hidden states have a cosine of at least the threshold.

    Args:
        states: [N, D] float32.
        threshold: in (0, 1].
    """
    return Duplicates(groups_of(list(_close(states, threshold))))


def _close(states: Tensor, threshold: float) -> Iterator[tuple[int, int]]:
    unit = torch.nn.functional.normalize(states - states.mean(dim=0), dim=1)
    for start in track(range(0, len(unit), ROWS), "near-duplicates", -(-len(unit) // ROWS)):
        cosines = unit[start : start + ROWS] @ unit[start:].T  # [rows, N - start]
        found = torch.nonzero(torch.triu(cosines, diagonal=1) >= threshold)
        yield from ((start + first, start + second) for first, second in found.tolist())


def _shingles(text: str) -> frozenset[str]:
    """Return the runs of SHINGLE words of a text, in lower case; a shorter text is one shingle."""
    words = WORD.findall(text.lower()) or [text]
    return frozenset(" ".join(words[start : start + SHINGLE]) for start in range(max(1, len(words) - SHINGLE + 1)))


def _jaccard(first: frozenset[str], second: frozenset[str]) -> float:
    return len(first & second) / len(first | second)
