"""Labels that are probably wrong: samples that a classifier of the features, trained on the others, disagrees with.

As in confident learning (Northcutt, Jiang, Chuang: Confident Learning, JAIR 2021, section 3) the smaller the held-out
probability of a sample's own label, the more suspect the label. How many labels are suspect is the number of samples
whose probability of another label reaches the mean that samples of that label have themselves. The samples that reach
it are not the list: of labels that were changed at random, those that agree least hold more (results/own_data).
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from prunetune.base.errors import InputError
from prunetune.base.seeding import stream
from prunetune.own.draw import stratified

FOLDS = 5
# C of scikit-learn's logistic regression is this number divided by N, on features scaled to unit variance. Of 1, 10 and
# 100, 10 has the highest AUC on flipped labels of dtd10 and cifar10mini, and is within 0.001 of it on Caltech-101.
PENALTY = 10.0
MOST_TRAINED = 20_000  # Each classifier is trained on at most about this many samples, so that large data take minutes.


@dataclass(frozen=True)
class Suspects:
    """How well each label agrees with the features.

    agreement: [N] float64, the held-out probability of the sample's own label. suggested: [N] int64, the most probable
    label. is_suspect: [N] bool: the label is among those that agree least, and another one is more probable.
    """

    agreement: Tensor
    suggested: Tensor
    is_suspect: Tensor

    @property
    def ranking(self) -> Tensor:
        """The positions of the suspect samples, the most suspect first, [S] int64."""
        order = self.agreement.argsort(stable=True)
        return order[self.is_suspect[order]]

    def suggestions(self) -> dict[int, int]:
        """Map the position of each suspect sample to the label that is suggested."""
        return {position: int(self.suggested[position]) for position in self.ranking.tolist()}


def suspect_labels(features: Tensor, labels: Tensor, seed: int = 0) -> Suspects:
    """Return how well labels agree with features, by five-fold cross-validation.

    Args:
        features: [N, D] float32.
        labels: [N] int64.
        seed: of the folds.

    Raises:
        InputError: there are fewer than two classes, or a class has fewer than five samples.
    """
    probabilities = torch.from_numpy(_held_out(features.numpy(), labels.numpy(), seed))  # [N, C']
    classes, own = torch.unique(labels, return_inverse=True)
    rows = torch.arange(len(labels))
    agreement = probabilities[rows, own]
    # A label is confidently another one if its probability reaches the mean that samples of that label have themselves.
    threshold = torch.stack([agreement[own == label].mean() for label in range(len(classes))])
    confident = torch.where(probabilities >= threshold, probabilities, -1.0)
    count = int(((confident.max(dim=1).values > 0) & (confident.argmax(dim=1) != own)).sum())
    suggested, is_suspect = classes[probabilities.argmax(dim=1)], torch.zeros(len(labels), dtype=torch.bool)
    is_suspect[agreement.argsort(stable=True)[:count]] = True
    return Suspects(agreement, suggested, is_suspect & (suggested != labels))


def _held_out(features: np.ndarray, labels: np.ndarray, seed: int) -> np.ndarray:
    """Return the probability of every class for every sample, from a classifier that has not seen it, [N, C']."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    counts = np.unique(labels, return_counts=True)[1]
    if len(counts) < 2 or counts.min() < FOLDS:
        raise InputError(
            f"suspect labels need at least two classes with {FOLDS} samples each, got {len(counts)} classes, of which "
            f"the smallest has {counts.min()}"
        )
    probabilities = np.empty((len(labels), len(counts)))
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    for number, (others, fold) in enumerate(folds.split(features, labels)):
        part = stratified(torch.from_numpy(labels[others]), MOST_TRAINED, stream("suspect labels", seed, number))
        strength = PENALTY / len(labels) * len(others) / len(part)
        classifier = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=200))
        rows = others[part.numpy()]
        probabilities[fold] = classifier.fit(features[rows], labels[rows]).predict_proba(features[fold])
    return probabilities
