import itertools
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from prunetune.base.errors import InputError
from prunetune.report import analysis_figures, collect, figure_files, paper, paper_figures, plotting
from runs import prunetune_here

RANDOM = {"scorer": "random", "sampler": "random", "gamma": np.nan, "selection_rule": None}
DLC = {"scorer": "dlc", "sampler": "flexrand", "gamma": 0.4, "selection_rule": "validation"}


def frame(*methods: dict[str, Any], **shared: Any) -> pd.DataFrame:
    """Return a collected frame.

    A method has `percent`, a number or a function of ratio, that seeds 0 and 1 miss by -1 and +1 times `spread`.
    """
    shared = {"datasets": ("dtd10",), "ratios": (0.1, 0.3), "seeds": (0, 1), "backbone": "vit_tiny", **shared}
    rows = []
    for method, dataset, ratio, seed in itertools.product(
        methods, shared["datasets"], shared["ratios"], shared["seeds"]
    ):
        own = {key: value for key, value in method.items() if key not in ("percent", "spread", "ratios")}
        if ratio in method.get("ratios", shared["ratios"]):
            percent = method["percent"](ratio) if callable(method["percent"]) else method["percent"]
            percent += (2 * seed - 1) * method.get("spread", 0)
            backbone, finetune = shared["backbone"], shared.get("finetune", "linear_probe")
            names = {"dataset": dataset, "backbone": backbone, "scoring_backbone": backbone, "finetune": finetune}
            sizes = {"num_classes": 10, "num_pool": 800, "num_test": 400, "recipe": "r0", "tag": "default"}
            numbers = {"ratio": ratio, "seed": seed, "accuracy": percent / 100, "worst_class_accuracy": 0.1}
            rows.append({"budgets": "proportional", "commit": "abc", **names, **sizes, **numbers, **own})
    return collect._typed(pd.DataFrame(rows, columns=list(collect.COLUMNS)))


def lines(axes: Axes) -> dict[str, SimpleNamespace]:
    """Return x, y and half the height of the error bars of every drawn mean, by label."""
    found = {}
    for container in axes.containers:
        if container.lines:
            line, _, (bars,) = container.lines
            half = [(s[1, 1] - s[0, 1]) / 2 if len(s) else np.nan for s in bars.get_segments()]
            xs, ys = (np.asarray(values, dtype=float) for values in line.get_data())
            found[container.get_label()] = SimpleNamespace(x=xs, y=ys, half=half, line=line)
    return found


def heights(axes: Axes) -> dict[str, list[float]]:
    """Return the heights of the bars of every series."""
    bars = [container for container in axes.containers if hasattr(container, "patches")]
    return {container.get_label(): [bar.get_height() for bar in container] for container in bars}


def published_lines(axes: Axes) -> list[tuple[list[float], list[float]]]:
    grey = [line for line in axes.lines if "published" in str(line.get_label())]
    return [tuple(np.asarray(values, dtype=float).tolist() for values in line.get_data()) for line in grey]


def titles(figure: Figure) -> list[str]:
    return [axes.get_title() for axes in figure.axes]


def drawn_legend(figure: Figure) -> list[str]:
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def test_the_gap_is_paired_by_seed_and_random_is_the_zero_line() -> None:
    results = frame({**RANDOM, "percent": 60, "spread": 1}, {**DLC, "percent": lambda r: 60 + 10 * r, "spread": 3})
    figure = paper_figures.accuracy_gap(results)
    (axes,) = figure.axes
    drawn = lines(axes)
    assert list(drawn) == ["DLC"]
    np.testing.assert_allclose(drawn["DLC"].x, [0.1, 0.3])
    np.testing.assert_allclose(drawn["DLC"].y, [1, 3])
    # The gaps are -1 and 3 at the first ratio, and 1 and 5 at the second.
    np.testing.assert_allclose(drawn["DLC"].half, [8**0.5, 8**0.5])
    assert axes.get_xlabel() == "fraction of each class kept"
    assert axes.get_ylabel() == "above random, points"
    assert figure.get_suptitle().split("\n") == [
        "Accuracy gap to random: vit_tiny, linear probe",
        "mean ± std over 2 seeds",
        "DLC: FlexRand, gamma chosen on held-out images",
    ]


