"""The catalogue: every scorer, sampler, method, network and data set by name.

The settings of a scorer or sampler are written once, in its class. The YAML file of a variant lists only what differs
from the class. This module reads the source of the classes and these files as text, and so it does not load torch.
`register` gives Hydra the defaults of every class as the groups scorer and sampler. Text runs call `add` for their
groups. `entries` returns the same list for the library and for `prunetune list`.
"""

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from prunetune.base.errors import InputError, suggestion
from prunetune.base.lazy import full_name
from prunetune.config.class_source import ClassSource, ancestry, read_class
from prunetune.config.methods import METHODS, Method

# Maps a config group to the package whose table MODULES names the classes of the group.
PACKAGES = {"scorer": "prunetune.scorers", "sampler": "prunetune.samplers"}
BASES = ("Scorer", "Sampler")  # Every class of these groups inherits from one of these base classes.
# Many methods use these samplers. The publication to cite for such a method is that of its scorer.
GENERAL_SAMPLERS = ("topk", "topk_easiest", "topk_flexible", "flexrand", "flexrand_released", "random")
# Maps a config group of methods to its rows and to the config group of their scorers.
METHOD_TABLES = {"method": (METHODS, "scorer")}
KINDS = {  # Maps a word of `prunetune list` to its config group.
    "scorers": "scorer",
    "samplers": "sampler",
    "methods": "method",
    "backbones": "backbone",
    "datasets": "dataset",
}
MOST_NAMES = 40  # An error names as many choices. Where there are more, it names the command that lists them.


@dataclass(frozen=True)
class Entry:
    """One choice of a config group, with its description and its settings.

    about: one line that describes it. cost, source: one sentence each, "" where none is known. settings: its part of a
    run's configuration, with `_target_` and `name`; interpolations such as `${ratio}` are not resolved. The settings
    of a method are its scorer, its sampler, and the dotted keys in which it differs from their defaults.
    """

    name: str
    about: str
    cost: str
    source: str
    settings: Mapping[str, Any]


def entries(kind: str, word: str = "") -> dict[str, Entry]:
    """Return every choice of a kind by name, in alphabetical order.

    Args:
        kind: one of `KINDS`, such as "scorers".
        word: keep only the choices with this word in their name, description or source, ignoring case. "" keeps all.

    Raises:
        InputError: there is no such kind.
    """
    if kind not in KINDS:
        raise InputError(f"there is no list of {kind!r}.{suggestion(kind, KINDS)} Known: {', '.join(KINDS)}")
    found, wanted = _entries(KINDS[kind]), word.lower()
    return {
        name: entry for name, entry in sorted(found.items()) if wanted in f"{name} {entry.about} {entry.source}".lower()
    }


def settings(group: str, name: str) -> dict[str, Any]:
    """Return the settings of one choice as a run's configuration holds them, such as ("sampler", "flexrand").

    Raises:
        InputError: the group has no such choice.
    """
    found = _entries(group)
    if name not in found:
        raise InputError(unknown(group, name, found))
    return dict(found[name].settings)


def unknown(group: str, name: str, known: Iterable[str]) -> str:
    """Return the error message for a name that is not in a config group.

    The message names the most similar known name. Then it lists all known names. If there are many of them, it names
    the command that lists them instead.
    """
    names = sorted(known)
    kind = next((kind for kind, of in KINDS.items() if of == group), None)
    is_short = kind is None or len(names) <= MOST_NAMES
    listed = f"Known: {', '.join(names)}" if is_short else f"See `prunetune list {kind}`."
    return f"there is no {group} {name!r}.{suggestion(name, names)} {listed}"


def add(kinds: Mapping[str, str], package: tuple[str, str], table: tuple[str, Mapping[str, Method]]) -> None:
    """Add the config groups of another kind of run to the catalogue. A repeated call changes nothing.

    Args:
        kinds: maps each new word of `prunetune list` to its config group.
        package: a config group of scorers, and the package whose table MODULES names its classes.
        table: a config group of methods, and its rows.
    """
    KINDS.update(kinds)
    PACKAGES[package[0]] = package[1]
    METHOD_TABLES[table[0]] = (table[1], package[0])


