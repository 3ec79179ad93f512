import dataclasses
import json
import re
import shutil
from collections.abc import Callable
from html import escape
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure

from prunetune.base.errors import InputError
from prunetune.base.store import Store
from prunetune.data.images.decode import ImageArrays
from prunetune.data.pool import Pool
from prunetune.report import collect, figures, page, tables
from prunetune.report.rounding import bracketed, short_commit
from prunetune.runs.scores import write_scores
from runs import prunetune_here

ROOT = Path(__file__).parents[1]
GOLDEN = Path(__file__).parent / "golden"


def make_result(**changes: object) -> dict:
    result = {
        **{"dataset": "textures", "backbone": "micro", "scoring_backbone": "micro", "finetune": "linear_probe"},
        **{"scorer": "dlc", "sampler": "flexrand", "ratio": 0.1, "seed": 0, "tag": "default"},
        **{"gamma": 0.25, "selection_rule": "fixed", "precision": "fp32"},
        **{"num_classes": 2, "num_pool": 6, "num_kept": 2, "num_test": 4, "dataset_fingerprint": "f0"},
        **{"accuracy": 0.5, "best_accuracy": 0.75, "worst_class_accuracy": 0.25, "per_class_accuracy": [0.25, 0.75]},
        **{"classes": ["a", "b"], "decode_seconds": 0.1, "score_seconds": 1.5, "search_seconds": None},
        **{"sample_seconds": 0.01, "finetune_seconds": 2.0, "peak_memory_bytes": None, "device": "cpu"},
        **{"score_peak_memory_bytes": 2**30, "images_per_epoch": None},
        **{"commit": "abc1234", "scores_path": "store/scores/x/scores.csv", "versions": {"torch": "2"}},
        "config": {"finetune": {"name": "linear_probe", "views": 50}},
    }
    return {**result, **changes}


def put(results_dir: Path, **changes: object) -> Path:
    """Write a made-up run into the folder of a real run."""
    result = make_result(**changes)
    names = [result[key] for key in ("dataset", "backbone", "finetune")]
    last = [f"{result['scorer']}-{result['sampler']}", f"ratio_{result['ratio']}", f"seed_{result['seed']}"]
    folder = results_dir.joinpath("runs", *map(str, names), *last, result["tag"])
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps(result))
    return folder


def frame(*results: dict) -> pd.DataFrame:
    rows = [
        make_result(**{"run": str(number), "views": 50, "budgets": "proportional", **result})
        for number, result in enumerate(results)
    ]
    return collect._typed(pd.DataFrame(rows, columns=list(collect.COLUMNS)))


RANDOM = {"scorer": "random", "sampler": "random", "gamma": None, "selection_rule": None}


def cell(table: pd.DataFrame, method: str, ratio: float = 0.1) -> pd.Series:
    (row,) = table[(table["method"] == method) & (table["ratio"] == ratio)].to_dict("records")
    return pd.Series(row)


def test_every_run_is_one_row_in_a_fixed_order_with_fixed_columns(tmp_path: Path) -> None:
    for ratio in (0.5, 0.1):
        for seed in (10, 2):
            put(tmp_path, ratio=ratio, seed=seed)
    put(tmp_path, scorer="random", sampler="random")
    put(tmp_path, dataset="dtd")
    results, skipped = collect.collect(tmp_path)
    assert tuple(results.columns) == collect.COLUMNS
    order = results[["dataset", "scorer", "ratio", "seed"]].to_records(index=False).tolist()
    dlc = [("textures", "dlc", ratio, seed) for ratio in (0.1, 0.5) for seed in (2, 10)]
    assert order == [("dtd", "dlc", 0.1, 0), *dlc, ("textures", "random", 0.1, 0)]
    assert not skipped
    assert results["run"][0] == "runs/dtd/micro/linear_probe/dlc-flexrand/ratio_0.1/seed_0/default"
    assert results["views"].tolist() == [50] * 6