def test_a_method_is_drawn_where_it_was_run_and_a_single_seed_has_no_spread() -> None:
    results = frame(
        {**RANDOM, "percent": 60},
        {**DLC, "percent": 61},
        {"scorer": "el2n", "sampler": "topk", "percent": 50, "ratios": (0.3,)},
    )
    (axes,) = paper_figures.accuracy_gap(results).axes
    np.testing.assert_allclose(lines(axes)["EL2N"].x, [0.3])
    np.testing.assert_allclose(lines(axes)["EL2N"].y, [-10])
    single = paper_figures.accuracy_gap(results[results["seed"] == 0])
    assert np.isnan(lines(single.axes[0])["DLC"].half).all()
    assert "one seed" in single.get_suptitle()
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0.1", "0.3"]


def test_a_method_has_one_line_style_in_all_panels_and_styles_differ_without_colour() -> None:
    scorers = [{"scorer": name, "sampler": "topk", "percent": 50} for name in paper.PUBLISHED_SCORERS[1:]]
    first = frame({**RANDOM, "percent": 60}, {**DLC, "percent": 61}, *scorers)
    probes = [{**scorer, "scorer": f"{scorer['scorer']}_probe"} for scorer in scorers[2:]]
    second = frame({**RANDOM, "percent": 60}, {**DLC, "percent": 61}, *probes, datasets=("sketch9",))
    figure = paper_figures.accuracy_gap(pd.concat([first, second]))
    assert titles(figure) == ["dtd10", "sketch9 (linear-probe proxy)"]
    looks = [
        {
            label: (found.line.get_marker(), found.line.get_linestyle(), found.line.get_color())
            for label, found in lines(axes).items()
        }
        for axes in figure.axes
    ]
    assert len(looks[0]) == 10
    assert looks[1].items() <= looks[0].items()
    assert len({(marker, line) for marker, line, _ in looks[0].values()}) == 10
    assert len(drawn_legend(figure)) == 10


def test_the_published_gap_is_drawn_beside_the_data_set_of_that_name_only() -> None:
    results = frame({**RANDOM, "percent": 60}, {**DLC, "percent": 61}, datasets=("dtd", "dtd10"))
    main = paper.read("fig_main_accuracy", paper.FOLDER)
    ours, other = paper_figures.accuracy_gap(results, main).axes
    [(xs, ys)] = published_lines(ours)
    mine = main[(main["dataset"] == "dtd") & (main["method"] == "dlc_flexrand")]
    assert xs == mine["ratio"].tolist()
    assert ys == mine["gap_vs_random_pct"].tolist()
    assert published_lines(other) == []


def test_a_title_says_that_gamma_was_constant() -> None:
    fixed = {**DLC, "gamma": 0.25, "selection_rule": "fixed"}
    figure = paper_figures.accuracy_gap(frame({**RANDOM, "percent": 60}, {**fixed, "percent": 61}))
    assert "DLC: FlexRand, gamma constant at 0.25" in figure.get_suptitle()


def test_seconds_are_scoring_search_and_sampling_on_a_logarithmic_axis() -> None:
    seconds = {"score_seconds": 10.0, "search_seconds": 5.0, "sample_seconds": 1.0, "decode_seconds": 99.0}
    slow = {"score_seconds": 4000.0, "search_seconds": np.nan, "sample_seconds": 0.0}
    results = frame(
        {**RANDOM, "percent": 60},
        {**DLC, **seconds, "percent": lambda r: 60 + 10 * r, "spread": 1},
        {"scorer": "forgetting", "sampler": "topk", "percent": 50, **slow},
    )
    figure = paper_figures.time_accuracy(results)
    (axes,) = figure.axes
    drawn = lines(axes)
    assert axes.get_xscale() == "log"
    assert drawn["DLC"].x.tolist() == [16]
    np.testing.assert_allclose(drawn["DLC"].y, [62])
    np.testing.assert_allclose(drawn["DLC"].half, [2**0.5])
    assert drawn["Forgetting"].x.tolist() == [4000]
    [level] = [line for line in axes.lines if line.get_label() == "random"]
    assert level.get_ydata()[0] == pytest.approx(60)
    assert "mean over ratios 0.1, 0.3" in figure.get_suptitle()
    assert axes.get_xlabel() == "selection time, s (decoding apart)"


