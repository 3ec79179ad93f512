"""Import the libraries of an optional extra, which most users do not install."""

from importlib import import_module
from types import ModuleType

from prunetune.base.errors import InputError


def needed(module: str, extra: str, what: str) -> ModuleType:
    """Import a module that an extra of the package installs.

    Args:
        module: the full name of the module.
        extra: the name of the extra in pyproject.toml.
        what: what needs the module, in the plural, such as "language models".

    Raises:
        InputError: the module or one of its dependencies is not installed. The message says what to install.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise InputError(
            f"{what} need {error.name or module}, which is not installed; run pip install -e '.[{extra}]'"
        ) from None
