"""The strata of a corpus, which a sampler treats as classes: none, the source of a sample, or its length."""

import torch

from prunetune.base.errors import InputError
from prunetune.data.pool import Pool
from prunetune.instruct.corpus.encoding import Encoded

STRATA = ("none", "source", "length")
LENGTHS = ("shortest quarter", "second quarter", "third quarter", "longest quarter")


def stratified(encoded: Encoded, strata: str) -> Pool:
    """Return the corpus' pool with one class per stratum.

    Args:
        encoded: N samples.
        strata: "none" for one class, "source" for one class per source, or "length" for quarters by the number of
            tokens of prompt and response. The sizes of quarters differ by at most one. Ties are broken by sample_id.

    Raises:
        InputError: strata is another word.
    """
    pool = encoded.pool
    if strata == "none":
        return pool
    if strata == "source":
        classes = tuple(sorted(set(encoded.sources)))
        labels = torch.tensor([classes.index(source) for source in encoded.sources])
    elif strata == "length":
        classes, labels = LENGTHS, torch.empty(len(pool), dtype=torch.int64)
        order = encoded.lengths.argsort(stable=True)
        labels[order] = torch.arange(len(pool)) * len(LENGTHS) // len(pool)
    else:
        raise InputError(f"strata must be one of {', '.join(STRATA)}, got {strata!r}")
    return Pool(pool.name, labels, pool.sample_ids, pool.splits, classes)
