"""InfoBatch and RS2 as samplers of a torch DataLoader.

Letters: N samples, M samples of an epoch, B samples of a batch.
"""

from abc import abstractmethod
from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Sampler

from prunetune.base import checks
from prunetune.base.errors import InputError
from prunetune.base.seeding import stream
from prunetune.loop.processes import gathered, num_processes, own_rank
from prunetune.training.sample_order import Part, Slices, thinned_weights


class EpochSampler(Sampler[int]):
    """A sampler that counts its epochs itself: whenever a DataLoader begins to iterate, the next epoch begins.

    What an epoch shows depends on the arguments, the number of the epoch and, for InfoBatch, the losses, and on nothing
    else. Each of several processes shows every `num_replicas`-th sample of the same order; if M is not a multiple, the
    first samples of the order come again at its end, so that all processes show as many.
    """

    def __init__(self, num_samples: int, seed: int, num_replicas: int | None, rank: int | None) -> None:
        checks.whole_number("num_samples", checks.plain(num_samples))
        checks.whole_number("seed", checks.plain(seed), least=None)
        checks.whole_number("num_replicas", num_replicas, or_none=True)
        self.num_samples, self.seed = checks.plain(num_samples), checks.plain(seed)
        self.num_replicas = num_processes() if num_replicas is None else num_replicas
        self.rank = own_rank() if rank is None else rank
        checks.whole_number("rank", self.rank, least=0, most=self.num_replicas - 1)
        self._begun = 0  # The number of epochs that have begun.
        self._current: Part | None = None  # What the last of them shows.
        self._is_over = True  # Whether it has been shown to its end.
        self._is_again = False  # Whether the next iteration shows it again, after a state within it was loaded.
        self._next: Part | None = None  # What the next epoch will show, if it has been asked for.

    def __iter__(self) -> Iterator[int]:
        part = self._current
        if part is None or not self._is_again:
            part = self._current = self._coming()
            self._next = None
            self._begun += 1
        self._is_again = self._is_over = False
        yield from self._share(part[0]).tolist()
        self._is_over = True

    def __len__(self) -> int:
        """Return how many samples this process shows in the epoch that is going on, or else in the next one."""
        part = self._coming() if self._current is None or self._is_over else self._current
        return -(-len(part[0]) // self.num_replicas)

    def state_dict(self) -> dict[str, Any]:
        """Return the state: tensors, numbers and texts, which torch.save can write.

        Take it at the end of an epoch, and a training that loads it begins the next one. If it is taken within an
        epoch, a training that loads it begins the same epoch again, with the same samples in the same order, and must
        skip the batches that were shown.
        """
        order, weights = self._current or (None, None)
        return {
            **self._made_with(),
            "begun": self._begun,
            "is_over": self._is_over,
            "order": None if order is None else order.clone(),
            "weights": None if weights is None else weights.clone(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state that `state_dict` returned.

        Raises:
            InputError: the state is that of a sampler with other arguments.
        """
        for name, ours in self._made_with().items():
            if state.get(name) != ours:
                raise InputError(
                    f"the state is that of a sampler with {name}={state.get(name)}, and this one has {name}={ours}; "
                    "make it with the arguments of the interrupted training"
                )
        self._begun, self._is_over, self._is_again = state["begun"], state["is_over"], not state["is_over"]
        order, weights = (None if state[name] is None else state[name].cpu().clone() for name in ("order", "weights"))
        self._current, self._next = None if order is None else (order, weights), None
        self._rewind()

    @abstractmethod
    def _drawn(self) -> Part:
        """Return what the next epoch shows: the order [M] int64 of all processes, and weights [N] float32 or None."""

    def _rewind(self) -> None:
        """Prepare `_drawn` for the epoch after `self._begun` epochs."""

    def _made_with(self) -> dict[str, Any]:
        """Return the arguments that a state depends on."""
        return {"sampler": type(self).__name__, "num_samples": self.num_samples, "seed": self.seed}

    def _coming(self) -> Part:
        if self._next is None:
            self._next = self._drawn()
        return self._next

    def _share(self, order: Tensor) -> Tensor:
        """Return the samples of this process."""
        padded = order[torch.arange(-(-len(order) // self.num_replicas) * self.num_replicas) % len(order)]
        return padded[self.rank :: self.num_replicas]


class RS2Sampler(EpochSampler):
    """Another random part of the data in every epoch: the next M samples of a permutation of all N.

    When a permutation is used up, a new one follows, and an epoch that lies across two shows no sample twice. So after
    1 / ratio epochs every sample has been shown once.

    Source: Okanovic et al. 2024, "Repeated Random Sampling" (arXiv 2305.18424), without replacement.

    Args:
        num_samples: N, the length of the data set.
        ratio: the fraction of the samples that an epoch shows, in (0, 1]; M is N * ratio, rounded, and at least 1.
        seed: determines the permutations.
        num_replicas: the number of processes; by default that of torch.distributed. Pass 1 if something else gives each
            process its part of the batches, as Accelerate and the Trainer of Hugging Face do.
        rank: the number of this process from 0; by default that of torch.distributed.

    Raises:
        InputError: an argument is not allowed.
    """

    def __init__(
        self, num_samples: int, ratio: float, seed: int = 0, num_replicas: int | None = None, rank: int | None = None
    ) -> None:
        super().__init__(num_samples, seed, num_replicas, rank)
        checks.number("ratio", checks.plain(ratio), "(0, 1]", what="the fraction of the samples that an epoch shows")
        self.ratio = float(ratio)
        self._rewind()

    def _drawn(self) -> Part:
        return next(self._parts)

    def _rewind(self) -> None:
        slices = Slices(self.num_samples, max(1, round(self.num_samples * self.ratio)))
        parts = slices.parts(stream("rs2_sampler", self.seed), losses=torch.empty(0))
        self._parts = islice(parts, self._begun, None)

    def _made_with(self) -> dict[str, Any]:
        return {**super()._made_with(), "ratio": self.ratio}


class InfoBatchSampler(EpochSampler):
    """Epochs that leave out a random part of the samples with a loss below the mean, and give the others more weight.

    A training loop multiplies each loss by the sample's weight and hands the losses back:

        losses = cross_entropy(model(images), labels, reduction="none")
        (losses * sampler.weights(indices)).mean().backward()
        sampler.update(indices, losses)

    The first epoch shows all samples, and so do the last ones, a fraction `whole_end` of all epochs.

    Source: Qin et al. 2024, "InfoBatch" (arXiv 2303.04947). As a sampler of runs (`sampler=infobatch`) it cuts its
    passes into epochs of a given length; here an epoch is one pass, as in the paper.

    Args:
        num_samples: N, the length of the data set.
        num_epochs: the number of epochs of the training.
        dropped: the fraction of the samples with a small loss that is left out, in [0, 1); the others of them weigh
            1 / (1 - dropped).
        whole_end: the fraction of the epochs, at the end, that show all samples.
        seed: determines the orders and which samples are left out.
        num_replicas: the number of processes; by default that of torch.distributed. Pass 1 if something else gives each
            process its part of the batches, as Accelerate and the Trainer of Hugging Face do.
        rank: the number of this process from 0; by default that of torch.distributed.

    Raises:
        InputError: an argument is not allowed.
    """

    def __init__(
        self,
        num_samples: int,
        num_epochs: int,
        dropped: float = 0.5,
        whole_end: float = 0.125,
        seed: int = 0,
        num_replicas: int | None = None,
        rank: int | None = None,
    ) -> None:
        super().__init__(num_samples, seed, num_replicas, rank)
        checks.whole_number("num_epochs", checks.plain(num_epochs))
        checks.number("dropped", checks.plain(dropped), "[0, 1)")
        checks.number("whole_end", checks.plain(whole_end), "[0, 1]")
        self.num_epochs, self.dropped, self.whole_end = checks.plain(num_epochs), float(dropped), float(whole_end)
        self._losses = torch.full((self.num_samples,), torch.nan)

    def weights(self, indices: Any) -> Tensor:
        """Return by what to multiply the losses of a batch, [B] float32 on the device of the indices.

        Args:
            indices: [B] int64, samples of the epoch that is going on.

        Raises:
            InputError: a sample is left out of this epoch, or no epoch has begun.
        """
        given = torch.as_tensor(indices)
        rows = self._rows(given)
        weights = torch.zeros(self.num_samples) if self._current is None else self._current[1]
        chosen = torch.ones(len(rows)) if weights is None else weights[rows]
        if not chosen.all():
            first = int(rows[chosen == 0][0])
            raise InputError(f"sample {first} is not shown in this epoch; pass the indices that this sampler gave")
        return chosen.to(given.device)

    @torch.no_grad()
    def update(self, indices: Any, losses: Tensor) -> None:
        """Remember the losses of a batch, which decide what later epochs leave out.

        With several processes, each calls this equally often with its own batch, and all learn the losses of all.

        Args:
            indices: [B] int64.
            losses: [B], the loss of each sample before it is multiplied by its weight, on any device.

        Raises:
            InputError: a loss is not finite, or the lengths differ.
        """
        for rows, values in gathered(lambda: self._checked(indices, losses)):
            self._losses[rows] = values
        self._next = None

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "losses": self._losses.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._losses = state["losses"].cpu().clone()

    def _drawn(self) -> Part:
        generator = stream("infobatch_sampler", self.seed, self._begun)
        if self._begun >= round(self.num_epochs * (1 - self.whole_end)):
            return torch.randperm(self.num_samples, generator=generator), None
        weights = thinned_weights(self._losses, self.dropped, generator)
        order = torch.randperm(self.num_samples, generator=generator)
        return order[weights[order] > 0], weights

    def _made_with(self) -> dict[str, Any]:
        settings = {"num_epochs": self.num_epochs, "dropped": self.dropped, "whole_end": self.whole_end}
        return {**super()._made_with(), **settings}

    def _checked(self, indices: Any, losses: Tensor) -> tuple[Tensor, Tensor]:
        rows, values = self._rows(torch.as_tensor(indices)), torch.as_tensor(losses)
        if values.shape != rows.shape:
            shape = tuple(values.shape)
            raise InputError(f"losses must have one number for each of {len(rows)} indices, got the shape {shape}")
        values = values.detach().to("cpu", torch.float32)
        if not values.isfinite().all():
            first = int(rows[~values.isfinite()][0])
            raise InputError(f"the loss of sample {first} is NaN or infinite; the training has diverged")
        return rows, values

    def _rows(self, indices: Tensor) -> Tensor:
        """Return indices of samples on the CPU, or refuse them."""
        rows = indices.to("cpu", torch.int64)
        if indices.ndim != 1 or indices.is_floating_point() or (rows < 0).any() or (rows >= self.num_samples).any():
            raise InputError(f"indices must be whole numbers in 0..{self.num_samples - 1}, one for each sample")
        return rows
