"""ActiveFT: centres that are optimised to follow the distribution of the features, and their nearest images."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from prunetune.base import checks
from prunetune.samplers.base import Sampler, unit

CENTRES_AT_ONCE = 256


@dataclass(frozen=True, kw_only=True)
class ActiveFT(Sampler):
    """The nearest unused image of each of B unit centres, which Adam moves near features and apart. Reads no score.

    Source: arXiv 2303.14382 and its code (yichen928/ActiveFT@0687b00), for each class by itself. With u_i the cosine of
    an image and its nearest centre k(i) over tau, mean_i u_i - ln(e^{u_i} + sum_j e^{c_j . c_k(i) / tau}) is maximised,
    starting from drawn images. As in the code, j runs over all centres including k(i), and the centres c_j are
    constants in the gradient. Differs: a step reads at most `batch_size` images of a class (the original all), so that
    it scales; centres are scaled to unit length after every step.
    Reads: features. Cost: about 4 batch_size B D operations a step; minutes for large classes.

    steps: number of steps of Adam. learning_rate: learning rate of Adam. tau: temperature.
    """

    name: ClassVar[str] = "activeft"
    reads_scores: ClassVar[bool] = False
    needs: ClassVar[str] = "features"

    steps: int = 300
    learning_rate: float = 1e-3
    tau: float = 0.07
    batch_size: int = 512

    def __post_init__(self) -> None:
        checks.whole_number("sampler.steps", self.steps)
        checks.whole_number("sampler.batch_size", self.batch_size)
        checks.number("sampler.learning_rate", self.learning_rate, "(0, 1000]")
        checks.number("sampler.tau", self.tau, "(0, inf)")
        super().__post_init__()

    def select_in_class(
        self, scores: Tensor, budget: int, ratio: float, generator: torch.Generator, needed: Tensor | None = None
    ) -> Tensor:
        features = unit(needed)
        centres = features[torch.randperm(len(features), generator=generator)[:budget]]
        return nearest_unused(features, self._optimised(features, centres, generator))

    def _optimised(self, features: Tensor, centres: Tensor, generator: torch.Generator) -> Tensor:
        centres = torch.nn.Parameter(centres.clone())
        adam = torch.optim.Adam([centres], lr=self.learning_rate)
        for _ in range(self.steps):
            batch = features
            if len(features) > self.batch_size:
                batch = features[torch.randint(len(features), (self.batch_size,), generator=generator)]
            centres.grad = gradient(batch, centres.data, self.tau)
            adam.step()
            centres.data = unit(centres.data)
        return centres.data


def gradient(features: Tensor, centres: Tensor, tau: float) -> Tensor:
    """Return the gradient [B, D] of mean_i ln(e^{u_i} + sum_j e^{c_j . c_k(i) / tau}) - u_i on the sphere.

    The gradient is taken with respect to c_k(i) alone; the other c_j are constants. With q_i the weight of e^{u_i} in
    its sum and a_kj the softmax over j of c_j . c_k / tau, image i moves its centre by
    (1 - q_i) (h_i - sum_j a_kj c_j), minus the part along the centre.

    Args:
        features: [n, D] of unit length.
        centres: [B, D] of unit length; k(i) is the nearest to image i.
        tau: temperature.
    """
    cosines, owners = (features @ centres.T).max(dim=1)  # [n]
    # The tensor `used` holds the centres that own images. `places` says for each image which of them owns it.
    used, places = owners.unique(return_inverse=True)
    moved = centres[used]
    between = moved @ centres.T / tau  # [used, B]
    pulls = (between.logsumexp(dim=1)[places] - cosines / tau).sigmoid()  # [n]. Each entry is 1 - q_i.
    strength = torch.zeros(len(used)).index_add_(0, places, pulls)
    slope = strength.unsqueeze(1) * (between.softmax(dim=1) @ centres)
    slope.index_add_(0, places, pulls.unsqueeze(1) * features, alpha=-1)
    slope -= (slope * moved).sum(dim=1, keepdim=True) * moved
    return torch.zeros_like(centres).index_copy_(0, used, slope / (len(features) * tau))


def nearest_unused(features: Tensor, centres: Tensor) -> Tensor:
    """Return the nearest unused image of each centre in turn, [B] int64. Ties go to the smaller index.

    Args:
        features: [n, D] of unit length.
        centres: [B, D], at most n.
    """
    taken = torch.zeros(len(features), dtype=torch.bool)
    picks = []
    for part in centres.split(CENTRES_AT_ONCE):
        for cosines in part @ features.T:  # [n]
            pick = int(cosines.masked_fill(taken, -torch.inf).argmax())
            taken[pick] = True
            picks.append(pick)
    return torch.tensor(picks, dtype=torch.int64)
