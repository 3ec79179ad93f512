"""The features of a scorer that can read the pretrained or the fine-tuned ones."""

from torch import Tensor

from prunetune.signals.contract import PLAIN, Signals

SOURCES = ("pretrained", "finetuned")


def read_features(signals: Signals, source: str) -> Tensor:
    """Return the [N, D] float32 features of a pool.

    Args:
        signals: signals of the pool.
        source: "pretrained", or "finetuned" for the features of the proxy at its last epoch.
    """
    if source == "pretrained":
        return signals.features(PLAIN)
    proxy = signals.proxy()
    return proxy.features(proxy.num_epochs)