def test_time_averages_only_ratios_at_which_every_drawn_method_was_run() -> None:
    seconds = {"score_seconds": 1.0, "sample_seconds": 0.0}
    results = frame(
        {**RANDOM, "percent": lambda r: 100 * r},
        {**DLC, "percent": 50, **seconds},
        {"scorer": "el2n", "sampler": "topk", "percent": 40, "ratios": (0.3,), **seconds},
    )
    figure = paper_figures.time_accuracy(results)
    [level] = [line for line in figure.axes[0].lines if line.get_label() == "random"]
    assert level.get_ydata()[0] == pytest.approx(30)
    assert "ratio 0.3" in figure.get_suptitle()


def fixed_gammas(*gammas: float, **shared: Any) -> pd.DataFrame:
    cells = [
        {
            **DLC,
            "gamma": g,
            "selection_rule": "fixed",
            "tag": f"g{g:g}",
            "percent": lambda r, g=g: 50 + 100 * r * g,
            "spread": g,
        }
        for g in gammas
    ]
    return frame(*cells, {**RANDOM, "percent": 60}, **shared)


def test_the_gamma_sweep_is_relative_to_gamma_one_half_by_ratio() -> None:
    figure = paper_figures.gamma_sweep(fixed_gammas(0.1, 0.5, 0.75))
    drawn = lines(figure.axes[0])
    assert list(drawn) == ["ratio 0.1", "ratio 0.3"]
    np.testing.assert_allclose(drawn["ratio 0.1"].x, [0.1, 0.5, 0.75])
    np.testing.assert_allclose(drawn["ratio 0.1"].y, [-4, 0, 2.5])
    np.testing.assert_allclose(drawn["ratio 0.3"].y, [-12, 0, 7.5])
    np.testing.assert_allclose(drawn["ratio 0.3"].half, [0.4 * 2**0.5, 0, 0.25 * 2**0.5])
    assert "do not choose gamma by it" in figure.get_suptitle()


def test_the_published_sweep_stands_beside_its_own_backbone_data_set_and_ratio() -> None:
    table = paper.read("gamma_sweep_resnet18", paper.FOLDER)
    results = fixed_gammas(0.1, 0.5, datasets=("dtd",), ratios=(0.1, 0.25), backbone="resnet18")
    # No accuracy is published at ratio 0.25.
    [(xs, ys)] = published_lines(paper_figures.gamma_sweep(results, table).axes[0])
    mine = table[(table["dataset"] == "dtd") & (table["ratio"] == 0.1)].set_index("gamma")["accuracy_pct"]
    assert xs == mine.index.tolist()
    np.testing.assert_allclose(ys, mine - mine[0.5])
    assert published_lines(paper_figures.gamma_sweep(fixed_gammas(0.1, 0.5, datasets=("dtd",)), table).axes[0]) == []


def path_sizes(**shared: Any) -> pd.DataFrame:
    sizes = {1: 58, 5: 62, 10: 63}
    cells = [{**DLC, "tag": f"T{levels}", "percent": percent, "spread": 0.5} for levels, percent in sizes.items()]
    return frame(*cells, {**RANDOM, "percent": 60}, **shared)


def rank_rows(*rows: tuple[str, str, str, float], backbone: str = "vit_tiny", dataset: str = "dtd10") -> pd.DataFrame:
    keys = ("first", "second", "tag", "class_mean")
    shared = {"dataset": dataset, "backbone": backbone, "class_std": 0.1, "num_classes": 10}
    return pd.DataFrame([{**shared, **dict(zip(keys, row, strict=True))} for row in rows])


