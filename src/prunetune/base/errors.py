"""The one error that a user can cause and repair."""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """A wrong input. The message is one line: what was expected, what came, and the fix."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return ' Did you mean 'x'?' for the known name closest to a misspelt one, or an empty string."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""