def test_the_csv_reads_back_as_it_was_and_is_the_same_every_time(tmp_path: Path) -> None:
    put(tmp_path, tag="7", accuracy=1 / 3)
    put(tmp_path, scorer="none", sampler="random", gamma=None, peak_memory_bytes=2**40)
    results, _ = collect.collect(tmp_path)
    collect.write(results, tmp_path / "results.csv")
    first = (tmp_path / "results.csv").read_bytes()
    again = collect.read(tmp_path / "results.csv")
    pd.testing.assert_frame_equal(again, results)
    collect.write(again, tmp_path / "results.csv")
    assert (tmp_path / "results.csv").read_bytes() == first
    lines = first.decode().splitlines()
    assert lines[0] == ",".join(collect.COLUMNS)
    assert "0.3333333333333333" in lines[1]
    assert ",1099511627776," in lines[2]  # An empty field beside it must not turn the integer into 1.099e12.


def test_a_d2_run_from_before_the_undirected_graph_has_the_name_of_the_directed_one(tmp_path: Path) -> None:
    for seed, settings in enumerate(({"name": "d2"}, {"name": "d2", "graph": "undirected"})):
        put(tmp_path, sampler="d2", seed=seed, gamma=None, selection_rule=None, config={"sampler": settings})
    results, skipped = collect.collect(tmp_path)
    assert results.set_index("seed")["sampler"].to_dict() == {0: "d2_directed", 1: "d2"}
    assert skipped == []


def test_a_missing_results_csv_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="run `prunetune collect` first"):
        collect.read(tmp_path / "results.csv")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "Expecting property name"),
        ("", "Expecting value"),
        ("[]", "no JSON object"),
        (b"\xff\xfe\x00", "codec"),
        (json.dumps({"dataset": "dtd"}), "no backbone"),
        (json.dumps(make_result(accuracy=None)), "no accuracy"),
        (json.dumps(make_result(accuracy="0.5")), "accuracy must be numbers"),
    ],
)
def test_a_corrupt_result_is_named_in_one_line_and_skipped(content: str | bytes, reason: str, tmp_path: Path) -> None:
    put(tmp_path)
    broken = put(tmp_path, seed=1) / "result.json"
    broken.write_bytes(content if isinstance(content, bytes) else content.encode())
    results, skipped = collect.collect(tmp_path)
    assert results["seed"].tolist() == [0]
    (line,) = skipped
    assert str(broken) in line
    assert reason in line
    assert "\n" not in line


def test_a_copied_run_is_counted_once(tmp_path: Path) -> None:
    folder = put(tmp_path)
    shutil.copytree(folder, tmp_path / "runs" / "zz" / "copy")
    results, skipped = collect.collect(tmp_path)
    assert len(results) == 1
    assert len(skipped) == 1
    assert str(tmp_path / "runs") in skipped[0]


TEXT_RUN = {
    **{"kind": "text", "dataset": "embedded", "backbone": "tiny", "scoring_backbone": "tiny", "finetune": "released"},
    **{
        "mmlu_stem": 0.25,
        "mmlu_other": None,
        "accuracy_5shot": 0.75,
        "held_out_perplexity": 8.0,
        "num_fewshot": [0, 5],
    },
    **{"corpus_report": {"read": 300, "kept": 280}, "config": {"sft": {"name": "released", "epochs": 1}}},
}


def test_a_text_run_is_a_row_with_columns_of_its_own(tmp_path: Path) -> None:
    put(tmp_path)
    put(tmp_path, **TEXT_RUN)
    put(tmp_path, **{**TEXT_RUN, "seed": 1, "config": {"sft": {"name": "released", "epochs": 2}}})
    results, skipped = collect.collect(tmp_path)
    text = collect.texts(results)
    assert text["num_fewshot"].tolist() == ["0 5", "0 5"]
    assert text["num_read"].tolist() == [300, 300]
    assert text[["mmlu_stem", "accuracy_5shot", "held_out_perplexity"]].iloc[0].tolist() == [0.25, 0.75, 8.0]
    assert text["mmlu_other"].isna().all()
    assert text["recipe"].nunique() == 2
    image = collect.images(results)
    assert image["kind"].tolist() == ["image"]
    assert image[[name for name in collect.TEXT_COLUMNS if name != "kind"]].isna().all(axis=None)
    assert not skipped
    collect.write(results, tmp_path / "results.csv")
    pd.testing.assert_frame_equal(collect.read(tmp_path / "results.csv"), results)


