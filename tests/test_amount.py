"""How much a run keeps: what `ratio=0.1` and `ratio=4_per_class` mean, from the command line to the tables."""

import pytest
import torch
from hydra import initialize_config_dir

from prunetune.base.errors import InputError
from prunetune.config import sweeps
from prunetune.report import cells, collect, tables
from prunetune.runs import image_run, status
from prunetune.runs.scores import check_fit
from prunetune.samplers import CCS, D2, RS2, DoubleEnd, FlexRand, FlexRandReleased, InfoBatch, RandomSampler, TopK
from prunetune.samplers.amount import Amount
from prunetune.scorers import Herding, KMedoids
from runs import ROOT, SMALL, compose_here, grid_here, parsed_here, read_result, read_rows, run_here

LABELS = torch.tensor([0] * 9 + [2] * 3 + [3] * 4)


@pytest.mark.parametrize(
    ("value", "expected", "text"),
    [
        (0.1, Amount(0.1), "0.1"),
        (1, Amount(1.0), "1"),
        ("0.25", Amount(0.25), "0.25"),
        ("4_per_class", Amount(per_class=4), "4_per_class"),
        ("004_per_class", Amount(per_class=4), "4_per_class"),
    ],
)
def test_a_ratio_is_a_fraction_or_a_number_per_class(value, expected, text):
    assert Amount.parse(value) == expected
    assert str(expected) == text
    assert Amount.parse(expected.value) == expected


@pytest.mark.parametrize(
    "value", [None, True, "half", "4_per_classes", "-1_per_class", "1.5_per_class", "per_class", ""]
)
def test_what_is_no_ratio_is_refused_with_both_forms(value):
    with pytest.raises(
        InputError, match=r"ratio must be a fraction in \(0, 1\] or a number of images .* 4_per_class, got"
    ):
        Amount.parse(value)


def test_a_number_that_is_no_ratio_is_refused():
    for value in (0, 10, "nan", -0.1):
        with pytest.raises(InputError, match=r"ratio is the fraction kept and must be in \(0, 1\], got"):
            Amount.parse(value)
    for value in ("0_per_class", f"{10**30}_per_class"):
        with pytest.raises(InputError, match="ratio as a number per class must be a whole number"):
            Amount.parse(value)


@pytest.mark.parametrize("sampler", [TopK(), RandomSampler(), FlexRand(gamma=0.4), CCS(beta=0.3), DoubleEnd(beta=0.3)])
@pytest.mark.parametrize("number", [1, 4, 50])
def test_every_class_keeps_that_many_or_all(sampler, number):
    scores = torch.linspace(1, 2, len(LABELS), dtype=torch.float64)
    kept = Amount(per_class=number).select(sampler, scores, LABELS, torch.Generator().manual_seed(0))
    assert torch.bincount(LABELS[kept]).tolist() == [min(number, 9), 0, min(number, 3), min(number, 4)]
    assert kept.tolist() == sorted(set(kept.tolist()))
    assert Amount(per_class=number).share(LABELS) == len(kept) / 16
    assert Amount(0.3).share(LABELS) == 0.3


def test_a_rule_that_needs_a_fraction_refuses_a_number():
    number, needs = Amount(per_class=4), "fraction"
    refused = [RS2(), InfoBatch(), FlexRandReleased(), TopK(budgets="equal"), RandomSampler(budgets="drop")]
    for sampler in refused:
        with pytest.raises(InputError, match=needs):
            number.check_sampler(sampler)
        with pytest.raises(InputError, match=needs):
            number.select(sampler, torch.zeros(16), LABELS, torch.Generator())
        Amount(0.1).check_sampler(sampler)
    number.check_sampler(D2(min_per_class=4))
    with pytest.raises(
        InputError, match="keeps fewer images of a class than sampler.min_per_class=5; leave one of them"
    ):
        number.check_sampler(TopK(min_per_class=5))
    with pytest.raises(
        InputError, match="k_medoids selects for scorer.fraction=0.1, not for a number of images per class"
    ):
        check_fit(KMedoids(0.1), TopK(), None)
    with pytest.raises(InputError, match="a class can keep all its images; herding needs scorer.depth=1, got 0.5"):
        check_fit(Herding(depth=0.5), TopK(), None)
    check_fit(KMedoids(), TopK(), None)


def test_a_run_is_refused_before_anything_is_computed(tmp_path, monkeypatch):
    monkeypatch.setattr(image_run, "open_task", None)
    for words, message in (
        (["method=rs2"], "RS2 shows a fraction of the whole pool in each epoch"),
        (["method=random_equal"], "sampler.budgets=equal distributes a fraction"),
        (["scorer=k_medoids", "scorer.fraction=0.1"], "selects for scorer.fraction=0.1"),
        (["method=k_medoids_swap"], "k_medoids selects for a fraction of each class, not for a number of images"),
    ):
        with pytest.raises(InputError, match=message):
            run_here(tmp_path, *SMALL, "ratio=2_per_class", *words)


def test_with_a_number_per_class_all_values_of_the_search_are_candidates(tmp_path):
    gammas = parsed_here(tmp_path, *SMALL, "method=dlc", "ratio=40_per_class").candidates
    assert sorted(map(float, gammas)) == [0.1, 0.25, 0.4, 0.5, 0.6, 0.75, 0.9]
    betas = parsed_here(tmp_path, *SMALL, "method=ccs", "ratio=40_per_class").candidates
    assert list(betas) == ["0", "0.1", "0.2", "0.3"]


