"""Logistic regression of scikit-learn on features of a frozen backbone; its strength is chosen on the kept images.

Letters: M kept images, D feature width, C the inverse strength of the L2 penalty, as scikit-learn calls it.
"""

import logging
import time
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedKFold
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from prunetune.base.errors import InputError
from prunetune.base.seeding import derive_seed
from prunetune.training.linear_probe import Probe
from prunetune.training.recipe import Epoch, FinetuneResult
from prunetune.training.sample_order import Static

log = logging.getLogger(__name__)
GRID = tuple(np.logspace(-4, 4, 10).tolist())  # The default candidates of scikit-learn's LogisticRegressionCV.
WITHOUT_FOLDS = 1.0  # C where no cross-validation is possible; the default of LogisticRegression.
MOST_FOLDS = 5
MOST_STEPS = 1000  # The default of scikit-learn, 100, is too small for the largest C.


@dataclass(frozen=True)
class Classifier:
    """A fitted logistic regression.

    c: the chosen C. folds: of the cross-validation, 0 where C was not chosen. accuracies: mean accuracy on the held-out
    folds for each C of `GRID`, empty where C was not chosen. has_converged: whether the last fit converged.
    """

    model: LogisticRegression
    scaler: StandardScaler
    c: float
    folds: int
    accuracies: tuple[float, ...]
    has_converged: bool

    def predict(self, features: Tensor) -> Tensor:
        """Return the predicted classes [N'] int64 of features [N', D]."""
        return torch.from_numpy(self.model.predict(self._scaled(features)))

    def loss(self, features: Tensor, labels: Tensor, weights: Tensor | None = None) -> float:
        """Return the mean cross-entropy in nats of features [n, D] with labels [n] and weights [n]."""
        probabilities = self.model.predict_proba(self._scaled(features))
        given = None if weights is None else weights.numpy()
        return float(log_loss(labels.numpy(), probabilities, sample_weight=given, labels=self.model.classes_))

    def record(self) -> dict[str, Any]:
        """Return what result.json says about the fit."""
        return {
            "C": self.c,
            "rule": "cross-validation on the kept images" if self.folds else "a class has a single image, so C is 1",
            "folds": self.folds or None,
            "converged": self.has_converged,
            "candidates": [{"C": c, "accuracy": a} for c, a in zip(GRID, self.accuracies, strict=False)],
        }

    def _scaled(self, features: Tensor) -> np.ndarray:
        return self.scaler.transform(features.double().numpy())


def fit(features: Tensor, labels: Tensor, seed: int, weights: Tensor | None = None) -> Classifier:
    """Fit a logistic regression with the C that classifies held-out parts of the given images best.

    Features are standardised by the mean and standard deviation of the given images. C is chosen from `GRID` by
    stratified cross-validation on these images, with as many folds as the smallest class has images and at most 5. The
    largest mean accuracy wins, of equal ones the smaller C. Where a class has a single image, C is 1. The same
    arguments give the same classifier.

    Args:
        features: [M, D] of the kept images, on the CPU.
        labels: [M] int64.
        seed: determines how the images are divided into folds.
        weights: [M] > 0, the weights of the images in the loss; None if all weigh the same. They are divided by their
            mean. Held-out images all count the same.

    Raises:
        InputError: the images are of one class only.
    """
    if len(labels.unique()) < 2:
        raise InputError(
            "logistic regression needs kept images of at least two classes, got one class; raise ratio or "
            "sampler.min_per_class"
        )
    scaler = StandardScaler().fit(features.double().numpy())
    values, targets = scaler.transform(features.double().numpy()), labels.numpy()
    shares = np.ones(len(targets)) if weights is None else (weights / weights.mean()).double().numpy()
    folds = min(MOST_FOLDS, int(labels.bincount()[labels.unique()].min()))
    accuracies: tuple[float, ...] = ()
    with warnings.catch_warnings(record=True) as while_choosing:
        warnings.simplefilter("always")
        if folds > 1:
            accuracies = _accuracies(values, targets, shares, folds, seed)
    c = GRID[int(np.argmax(accuracies))] if accuracies else WITHOUT_FOLDS
    with warnings.catch_warnings(record=True) as at_last:
        warnings.simplefilter("always")
        model = LogisticRegression(C=c, max_iter=MOST_STEPS).fit(values, targets, shares)
    _tell("cross-validation", while_choosing)
    _tell(f"the fit with C={c:g}", at_last)
    has_converged = not any(issubclass(one.category, ConvergenceWarning) for one in at_last)
    return Classifier(model, scaler, c, folds if accuracies else 0, accuracies, has_converged)


def _accuracies(
    values: np.ndarray, targets: np.ndarray, shares: np.ndarray, folds: int, seed: int
) -> tuple[float, ...]:
    """Return the mean accuracy on the held-out folds for each C, rounded so that equal ones are equal numbers."""
    if values.shape[0] < values.shape[1]:
        # Fits with an L2 penalty depend only on the inner products of the images, which M coordinates have as well.
        values = values @ np.linalg.qr(values.T)[0]  # [M, M]
    splits = StratifiedKFold(folds, shuffle=True, random_state=derive_seed("folds", seed) % 2**32)
    found = np.empty((folds, len(GRID)))
    for fold, (rest, held_out) in enumerate(splits.split(values, targets)):
        for place, c in enumerate(GRID):
            model = LogisticRegression(C=c, max_iter=MOST_STEPS).fit(values[rest], targets[rest], shares[rest])
            found[fold, place] = model.score(values[held_out], targets[held_out])
    return tuple(found.mean(axis=0).round(9).tolist())


def _tell(where: str, caught: Iterable[warnings.WarningMessage]) -> None:
    """Log each different warning of scikit-learn as one line."""
    for text, times in Counter(str(one.message).strip().partition("\n")[0] for one in caught).items():
        log.warning("logistic regression, %s: %s (%d times)", where, text, times)


def fit_probes(features: Tensor, probes: Sequence[Probe]) -> list[FinetuneResult]:
    """Fit a logistic regression for each probe, one after another, and test it.

    Args:
        features: [U, D] of the evaluation view, the rows that the probes name.
        probes: their rows, labels, weights, seeds and test sets.

    Raises:
        InputError: a probe shows other images in every epoch, or has images of one class only.
    """
    return [_fitted(features[probe.rows], probe) for probe in probes]


def _fitted(features: Tensor, probe: Probe) -> FinetuneResult:
    start, plan = time.perf_counter(), probe.plan
    if not isinstance(plan, Static):
        raise InputError(
            "logistic regression has no epochs and cannot change its images from epoch to epoch; choose another sampler"
        )
    classifier = fit(features, probe.labels, probe.seed, plan.weights)
    predictions = classifier.predict(probe.test_features)
    accuracy = (predictions == probe.test_labels).double().mean().item()
    loss = classifier.loss(features, probe.labels, plan.weights)
    history = (Epoch(1, None, loss, accuracy),)
    return FinetuneResult(predictions, history, time.perf_counter() - start, classifier=classifier.record())
