"""Import the libraries of the extra `instruct`, which image runs do not need."""

from importlib import import_module
from types import ModuleType

from prunetune.base.errors import InputError


def needed(module: str) -> ModuleType:
    """Import a module that the extra `instruct` installs.

    Raises:
        InputError: the module or one of its dependencies is not installed. The message says what to install.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise InputError(
            f"language models need {error.name or module}, which is not installed; run pip install -e '.[instruct]'"
        ) from None
