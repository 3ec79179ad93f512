"""Random streams depend on their names only."""

import random
import subprocess
import sys

import numpy as np
import torch

from prunetune.base.seeding import derive_seed, seeded, stream

# The first 63 bits of the SHA-256 of "str:'sample'", "int:0", "float:0.1", joined by 0x1f, give this number.
DERIVED = 352642063765902291


def test_a_derived_seed_is_the_same_number_on_every_machine():
    assert derive_seed("sample", 0, 0.1) == DERIVED
    code = "from prunetune.base.seeding import derive_seed; print(derive_seed('sample', 0, 0.1))"
    assert (
        int(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout) == DERIVED
    )


def test_every_part_of_a_name_its_type_and_its_border_changes_the_seed():
    names = [
        (),
        ("a",),
        ("a", ""),
        ("ab",),
        ("a", "b"),
        ("b", "a"),
        ("1",),
        (1,),
        (1.0,),
        ("a", 1),
        ("a", "1"),
        ("sample", 0, 0.1),
        ("sample", 0, 0.2),
        ("sample", 1, 0.1),
        ("finetune", 0, 0.1),
    ]
    seeds = [derive_seed(*name) for name in names]
    assert len(set(seeds)) == len(names)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_a_stream_is_independent_of_the_global_state_and_leaves_it_unchanged():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one, same, other = stream("view", 3), stream("view", 3), stream("view", 4)
    drawn = torch.rand(4, generator=one)
    assert torch.equal(drawn, torch.rand(4, generator=same))
    assert not torch.equal(drawn, torch.rand(4, generator=other))
    assert torch.equal(torch.get_rng_state(), before)


def draws() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), torch.rand(()).item()


def test_seeded_seeds_the_global_states_and_its_generator():
    with seeded("finetune", 0) as generator:
        first, first_own = draws(), torch.rand((), generator=generator).item()
    draws()
    with seeded("finetune", 0) as generator:
        second, second_own = draws(), torch.rand((), generator=generator).item()
    with seeded("finetune", 1) as generator:
        other, other_own = draws(), torch.rand((), generator=generator).item()
    assert (first, first_own) == (second, second_own)
    assert not set(first) & set(other)
    assert first_own != other_own


def test_seeded_puts_the_global_states_back_also_after_an_error():
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    expected = draws()
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    try:
        with seeded("anything"):
            draws()
            raise RuntimeError
    except RuntimeError:
        pass
    assert draws() == expected