def test_a_results_csv_from_before_text_runs_reads_as_image_runs(tmp_path: Path) -> None:
    put(tmp_path)
    results, _ = collect.collect(tmp_path)
    results.drop(columns=list(collect.TEXT_COLUMNS)).to_csv(tmp_path / "old.csv", index=False)
    pd.testing.assert_frame_equal(collect.read(tmp_path / "old.csv"), results)


def test_no_runs_are_no_rows(tmp_path: Path) -> None:
    results, skipped = collect.collect(tmp_path)
    assert len(results) == 0
    assert tuple(results.columns) == collect.COLUMNS
    assert skipped == []


def test_every_column_is_defined_in_the_readme_of_the_results() -> None:
    text = (ROOT / "results" / "README.md").read_text(encoding="utf-8")
    table = text[text.index("## results.csv") :]
    defined = [
        name
        for line in table.splitlines()
        if line.startswith("| `")
        for name in re.findall(r"`(\w+)`", line.split("|")[1])
    ]
    assert defined == list(collect.COLUMNS)


def test_mean_spread_and_number_are_over_seeds_in_percent() -> None:
    table = tables.summary(
        frame(*({"seed": seed, "accuracy": accuracy} for seed, accuracy in enumerate([0.5, 0.54, 0.52])))
    )
    row = cell(table, "dlc-flexrand")
    assert row["mean"] == pytest.approx(52)
    assert row["std"] == pytest.approx(2)  # With ddof 1 the std is sqrt((4 + 4 + 0) / 2).
    assert row["n"] == 3
    assert row["num_test"] == 4


def test_the_difference_is_paired_by_seed() -> None:
    mine = [{"seed": seed, "accuracy": accuracy} for seed, accuracy in ((0, 0.6), (1, 0.8), (5, 0.1))]
    random = [{"seed": seed, "accuracy": accuracy, **RANDOM} for seed, accuracy in ((0, 0.55), (1, 0.73), (2, 0.99))]
    row = cell(tables.summary(frame(*mine, *random)), "dlc-flexrand")
    assert row["difference"] == pytest.approx(6)  # The mean is (5 + 7) / 2, since seeds 2 and 5 have no partner.
    assert row["difference_std"] == pytest.approx(2**0.5)
    assert (row["n"], row["num_pairs"]) == (3, 2)


def test_random_comes_first_and_is_not_compared_with_itself() -> None:
    table = tables.summary(frame({}, RANDOM, {"scorer": "abc", "sampler": "topk"}))
    assert table["method"].tolist() == ["random", "abc-topk", "dlc-flexrand"]
    assert cell(table, "random")["num_pairs"] == 0
    assert np.isnan(cell(table, "random")["difference"])


def test_one_seed_has_no_spread() -> None:
    table = tables.summary(frame({"accuracy": 0.625}))
    assert np.isnan(cell(table, "dlc-flexrand")["std"])
    assert "| dlc-flexrand | 62.5 |" in tables.to_markdown(table)


def test_a_tag_is_compared_with_random_under_the_same_tag_if_there_is_one() -> None:
    results = [{"accuracy": 0.5, **RANDOM}, {"accuracy": 0.4, "tag": "bf16", **RANDOM}]
    results += [{"accuracy": 0.6, "tag": "bf16"}, {"accuracy": 0.6, "tag": "g0.4"}]
    table = tables.summary(frame(*results))
    assert cell(table, "dlc-flexrand (bf16)")["difference"] == pytest.approx(20)
    assert cell(table, "dlc-flexrand (g0.4)")["difference"] == pytest.approx(10)
    assert cell(table, "random (bf16)")["num_pairs"] == 0


def test_another_scoring_backbone_is_another_row() -> None:
    table = tables.summary(frame({}, {"scoring_backbone": "resnet18"}))
    assert table["method"].tolist() == ["dlc-flexrand", "dlc-flexrand (scored by resnet18)"]


