"""Which Ray a run joins: the named one, else that of RAY_ADDRESS, else its own."""

from types import SimpleNamespace

import pytest

from prunetune.cluster import engine


@pytest.mark.parametrize(
    ("given", "variable", "joined"),
    [("10.0.0.1:1", "10.0.0.2:2", "10.0.0.1:1"), (None, "10.0.0.2:2", "10.0.0.2:2"), (None, "", None)],
)
def test_the_address_is_the_given_one_or_that_of_the_job_or_none(monkeypatch, given, variable, joined):
    asked = []
    fake = SimpleNamespace(
        is_initialized=lambda: False,
        init=lambda address, **settings: asked.append(address),
        shutdown=lambda: asked.append("shut down"),
    )
    monkeypatch.setattr(engine, "library", lambda name="ray": fake)
    monkeypatch.setattr(engine, "_start_here", lambda *arguments: asked.append(None))
    monkeypatch.setattr(engine, "_check_answers", lambda address: None)
    for name in ("RAY_USAGE_STATS_ENABLED", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"):
        monkeypatch.setenv(name, "0")  # `started` sets them for the whole process.
    monkeypatch.setenv("RAY_ADDRESS", variable)
    with engine.started(given):
        assert asked == [joined]
    assert asked == [joined, "shut down"]
