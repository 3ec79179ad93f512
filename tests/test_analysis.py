import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics.pairwise import rbf_kernel
from torch import Tensor

from prunetune.base.errors import InputError
from prunetune.base.store import Store
from prunetune.report import analyses, score_analysis
from runs import SMALL, grid_here


def f64(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_ranks_are_correlated_within_each_class() -> None:
    # Class 0 has ranks 1 2 3 4 against 2 1 4 3, which gives 1 - 6 * 4 / (4 * 15) = 0.6. Class 1 is reversed.
    first = f64(10, 20, 30, 40, -1, -2, -3)
    second = f64(0.2, 0.1, 0.9, 0.3, 5, 6, 7)
    found = score_analysis.within_class_spearman(first, second, torch.tensor([0, 0, 0, 0, 1, 1, 1]))
    np.testing.assert_allclose(found.values, [0.6, -1])
    assert found.mean == pytest.approx(-0.2)
    assert found.std == pytest.approx(1.6 / 2**0.5)
    assert found.num_left_out == 0


def test_ties_share_their_mean_rank() -> None:
    # The ranks 1.5 1.5 3 and 1 2 3 have the covariance 1.5 and the variances 1.5 and 2.
    found = score_analysis.within_class_spearman(f64(0, 0, 1), f64(0, 1, 2), torch.zeros(3, dtype=torch.int64))
    assert found.mean == pytest.approx(1.5 / (1.5 * 2) ** 0.5)


def test_a_constant_class_and_a_single_image_are_left_out_and_counted() -> None:
    labels = torch.tensor([0, 0, 1, 1, 2, 4, 4])
    found = score_analysis.within_class_spearman(f64(1, 2, 5, 5, 1, 1, 2), f64(2, 1, 1, 2, 1, 3, 4), labels)
    np.testing.assert_allclose(found.values, [-1, 1])
    assert found.num_left_out == 2


def test_without_a_class_there_is_no_mean() -> None:
    found = score_analysis.within_class_spearman(f64(1, 1), f64(1, 2), torch.tensor([0, 0]))
    assert np.isnan(found.mean)
    assert np.isnan(found.std)
    assert found.num_left_out == 1


def test_scores_of_different_length_are_refused() -> None:
    with pytest.raises(InputError, match=r"must be \[N\] and have the same length, got \[2\], \[3\], \[2\]"):
        score_analysis.within_class_spearman(f64(1, 2), f64(1, 2, 3), torch.tensor([0, 0]))


def test_the_ends_of_a_class_are_two_images_even_when_all_scores_are_equal() -> None:
    scores, labels = f64(3, 1, 2, 7, 7, 7, 0), torch.tensor([0, 0, 0, 1, 1, 1, 2])
    easiest, hardest = score_analysis.easiest_and_hardest(scores, labels)
    assert easiest.tolist() == [1, 3]
    assert hardest.tolist() == [0, 5]


def test_without_two_images_in_a_class_there_are_no_ends() -> None:
    with pytest.raises(InputError, match="no class has two images"):
        score_analysis.easiest_and_hardest(f64(1, 2), torch.tensor([0, 1]))


def test_the_curves_of_a_class_are_scaled_together_and_then_averaged() -> None:
    # Class a has easy 1 0 and hard 5 3. Scaled by the width 5, these are .2 0 and 1 .6.
    # Class b has easy 2 2 and hard 4 2. Scaled by the width 2, these are 0 0 and 1 0.
    losses = torch.tensor([[1.0, 5, 2, 4], [0, 3, 2, 2]])
    easy, hard = score_analysis.easy_and_hard_curves(losses, torch.tensor([0, 2]), torch.tensor([1, 3]))
    np.testing.assert_allclose(easy, [0.1, 0.0], atol=1e-9)
    np.testing.assert_allclose(hard, [1.0, 0.3])


def test_a_class_of_equal_losses_counts_as_zero() -> None:
    easy, hard = score_analysis.easy_and_hard_curves(torch.ones(3, 2), torch.tensor([0]), torch.tensor([1]))
    assert easy.tolist() == hard.tolist() == [0, 0, 0]


def test_mmd_of_three_numbers_is_that_of_the_formula() -> None:
    # With D = 1, images 0, 1, 2 and subset {0} the square is 1 - 2 (1 + e^-1 + e^-4) / 3 + (3 + 4 e^-1 + 2 e^-4) / 9.
    one, four = np.exp(-1), np.exp(-4)
    expected = np.sqrt(1 - 2 * (1 + one + four) / 3 + (3 + 4 * one + 2 * four) / 9)
    kernel = score_analysis.PoolKernel.of(torch.tensor([[0.0], [1.0], [2.0]]))
    assert kernel.mmd(torch.tensor([0])) == pytest.approx(expected)


def slow_mmd(features: np.ndarray, subset: np.ndarray) -> float:
    kernel = rbf_kernel(features, gamma=1 / features.shape[1])
    return np.sqrt(kernel[np.ix_(subset, subset)].mean() - 2 * kernel[subset].mean() + kernel.mean())


@pytest.mark.parametrize("num_kept", [1, 10, 30, 31, 59])
@pytest.mark.parametrize("rows", [7, 1024])
def test_mmd_in_chunks_equals_the_whole_kernel_matrix(
    num_kept: int, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(score_analysis, "ROWS", rows)
    generator = torch.Generator().manual_seed(num_kept)
    features = torch.randn(60, 5, generator=generator)
    subset = torch.randperm(60, generator=generator)[:num_kept]
    found = score_analysis.PoolKernel.of(features).mmd(subset)
    assert found == pytest.approx(slow_mmd(features.double().numpy(), subset.numpy()), rel=1e-7)


def test_the_kernel_never_holds_all_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes, whole = [], score_analysis.kernel_rows

    def watched(rows: Tensor, features: Tensor) -> Tensor:
        sizes.append(len(rows))
        return whole(rows, features)

    monkeypatch.setattr(score_analysis, "kernel_rows", watched)
    monkeypatch.setattr(score_analysis, "ROWS", 16)
    score_analysis.PoolKernel.of(torch.randn(50, 2)).mmd(torch.arange(20))
    assert sizes == [16, 16, 16, 2, 16, 4]


def test_the_whole_pool_has_distance_zero_and_an_empty_subset_is_refused() -> None:
    kernel = score_analysis.PoolKernel.of(torch.randn(9, 3))
    assert kernel.mmd(torch.arange(9)) == 0
    with pytest.raises(InputError, match="the subset has no images"):
        kernel.mmd(torch.tensor([], dtype=torch.int64))


METHODS = "methods=[dlc,dlc_topk,random,cle,herding,dlc_random]"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the results folder of runs on the embedded textures, whose proxy trains the whole network."""
    results = tmp_path_factory.mktemp("finished")
    grid_here(results, *SMALL, METHODS, "ratios=[0.2,0.6]", "seeds=[0,1]", "proxy.epochs=3", "gamma_search.repeats=1")
    return results


@pytest.fixture(scope="module")
def analysed(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder with the four files of the analysis of these runs."""
    out = tmp_path_factory.mktemp("analysed")
    analyses.analyse(finished, None, None, out)
    return out


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    """Return a copy of these runs, which a test may damage."""
    return Path(shutil.copytree(finished, tmp_path / "results"))


def table(folder: Path, name: str) -> pd.DataFrame:
    return pd.read_csv(folder / f"{name}.csv")


def test_the_four_files_come_from_finished_runs(analysed: Path) -> None:
    for name, columns in analyses.COLUMNS.items():
        assert table(analysed, name).columns.tolist() == list(columns)
    ranks = table(analysed, "rank_correlation").set_index("first")
    assert set(ranks.index) == {"dlc", "dlc_random"}  # Herding gives an order of picks, and random gives no hardness.
    assert set(ranks["second"]) == {"lc_optimisation"}
    assert ranks.loc["dlc", "num_scores"] == 1
    assert ranks.loc["dlc_random", "num_scores"] == 2
    distances = table(analysed, "mmd")
    assert set(distances["features"]) == {"pretrained", "finetuned"}
    assert len(distances) == 2 * 6 * 2 * 2
    assert set(distances["num_pool"]) == {100}


def test_the_rank_correlation_is_that_of_the_two_score_files(finished: Path, analysed: Path) -> None:
    both = _reference(finished).assign(dlc=pd.read_csv(_dlc_folder(finished) / "scores.csv")["score"])
    by_class = [rows["score"].corr(rows["dlc"], method="spearman") for _, rows in both.groupby("label")]
    row = table(analysed, "rank_correlation").set_index("first").loc["dlc"]
    assert row["class_mean"] == pytest.approx(np.mean(by_class))
    assert row["class_std"] == pytest.approx(np.std(by_class, ddof=1))
    assert row["num_classes"] == len(by_class)


def test_losses_by_masking_come_from_the_kept_losses_of_dlc(finished: Path, analysed: Path) -> None:
    curves = table(analysed, "loss_by_masking")
    easy = curves[curves["group"] == "easy"]
    np.testing.assert_allclose(easy["masking_ratio"], [0, 0.2, 0.36, 0.488, 0.5904], atol=1e-8)
    losses = np.load(_dlc_folder(finished) / "losses.npy")
    expected = []
    for _, rows in _reference(finished).groupby("label"):
        pair = losses[:, [rows["score"].idxmin(), rows["score"].idxmax()]]
        expected.append((pair - pair.min()) / (pair.max() - pair.min()))
    np.testing.assert_allclose(easy["loss"], np.mean(expected, axis=0)[:, 0], atol=1e-9)
    np.testing.assert_allclose(curves[curves["group"] == "hard"]["loss"], np.mean(expected, axis=0)[:, 1], atol=1e-9)


def test_losses_by_epoch_cover_the_proxy_and_hard_images_lie_above_easy_ones(analysed: Path) -> None:
    curves = table(analysed, "loss_by_epoch").pivot(index="epoch", columns="group", values="loss")
    assert curves.index.tolist() == [1, 2, 3]
    assert curves["hard"].mean() > curves["easy"].mean()


def test_the_distance_of_a_run_is_that_of_its_subset(finished: Path, analysed: Path) -> None:
    folder = next((finished / "runs").glob("*/*/*/dlc-topk/ratio_0.2/seed_0/default"))
    fingerprint = json.loads((folder / "result.json").read_text())["dataset_fingerprint"]
    keys = (finished / "store" / "features").glob("*/key.json")
    [key] = [path for path in keys if fingerprint in path.read_text()]  # The test images have features too.
    features = np.load(key.with_name("features.npy")).astype(np.float64)
    subset = pd.read_csv(folder / "subset.csv")["position"].to_numpy()
    rows = table(analysed, "mmd").query("method == 'dlc-topk' and ratio == 0.2 and seed == 0")
    rows = rows[rows["features"] == "pretrained"]
    assert rows["mmd"].tolist() == pytest.approx([slow_mmd(features, subset)])
    assert rows["num_kept"].tolist() == [len(subset)]


def test_nothing_is_trained_or_embedded(copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    shutil.rmtree(copied / "store" / "proxies")
    before = sorted((copied / "store").rglob("*"))
    analyses.analyse(copied, None, None, tmp_path / "out")
    assert sorted((copied / "store").rglob("*")) == before
    told = capsys.readouterr().err
    assert "no losses by epoch for textures, micro: proxies of textures" in told
    assert "no MMD in finetuned features for textures, micro: proxies of textures" in told
    assert not (tmp_path / "out" / "loss_by_epoch.csv").exists()
    assert set(table(tmp_path / "out", "mmd")["features"]) == {"pretrained"}


def test_each_missing_or_damaged_file_is_reported_in_one_line(
    copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (_dlc_folder(copied) / "losses.npy").unlink()
    (_dlc_folder(copied) / "scores.csv").write_text("position,sample_id,label,score\n0,a,0,not a number\n")
    subset = next((copied / "runs").glob("*/*/*/dlc-topk/ratio_0.2/seed_0/default")) / "subset.csv"
    subset.unlink()
    analyses.analyse(copied, None, None, tmp_path / "out")
    lines = capsys.readouterr().err.splitlines()
    assert sum("no rank correlation of dlc (" in line and "damaged" in line for line in lines) == 1
    assert sum("no losses by masking ratio for textures, micro" in line for line in lines) == 1
    # The line appears once for each of the two kinds of features.
    assert sum("subset.csv is gone or damaged" in line for line in lines) == 2
    assert set(table(tmp_path / "out", "rank_correlation")["first"]) == {"dlc_random"}


def test_other_images_than_those_of_the_run_are_refused(
    copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    for path in (copied / "runs").rglob("result.json"):
        path.write_text(json.dumps({**json.loads(path.read_text()), "dataset_fingerprint": "another"}))
    analyses.analyse(copied, None, None, tmp_path / "out")
    assert "the images of textures differ from those of" in capsys.readouterr().err
    assert not (tmp_path / "out" / "mmd.csv").exists()
    assert (tmp_path / "out" / "rank_correlation.csv").exists()


def test_of_a_run_of_an_earlier_version_only_the_distances_are_missing(
    copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    for path in (copied / "runs").rglob("result.json"):
        result = json.loads(path.read_text())
        del result["config"]["images"]
        path.write_text(json.dumps(result))
    analyses.analyse(copied, None, None, tmp_path / "out")
    assert "was made by an earlier version (Missing key images" in capsys.readouterr().err
    assert sorted(path.stem for path in (tmp_path / "out").iterdir()) == ["loss_by_masking", "rank_correlation"]


def test_fine_tuned_scores_are_paired_with_pretrained_ones_of_the_same_rule() -> None:
    full = {"trained": "all", "initial": "pretrained"}
    herding = {"_target_": "prunetune.scorers.Herding", "name": "herding", "variant": "fixed", "depth": 1.0}
    tuned = _run("herding", "finetuned", {**herding, "features": "finetuned", "uses_proxy": True}, full)
    plain = _run("herding", "default", {**herding, "features": "pretrained"}, None)
    other = _run("herding_deepcore", "default", {**herding, "variant": "deepcore", "features": "pretrained"}, None)
    fresh = _run("el2n", "scratch", _el2n(), {**full, "initial": "random"})
    slow, probe = _run("el2n", "default", _el2n(), full), _run("el2n_probe", "default", _el2n(), {"trained": "head"})
    pairs = list(analyses._pairs(analyses._by_scores([tuned, plain, other, fresh, slow, probe])))
    assert [(first[2:4], second[2:4]) for first, second in pairs] == [
        (("el2n", "default"), ("el2n_probe", "default")),
        (("herding", "finetuned"), ("herding", "default")),
    ]


def test_runs_of_another_network_under_the_same_name_are_left_out(
    copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    changed = next((copied / "runs").glob("*/*/*/dlc-topk/ratio_0.2/seed_0/default/result.json"))
    result = json.loads(changed.read_text())
    result["config"]["backbone"]["normalization"] = "imagenet"
    changed.write_text(json.dumps(result))
    analyses.analyse(copied, None, None, tmp_path / "out")
    assert "left out 1 runs of textures, micro: another precision or other settings" in capsys.readouterr().err
    rows = table(tmp_path / "out", "mmd").query("method == 'dlc-topk' and ratio == 0.2")
    assert set(rows["seed"]) == {1}


def test_two_scores_of_one_name_are_reported_and_not_averaged(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    target = {"_target_": "prunetune.scorers.LCOptimisation", "name": "lc_optimisation", "uses_proxy": True}
    dlc, full = {"_target_": "prunetune.scorers.DLC", "name": "dlc"}, {"trained": "all", "initial": "pretrained"}
    runs = [_run("dlc", "default", {**dlc, "levels": levels}, None) for levels in (3, 5)]
    runs.append(_run("lc_optimisation", "default", target, full))
    for number, (run, scores) in enumerate(zip(runs, ([1, 2, 3], [3, 2, 1], [1, 2, 3]), strict=True)):
        rows = pd.DataFrame({"position": range(3), "sample_id": ["a", "b", "c"], "label": 0, "score": scores})

        def make(folder: Path, rows: pd.DataFrame = rows) -> dict:
            rows.to_csv(folder / "scores.csv", index=False)
            return {"seconds": 1.0}

        run.row["scores_path"] = str(Store(tmp_path).entry("scores", "x", {"number": number}, make) / "scores.csv")
    rows = list(analyses.rank_correlation(runs, tmp_path))
    assert [row["class_mean"] for row in rows] == pytest.approx([1])
    told = capsys.readouterr().err
    assert (
        told.count("no rank correlation of dlc (default) with lc_optimisation on dtd, resnet18: these names belong")
        == 1
    )


def test_every_learning_complexity_by_optimisation_is_a_reference() -> None:
    target = {"_target_": "prunetune.scorers.LCOptimisation", "name": "lc_optimisation", "uses_proxy": True}
    full, head = {"trained": "all", "initial": "pretrained"}, {"trained": "head", "initial": "pretrained"}
    dlc = {"_target_": "prunetune.scorers.DLC", "name": "dlc"}
    runs = [
        *(_run("dlc", "default", dlc, None), _run("dlc", "T3", {**dlc, "levels": 3}, None)),
        *(_run("lc_optimisation", "default", target, full), _run("lc_optimisation_probe", "default", target, head)),
    ]
    pairs = [(first[2:4], second[2]) for first, second in analyses._pairs(analyses._by_scores(runs))]
    for tag in ("default", "T3"):
        assert [second for first, second in pairs if first == ("dlc", tag)] == [
            "lc_optimisation",
            "lc_optimisation_probe",
        ]


def test_a_misspelt_data_set_gets_a_suggestion(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no runs of 'texture'.*textures"):
        analyses.analyse(finished, "texture", None, tmp_path)


def test_without_runs_there_is_a_one_line_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no finished runs below"):
        analyses.analyse(tmp_path, None, None, tmp_path)


def _el2n() -> dict:
    return {"_target_": "prunetune.scorers.EL2N", "name": "el2n", "uses_proxy": True}


def _run(scorer: str, tag: str, settings: dict, proxy: dict | None) -> analyses.Run:
    row = {"dataset": "dtd", "scoring_backbone": "resnet18", "scorer": scorer, "tag": tag}
    row["scores_path"] = f"{scorer}-{tag}.csv"
    return analyses.Run(row, {"config": {"scorer": settings, "proxy": proxy}})


def _reference(results: Path) -> pd.DataFrame:
    return pd.read_csv(next((results / "store" / "scores").glob("*-lc_optimisation-*/scores.csv")))


def _dlc_folder(results: Path) -> Path:
    run = next((results / "runs").glob("*/*/*/dlc-topk/ratio_0.2/seed_0/default/result.json"))
    return (results / json.loads(run.read_text())["scores_path"]).parent