@pytest.mark.parametrize(
    ("commit", "short"),
    [("0123456789abcdef", "0123456789ab"), ("0123456789abcdef-dirty", "0123456789ab-dirty"), ("unknown", "unknown")],
)
def test_a_shortened_commit_still_says_that_code_was_not_committed(commit: str, short: str) -> None:
    assert short_commit(commit) == short
    assert short_commit(commit, letters=7) == short.replace("0123456789ab", "0123456")


def test_at_ratio_one_all_methods_are_the_whole_pool_and_a_seed_counts_once() -> None:
    whole = {"ratio": 1.0, "accuracy": 0.9}
    table = tables.summary(frame({}, RANDOM, whole, {**whole, **RANDOM}, {**whole, "seed": 1, "accuracy": 0.92}))
    row = cell(table, "whole pool", 1.0)
    assert (row["n"], row["num_pairs"]) == (2, 0)
    assert row["mean"] == pytest.approx(91)
    assert "whole pool (ratio 1): 91.0 ± 1.4" in tables.to_text(table)
    assert set(table["ratio"]) == {0.1, 1.0}


def test_the_whole_pool_under_a_tag_is_the_same_row_unless_it_was_trained_in_another_way() -> None:
    whole = {"ratio": 1.0, "recipe": "aaaa0001"}
    runs = [whole, {**whole, "tag": "T10"}, {**whole, **RANDOM, "tag": "drop", "seed": 1}]
    table = tables.summary(frame({}, *runs, {**whole, "tag": "longer", "recipe": "aaaa0002"}))
    assert table.loc[table["ratio"] == 1, "method"].tolist() == ["whole pool", "whole pool (longer)"]
    assert cell(table, "whole pool", 1.0)["n"] == 2
    (block,) = tables.blocks(table)
    assert len(block.whole_pool) == 2
    table = tables.summary(frame({}, *runs[1:]))
    assert table["method"].tolist() == ["dlc-flexrand", "whole pool (T10, drop)"]


def test_infobatch_leaves_images_out_even_at_ratio_one_and_is_not_the_whole_pool() -> None:
    dynamic = {"scorer": "none", "ratio": 1.0}
    table = tables.summary(frame({}, {**dynamic, "sampler": "infobatch"}, {**dynamic, "sampler": "rs2"}))
    assert set(table["method"]) == {"dlc-flexrand", "none-infobatch", "whole pool"}


@pytest.mark.parametrize(
    ("value", "shown"), [(0.04, "0.0"), (-0.04, "0.0"), (0.06, "+0.1"), (-0.06, "-0.1"), (-12.0, "-12.0")]
)
def test_a_difference_shows_its_sign_but_no_signed_zero(value: float, shown: str) -> None:
    table = tables.summary(frame({"accuracy": 0.5 + value / 100}, {"accuracy": 0.5, **RANDOM}))
    assert f"| dlc-flexrand | {shown} |" in " ".join(tables.to_markdown(table).split("paired by seed:")[1].split())


@pytest.mark.parametrize("kind", [float, np.float64])
def test_a_number_between_two_decimals_is_rounded_alike_in_every_kind(kind: type) -> None:
    assert bracketed(kind(-0.04), kind(11.35)) == "[0.0, 11.3]"  # round() gives 11.4 for a number of NumPy.


def test_runs_of_different_data_under_one_name_are_refused() -> None:
    with pytest.raises(InputError, match="dataset_fingerprint is f0 in 2 runs, f1 in 1 runs"):
        tables.summary(frame({}, {"seed": 1}, {"seed": 2, "dataset_fingerprint": "f1"}))
    with pytest.raises(InputError, match="num_test is 4 in 1 runs, 5 in 1 runs"):
        tables.summary(frame({}, {"seed": 1, "num_test": 5}))


def test_the_footer_says_where_the_numbers_come_from() -> None:
    results = frame(
        {}, {"seed": 1, "commit": "def5678-dirty"}, {"ratio": 0.5, "gamma": 0.4, "selection_rule": "validation"}
    )
    assert tables.footer(results) == (
        "3 runs; commit abc1234, def5678-dirty; "
        "recipe linear_probe (50 augmented views of an image, shared by all seeds); precision fp32; device cpu; "
        "accuracy of the last epoch on test; gamma 0.25 constant; "
        "gamma 0.4 chosen on held-out pool images."
    )
    assert "recipe full;" in tables.footer(frame({"finetune": "full", "views": None}))
    assert "(of the evaluation view)" in tables.footer(frame({"views": 0}))
    assert "gamma" not in tables.footer(frame(RANDOM))