def test_path_sizes_are_read_from_tags_and_joined_with_their_rank_correlations() -> None:
    ranks = rank_rows(
        *(("dlc", "lc_optimisation", f"T{levels}", rho) for levels, rho in ((1, 0.4), (5, 0.5))),
        *(("dlc", "lc_optimisation_probe", "T10", 0.9), ("dlc", "lc_optimisation_probe", "T5", 0.8)),
    )
    figure = paper_figures.path_size(path_sizes(), ranks)
    accuracy, rho = (lines(axes)["ours"] for axes in figure.axes)
    assert accuracy.x.tolist() == [1, 5, 10]
    np.testing.assert_allclose(accuracy.y, [-2, 2, 3])
    np.testing.assert_allclose(accuracy.half, [0.5 * 2**0.5] * 3)
    assert rho.x.tolist() == [1, 5, 10]
    assert rho.y.tolist() == [0.4, 0.5, 0.9]  # The reference of the fully fine-tuned proxy is used if there is one.
    np.testing.assert_allclose(rho.half, [0.1] * 3)
    assert [axes.get_ylabel() for axes in figure.axes] == ["above random, points", "Spearman's rho"]
    assert len(paper_figures.path_size(path_sizes()).axes) == 1


def test_published_ablations_stand_only_beside_the_same_mean() -> None:
    published = {name: paper.read(name, paper.FOLDER) for name in figure_files.ABLATIONS}
    same = {"datasets": paper.DATASETS, "ratios": paper.RATIOS, "backbone": "resnet18", "finetune": "full"}
    figure = paper_figures.path_size(path_sizes(**same), None, published)
    assert titles(figure)[-1] == "mean of 5 sets"
    [(xs, ys)] = published_lines(figure.axes[-1])
    assert xs == [1, 3, 5, 10, 20, 30, 40, 50]
    assert ys[2] == pytest.approx(57.31 - 55.92)
    assert all(published_lines(axes) == [] for axes in figure.axes[:-1])
    for change in ({"backbone": "resnet50"}, {"ratios": (0.1,)}, {"finetune": "linear_probe"}):
        other = paper_figures.path_size(path_sizes(**{**same, **change}), None, published)
        assert all(published_lines(axes) == [] for axes in other.axes)


def test_without_one_of_the_five_data_sets_there_is_no_mean() -> None:
    figure = paper_figures.path_size(path_sizes(datasets=paper.DATASETS[:4]))
    assert titles(figure) == sorted(paper.DATASETS[:4])


def test_masking_bars_are_gaps_and_rank_correlations() -> None:
    results = frame(
        {**RANDOM, "percent": 60},
        {**DLC, "percent": 62, "spread": 1},
        {**DLC, "scorer": "dlc_random", "percent": 59},
        datasets=("caltech101", "dtd10"),
    )
    ranks = rank_rows(("dlc", "lc_optimisation", "default", 0.6), ("dlc_random", "lc_optimisation", "default", 0.5))
    accuracy, rho = paper_figures.masking(results, ranks).axes
    assert heights(accuracy) == {"L1": pytest.approx([2, 2]), "random": pytest.approx([-1, -1])}
    assert heights(rho) == {
        "L1": pytest.approx([np.nan, 0.6], nan_ok=True),
        "random": pytest.approx([np.nan, 0.5], nan_ok=True),
    }
    assert [label.get_text() for label in accuracy.get_xticklabels()] == ["caltech101", "dtd10"]
    hatches = [container.patches[0].get_hatch() for container in accuracy.containers if hasattr(container, "patches")]
    assert len(set(hatches)) == 2
    assert [text.get_text() for text in rho.texts] == ["X", "X"]


def test_published_maskings_are_marks_at_their_bars() -> None:
    published = {name: paper.read(name, paper.FOLDER) for name in figure_files.ABLATIONS}
    same = {"datasets": paper.DATASETS, "ratios": paper.RATIOS, "backbone": "resnet18", "finetune": "full"}
    results = frame(
        {**RANDOM, "percent": 60}, {**DLC, "percent": 62}, {**DLC, "scorer": "dlc_random", "percent": 59}, **same
    )
    (axes,) = paper_figures.masking(results, None, published).axes
    [(xs, ys)] = published_lines(axes)
    np.testing.assert_allclose(xs, [4.8, 5.2])
    means = published["ablation_masking"].groupby("masking")["accuracy_pct"].mean()
    np.testing.assert_allclose(ys, [means["l1"] - 55.92, means["random"] - 55.92])


