"""Progress on a terminal, in a notebook, and in a log."""

import io
import logging
import sys

import pytest

from prunetune.base import progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def shown(monkeypatch, request):
    """Let standard error be of a kind, and return it."""
    kind = type("OutStream", (io.StringIO,), {"__module__": "ipykernel.iostream"}) if request.param == "cell" else None
    stream = (kind or {"terminal": Terminal, "log": io.StringIO}[request.param])()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", -1.0)
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_CHANGES", -1.0)
    assert list(progress.track("abc", "reading", 3)) == ["a", "b", "c"]
    return stream.getvalue()


@pytest.mark.parametrize("shown", ["terminal"], indirect=True)
def test_a_terminal_shows_a_bar(shown):
    assert "reading" in shown
    assert "100%" in shown


@pytest.mark.parametrize("shown", ["cell"], indirect=True)
def test_a_notebook_shows_one_line_that_changes_and_ends_empty(shown):
    assert shown.split("\r") == ["", "reading: 1 of 3", "reading: 2 of 3", "reading: 3 of 3", " " * 15, ""]


@pytest.mark.parametrize("shown", ["log"], indirect=True)
def test_a_log_gets_lines_and_standard_error_none(shown):
    assert shown == ""


def test_the_lines_of_a_log_say_how_far_it_is(monkeypatch, caplog):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", -1.0)
    with caplog.at_level(logging.INFO):
        list(progress.track("ab", "reading", 2))
    assert caplog.messages == ["reading: 1 of 2", "reading: 2 of 2"]
