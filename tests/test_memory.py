"""Peak memory of a step and of the process."""

import sys

import numpy as np
import pytest

from prunetune.base.peak_memory import measured, peak_memory

MIB = 2**20


@pytest.mark.skipif(sys.platform != "linux", reason="the counter can be put back on Linux only")
def test_the_peak_memory_of_a_step_excludes_what_was_freed_before_it():
    before = np.ones(64 * MIB)  # This array has 512 MiB.
    del before
    highest = peak_memory()
    with measured() as peak:
        start = peak()
        held = np.ones(16 * MIB)  # This array has 128 MiB.
        assert 100 * MIB < peak() - start < 200 * MIB
        del held
    assert start < highest - 300 * MIB
    assert peak_memory() >= highest