def sampled(**shared: Any) -> pd.DataFrame:
    cells = [{**RANDOM, "percent": 60}, {**DLC, "percent": 63, "spread": 1}]
    cells += [{"scorer": "dlc", "sampler": name, "percent": p} for name, p in (("topk", 50), ("topk_easiest", 58))]
    cells += [
        {"scorer": "lc_optimisation_probe", "sampler": name, "percent": p}
        for name, p in (("topk", 51), ("topk_easiest", 61))
    ]
    return frame(*cells, **shared)


def test_sampler_bars_stand_for_scores_by_masking_and_by_optimisation() -> None:
    figure = paper_figures.samplers(sampled())
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["hard", "easy", "flexible", "FlexRand"]
    assert heights(axes) == {
        "masking (DLC)": pytest.approx([-10, -2, np.nan, 3], nan_ok=True),
        "optimisation": pytest.approx([-9, 1, np.nan, np.nan], nan_ok=True),
    }
    assert axes.get_title() == "dtd10 (optimisation: linear probe)"
    assert [text.get_text() for text in axes.texts] == ["X"] * 3
    assert "X: not run" in figure.get_suptitle()


def test_published_samplers_are_marks_at_their_bars() -> None:
    table = paper.read("ablation_sampling", paper.FOLDER)
    same = {"datasets": paper.DATASETS, "ratios": paper.RATIOS, "backbone": "resnet18", "finetune": "full"}
    marks = published_lines(paper_figures.samplers(sampled(**same), table).axes[-1])
    np.testing.assert_allclose(marks[0][1], [48.85 - 55.92, 52.50 - 55.92, 54.26 - 55.92, 57.31 - 55.92])
    np.testing.assert_allclose(marks[1][1], [49.60 - 55.92, 55.38 - 55.92, 55.85 - 55.92, 57.50 - 55.92])
    np.testing.assert_allclose(np.subtract(marks[1][0], marks[0][0]), [0.4] * 4)


@pytest.mark.parametrize(
    ("draw", "preset"),
    [
        (paper_figures.accuracy_gap, "main"),
        (paper_figures.time_accuracy, "time"),
        (paper_figures.gamma_sweep, "ablation_gamma"),
        (paper_figures.path_size, "ablation_path"),
        (paper_figures.masking, "ablation_masking"),
        (paper_figures.samplers, "ablation_sampler"),
    ],
)
def test_without_its_runs_a_figure_names_the_preset(draw: Any, preset: str) -> None:
    with pytest.raises(InputError, match=f"run sweep={preset}$"):
        draw(frame({**RANDOM, "percent": 60}))


def test_runs_of_two_backbones_are_not_drawn_in_one_figure() -> None:
    results = pd.concat([path_sizes(), path_sizes(backbone="resnet18")])
    with pytest.raises(InputError, match="one backbone and recipe, got vit_tiny, linear_probe; resnet18, linear_probe"):
        paper_figures.path_size(results)


def losses(column: str, easy: list[float], hard: list[float], dataset: str = "dtd10") -> pd.DataFrame:
    rows = [
        {"dataset": dataset, "backbone": "vit_tiny", "group": group, column: place, "loss": loss}
        for group, curve in (("easy", easy), ("hard", hard))
        for place, loss in enumerate(curve)
    ]
    return pd.DataFrame(rows)


