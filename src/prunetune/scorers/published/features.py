"""Features as the released code reads them: one number for each image if the network has tokens."""

from torch import Tensor

from prunetune.signals.contract import FeatureKind, Signals


def collapsed_features(signals: Signals, source: str) -> Tensor:
    """Return the [N, D] float32 features that the released selectors read, [N, 1] for a token network.

    Source: ml-stat-Sustech/Efficient-Dataset-Pruning at commit 6767d0e.

    Args:
        signals: signals of the pool.
        source: "pretrained", or "finetuned" for the features of the proxy at its last epoch.
    """
    if source == "pretrained":
        return signals.features(FeatureKind(pooling="token_collapse"))
    return signals.collapsed_features()