def test_the_table_of_the_golden_runs_equals_the_committed_one_that_was_checked_by_hand() -> None:
    results = collect.read(GOLDEN / "results.csv")
    markdown = tables.to_markdown(tables.summary(results), tables.footer(results))
    assert markdown == (GOLDEN / "results.md").read_text(encoding="utf-8")


def test_the_text_for_a_terminal_is_aligned_and_within_its_width() -> None:
    results = collect.read(GOLDEN / "results.csv")
    lines = tables.to_text(tables.summary(results), tables.footer(results)).splitlines()
    assert max(map(len, lines)) <= 100
    start = next(number for number, line in enumerate(lines) if line.startswith("  dlc-flexrand ")) - 2
    assert len({len(line) for line in lines[start : start + 5]}) == 1
    assert not any("|" in line for line in lines)


def test_the_csv_has_percent_with_one_decimal_and_empty_fields_for_gaps(tmp_path: Path) -> None:
    tables.to_csv(tables.summary(collect.read(GOLDEN / "results.csv")), tmp_path / "table.csv")
    lines = (tmp_path / "table.csv").read_text().splitlines()
    assert "textures,micro,linear_probe,0.5,dlc-flexrand,71.2,1.1,2,0.7,0.4,2,35.6,1.2,0.001,,6,300,200" in lines
    assert "textures,micro,linear_probe,0.1,dlc-topk,,,0,,,0,,,,,6,300,200" in lines


def make_pool(*sizes: int, side: int = 4) -> Pool:
    """Return a pool whose n-th image is all grey value n."""
    labels = [label for label, size in enumerate(sizes) for _ in range(size)]
    pixels = np.stack([np.full((side, side + 2, 3), number, dtype=np.uint8) for number in range(len(labels))])
    names = tuple(f"{number:03d}" for number in range(len(labels)))
    classes = tuple(f"class {label}" for label in range(len(sizes)))
    return Pool("made", torch.tensor(labels), names, ("train",) * len(labels), classes, ImageArrays(pixels))


def shown(figure: Figure, num: int) -> list[list[int | None]]:
    """Return the grey values of a picture's rows, None for an empty place."""
    values = [int(axes.images[0].get_array()[0, 0, 0]) if axes.images else None for axes in figure.axes]
    return [values[start : start + 2 * num] for start in range(0, len(values), 2 * num)]


def test_the_easiest_images_are_at_the_left_and_the_hardest_at_the_right() -> None:
    pool = make_pool(7, 6)
    scores = torch.tensor([3.0, 1.0, 6.0, 0.0, 5.0, 4.0, 2.0, 0.6, 0.1, 0.5, 0.2, 0.4, 0.3], dtype=torch.float64)
    figure = figures.extremes(pool, scores, num=2)
    first, second = scores[:7].argsort().tolist(), (7 + scores[7:].argsort()).tolist()
    assert shown(figure, 2) == [first[:2] + first[-2:], second[:2] + second[-2:]]
    assert [axes.get_title() for axes in figure.axes[:4]] == [
        f"percentile {share}" for share in ("14.3", "28.6", "85.7", "100")
    ]
    words = [text.get_text() for text in figure.texts]
    assert {"easiest", "hardest", "class 0", "class 1"} <= set(words)


def test_a_small_class_shows_every_image_once() -> None:
    figure = figures.extremes(make_pool(3, 1), torch.tensor([2.0, 3.0, 1.0, 0.0], dtype=torch.float64), num=2)
    assert shown(figure, 2) == [[2, 0, None, 1], [3, None, None, None]]


def test_equal_scores_are_ordered_by_position() -> None:
    assert figures.ends(make_pool(5), torch.zeros(5, dtype=torch.float64), 0, 2) == ([0, 1], [3, 4])


