"""Write the pages of docs/ that are generated from the code: `python -m scripts.assets.doc_pages`.

Scorers, samplers and methods come from the catalogue and from docstrings, sweeps from the headers of their files, the
commands from the command line itself, and two tables from results/. The pages are committed, so that they can be
read without building the site. A test compares them with the output of this script.
"""

import inspect
import re
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

from hydra.utils import get_class
from omegaconf import OmegaConf

from prunetune.config.catalogue import Entry, entries
from prunetune.instruct import registration  # noqa: F401  adds the text scorers and methods to the catalogue
from scripts.assets.doc_backbones import backbones_page
from scripts.assets.doc_cluster_costs import are_measured, cluster_costs_page
from scripts.assets.doc_commands import commands_page
from scripts.assets.doc_measured import measured_page
from scripts.assets.doc_parity import parity_page
from scripts.assets.doc_study import is_there, study_page
from scripts.assets.doc_sweeps import sweeps_page
from scripts.assets.doc_text import escaped, page, table
from scripts.assets.doc_text_forms import text_forms_page

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
FORMULAS = Path(__file__).with_name("formulas.yaml")
LABELS = re.compile(r"(?:^|(?<=[.;] ))(Source|Differs[^:.]*|Direction|Cost|Reads|Features|Choice): ", re.MULTILINE)
NOT_SETTINGS = ("_target_", "name", "own_sampler", "uses_proxy")  # These keys of a configuration are not settings.
OF_ALL_SAMPLERS = ("min_per_class", "rounding", "budgets")  # Described once, at the top of the page.


def pages() -> dict[str, Callable[[], str]]:
    """Return the function that makes each page, by the name of the page below docs/.

    The page of the study is there once results/study/ has its tables, and that of costs once they were measured.
    """
    costs = ROOT / "results" / "bench" / "cluster.csv"
    study = ROOT / "results" / "study"
    return {
        "scorers.md": scorers_page,
        "text_scorers.md": text_scorers_page,
        "samplers.md": samplers_page,
        "methods.md": methods_page,
        "sweeps.md": lambda: sweeps_page(ROOT / "configs" / "sweep"),
        "measured.md": lambda: measured_page(ROOT / "results" / "tables" / "baselines.csv"),
        "parity.md": lambda: parity_page(ROOT / "results" / "parity" / "methods.csv"),
        "backbones.md": lambda: backbones_page(ROOT / "results" / "backbones.csv"),
        "commands.md": commands_page,
        "text_forms.md": text_forms_page,
        **({"cluster_costs.md": lambda: cluster_costs_page(costs)} if are_measured(costs) else {}),
        **({"study.md": lambda: study_page(study)} if is_there(study) else {}),
    }


def scorers_page() -> str:
    """Return the page of all scorers of images."""
    found = entries("scorers")
    return page(
        "Scorers",
        "A scorer gives every image one number. Name it as `scorer=<name>` in a run, or `prune(..., scorer=<name>)`.\n"
        "A score is stored once and serves all ratios and samplers. *Direction* says what a large score means.\n"
        "A scorer that needs a proxy trains a network on the whole pool first: see "
        "[the proxy](method_notes.md#baselines).",
        _overview(found),
        *_sections(found),
    )


def text_scorers_page() -> str:
    """Return the page of all scorers of text."""
    found = entries("text_scorers")
    return page(
        "Text scorers",
        "A text scorer gives every sample of a corpus one number. Name it as `text_scorer=<name>` in a text run.\n"
        "The formulas of DLC for text are on the page [Method notes](method_notes.md#instruction-data).",
        _overview(found),
        *_sections(found),
    )


def samplers_page() -> str:
    """Return the page of all samplers."""
    found = {name: entry for name, entry in entries("samplers").items() if name != "auto"}
    return page(
        "Samplers",
        "A sampler chooses which images are kept, class by class. Name it as `sampler=<name>`.\n"
        "The default, `auto`, takes the scorer's own sampler, which the page [Scorers](scorers.md) names.",
        "Every sampler has three settings for the number of images that a class keeps; see "
        "[class budgets](method_notes.md#class-budgets).\n"
        "`sampler.min_per_class` (1) is the least, `sampler.rounding` is `half_even` or `largest_remainder`,\n"
        "and `sampler.budgets` is `proportional`, `equal` or `drop`.",
        _overview(found),
        *_sections(found),
    )


