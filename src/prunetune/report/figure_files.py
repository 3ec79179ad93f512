"""Draw the paper's figures from finished runs and from what `prunetune analyse` wrote, as PNG and PDF.

This is the body of `prunetune figures`. Without names it draws every figure for every backbone and recipe, and skips
those that cannot be drawn, with one line each. If a named figure cannot be drawn, that is an error.
"""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from prunetune.base.errors import InputError, suggestion
from prunetune.report import analysis_figures, collect, paper, paper_figures, plotting
from prunetune.report.overview import easy_and_hard

Drawing = tuple[str, Callable[[], Figure]]  # The suffix of the file name, and the function that draws the figure.
ABLATIONS = ("ablation_path_size", "ablation_masking", "ablation_sampling")


@dataclass(frozen=True)
class Inputs:
    """The folders with the numbers."""

    results_dir: Path
    paper_dir: Path
    analysis_dir: Path
    allow_dirty: bool

    @cached_property
    def results(self) -> pd.DataFrame:
        """The collected runs, without those that may not be compared with others."""
        frame, skipped = collect.collect_images(self.results_dir)
        if frame.empty:
            raise InputError(collect.no_runs(self.results_dir))
        frame, refused = paper.refuse(frame, self.paper_dir, self.allow_dirty)
        for line in [*skipped, *refused]:
            print(line, file=sys.stderr)
        return frame

    def published(self, name: str) -> pd.DataFrame:
        """Return one file of published numbers."""
        return paper.read(name, self.paper_dir)

    def analysed(self, name: str, backbone: str | None = None) -> pd.DataFrame | None:
        """Return one file of the analysis for one backbone, or None if it does not exist."""
        if not (self.analysis_dir / f"{name}.csv").is_file():
            return None
        frame = analysis_figures.read(name, self.analysis_dir)
        return frame if backbone is None else frame[frame["backbone"] == backbone]


def make(names: list[str], inputs: Inputs, out: Path) -> None:
    """Draw and write figures, and print their paths.

    Raises:
        InputError: a name is unknown, a named figure cannot be drawn, there is nothing to draw from, or the disk is
            full or not writable.
    """
    for name in names:
        if name not in FIGURES:
            raise InputError(f"no figure {name!r}; there are {', '.join(FIGURES)}.{suggestion(name, FIGURES)}")
    for name in names or FIGURES:
        drawn, reasons = 0, []
        for suffix, draw in _drawings(name, inputs, reasons):
            try:
                figure = draw()
            except InputError as error:
                reasons.append(f"{name}-{suffix}: {error}")
                continue
            written = plotting.save(figure, out, f"{name}-{suffix}")
            drawn += 1
            print("\n".join(f"wrote {path}" for path in written))
        if names and not drawn:
            raise InputError("; ".join(reasons) or f"{name}: there are no numbers to draw")
        for reason in reasons:
            print(f"skipped {reason}", file=sys.stderr)


def _drawings(name: str, inputs: Inputs, reasons: list[str]) -> list[Drawing]:
    try:
        found = list(FIGURES[name](inputs))
    except InputError as error:
        reasons.append(f"{name}: {error}")
        return []
    if not found:
        reasons.append(f"{name}: there are no numbers to draw")
    return found


def _of_settings(
    draw: Callable[..., Figure], published: str | tuple[str, ...] | None, is_ranked: bool, inputs: Inputs
) -> Iterator[Drawing]:
    """Yield a drawing for each backbone and recipe."""
    for (backbone, finetune), runs in inputs.results.groupby(["backbone", "finetune"]):
        arguments = {"ranks": inputs.analysed("rank_correlation", backbone)} if is_ranked else {}
        if isinstance(published, str):
            arguments["published"] = inputs.published(published)
        elif published is not None:
            arguments["published"] = {name: inputs.published(name) for name in published}
        yield f"{backbone}-{finetune}", partial(draw, runs, **arguments)


def _of_analysis(draw: Callable[..., Figure], names: tuple[str, ...], inputs: Inputs) -> Iterator[Drawing]:
    """Yield a drawing for each backbone of an analysis."""
    frames = [inputs.analysed(name) for name in names]
    there = [frame for frame in frames if frame is not None]
    if not there:
        analysis_figures.read(names[0], inputs.analysis_dir)
    for backbone in sorted({backbone for frame in there for backbone in frame["backbone"]}):
        own = [None if frame is None else frame[frame["backbone"] == backbone] for frame in frames]
        yield backbone, partial(draw, *own)


def _extremes(inputs: Inputs) -> Iterator[Drawing]:
    scored = inputs.results[inputs.results["scorer"] == "dlc"]
    if scored.empty:
        raise InputError("no run has scores of dlc; run sweep=main")
    for (dataset, backbone), runs in scored.groupby(["dataset", "scoring_backbone"]):
        yield f"{dataset}-{backbone}", partial(easy_and_hard, runs, inputs.results_dir)


FIGURES: dict[str, Callable[[Inputs], Iterator[Drawing]]] = {
    "accuracy_gap": partial(_of_settings, paper_figures.accuracy_gap, "fig_main_accuracy", False),
    "time_accuracy": partial(_of_settings, paper_figures.time_accuracy, None, False),
    "gamma_sweep": partial(_of_settings, paper_figures.gamma_sweep, "gamma_sweep_resnet18", False),
    "path_size": partial(_of_settings, paper_figures.path_size, ABLATIONS, True),
    "masking": partial(_of_settings, paper_figures.masking, ABLATIONS, True),
    "samplers": partial(_of_settings, paper_figures.samplers, "ablation_sampling", False),
    "loss_curves": partial(_of_analysis, analysis_figures.loss_curves, ("loss_by_masking", "loss_by_epoch")),
    "rank_correlation": partial(_of_analysis, analysis_figures.rank_correlation, ("rank_correlation",)),
    "mmd": partial(_of_analysis, analysis_figures.mmd, ("mmd",)),
    "extremes": _extremes,
}
