"""How much a run keeps: a fraction of each class, or a number of images of each class.

Importing this module does not import torch, since the names of runs need it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from prunetune.base import checks
from prunetune.base.errors import InputError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from prunetune.samplers.base import Sampler
    from prunetune.signals.contract import Signals

ENDING = "_per_class"
EXAMPLE = f"a number of images of each class such as 4{ENDING}"


@dataclass(frozen=True)
class Amount:
    """How much of each class a run keeps: the meaning of its key `ratio`. Exactly one of the two fields is set.

    fraction: in (0, 1]. per_class: a number of images of each class; a class that has fewer keeps all of them.
    """

    fraction: float | None = None
    per_class: int | None = None

    def __post_init__(self) -> None:
        if self.per_class is None:
            check_ratio(self.fraction)
        else:
            checks.whole_number("ratio as a number per class", self.per_class)

    @classmethod
    def parse(cls, value: Any) -> Amount:
        """Return the amount that a value of the key `ratio` stands for, such as 0.1 or "4_per_class".

        Raises:
            InputError: it is neither a number in (0, 1] nor a whole number of at least 1 with the ending _per_class.
        """
        plain = plain_ratio(value)
        return cls(per_class=int(plain.removesuffix(ENDING))) if isinstance(plain, str) else cls(fraction=plain)

    @property
    def value(self) -> float | str:
        """The value of the key `ratio`, in the form of `plain_ratio`."""
        return f"{self.per_class}{ENDING}" if self.fraction is None else self.fraction

    def __str__(self) -> str:
        return f"{self.value:g}" if isinstance(self.value, float) else self.value

    def share(self, labels: Tensor) -> float:
        """Return the fraction of a pool with labels [N] that is kept: of a number per class, kept divided by N."""
        return self.fraction if self.fraction is not None else sum(self._budgets(labels).values()) / len(labels)

    def select(
        self,
        sampler: Sampler,
        scores: Tensor,
        labels: Tensor,
        generator: torch.Generator,
        signals: Signals | None = None,
    ) -> Tensor:
        """Return the positions that a sampler keeps, [M] int64, ascending. The arguments are those of its `select`."""
        if self.fraction is not None:
            return sampler.select(scores, labels, self.fraction, generator, signals)
        return sampler.select_budgets(scores, labels, self._budgets(labels), generator, signals)

    def check_sampler(self, sampler: Sampler) -> None:
        """Refuse a sampler that cannot keep this amount: one whose rule needs a fraction, or keeps more of a class."""
        if self.per_class is None:
            return
        sampler.check_budgets()
        if sampler.min_per_class > self.per_class:
            raise InputError(
                f"ratio={self} keeps fewer images of a class than sampler.min_per_class={sampler.min_per_class}; "
                "leave one of them out"
            )

    def _budgets(self, labels: Tensor) -> dict[int, int]:
        from prunetune.samplers.budgets import same_budgets

        return same_budgets(labels, self.per_class)


def plain_ratio(value: Any) -> float | str:
    """Return a value of the key `ratio` in the one form that folders, seeds and configurations have.

    This is a float, or a text such as "4_per_class". Whether the number is allowed is not checked.

    Raises:
        InputError: it is neither a number nor such a text.
    """
    text = str(value).strip()
    if counted := re.fullmatch(rf"(\d+){ENDING}", text, re.ASCII):
        return f"{int(counted[1])}{ENDING}"
    try:
        if not isinstance(value, bool):
            return float(text)
    except ValueError:
        pass
    raise InputError(f"ratio must be a fraction in (0, 1] or {EXAMPLE}, got {value!r}")


def check_ratio(ratio: Any) -> None:
    """Raise an error if a ratio is not a fraction in (0, 1]."""
    checks.number("ratio", checks.plain(ratio), "(0, 1]", what="the fraction kept")