def register(store: ConfigStore, groups: Iterable[str] = ("scorer", "sampler")) -> None:
    """Register the defaults of every class of the given groups with Hydra."""
    for group in groups:
        for name, entry in class_entries(group).items():
            store.store(group=group, name=name, node=dict(entry.settings))


@functools.cache
def class_entries(group: str) -> dict[str, Entry]:
    """Return the defaults of every class of a group by name."""
    package, found = PACKAGES[group], {}
    for class_name, module in import_module(package).MODULES.items():
        home = full_name(package, module)
        if not class_name[0].isupper() or not _is_of_a_group(home, class_name):
            continue
        described = read_class(home, class_name)
        if "name" in described.variables:  # Abstract classes have no name and are skipped.
            content = composed(f"{package}.{class_name}", described)
            name = content["name"] or described.variables["name"]
            found[name] = Entry(name, described.about, described.part("Cost"), described.part("Source"), content)
    return found


def composed(target: str, described: ClassSource) -> dict[str, Any]:
    """Return the settings of a class as a run's configuration holds them: target, name, what it reads, its fields."""
    variables = described.variables
    content: dict[str, Any] = {"_target_": target, "name": variables["name"]}
    if "own_sampler" in variables:
        content["own_sampler"] = variables["own_sampler"]
    if variables.get("reads_proxy") or variables.get("needs") == "probabilities":
        content["uses_proxy"] = True
    return {**content, **described.settings, **variables.get("in_runs", {})}


def _is_of_a_group(module: str, class_name: str) -> bool:
    """Return whether a class is a scorer or a sampler. The packages hold other classes too."""
    return any(node.name in BASES for _, node in ancestry(module, class_name))


@functools.cache
def _entries(group: str) -> dict[str, Entry]:
    """Return every choice of a group, from its classes, its table of methods and its files in the configs folder."""
    if group in METHOD_TABLES:
        table, scorers = METHOD_TABLES[group]
        found = {name: _method_entry(method, _entries(scorers)) for name, method in table.items()}
    else:
        found = dict(class_entries(group)) if group in PACKAGES else {}
    files = {path.stem: path for path in (configs_folder() / group).glob("*.yaml")}
    return found | {name: _file_entry(group, path, found, files) for name, path in files.items()}


def _method_entry(method: Method, scorers: Mapping[str, Entry]) -> Entry:
    """Return a method as an entry.

    The cost is that of the scorer, or that of the sampler if the scorer is `none`. The source is that of the scorer if
    the sampler is one that many methods use (`GENERAL_SAMPLERS`), else that of the sampler.
    """
    scorer, sampler = scorers[method.scorer], _entries("sampler")[method.sampler]
    cost = sampler.cost if method.scorer == "none" else scorer.cost
    source = scorer.source if method.sampler in GENERAL_SAMPLERS else sampler.source
    parts = {"scorer": method.scorer, "sampler": method.sampler, **method.settings}
    return Entry(method.name, method.about, cost, source, parts)


def _file_entry(group: str, path: Path, classes: Mapping[str, Entry], files: Mapping[str, Path]) -> Entry:
    """Return a YAML file as an entry. Its own settings override those of the choice in its defaults list."""
    text = path.read_text(encoding="utf-8")
    content = OmegaConf.to_container(OmegaConf.create(text)) or {}
    base = Entry(path.stem, "", "", "", {})
    for name in content.pop("defaults", []):
        if name != "_self_":
            base = classes[name] if name in classes else _file_entry(group, files[name], classes, files)
    lines = [line.lstrip("# ") for line in text.splitlines() if line.startswith("# ") and "@package" not in line]
    return Entry(path.stem, lines[0] if lines else "", base.cost, base.source, {**base.settings, **content})


def configs_folder() -> Path:
    """Return the folder of the YAML files, in the checkout or in the installed package `prunetune.configs`."""
    beside = Path(__file__).resolve().parents[3] / "configs"
    if (beside / "config.yaml").is_file():
        return beside
    return Path(next(iter(find_spec("prunetune.configs").submodule_search_locations)))