def test_the_search_compares_the_same_number_of_images_per_class(tmp_path):
    words = ["method=dlc", "ratio=3_per_class", "gamma_search.grid=[0.25,0.5]", "gamma_search.repeats=1", "until=prune"]
    folder = run_here(tmp_path, *SMALL, *words)
    assert folder.name == "default"
    assert folder.parts[-3] == "ratio_3_per_class"
    labels = [row["label"] for row in read_rows(folder / "subset.csv")]
    assert {labels.count(label) for label in labels} == {3}


GRID = [*SMALL, "methods=[random,k_medoids]", "ratios=[1_per_class,3_per_class,0.2,1]", "seeds=[0]"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    results = tmp_path_factory.mktemp("amounts")
    grid_here(results, *GRID)
    grid_here(results, *SMALL, "methods=[k_medoids_swap]", "ratios=[0.2]", "seeds=[0]")
    return results


def test_a_grid_takes_both_forms_and_says_which_a_run_had(finished, tmp_path):
    found = {path.parent.parts[-3]: read_result(path.parent) for path in finished.rglob("random*/**/result.json")}
    assert set(found) == {"ratio_1_per_class", "ratio_3_per_class", "ratio_0.2", "ratio_1.0"}
    shown = {name: (result["ratio"], result["per_class"], result["config"]["ratio"]) for name, result in found.items()}
    classes, pool = found["ratio_0.2"]["num_classes"], found["ratio_0.2"]["num_pool"]
    assert shown["ratio_1_per_class"] == (classes / pool, 1, "1_per_class")
    assert shown["ratio_3_per_class"] == (found["ratio_3_per_class"]["num_kept"] / pool, 3, "3_per_class")
    assert shown["ratio_0.2"] == (0.2, None, 0.2)
    assert shown["ratio_1.0"] == (1.0, None, 1.0)
    alone = run_here(tmp_path, *SMALL, "method=random", "ratio=3_per_class", "seed=0")
    cell = finished / alone.relative_to(tmp_path)
    assert (alone / "subset.csv").read_bytes() == (cell / "subset.csv").read_bytes()
    assert read_result(alone)["config"] == read_result(cell)["config"]


def test_a_finished_run_with_a_number_is_known_again(finished, monkeypatch):
    monkeypatch.setattr(image_run, "open_task", None)
    grid_here(finished, *GRID)
    with pytest.raises(TypeError):  # The run that is asked for is another one, so it is started.
        grid_here(finished, *SMALL, "methods=[random]", "ratios=[2_per_class]", "seeds=[0]")


def test_status_finds_the_folders_of_both_forms(finished):
    with initialize_config_dir(config_dir=str(ROOT / "configs"), version_base="1.3"):
        words = (*SMALL, f"results_dir={finished}")
        lists = {"methods": ("random",), "ratios": (0.2, "3_per_class", "2_per_class"), "seeds": (0,)}
        states = [status.state(run).state for run in sweeps.planned([sweeps.Job(words, **lists)])]
        swap = sweeps.Job(words, methods=("k_medoids_swap",), ratios=(0.2,), seeds=(0,))  # The default is 0.1.
        states += [status.state(run).state for run in sweeps.planned([swap])]
    assert states == [status.DONE, status.DONE, status.MISSING, status.DONE]


def test_tables_have_a_column_for_each_number_and_the_papers_tables_leave_it_out(finished, tmp_path):
    rows, skipped = collect.collect(finished)
    assert skipped == []
    assert sorted(rows["per_class"].dropna()) == [1, 1, 3, 3]
    collect.write(rows, tmp_path / "results.csv")
    assert collect.read(tmp_path / "results.csv")["per_class"].equals(rows["per_class"])
    table = tables.summary(rows)
    [block] = tables.blocks(table)
    heads = dict(zip(rows["per_class"].fillna(0), rows["ratio"], strict=True)) | {0: 0.2}
    names = {0: "0.2", 1: "1 per class", 3: "3 per class"}
    assert block.accuracy[0] == ["method", *(names[number] for number in sorted(heads, key=heads.get))]
    assert [line[0] for line in block.accuracy[1:]] == ["random", "k_medoids-topk", "k_medoids-topk (swap)"]
    assert all("X" not in line for line in block.accuracy[1:3])
    tables.to_csv(table, tmp_path / "table.csv")
    assert "3 per class" in (tmp_path / "table.csv").read_text()
    plain = tables.summary(rows[rows["per_class"].isna()])
    tables.to_csv(plain, tmp_path / "plain.csv")
    assert "column" not in (tmp_path / "plain.csv").read_text().splitlines()[0].split(",")
    assert set(cells.prepared(rows)["ratio"]) == {0.2}


def test_a_number_and_an_equal_fraction_are_two_runs(tmp_path):
    words = [*SMALL, "method=random", "seed=0", "finetune.epochs=1"]
    number = read_result(run_here(tmp_path, *words, "ratio=1_per_class"))
    fraction = run_here(tmp_path, *words, f"ratio={number['ratio']}")
    assert read_result(fraction)["ratio"] == number["ratio"]
    rows, skipped = collect.collect(tmp_path)
    assert (len(rows), skipped) == (2, [])


def test_a_text_run_refuses_a_number_in_one_line(tmp_path):
    with pytest.raises(Exception, match="ratio") as refusal:
        compose_here(tmp_path, "ratio=4_per_class", config="instruct")
    print(refusal.value)
