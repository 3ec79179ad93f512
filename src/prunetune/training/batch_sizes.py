"""How the images of an epoch are divided into batches."""

import math

RULES = ("balanced", "keep", "drop")


def batch_sizes(count: int, batch_size: int, rule: str, joins_single: bool = False) -> list[int]:
    """Return the sizes of the batches that images are trained in, in their order.

    A short last batch has few images and takes a step of full size, so that these few count for too much. On small
    sets this costs several points of accuracy.

    Args:
        count: n, the number of images, at least 1.
        batch_size: B.
        rule: what happens with a remainder. "balanced": ceil(n / B) batches whose sizes differ by at most one. "keep":
            the last batch is shorter. "drop": the remainder is left out, unless there is no other batch.
        joins_single: with "keep", a last batch of one image joins the batch before it. Batch normalisation cannot
            normalise one image whose map has a single pixel.

    Returns:
        Sizes whose sum is n, less with "drop". With "balanced" no batch is a single image, unless n or B is 1: where
        it would be, there is one batch fewer, of more than B images.
    """
    if rule == "balanced":
        batches = math.ceil(count / batch_size)
        if batch_size > 1:
            batches = max(1, min(batches, count // 2))
        smaller, larger = count // batches, count % batches
        return [smaller + 1] * larger + [smaller] * (batches - larger)
    full, rest = divmod(count, batch_size)
    if rule == "drop" and full:
        return [batch_size] * full
    if joins_single and rest == 1 and full:
        return [batch_size] * (full - 1) + [batch_size + 1]
    return [batch_size] * full + [rest] * (rest > 0)