def test_at_most_ten_classes_are_shown_evenly_spread_and_the_caption_says_so() -> None:
    pool = make_pool(*[1] * 12, 0, *[1] * 7)  # There are 20 classes, of which one is empty.
    assert figures.shown_classes(pool) == [0, 2, 4, 6, 8, 10, 13, 15, 17, 19]
    figure = figures.extremes(pool, torch.arange(19, dtype=torch.float64), num=1)
    assert len(shown(figure, 1)) == 10
    assert any("10 of 19 classes, evenly spread" in text.get_text() for text in figure.texts)


def test_images_keep_their_aspect_and_large_ones_are_shrunk_first() -> None:
    figure = figures.extremes(make_pool(2, side=400), torch.tensor([0.0, 1.0], dtype=torch.float64), num=1)
    assert figure.axes[0].images[0].get_array().shape == (159, 160, 3)  # The image had the shape 400 x 402.
    assert figure.axes[0].get_aspect() == 1


def test_a_class_name_may_contain_any_characters(tmp_path: Path) -> None:
    pool = dataclasses.replace(make_pool(1, 1), classes=(r"$\frac", "a_very_long_class_name_of_forty_two_letters"))
    figure = figures.extremes(pool, torch.tensor([0.0, 1.0], dtype=torch.float64), num=1)
    figure.savefig(tmp_path / "picture.png")
    words = [text.get_text() for text in figure.texts]
    assert r"$\frac" in words
    assert "a very long clas\ns name of forty \ntwo letters" in words


def test_scores_of_another_pool_are_refused() -> None:
    with pytest.raises(InputError, match="each of the 3 images of made, got 2"):
        figures.extremes(make_pool(3), torch.zeros(2, dtype=torch.float64))


def test_the_curves_show_the_means_and_spreads_of_the_table() -> None:
    table = tables.summary(collect.read(GOLDEN / "results.csv"))
    figure = figures.accuracy_curves(table)
    assert [axes.get_title() for axes in figure.axes] == ["dtd, resnet18, full", "textures, micro, linear_probe"]
    axes = figure.axes[1]
    drawn = {container.get_label(): container for container in axes.containers}
    assert list(drawn) == ["random", "dlc-flexrand", "dlc-flexrand (g0.4)", "dlc-topk"]
    for method, container in drawn.items():
        rows = table[(table["dataset"] == "textures") & (table["method"] == method)].sort_values("ratio")
        line, _, (bars,) = container.lines
        np.testing.assert_array_equal(line.get_xdata().astype(float), rows["ratio"])
        np.testing.assert_array_equal(line.get_ydata().astype(float), rows["mean"])
        heights = [segment[1, 1] - segment[0, 1] for segment in bars.get_segments() if len(segment)]
        np.testing.assert_allclose(heights, 2 * rows["std"].dropna())
    styles = {(container.lines[0].get_marker(), container.lines[0].get_linestyle()) for container in drawn.values()}
    assert len(styles) == len(drawn)
    (level,) = [line for line in axes.lines if line.get_label() == "whole pool (ratio 1)"]
    assert level.get_ydata()[0] == pytest.approx(81)


def test_a_number_per_class_is_no_point_of_the_curve_of_fractions() -> None:
    table = tables.summary(collect.read(GOLDEN / "results.csv"))
    counted = table[(table["method"] == "dlc-topk") & (table["ratio"] == 0.1)].assign(column="4 per class")
    axes = figures.accuracy_curves(pd.concat([table, counted])).axes[1]
    curve, points = axes.containers[-2:]
    assert curve.get_label() == "dlc-topk"
    assert len(curve.lines[0].get_xdata()) == len(table[table["method"] == "dlc-topk"])
    assert len(points.lines[0].get_xdata()) == len(counted[counted["dataset"] == "textures"]) == 1
    assert points.lines[0].get_linestyle() == "None"
    assert "hollow: a number per class" in axes.get_xlabel()


