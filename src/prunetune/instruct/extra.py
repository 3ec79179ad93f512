"""The libraries of the extra `instruct`, which the image half of the package does without."""

from importlib import import_module
from types import ModuleType

from prunetune.base.errors import InputError


def needed(module: str) -> ModuleType:
    """Import a module of the extra.

    Raises:
        InputError: it, or something that it imports, is not installed; the line says what to install.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise InputError(
            f"language models need {error.name or module}, which is not installed; run pip install -e '.[instruct]'"
        ) from None