def test_loss_curves_of_easy_and_hard_stand_side_by_side() -> None:
    by_masking, by_epoch = losses("masking_ratio", [0.1, 0.2], [0.8, 0.9]), losses("epoch", [0.3, 0.0], [1.0, 0.5])
    figure = analysis_figures.loss_curves(by_masking, by_epoch)
    drawn = [{line.get_label(): list(line.get_ydata()) for line in axes.lines} for axes in figure.axes]
    assert drawn == [{"easy": [0.1, 0.2], "hard": [0.8, 0.9]}, {"easy": [0.3, 0.0], "hard": [1.0, 0.5]}]
    assert [axes.get_xlabel() for axes in figure.axes] == ["fraction of weights masked", "epoch"]
    easy, hard = figure.axes[0].lines
    assert easy.get_linestyle() != hard.get_linestyle()
    assert easy.get_marker() != hard.get_marker()
    assert drawn_legend(figure) == ["easy", "hard"]
    assert len(analysis_figures.loss_curves(by_masking, None).axes) == 1
    with pytest.raises(InputError, match="run sweep=ablation_sampler"):
        analysis_figures.loss_curves(None, None)


def test_rank_correlation_bars_take_the_fully_fine_tuned_reference_and_the_default_tag() -> None:
    ranks = pd.concat(
        [
            rank_rows(
                *(("dlc", "lc_optimisation", "g0.1", 0.1), ("dlc", "lc_optimisation", "default", 0.6)),
                *(("dlc", "lc_optimisation_probe", "default", 0.7), ("dlc_random", "lc_optimisation", "default", 0.5)),
                *(("el2n", "lc_optimisation", "default", 0.9), ("herding", "herding", "finetuned", 0.2)),
            ),
            rank_rows(("dlc", "lc_optimisation_probe", "default", 0.3), dataset="caltech101"),
        ]
    )
    figure = analysis_figures.rank_correlation(ranks)
    (axes,) = figure.axes
    assert heights(axes) == {
        "DLC, L1 masks": pytest.approx([0.3, 0.6]),
        "DLC, random masks": pytest.approx([np.nan, 0.5], nan_ok=True),
    }
    heads = [label.get_text() for label in axes.get_xticklabels()]
    assert heads == ["caltech101\n(linear probe)", "dtd10\n(full fine-tune)"]
    assert axes.get_ylim() == (0, 1)
    alone = analysis_figures.rank_correlation(ranks[ranks["dataset"] == "dtd10"])
    assert "optimisation (full fine-tune): vit_tiny" in " ".join(alone.get_suptitle().split())
    with pytest.raises(InputError, match="run sweep=ablation_sampler"):
        analysis_figures.rank_correlation(ranks[ranks["first"] == "el2n"])


def distances(*rows: tuple[str, float, int, float], features: str = "pretrained") -> pd.DataFrame:
    shared = {"dataset": "dtd10", "backbone": "vit_tiny", "features": features, "num_pool": 100}
    return pd.DataFrame(
        [{**shared, "method": m, "ratio": r, "seed": s, "mmd": d, "num_kept": 100 * r} for m, r, s, d in rows]
    )


def test_distances_are_relative_to_those_of_random_at_the_same_ratio() -> None:
    random = [("random", 0.1, 0, 0.18), ("random", 0.1, 1, 0.22), ("random", 0.5, 0, 0.1), ("random", 0.5, 1, 0.1)]
    ours = [("dlc-flexrand", 0.1, 0, 0.3), ("dlc-flexrand", 0.1, 1, 0.5), ("dlc-flexrand", 0.5, 0, 0.05)]
    rows = [*random, *ours, ("el2n-topk", 0.1, 0, 9.0)]
    figure = analysis_figures.mmd(pd.concat([distances(*rows), distances(*rows, features="finetuned")]))
    assert titles(figure) == ["dtd10, pretrained", "dtd10, fine-tuned"]
    drawn = lines(figure.axes[0])
    assert list(drawn) == ["DLC, FlexRand", "random"]
    np.testing.assert_allclose(drawn["DLC, FlexRand"].y, [2, 0.5])
    np.testing.assert_allclose(drawn["DLC, FlexRand"].half, [0.5**0.5, np.nan])
    np.testing.assert_allclose(drawn["random"].y, [1, 1])
    [blind] = [line for line in figure.axes[0].lines if line.get_label() == "blind kernel"]
    np.testing.assert_allclose(blind.get_ydata(), [(1 / 10 - 1 / 100) ** 0.5 / 0.2, (1 / 50 - 1 / 100) ** 0.5 / 0.1])
    with pytest.raises(InputError, match="run sweep=ablation_sampler"):
        analysis_figures.mmd(distances(*ours))