def test_the_axes_end_where_the_data_end() -> None:
    table = tables.summary(collect.read(GOLDEN / "results.csv"))
    _, axes = figures.accuracy_curves(table).axes
    left, right = axes.get_xlim()
    bottom, top = axes.get_ylim()
    assert 0.08 < left < 0.1
    assert 0.5 < right < 0.52
    assert 48.5 < bottom < 49.7  # The lowest end of a bar is 52.0 - 2.3.
    assert 81 < top < 82.2  # The highest value is that of the whole pool.


def test_equal_scores_have_one_percentile() -> None:
    scores = torch.tensor([1.0, 1.0, 2.0, 3.0], dtype=torch.float64)
    assert [figures.percentile(score, scores) for score in scores] == [50, 50, 75, 100]


def test_the_page_loads_no_other_file(tmp_path: Path) -> None:
    results = collect.read(GOLDEN / "results.csv")
    table = tables.summary(results)
    figures.accuracy_curves(table).savefig(tmp_path / "curves.png")
    page.write(
        tmp_path / "page.html", table, results.assign(device="<cpu>"), {"Curves & more": tmp_path / "curves.png"}
    )
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert not re.search(r"https?://|<script|<link|href=", html)
    assert re.findall(r'src="([^,"]{0,30})', html) == ["data:image/png;base64"]
    assert "Curves &amp; more" in html
    assert "&lt;cpu&gt;" in html
    assert "<td>71.2 ± 1.1 (n=2)</td>" in html
    assert escape(tables.footer(results.assign(device="<cpu>"))) in html
    assert '<p class="verdict">At 10 % with 3 seeds: dlc-flexrand is 5.0 points above random [2.5, 7.5]; ' in html
    assert html.index('class="verdict"') < html.index("<td>71.2")
    # The rows are those of two accuracy tables, one difference table and 24 runs, each with a head.
    assert html.count("<tr>") == 2 + 5 + 4 + 25


@pytest.fixture
def run_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., SimpleNamespace]:
    """Return a function that runs a command line of `prunetune` in tmp_path."""
    monkeypatch.chdir(tmp_path)
    return prunetune_here


def test_collect_writes_the_rows_and_names_what_it_skipped(tmp_path: Path, run_here) -> None:
    put(tmp_path / "results")
    (put(tmp_path / "results", seed=1) / "result.json").write_text("{")
    done = run_here("collect")
    assert done.returncode == 0
    assert done.stdout == f"{Path('results/results.csv')}: 1 runs\n"
    assert done.stderr.startswith("skipped results")
    assert len(collect.read(tmp_path / "results" / "results.csv")) == 1


@pytest.mark.parametrize("command", ["collect", "report", "analyse"])
def test_without_runs_there_is_a_one_line_error(command: str, run_here) -> None:
    done = run_here(command)
    assert done.returncode == 1
    assert done.stdout == ""
    told = "error: no finished runs below results/runs; run `prunetune run` first, or pass --results=<results_dir>\n"
    assert done.stderr == told


TEXTURES = {
    "_target_": "prunetune.data.readers.textures.Textures",
    "name": "textures",
    "num_pool": 100,
    "num_test": 100,
}


def put_textures(results_dir: Path) -> None:
    """Write made-up runs on the embedded textures, scored by their known difficulty."""
    from prunetune.data.readers.textures import Textures

    made = Textures(num_pool=100, num_test=100)

    def make(folder: Path) -> dict:
        write_scores(folder / "scores.csv", made.pool("train"), made.difficulty("train"))
        return {"seconds": 1.0}

    scores = Store(results_dir / "store").entry("scores", "x", {}, make).relative_to(results_dir) / "scores.csv"
    for seed in (0, 1):
        own = {"seed": seed, "scores_path": str(scores), "config": {"dataset": TEXTURES}}
        put(results_dir, accuracy=0.6 + seed / 100, **own)
        put(results_dir, seed=seed, accuracy=0.5, scores_path=None, config={"dataset": TEXTURES}, **RANDOM)


