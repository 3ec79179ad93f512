"""The processes of a distributed training, which must all know the same."""

from collections.abc import Callable
from typing import TypeVar

from torch import distributed

from prunetune.base.errors import InputError

Found = TypeVar("Found")


def num_processes() -> int:
    """Return the number of processes of torch.distributed, 1 where it has not been initialised."""
    return distributed.get_world_size() if _is_distributed() else 1


def own_rank() -> int:
    """Return the number of this process, from 0."""
    return distributed.get_rank() if _is_distributed() else 0


def gathered(make: Callable[[], Found]) -> list[Found]:
    """Return what `make` returns in each process, in the order of their ranks.

    Every process must call this equally often. If `make` refuses its input in one of them, all of them raise that
    error, so that none waits for another one for ever.

    Args:
        make: called in each process; what it returns is pickled, so tensors must be on the CPU.

    Raises:
        InputError: `make` raised it in this or in another process.
    """
    if num_processes() == 1:
        return [make()]
    try:
        mine: Found | InputError = make()
    except InputError as error:
        mine = error
    everyone: list[Found | InputError] = [None] * num_processes()
    distributed.all_gather_object(everyone, mine)
    for rank, found in enumerate(everyone):
        if isinstance(found, InputError):
            raise InputError(f"process {rank}: {found}")
    return everyone


def _is_distributed() -> bool:
    return distributed.is_available() and distributed.is_initialized()