def methods_page() -> str:
    """Return the page of all methods."""
    return page(
        "Methods",
        "A method is a scorer with its sampler and their settings: one row of a table.\n"
        "`method=<name>` in a run stands for all three, and a grid takes a list: `'methods=[herding,dlc,random]'`.\n"
        "`method=herding` is the best one known here, `method=dlc` is the paper's: see "
        "[Which method when](which_method.md).",
        "A value of `auto` is chosen on held-out images of the pool, never on test images.",
        "## Methods for images",
        _methods_table(entries("methods"), "scorer"),
        "## Methods for text",
        "Name one as `text_method=<name>` in a text run.",
        _methods_table(entries("text_methods"), "text_scorer"),
        is_wide=True,
    )


def _methods_table(methods: dict[str, Entry], scorer: str) -> str:
    rows = []
    for name, entry in methods.items():
        settings = dict(entry.settings)
        parts = settings.pop("scorer", settings.pop(scorer, "")), settings.pop("sampler", "")
        rest = ", ".join(f"`{key}={value}`" for key, value in settings.items())
        rows.append([f"`{name}`", " ".join(f"`{part}`" for part in parts), rest, escaped(entry.about)])
    return table(["method", "scorer, sampler", "settings", "in one line"], rows)


def _overview(found: dict[str, Entry]) -> str:
    rows = [
        [f"[`{name}`](#{_first_name(entry, found)})", escaped(entry.about.removesuffix("."))]
        + ["yes" if entry.settings.get("uses_proxy") else ""]
        for name, entry in found.items()
    ]
    return table(["name", "in one line", "trains a proxy"], rows)


def _by_class(found: dict[str, Entry]) -> dict[str, list[str]]:
    """Return the names of each class by its full name; the one with the class's defaults comes first."""
    groups: dict[str, list[str]] = {}
    for name, entry in found.items():
        groups.setdefault(entry.settings["_target_"], []).append(name)
    return {target: sorted(names, key=lambda name: (len(name), name)) for target, names in groups.items()}


def _first_name(entry: Entry, found: dict[str, Entry]) -> str:
    return _by_class(found)[entry.settings["_target_"]][0]


def _sections(found: dict[str, Entry]) -> Iterable[str]:
    """Yield one section for each class: what it computes, its formula, the parts of its docstring, its settings."""
    for target, names in sorted(_by_class(found).items(), key=lambda item: item[1][0]):
        described = get_class(target)
        about, labelled, others = _parts(inspect.getdoc(described) or "")
        formula = formulas().get(target)
        yield f"## {names[0]}"
        yield escaped(about)
        if formula:
            yield f"```text\n{formula.rstrip()}\n```"
        lines = [f"- **{label}.** {escaped(text)}" for label, text in labelled]
        if own := found[names[0]].settings.get("own_sampler"):
            of_variants = {name: found[name].settings["own_sampler"] for name in names[1:]}
            changed = [f"`{name}`: `{other}`" for name, other in of_variants.items() if other != own]
            lines.append("- **Own sampler.** " + "; ".join([f"`{own}`", *changed]))
        yield "\n".join([*lines, *_settings_lines(found, names)])
        yield from (escaped(text) for text in others)


def _settings_lines(found: dict[str, Entry], names: list[str]) -> list[str]:
    """Return the lines about settings and their defaults, and about the names that differ in some of them."""
    first = _settings(found[names[0]])
    lines = []
    if first:
        lines.append("- **Settings.** " + ", ".join(f"`{key}={_shown(value)}`" for key, value in first.items()))
    for name in names[1:]:
        other = _settings(found[name])
        changed = ", ".join(f"`{key}={_shown(value)}`" for key, value in other.items() if first.get(key) != value)
        lines.append(f"- **`{name}`** differs in {changed}" if changed else f"- **`{name}`** is the same")
    return lines


def _settings(entry: Entry) -> dict[str, Any]:
    return {
        key: value for key, value in entry.settings.items() if key not in NOT_SETTINGS and key not in OF_ALL_SAMPLERS
    }


def _shown(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _parts(docstring: str) -> tuple[str, list[tuple[str, str]], list[str]]:
    """Return the first line of a docstring, its labelled parts, and its other paragraphs, each as one line."""
    about, _, rest = docstring.partition("\n")
    labelled, others = [], []
    for paragraph in re.split(r"\n\s*\n", rest.strip()):
        pieces = LABELS.split(paragraph)
        others.append(pieces[0])
        labelled += zip(pieces[1::2], pieces[2::2], strict=True)
    flat = [(label, " ".join(text.split())) for label, text in labelled]
    return about, flat, [" ".join(text.split()) for text in others if text.strip()]


@cache
def formulas() -> dict[str, str]:
    """Return the formula of each class that has one, by the class's name."""
    return OmegaConf.to_container(OmegaConf.load(FORMULAS))


if __name__ == "__main__":
    for name, write in pages().items():
        (DOCS / name).write_text(write(), encoding="utf-8")
        print(f"wrote docs/{name}")
