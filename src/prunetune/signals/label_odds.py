"""The odds of an image's label, which give its probability and its loss without a loss of precision."""

import torch
from torch import Tensor


def label_log_odds(logits: Tensor, labels: Tensor) -> Tensor:
    """Return ln(p_label / (1 - p_label)) = z_label - logsumexp of the others, [E, B] float64.

    The probability is the sigmoid of this, and the loss is minus the logarithm of the probability. In float32 the
    probabilities of well learned images are all 1, but their odds still differ.

    Args:
        logits: [E, B, C].
        labels: [B] int64.
    """
    own, others = label_and_others(logits, labels)
    return own.double() - others.logsumexp(dim=2).double()


def label_probabilities(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the label's probability, [E, B] float64, of logits [E, B, C] and labels [B] int64."""
    return label_log_odds(logits, labels).sigmoid()


def label_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy in nats, [E, B] float64, of logits [E, B, C] and labels [B] int64."""
    return -torch.nn.functional.logsigmoid(label_log_odds(logits, labels))


def label_and_others(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the label's logit [E, B], and the logits [E, B, C] with -infinity in its place."""
    column = labels.expand(logits.shape[:2]).unsqueeze(2)  # [E, B, 1]
    return logits.gather(2, column).squeeze(2), logits.scatter(2, column, -torch.inf)
