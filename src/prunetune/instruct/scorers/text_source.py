"""How scores of text are stored: by which key, computed by how many processes, and what is noted beside them."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prunetune.base.store import Store
from prunetune.instruct.model.processes import shared_entry
from prunetune.instruct.scorers.signals import TextSignals
from prunetune.runs.scores import ScoreSource
from prunetune.scorers.base import Scorer
from prunetune.scorers.from_file import FromFile


class TextSource(ScoreSource):
    """A corpus that is scored. Its passes are kept beside the store until the scores are in it.

    Several processes store scores together: all compute, the first one writes.
    """

    def __init__(self, signals: TextSignals, store: Store) -> None:
        self.signals, self.store = signals, store

    def key(self, scorer: Scorer, seed: int | None) -> dict[str, Any]:
        own = scorer.key()
        if isinstance(scorer, FromFile):
            own["suffix"] = scorer.suffix  # in the keys of text since before images had other files than CSV
        key = {"text_scorer": own, "seed": seed, "corpus": self.signals.encoded.fingerprint}
        for part in scorer.reads:
            key |= self._parts[part]()
        return key

    def alone(self, place: Path) -> "TextSource":
        """Return a source with the same loaded model, whose passes lie in a folder of their own."""
        return TextSource(self.signals.for_score(self.store.root / "passes" / place.name), self.store)

    def cost(self, seconds: float) -> dict[str, Any]:
        signals = self.signals
        return {
            # a killed process has paid for some batches: a score costs what it costs at one go
            "seconds": seconds + signals.found_seconds,
            "signals": signals.charges,
            "tokens_per_second": signals.tokens_per_second,
            "tokens": signals.tokens,
            "processes": signals.processes.size,
        }

    def entry(self, prefix: str, key: dict[str, Any], make: Callable[[Path], dict[str, Any]]) -> Path:
        return shared_entry(self.store, self.signals.processes, "scores", prefix, key, make)

    def wait(self) -> None:
        self.signals.processes.wait()

    def finish(self) -> None:
        """Delete the passes, once every process has read the last one."""
        processes = self.signals.processes
        processes.wait()
        if processes.is_main:
            shutil.rmtree(self.signals.folder, ignore_errors=True)

    @property
    def _parts(self) -> dict[str, Callable[[], dict[str, Any]]]:
        """What each word of `Scorer.reads` stands for in a key."""
        signals, trajectory = self.signals, self.signals.trajectory
        return {
            "network": signals.key,
            "sources": lambda: {"sources": list(signals.encoded.sources)},
            "trajectory": lambda: {"trajectory": None if trajectory is None else trajectory.key()},
        }