def test_a_data_set_without_one_kind_of_features_has_no_empty_axes() -> None:
    both = distances(("random", 0.1, 0, 0.2)).assign(dataset="caltech101")
    figure = analysis_figures.mmd(pd.concat([both, distances(("random", 0.1, 0, 0.2), features="finetuned")]))
    assert [axes.axison for axes in figure.axes] == [True, False, False, True]


def test_many_ratios_are_counted_instead_of_listed() -> None:
    assert plotting.listed([0.1]) == "ratio 0.1"
    assert plotting.listed([0.1, 0.5]) == "mean over ratios 0.1, 0.5"
    assert plotting.listed(paper.RATIOS) == "mean over 9 ratios, 0.1 to 0.9"


def test_a_figure_is_as_wide_as_a_column_and_nothing_is_cut_off(tmp_path: Path) -> None:
    figure = paper_figures.samplers(sampled(datasets=("a_data_set", "dtd10")))
    plotting.save(figure, tmp_path, "samplers")
    assert figure.get_figwidth() == 3.3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["samplers.pdf", "samplers.png"]
    with Image.open(tmp_path / "samplers.png") as picture:
        assert picture.width == 660  # The resolution is 200 dpi.
    before = (tmp_path / "samplers.pdf").read_bytes()
    plotting.save(paper_figures.samplers(sampled(datasets=("a_data_set", "dtd10"))), tmp_path, "samplers")
    assert (tmp_path / "samplers.pdf").read_bytes() == before
    box = figure.get_tightbbox()
    assert box.x0 >= -0.01
    assert box.x1 <= 3.31
    assert box.y1 <= figure.get_figheight() + 0.01


@pytest.fixture
def inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> figure_files.Inputs:
    results = pd.concat([path_sizes(), sampled(datasets=("dtd10",), backbone="micro")])
    monkeypatch.setattr(figure_files.collect, "collect", lambda folder: (results, []))
    ranks = rank_rows(("dlc", "lc_optimisation", "T1", 0.4), ("dlc", "lc_optimisation", "default", 0.5))
    (tmp_path / "analysis").mkdir()
    ranks.to_csv(tmp_path / "analysis" / "rank_correlation.csv", index=False)
    return figure_files.Inputs(tmp_path, paper.FOLDER, tmp_path / "analysis", allow_dirty=False)


def test_all_that_can_be_drawn_is_drawn_and_the_rest_is_named(
    inputs: figure_files.Inputs, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    figure_files.make([], inputs, tmp_path / "figures")
    assert sorted(path.name for path in (tmp_path / "figures").glob("*.png")) == [
        *("accuracy_gap-micro-linear_probe.png", "path_size-vit_tiny-linear_probe.png"),
        *("rank_correlation-vit_tiny.png", "samplers-micro-linear_probe.png"),
    ]
    told = capsys.readouterr().err.splitlines()
    assert "skipped gamma_sweep-micro-linear_probe: no runs at several gammas with 0.5 among them; " in "\n".join(told)
    assert any(line.startswith("skipped mmd: ") and "run `prunetune analyse`" in line for line in told)
    assert all(line.startswith("skipped ") for line in told)


def test_a_named_figure_that_cannot_be_drawn_is_an_error(inputs: figure_files.Inputs, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="gamma_sweep-vit_tiny-linear_probe: .* run sweep=ablation_gamma"):
        figure_files.make(["gamma_sweep"], inputs, tmp_path)
    with pytest.raises(InputError, match="no figure 'gamma'.*gamma_sweep"):
        figure_files.make(["gamma"], inputs, tmp_path)


def test_the_command_ends_with_one_line_and_a_code(tmp_path: Path) -> None:
    done = prunetune_here("figures", "mmd", "--results", str(tmp_path))
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch("error: mmd: .*mmd.csv is not there; run `prunetune analyse`.*\n", done.stderr)