def test_the_report_prints_the_table_and_writes_table_pictures_and_page(tmp_path: Path, run_here) -> None:
    put_textures(tmp_path / "results")
    put(tmp_path / "results", dataset="digits")
    done = run_here("report", "--dataset", "textures")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    names = ["table.md", "table.csv", "accuracy.png", "easy_and_hard.png", "report.html"]
    assert done.stdout.splitlines()[-5:] == [f"wrote {Path('results/report') / name}" for name in names]
    assert sorted(path.name for path in (tmp_path / "results" / "report").iterdir()) == sorted(names)
    assert "dlc-flexrand   60.5 ± 0.7" in done.stdout
    told = "At 10 % with 2 seeds: dlc-flexrand is 10.5 points above random [4.1, 16.9]."
    assert told in done.stdout
    assert told in (tmp_path / "results" / "report" / "table.md").read_text(encoding="utf-8")
    assert "dlc-flexrand   +10.5 ± 0.7" in done.stdout
    assert "digits" not in done.stdout
    assert (tmp_path / "results" / "report" / "report.html").read_text(encoding="utf-8").count("<img") == 2


def test_the_report_is_about_images_and_counts_the_text_runs_that_it_leaves_out(tmp_path: Path, run_here) -> None:
    put(tmp_path / "results", scores_path=None)
    put(tmp_path / "results", **TEXT_RUN)
    done = run_here("report")
    assert done.returncode == 0, done.stderr
    assert "left out 1 text runs; `prunetune tables instruction v1_llm` is about those" in done.stderr
    assert "embedded" not in (tmp_path / "results" / "report" / "table.md").read_text(encoding="utf-8")


def test_a_misspelt_data_set_gets_a_suggestion(tmp_path: Path, run_here) -> None:
    put(tmp_path)
    done = run_here("report", "--results", str(tmp_path), "--dataset", "texture")
    assert done.returncode == 1
    assert done.stderr == "error: no runs of 'texture'; there are runs of textures. Did you mean 'textures'?\n"


def test_with_scores_of_other_images_only_the_picture_is_missing(tmp_path: Path, run_here) -> None:
    put_textures(tmp_path / "results")
    [scores] = (tmp_path / "results" / "store" / "scores").glob("*/scores.csv")
    scores.write_text("".join(scores.read_text().splitlines(keepends=True)[:-1]))
    done = run_here("report", "--out", "here")
    assert done.returncode == 0
    assert done.stderr.startswith("no picture of easy and hard images: ")
    assert done.stderr.count("\n") == 1
    assert "60.5 ± 0.7" in done.stdout
    assert sorted(path.name for path in (tmp_path / "here").iterdir()) == [
        "accuracy.png",
        "report.html",
        "table.csv",
        "table.md",
    ]


def test_random_trained_in_another_way_is_not_the_baseline() -> None:
    results = frame({**RANDOM, "recipe": "aaaa0001"}, {"tag": "longer", "recipe": "aaaa0002"})
    assert cell(tables.summary(results), "dlc-flexrand (longer)")["num_pairs"] == 0
    results = frame({**RANDOM, "recipe": "aaaa0001"}, {"tag": "g0.25", "recipe": "aaaa0001"})
    assert cell(tables.summary(results), "dlc-flexrand (g0.25)")["num_pairs"] == 1


def test_costs_show_the_worst_class_by_ratio_and_the_scoring_time() -> None:
    cells = [{"ratio": ratio, "worst_class_accuracy": ratio / 2, "seed": 0} for ratio in (0.1, 0.5)]
    table = tables.summary(frame(*cells, *({**RANDOM, "score_peak_memory_bytes": None, **cell} for cell in cells)))
    assert tables.costs(table) == [
        ["method", "worst class 0.1", "worst class 0.5", "score s", "sample s", "score MiB"],
        ["random", "5.0", "25.0", "1.5", "0.01", "X"],
        ["dlc-flexrand", "5.0", "25.0", "1.5", "0.01", "1024"],
    ]
    assert "### textures, micro, linear_probe: cost" in tables.costs_markdown(table)


def test_random_with_other_class_budgets_is_a_method_and_compared_with_random() -> None:
    cells = [RANDOM, {**RANDOM, "budgets": "drop", "tag": "drop", "accuracy": 0.6}]
    table = tables.summary(frame(*cells))
    assert cell(table, "random (drop)")["difference"] == pytest.approx(10)
    assert pd.isna(cell(table, "random")["difference"])
