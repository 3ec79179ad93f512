"""The recall of each class on held-out images, which DRoP's class budgets read."""

import torch
from torch import Tensor

from prunetune.base.seeding import derive_seed, stream
from prunetune.training.linear_probe import Probe, train_probes
from prunetune.training.recipe import Recipe

RECIPE = Recipe("linear_probe", views=0, evaluate_every=50)
REPEATS = 3
HELD_OUT = 0.2
MOST_IMAGES = 200_000  # A larger pool is sampled, since 50 epochs on a million images would take longer than a score.


def held_out_recall(features: Tensor, labels: Tensor, num_classes: int, device: str = "cpu") -> Tensor:
    """Return the fraction of each class's held-out images that a linear probe on the others gets right.

    A fifth of each class is held out, at least one image and never all of them. This is done three times, with other
    draws and heads, and the counts are added. A class with one image, or none, is not judged and gets the mean recall
    of the classes that are (0 if none is). From a pool of more than 200,000 images that many are drawn, each class in
    proportion to its size and at least two of it.

    Args:
        features: [N, D] float32, in sample_id order.
        labels: [N] int64.
        num_classes: C.
        device: the device on which probes are trained.

    Returns:
        [C] float64 in [0, 1].
    """
    hits, judged = torch.zeros(num_classes, dtype=torch.float64), torch.zeros(num_classes, dtype=torch.float64)
    for repeat in range(REPEATS):
        kept, held_out = split(labels, stream("recall split", repeat))
        if len(held_out):
            seed = derive_seed("recall head", repeat)
            probe = Probe(kept, labels[kept], features[held_out], labels[held_out], seed)
            [trained] = train_probes(features.unsqueeze(0), [probe], num_classes, RECIPE, device)
            is_right = trained.predictions == probe.test_labels
            hits += torch.bincount(probe.test_labels[is_right], minlength=num_classes)
            judged += torch.bincount(probe.test_labels, minlength=num_classes)
    recall = hits / judged.clamp_min(1)
    is_judged = judged > 0
    recall[~is_judged] = recall[is_judged].mean() if is_judged.any() else 0.0
    return recall


def split(labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return the positions to learn from and those to judge by, both [n] int64 ascending.

    Args:
        labels: [N] int64.
        generator: draws the images of both.
    """
    share = min(1.0, MOST_IMAGES / len(labels))
    kept, held_out = [], []
    for members in labels.argsort(stable=True).split(torch.bincount(labels).tolist()):
        used = members[torch.randperm(len(members), generator=generator)]
        used = used[: max(round(len(members) * share), 2)]
        count = min(max(round(len(used) * HELD_OUT), 1), max(len(used) - 1, 0))
        held_out.append(used[:count])
        kept.append(used[count:])
    return torch.cat(kept).sort().values, torch.cat(held_out).sort().values
