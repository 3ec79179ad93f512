"""report.html: one file that needs no network, with the verdict, what was kept, what is doubtful, and why."""

from pathlib import Path
from typing import Any

import jinja2

from prunetune.base.errors import InputError
from prunetune.base.publish import write_text
from prunetune.own import learning_curve
from prunetune.own.advice import Advice
from prunetune.own.cards import Card, Cards
from prunetune.own.choose import DEFAULT_METHOD, Chosen
from prunetune.own.data import OwnData
from prunetune.own.estimate import CONFIDENCE
from prunetune.own.plots import curve_plot, map_plot
from prunetune.own.subset import Subset

MOST_LISTED = 50  # Suspect labels, groups of duplicates and leaks that are listed.
MOST_OF_GROUP = 12  # Copies that are shown of one group of duplicates.


def write_page(path: Path, chosen: Chosen, advice: Advice | None) -> None:
    """Write the report of one pruning.

    Args:
        path: the HTML file.
        chosen: the outcome.
        advice: what `prunetune advise` has found about the data; None if it was not asked.
    """
    _write(path, "report.html.jinja", _content(chosen, advice))


def write_advice_page(path: Path, data: OwnData, advice: Advice) -> None:
    """Write the report of `prunetune advise` about the user's data."""
    _write(path, "advice.html.jinja", {"data": data, **_left_out(data), **_advised(advice)})


def write_cluster_page(path: Path, content: dict[str, Any]) -> None:
    """Write the report of a pruning on a cluster; content: the values that cluster.html.jinja names."""
    shown = {"left_out": content["left_out"][:MOST_LISTED], "num_left_out": len(content["left_out"])}
    _write(path, "cluster.html.jinja", {**content, **shown, "most_listed": MOST_LISTED})


def _write(path: Path, name: str, content: dict[str, Any]) -> None:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("prunetune.own", "."), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    write_text(path, environment.get_template(name).render(content))


def _content(chosen: Chosen, advice: Advice | None) -> dict[str, Any]:
    subset, features = chosen.subset, chosen.signals.features()
    cards = Cards(subset, chosen.pixels)
    classes = cards.classes(features)
    return {
        "subset": subset,
        "data": subset.data,
        "classes": classes,
        "num_shown": cards.num_shown,
        "without": [part.name for part in classes if part.kept == 0],
        **_suspects(chosen, cards),
        **_duplicates(subset, cards),
        **_left_out(subset.data),
        "map": map_plot(subset, features),
        **({"why_no_advice": _why_no_advice(subset)} if advice is None else _advised(advice)),
        "cost": "" if advice is None else _cost(subset, advice),
    }


def _advised(advice: Advice) -> dict[str, Any]:
    """Return the verdict, and the learning curve with the interval of each number."""
    curve = advice.curve
    rows = [
        {
            "fraction": f"{fraction:.0%}",
            "count": count,
            "chosen": curve.reached(row).short,
            "drawn": curve.reached_by_random(row).short,
            "loss": curve.loss(row).short if fraction < 1 else "",
        }
        for row, (fraction, count) in enumerate(zip(curve.fractions, curve.counts, strict=True))
    ]
    confidence = f"{CONFIDENCE:.0%}"
    return {"advice": advice, "curve": curve_plot(advice), "curve_rows": rows, "confidence": confidence}


def _cost(subset: Subset, advice: Advice) -> str:
    """Return what this pruning costs, or why the advice does not say it."""
    if not subset.method.startswith(f"{DEFAULT_METHOD} with topk"):
        return f"The estimate is about {advice.method}; this pruning is by {subset.method}."
    return advice.at(len(subset) / advice.num_samples)


def _why_no_advice(subset: Subset) -> str:
    """Return why there can be no advice about the data; empty if it was only not asked for."""
    if not subset.data.is_labelled:
        return "the data have no labels"
    try:
        learning_curve.check(subset.pool.labels)
    except InputError as error:
        return str(error)
    return ""


def _suspects(chosen: Chosen, cards: Cards) -> dict[str, Any]:
    suspects, why_not = chosen.suspects
    if suspects is None:
        return {"suspects": [], "num_suspects": 0, "why_no_suspects": why_not}
    classes, suggestions = chosen.subset.pool.classes, suspects.suggestions()
    shown = [
        cards.card(position, f"looks like {classes[label]}")
        for position, label in list(suggestions.items())[:MOST_LISTED]
    ]
    are_dropped = bool(chosen.subset.dropped)
    return {"suspects": shown, "num_suspects": len(suggestions), "why_no_suspects": "", "are_dropped": are_dropped}


def _duplicates(subset: Subset, cards: Cards) -> dict[str, Any]:
    found, labels = subset.duplicates, subset.pool.labels
    conflicts = set(found.conflicts(labels)) if subset.data.is_labelled else set()
    groups = [
        {
            "cards": [cards.card(position) for position in group[:MOST_OF_GROUP]],
            "more": max(len(group) - MOST_OF_GROUP, 0),
            "labels": " ".join(str(label) for label in sorted({int(labels[position]) for position in group})),
            "is_conflict": group in conflicts,
        }
        # Conflicts first: they need a decision.
        for group in sorted(found.groups, key=lambda group: group not in conflicts)[:MOST_LISTED]
    ]
    return {
        "groups": groups,
        "num_groups": len(found.groups),
        "num_conflicts": len(conflicts),
        "leaks": _leaks(subset, cards),
        "num_leaks": len({position for position, _ in found.leaks}),
    }


def _leaks(subset: Subset, cards: Cards) -> list[tuple[Card, str]]:
    others = subset.data.others
    return [
        (cards.card(position), others.sample_ids[other]) for position, other in subset.duplicates.leaks[:MOST_LISTED]
    ]


def _left_out(data: OwnData) -> dict[str, Any]:
    return {
        "left_out": list(data.left_out.items())[:MOST_LISTED],
        "num_left_out": len(data.left_out),
        "most_listed": MOST_LISTED,
    }
