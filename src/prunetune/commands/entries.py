"""What there is to choose from, read from the configs and from the docstrings of scorers and samplers.

Nothing is imported but YAML and text, so that `prunetune list` answers without loading torch.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any

from omegaconf import OmegaConf

KINDS = {  # what a person asks for: the group of the configs, and the package whose docstrings tell cost and source
    "scorers": ("scorer", "scorers"),
    "samplers": ("sampler", "samplers"),
    "methods": ("method", None),
    "backbones": ("backbone", None),
    "datasets": ("dataset", None),
}
SECTION = re.compile(r"^(\w[\w ]*):\s+(.*)$")  # of a docstring: "Cost: one forward pass over the pool."
SENTENCES = re.compile(r"(?<=\.)\s+(?=[A-Z])")  # where one sentence ends and the next begins


@dataclass(frozen=True)
class Entry:
    """One thing to choose: its name on the command line, one line about it, what it costs, where it comes from."""

    name: str
    about: str
    cost: str = ""
    source: str = ""

    def mentions(self, word: str) -> bool:
        """Whether the word stands anywhere in the entry, in small or capital letters."""
        return word.casefold() in " ".join((self.name, self.about, self.cost, self.source)).casefold()


def entries(kind: str) -> list[Entry]:
    """Return everything of one of KINDS, by name."""
    group, package = KINDS[kind]
    folder = files("prunetune.configs") / group
    chosen = sorted((file for file in folder.iterdir() if file.name.endswith(".yaml")), key=lambda file: file.name)
    return [_entry(file, package) for file in chosen]


def _entry(file: Traversable, package: str | None) -> Entry:
    text = file.read_text(encoding="utf-8")
    name, content = file.name.removesuffix(".yaml"), OmegaConf.to_container(OmegaConf.create(text))
    if package is not None:
        return Entry(name, _comment(text), *_cost_and_source(package, content))
    if "defaults" in content:  # a method costs what its scorer costs
        return Entry(name, _comment(text), *_of_scorer(content))
    return Entry(name, _comment(text), "", content.get("published_at") or content.get("model") or "")


def _of_scorer(method: dict[str, Any]) -> tuple[str, str]:
    [scorer] = [choice["override /scorer"] for choice in method["defaults"] if "override /scorer" in choice]
    text = (files("prunetune.configs") / "scorer" / f"{scorer}.yaml").read_text(encoding="utf-8")
    return _cost_and_source("scorers", OmegaConf.to_container(OmegaConf.create(text)))


def _comment(text: str) -> str:
    """Return the comment with which a YAML file begins, in one line."""
    lines = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        if not line.startswith("# @package"):
            lines.append(line.removeprefix("#").strip())
    return " ".join(lines)


def _cost_and_source(package: str, content: dict[str, Any]) -> tuple[str, str]:
    sections = _sections(package).get(content.get("_target_", "").rpartition(".")[2], {})
    return _first_sentence(sections.get("Cost", "")), _first_sentence(sections.get("Source", ""))


def _first_sentence(text: str) -> str:
    return SENTENCES.split(text, maxsplit=1)[0]


@cache
def _sections(package: str) -> dict[str, dict[str, str]]:
    """Return the named paragraphs of the docstring of each class of a package."""
    found = {}
    for file in _modules(files("prunetune") / package):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef):
                found[node.name] = _paragraphs(ast.get_docstring(node) or "")
    return found


def _modules(folder: Traversable) -> Iterator[Traversable]:
    for file in folder.iterdir():
        if file.is_dir():
            yield from _modules(file)
        elif file.name.endswith(".py"):
            yield file


def _paragraphs(docstring: str) -> dict[str, str]:
    found: dict[str, str] = {}
    name = ""
    for line in docstring.splitlines():
        match = SECTION.match(line)
        if match:
            name, line = match.groups()
        elif not line.strip():
            name = ""
        if name:
            found[name] = f"{found.get(name, '')} {line.strip()}".strip()
    return found
