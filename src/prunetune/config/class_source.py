"""Read the settings, class variables and docstring of a class from its source, without importing it.

The source is parsed with `ast`. Importing a scorer would load torch, which takes seconds, and `--help`, `--cfg job` and
shell completion must answer quickly.
"""

import ast
import functools
import re
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

PACKAGE = "prunetune."
LABEL = re.compile(r"^[A-Z][a-z ]+: ?|^$")  # Such a line begins the next part of a docstring.


@dataclass(frozen=True)
class ClassSource:
    """A class as its source describes it.

    docstring: that of the class itself, without indentation. settings: the fields of the dataclass with their defaults,
    those of its base classes first. variables: the class variables that have a value.
    """

    docstring: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    variables: dict[str, Any] = field(default_factory=dict)

    @property
    def about(self) -> str:
        """The first line of the docstring."""
        return self.docstring.partition("\n")[0]

    def part(self, label: str) -> str:
        """Return the first sentence after a label of the docstring, such as "Source"; "" if the label is missing."""
        found = re.search(rf"(?:^|\s){label}: ", self.docstring)
        if found is None:
            return ""
        lines = self.docstring[found.end() :].split("\n")
        end = next((i for i, line in enumerate(lines) if i and LABEL.match(line)), len(lines))
        return first_sentence(" ".join(lines[:end]))


def first_sentence(text: str) -> str:
    """Return the first sentence of a text without its full stop."""
    return re.split(r"(?<!al)\.(?=\s+[A-Z]|$)", text.strip(), maxsplit=1)[0]


@functools.cache
def read_class(module: str, name: str) -> ClassSource:
    """Return what the source of a class says, including what it inherits from classes of this package.

    Args:
        module: the full name of the module that defines the class.
        name: the name of the class.

    Raises:
        TypeError: the module does not define the class, or a default is not a literal. That is a bug of the class.
    """
    settings: dict[str, Any] = {}
    variables: dict[str, Any] = {}
    for home, node in reversed(ancestry(module, name)):
        for statement in node.body:
            if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
                _read_statement(statement, f"{home}.{node.name}", settings, variables)
    return ClassSource(ast.get_docstring(ancestry(module, name)[0][1]) or "", settings, variables)


@functools.cache
def ancestry(module: str, name: str) -> list[tuple[str, ast.ClassDef]]:
    """Return a class and its bases inside this package, each with its module, the class itself first.

    Raises:
        TypeError: the module does not define the class.
    """
    tree = _tree(module)
    node = next((node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name), None)
    if node is None:
        raise TypeError(f"{module} defines no class {name}")
    found = [(module, node)]
    for base in node.bases:
        home = _home(tree, module, base.id) if isinstance(base, ast.Name) else None
        found += ancestry(home, base.id) if home else []
    return found


def _home(tree: ast.Module, module: str, name: str) -> str | None:
    """Return the module of this package that defines a class used in the tree; None if another package defines it."""
    if any(isinstance(node, ast.ClassDef) and node.name == name for node in tree.body):
        return module
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    homes = [node.module or "" for node in imports if any(alias.name == name for alias in node.names)]
    return next((home for home in homes if home.startswith(PACKAGE)), None)


def _read_statement(statement: ast.AnnAssign, owner: str, settings: dict[str, Any], variables: dict[str, Any]) -> None:
    """Add one annotated name of a class body to the settings (a field) or to the variables (a class variable)."""
    name, is_variable = statement.target.id, ast.unparse(statement.annotation).startswith("ClassVar")
    here, other = (variables, settings) if is_variable else (settings, variables)
    other.pop(name, None)
    if statement.value is None:
        if not is_variable:
            raise TypeError(f"{owner}.{name} needs a default")
        return
    try:
        here[name] = ast.literal_eval(statement.value)
    except ValueError:
        raise TypeError(f"the default of {owner}.{name} must be a literal, since it is read as text") from None


@functools.cache
def _tree(module: str) -> ast.Module:
    return ast.parse(Path(find_spec(module).origin).read_text(encoding="utf-8"))
