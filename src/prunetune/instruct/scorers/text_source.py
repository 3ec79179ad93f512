"""How scores of text are stored: their key, the processes that compute them, and the entries of their meta.json."""

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prunetune.base.store import Store
from prunetune.instruct.model.processes import shared_entry
from prunetune.instruct.scorers.signals import TextSignals
from prunetune.networks.maskable import USED_WEIGHTS
from prunetune.runs.scores import ScoreSource
from prunetune.scorers.base import Scorer
from prunetune.scorers.from_file import FromFile

log = logging.getLogger(__name__)


class TextSource(ScoreSource):
    """A corpus to score. The files of its passes are kept until the scores are in the store.

    If there are several processes, all compute and the first one writes.
    """

    def __init__(self, signals: TextSignals, store: Store) -> None:
        self.signals, self.store = signals, store

    def key(self, scorer: Scorer, seed: int | None) -> dict[str, Any]:
        own = scorer.key()
        if isinstance(scorer, FromFile):
            # Text keys have always had the suffix. Without it the keys would change, and stored scores would be lost.
            own["suffix"] = scorer.suffix
        key = {"text_scorer": own, "seed": seed, "corpus": self.signals.encoded.fingerprint}
        for part in scorer.reads:
            key |= self._parts[part]()
        scorer.check_network(self.signals)  # Stored scores of a language model that is refused are not used either.
        masks = scorer.masks(self.signals)
        if masks is not None and not masks.is_plain:
            key |= USED_WEIGHTS
        return key

    def alone(self, place: Path) -> "TextSource":
        """Return a source with the same loaded model and a separate folder for its passes."""
        return TextSource(self.signals.for_score(self.store.root / "passes" / place.name), self.store)

    def cost(self, seconds: float) -> dict[str, Any]:
        signals = self.signals
        return {
            # An earlier process that was killed may have computed some batches. Their seconds count too.
            "seconds": seconds + signals.found_seconds,
            "signals": signals.charges,
            "tokens_per_second": signals.tokens_per_second,
            "tokens": signals.tokens,
            "processes": signals.processes.size,
        }

    def entry(self, prefix: str, key: dict[str, Any], make: Callable[[Path], dict[str, Any]]) -> Path:
        return shared_entry(self.store, self.signals.processes, "scores", prefix, key, make)

    def check(self, scorer: Scorer) -> None:
        """Log how large a part of the language model the scorer can mask. The key has refused too small a part."""
        masks = scorer.masks(self.signals)
        if masks is not None:
            log.info("%s can mask %.1f %% of the parameters of %s", scorer.name, 100 * masks.share, self.signals.title)

    def wait(self) -> None:
        self.signals.processes.wait()

    def finish(self) -> None:
        """Delete the files of the passes after every process has read the last one."""
        processes = self.signals.processes
        processes.wait()
        if processes.is_main:
            shutil.rmtree(self.signals.folder, ignore_errors=True)

    @property
    def _parts(self) -> dict[str, Callable[[], dict[str, Any]]]:
        """Return the part of a key that each word of `Scorer.reads` adds."""
        signals, trajectory = self.signals, self.signals.trajectory
        return {
            "network": signals.key,
            "sources": lambda: {"sources": list(signals.encoded.sources)},
            "trajectory": lambda: {"trajectory": None if trajectory is None else trajectory.key()},
        }
