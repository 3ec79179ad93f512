"""Import the libraries of the extra `instruct`, which image runs do not need."""

from types import ModuleType

from prunetune.base import extra


def needed(module: str) -> ModuleType:
    """Import a module that the extra `instruct` installs.

    Raises:
        InputError: the module or one of its dependencies is not installed. The message says what to install.
    """
    return extra.needed(module, "instruct", "language models")
