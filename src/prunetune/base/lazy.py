"""Packages that import a name's module when the name is first asked for."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def attach(package: str, modules: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """Return `__getattr__`, `__dir__` and `__all__` of a package whose names are imported on demand.

    Importing the package is then cheap, and importing one class loads no module of another.

    Args:
        package: the full name of the package, its `__name__`.
        modules: the module of each name: relative to the package, or a full name that begins with "prunetune.".
    """

    def get(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(full_name(package, modules[name])), name)

    return get, lambda: sorted(modules), sorted(modules)


def full_name(package: str, module: str) -> str:
    """Return the full name of a module that a table of `attach` names."""
    return module if module.startswith("prunetune.") else f"{package}.{module}"
