"""One run: equal bytes, finished runs, until, contents of its files, gamma, transfer, seeds, and measured time."""

import json
import shutil
import time
from dataclasses import replace
from importlib.metadata import version

import pytest
import torch

from made_data import make_image_folder, make_image_lists
from prunetune.base.errors import InputError
from prunetune.config.names import resolve_names, run_folder
from prunetune.config.parse import parse_image_run
from prunetune.runs import image_run, records
from prunetune.samplers import class_budgets
from prunetune.signals import network
from prunetune.training.sample_order import Static
from runs import DIVERGING, MICRO, QUICK, SMALL, compose_here, lasting, parsed_here, read_result, read_rows, run_here

# These keys are promised in section 10 of design.md.
PROMISED = """dataset backbone scoring_backbone scorer sampler finetune ratio seed tag gamma selection_rule precision
num_classes num_pool num_kept num_test dataset_fingerprint accuracy best_accuracy worst_class_accuracy
per_class_accuracy classes decode_seconds score_seconds search_seconds sample_seconds finetune_seconds
peak_memory_bytes device commit scores_path versions config""".split()


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Return a results folder that all tests of this file may add to."""
    return tmp_path_factory.mktemp("results")


@pytest.fixture(scope="module")
def first(results):
    """Return the folder of a finished run."""
    return run_here(results, *SMALL, "ratio=0.3")


@pytest.fixture
def computes_nothing(monkeypatch):
    """Make every forward pass and every training an error."""

    def never(*args, **options):
        raise AssertionError("something was computed")

    for place in (
        "signals.network.embed",
        "signals.view_bank.embed",
        "runs.image_run.train_probes",
        "runs.image_run.finetune_all",
    ):
        monkeypatch.setattr(f"prunetune.{place}", never)


def test_the_same_run_elsewhere_is_equal_byte_for_byte_but_for_the_volatile_keys(first, results, tmp_path):
    torch.manual_seed(1234)  # The earlier state of the random generator must not matter.
    again = run_here(tmp_path, *SMALL, "ratio=0.3")
    before, after = read_result(first), read_result(again)
    for name in ("subset.csv", "predictions.csv", "history.csv"):
        assert (first / name).read_bytes() == (again / name).read_bytes()
    assert (results / before["scores_path"]).read_bytes() == (tmp_path / after["scores_path"]).read_bytes()
    assert lasting(before) == lasting(after)
    assert before.keys() >= records.VOLATILE


def test_a_finished_run_returns_at_once(first, results, computes_nothing, monkeypatch):
    monkeypatch.setattr(image_run, "open_task", computes_nothing)
    stamps = {path.name: path.stat().st_mtime_ns for path in first.iterdir()}
    assert run_here(results, *SMALL, "ratio=0.3", "device=cpu") == first  # A run keeps its identity on another device.
    assert {path.name: path.stat().st_mtime_ns for path in first.iterdir()} == stamps


def test_another_configuration_in_its_folder_is_refused_with_the_way_out(first, results):
    before = (first / "result.json").read_bytes()
    with pytest.raises(InputError, match=r"finetune\.epochs: 3 there, 4 now.*tag=<name>"):
        run_here(results, *SMALL, "ratio=0.3", "finetune.epochs=4")
    assert (first / "result.json").read_bytes() == before
    other = run_here(results, *SMALL, "ratio=0.3", "finetune.epochs=4", "tag=longer")
    assert other.parent == first.parent
    assert read_result(other)["tag"] == "longer"


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"accuracy": 1}', "null"])
def test_a_damaged_result_is_made_again(first, results, damage):
    whole = (first / "result.json").read_text()
    (first / "result.json").write_text(damage)
    run_here(results, *SMALL, "ratio=0.3")
    assert lasting(read_result(first)) == lasting(json.loads(whole))


def test_a_run_can_stop_after_each_step_and_go_on_later(results, tmp_path, computes_nothing, monkeypatch):
    run = [*SMALL, "ratio=0.3"]
    monkeypatch.undo()
    scored = run_here(tmp_path, *run, "until=score")
    assert not scored.exists() or list(scored.iterdir()) == []
    [scores] = (tmp_path / "store" / "scores").glob("*/scores.csv")
    pruned = run_here(tmp_path, *run, "until=prune")
    assert sorted(path.name for path in pruned.iterdir()) == ["subset.csv"]
    with monkeypatch.context() as patched:
        # Scores are read from the store and not computed.
        patched.setattr("prunetune.signals.network.masked_networks", None)
        finished = run_here(tmp_path, *run)
    assert finished == pruned
    assert read_result(finished)["scores_path"] == str(scores.relative_to(tmp_path))
    assert (finished / "subset.csv").read_bytes() == (run_here(results, *run) / "subset.csv").read_bytes()


def test_a_result_holds_every_promised_key(first):
    result = read_result(first)
    assert set(PROMISED) - result.keys() == set()
    assert result["num_classes"] == len(result["classes"]) == len(result["per_class_accuracy"]) == 10
    assert (result["num_pool"], result["num_test"]) == (100, 100)
    assert (result["dataset"], result["backbone"], result["scoring_backbone"]) == ("textures", "micro", "micro")
    assert (result["scorer"], result["sampler"], result["finetune"]) == ("dlc", "flexrand", "linear_probe")
    assert (result["ratio"], result["seed"], result["tag"], result["gamma"]) == (0.3, 0, "default", 0.25)
    assert (result["selection_rule"], result["precision"]) == ("fixed", "fp32")
    assert len(result["dataset_fingerprint"]) == 64
    assert result["peak_memory_bytes"] > 10**7
    assert result["versions"]["torch"] == version("torch")
    assert result["config"]["ratio"] == 0.3
    assert result["search_seconds"] is None  # No sampler was searched.
    assert all(result[key] >= 0 for key in PROMISED if key.endswith("_seconds") and key != "search_seconds")
    assert result["score_seconds"] > 0
    assert result["finetune_seconds"] > 0


def test_the_predictions_give_the_accuracies(first):
    result, rows = read_result(first), read_rows(first / "predictions.csv")
    assert list(rows[0]) == ["sample_id", "label", "prediction"]
    hits = [row["label"] == row["prediction"] for row in rows]
    assert sum(hits) / len(hits) == result["accuracy"]
    for label, accuracy in enumerate(result["per_class_accuracy"]):
        members = [hit for hit, row in zip(hits, rows, strict=True) if row["label"] == str(label)]
        assert accuracy == pytest.approx(sum(members) / len(members))
    assert result["worst_class_accuracy"] == min(result["per_class_accuracy"])


def test_the_history_has_a_row_per_epoch_and_the_best_accuracy(first):
    result, rows = read_result(first), read_rows(first / "history.csv")
    assert list(rows[0]) == ["epoch", "learning_rate", "train_loss", "test_accuracy"]
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert float(rows[-1]["test_accuracy"]) == result["accuracy"]
    assert max(float(row["test_accuracy"]) for row in rows) == result["best_accuracy"]


def test_the_subset_is_what_the_budgets_say_in_pool_order_with_weight_one(first, results):
    rows, scores = read_rows(first / "subset.csv"), read_rows(results / read_result(first)["scores_path"])
    assert list(rows[0]) == ["position", "sample_id", "label", "weight"]
    positions = [int(row["position"]) for row in rows]
    assert positions == sorted(set(positions))
    assert {row["weight"] for row in rows} == {"1"}
    for row in rows:
        assert scores[int(row["position"])]["sample_id"] == row["sample_id"]
        assert scores[int(row["position"])]["label"] == row["label"]
    kept = torch.bincount(torch.tensor([int(row["label"]) for row in rows])).tolist()
    labels = torch.tensor([int(row["label"]) for row in scores])
    assert dict(enumerate(kept)) == class_budgets(labels, 0.3)
    assert len(rows) == read_result(first)["num_kept"]


def test_the_scores_have_17_digits_and_one_row_per_image(first, results):
    path = read_result(first)["scores_path"]
    assert path.startswith("store/scores/textures-dlc-")
    rows = read_rows(results / path)
    assert list(rows[0]) == ["position", "sample_id", "label", "score"]
    assert [int(row["position"]) for row in rows] == list(range(100))
    assert [row["sample_id"] for row in rows] == sorted(row["sample_id"] for row in rows)
    assert all(f"{float(row['score']):.17g}" == row["score"] for row in rows)


def test_a_later_run_takes_scores_and_their_cost_from_the_store(first, results, monkeypatch):
    monkeypatch.setattr("prunetune.signals.network.masked_networks", None)
    other = read_result(run_here(results, *SMALL, "ratio=0.2"))
    assert other["scores_path"] == read_result(first)["scores_path"]
    assert other["score_seconds"] == read_result(first)["score_seconds"] > 0


def test_decoding_does_not_count_as_scoring_time(tmp_path, monkeypatch):
    made = make_image_lists(tmp_path / "made", {"bark": (3, 1), "moss": (3, 1)})
    decode = network.decode_pool

    def slowly(*args):
        time.sleep(2)
        return decode(*args)

    monkeypatch.setattr(network, "decode_pool", slowly)
    lists = [f"dataset.root={made}", "dataset.train_list=train.txt", "dataset.test_list=test.txt"]
    run_here(tmp_path, "dataset=image_folder", *lists, *MICRO, *QUICK, "scorer.levels=2", "until=score")
    [meta] = (tmp_path / "store" / "scores").glob("*/meta.json")
    assert 0 < json.loads(meta.read_text())["seconds"] < 2


def test_ratio_one_keeps_everything(results, computes_nothing, monkeypatch):
    monkeypatch.undo()
    run = run_here(results, *SMALL, "ratio=1", "until=prune", "scorer=random")
    assert [int(row["position"]) for row in read_rows(run / "subset.csv")] == list(range(100))


def test_one_image_classes_and_classes_without_test_images_run(tmp_path):
    sizes = {"bark": (5, 2), "moss": (4, 0), "sand": (1, 1)}
    made = make_image_lists(tmp_path / "made", sizes)
    lists = [f"dataset.root={made}", "dataset.train_list=train.txt", "dataset.test_list=test.txt"]
    run = run_here(tmp_path, "dataset=image_folder", *lists, *MICRO, *QUICK, "ratio=0.4")
    result = read_result(run)
    assert result["dataset"] == "made"
    assert result["classes"] == ["bark", "moss", "sand"]
    assert [accuracy is None for accuracy in result["per_class_accuracy"]] == [False, True, False]
    assert result["worst_class_accuracy"] == min(result["per_class_accuracy"][::2])
    assert [row["label"] for row in read_rows(run / "subset.csv")] == ["0", "0", "1", "1", "2"]
    assert result["decode_seconds"] > 0


SEARCH = ["gamma_search.grid=[0.25,0.5,0.75]", "gamma_search.repeats=2"]


def test_gamma_auto_is_chosen_on_held_out_images_and_recorded(results, tmp_path, monkeypatch):
    looked_at = []
    choose = image_run.sampler_search.choose
    monkeypatch.setattr(
        image_run.sampler_search, "choose", lambda *args: looked_at.append(args[1].pool.name) or choose(*args)
    )
    run = run_here(results, *SMALL, *SEARCH, "sampler=flexrand", "sampler.gamma=auto", "ratio=0.3", "tag=auto")
    result = read_result(run)
    assert result["selection_rule"] == "validation"
    assert result["search_seconds"] > 0
    assert [candidate["label"] for candidate in result["search"]["candidates"]] == ["0.5", "0.25", "0.75"]
    best = max(candidate["accuracy"] for candidate in result["search"]["candidates"])
    firsts = [candidate["label"] for candidate in result["search"]["candidates"] if candidate["accuracy"] == best]
    assert result["gamma"] == float(firsts[0])  # Among equal candidates the gamma nearest to 0.5 is chosen.
    assert all(candidate["standard_error"] is not None for candidate in result["search"]["candidates"])
    fixed = run_here(
        results, *SMALL, "sampler=flexrand", f"sampler.gamma={result['gamma']}", "ratio=0.3", "until=prune", "tag=fixed"
    )
    assert (fixed / "subset.csv").read_bytes() == (run / "subset.csv").read_bytes()


def test_the_search_never_sees_the_test_set(results, monkeypatch):
    run = parsed_here(results, *SMALL, *SEARCH, "sampler=flexrand", "sampler.gamma=auto", "ratio=0.3")
    blind = replace(image_run.open_task(run), test=None)
    pruned = image_run.prune(run, blind, image_run.score(run, blind))
    assert len(pruned.choice.labels) > 1


def test_topk_flexible_takes_the_better_end(results):
    run = run_here(results, *SMALL, "gamma_search.repeats=1", "sampler=topk_flexible", "ratio=0.3")
    result = read_result(run)
    assert (result["sampler"], result["selection_rule"], result["gamma"]) == ("topk_flexible", "validation", None)
    candidates = {candidate["label"]: candidate["accuracy"] for candidate in result["search"]["candidates"]}
    assert set(candidates) == {"easiest", "hardest"}
    end = max(candidates, key=lambda label: candidates[label])
    sampler = {"easiest": "topk_easiest", "hardest": "topk"}[end]
    same = run_here(results, *SMALL, f"sampler={sampler}", "ratio=0.3", "until=prune")
    assert (same / "subset.csv").read_bytes() == (run / "subset.csv").read_bytes()


@pytest.mark.parametrize("sampler", ["ccs", "double_end"])
def test_a_cut_off_is_chosen_on_held_out_images(results, sampler):
    run = run_here(results, *SMALL, "gamma_search.repeats=1", f"sampler={sampler}", "sampler.beta=auto", "ratio=0.75")
    result = read_result(run)
    assert (result["selection_rule"], result["gamma"]) == ("validation", None)
    candidates = {candidate["label"]: candidate["accuracy"] for candidate in result["search"]["candidates"]}
    assert list(candidates) == ["0", "0.1", "0.2"]  # A beta of 0.3 would leave too few images for the budget.
    assert candidates[result["search"]["chosen"]] == max(candidates.values())
    cut = f"sampler.beta={result['search']['chosen']}"
    same = run_here(results, *SMALL, f"sampler={sampler}", cut, "ratio=0.75", "until=prune", "tag=fixed")
    assert (same / "subset.csv").read_bytes() == (run / "subset.csv").read_bytes()


def test_another_network_can_score_and_gets_a_folder_of_its_own(first, results):
    other = ["backbone@scoring_backbone=micro", "scoring_backbone.pretrained=false", "scoring_backbone.input_size=24"]
    with pytest.raises(InputError, match=r"both are called 'micro'; pass scoring_backbone\.name="):
        run_here(results, *SMALL, *other, "ratio=0.3")
    run = run_here(results, *SMALL, *other, "scoring_backbone.name=larger", "ratio=0.3")
    result = read_result(run)
    assert "/textures/micro_scored_by_larger/linear_probe/" in str(run)
    assert (result["backbone"], result["scoring_backbone"]) == ("micro", "larger")
    assert result["scores_path"] != read_result(first)["scores_path"]
    assert run_here(results, *SMALL, "ratio=0.3") == first  # The run without another scoring network is still there.


def test_auto_is_replaced_by_the_scorers_own_sampler(results):
    cfg = compose_here(results, *SMALL, "scorer=random")
    assert (resolve_names(cfg).scorer, resolve_names(cfg).sampler) == ("random", "random")
    assert run_folder(cfg) == "textures/micro/linear_probe/random-random/ratio_0.1/seed_0/default"
    assert resolve_names(compose_here(results, *SMALL, "sampler=topk")).sampler == "topk"


def test_a_random_draw_depends_on_seed_and_ratio_and_not_on_the_method_or_the_order_of_runs(results, tmp_path):
    def subset(folder, *overrides):
        return (run_here(folder, *SMALL, *overrides, "until=prune") / "subset.csv").read_bytes()

    drawn = {(r, s): subset(tmp_path, "scorer=random", f"ratio={r}", f"seed={s}") for r in (0.2, 0.3) for s in (0, 1)}
    assert len(set(drawn.values())) == 4
    torch.manual_seed(5)
    for (ratio, seed), expected in reversed(drawn.items()):
        assert subset(results, "scorer=random", f"ratio={ratio}", f"seed={seed}") == expected
    assert subset(results, "scorer=dlc", "sampler=random", "ratio=0.3", "seed=1") == drawn[0.3, 1]


def test_methods_of_one_seed_start_from_the_same_head(results, first, monkeypatch):
    started = []
    train = image_run.train_probes

    def recorded(bank, probes, num_classes, recipe, device):
        started.append([probe.seed for probe in probes])
        return train(bank, probes, num_classes, recipe, device)

    monkeypatch.setattr(image_run, "train_probes", recorded)
    run_here(results, *SMALL, "scorer=random", "ratio=0.3", "seed=7")
    run_here(results, *SMALL, "sampler=topk", "ratio=0.3", "seed=7")
    assert started == [[7], [7]]


def test_full_fine_tuning_runs_and_leaves_the_shared_network_as_it_was(results, first):
    run = run_here(results, *SMALL, "finetune=full", "finetune.epochs=1", "ratio=0.3", "finetune.views=0")
    result = read_result(run)
    assert "/full/" in str(run)
    assert result["scores_path"] == read_result(first)["scores_path"]
    assert (run / "subset.csv").read_bytes() == (first / "subset.csv").read_bytes()
    assert result["probes_together"] == 1


def test_a_loss_that_is_not_finite_gives_a_one_line_error_and_no_result(results):
    with pytest.raises(InputError, match=r"training loss is (nan|inf) in epoch \d+; lower finetune.learning_rate"):
        run_here(results, *SMALL, "ratio=0.3", *DIVERGING, "tag=wild")
    assert not list(results.rglob("wild/result.json"))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("ratio=0", r"ratio is the fraction kept and must be in \(0, 1\], got 0"),
        ("ratio=10", r"got 10"),
        ("ratio=nan", "got nan"),
        ("until=scores", "until must be one of score, prune, finetune"),
        ("batch_size=0", "batch_size .* at least 1"),
        ("images.short_side=0", "short_side is in pixels and must be a whole number in 1..8192 or null, got 0"),
        ("wandb=ofline", r"wandb must be one of .* Did you mean 'offline'"),
        ("device=gpu", "device must be auto, cpu, cuda or mps"),
        ("precision=fp16", "precision must be auto, fp32 or bf16"),
        ("scorer.levels=0", "levels is the number of masked networks"),
        ("finetune.epochs=0", "finetune.epochs must be a whole number of at least 1, got 0"),
        ("dataset.num_pool=many", "dataset.num_pool is a number of images and must be a whole number in 100..50000"),
        ("backbone.mean=0.5", r"backbone.mean must be three numbers in \[0, 1\], got 0.5"),
        ("backbone.model=prunetune_mirco", "Did you mean 'prunetune_micro'"),
    ],
)
def test_a_bad_value_stops_before_anything_is_computed(results, computes_nothing, override, message):
    with pytest.raises(InputError, match=message) as caught:
        run_here(results, *SMALL, override)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("gamma", ["1.5", "0", "often"])
def test_a_bad_gamma_stops_before_anything_is_computed(results, computes_nothing, gamma):
    with pytest.raises(InputError, match=r"gamma is the easy fraction and must be in \(0, 1\) or \(in a run\) auto"):
        run_here(results, *SMALL, "sampler=flexrand", f"sampler.gamma={gamma}")


def test_files_that_cannot_be_written_give_a_one_line_error(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match=r"subset\.csv could not be written .*results_dir=<folder>"):
        records.write_csv(tmp_path / "file" / "run" / "subset.csv", ("a",), [])

    def full(*args, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("prunetune.base.publish.os.replace", full)
    with pytest.raises(InputError, match=r"No space left on device.*free some space"):
        records.write_csv(tmp_path / "run" / "subset.csv", ("a",), [(1,)])
    assert list((tmp_path / "run").iterdir()) == []


def test_the_results_folder_may_be_given_as_a_relative_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = run_here(tmp_path.relative_to(tmp_path), *SMALL, "ratio=0.3", "scorer=random")
    assert (tmp_path / read_result(run)["scores_path"]).is_file()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["method=dlc", "sampler=topk"], "TopK has no option 'gamma'"),
        (["method=dlc", "sampler=random", "scorer=random"], "RandomSampler has no option 'gamma'"),
        (["method=dlc", "sampler=flexrand_released"], "FlexRandReleased has no option 'gamma'"),
        (["sampler.min_per_class=0", "sampler=topk", "ratio=0.001"], "nothing is kept of 100 images"),
    ],
)
def test_a_run_that_is_not_what_its_name_says_is_refused(results, overrides, message):
    with pytest.raises(InputError, match=message):
        run_here(results, *SMALL, *overrides)


def test_the_scorers_own_sampler_takes_the_gamma_of_a_preset(results):
    run = parsed_here(results, *SMALL, "method=dlc", "sampler=auto", "ratio=0.3")
    assert run.is_searched
    assert {type(sampler).__name__ for sampler in run.candidates.values()} == {"FlexRand"}
    assert run.names.sampler == "flexrand"


def test_a_finished_run_is_refused_when_its_folder_has_other_images_since(tmp_path):
    photos = make_image_folder(tmp_path / "photos", {"cat": 6, "dog": 6})
    overrides = ["dataset=image_folder", f"dataset.root={photos}", *MICRO, *QUICK, "scorer=random", "ratio=0.5"]
    folder = run_here(tmp_path, *overrides)
    assert run_here(tmp_path, *overrides) == folder
    make_image_folder(photos, {"cat": 9})
    with pytest.raises(InputError, match="files of the data set were added, removed, moved or changed since"):
        run_here(tmp_path, *overrides)
    shutil.rmtree(photos)
    assert run_here(tmp_path, *overrides) == folder  # A result remains valid without its data.


def test_a_search_is_charged_the_same_whether_scores_were_stored_or_not(tmp_path):
    search = [*SMALL, "sampler=flexrand", "sampler.gamma=auto", "ratio=0.3", "scorer=dlc_50", "scorer.levels=20"]
    alone = read_result(run_here(tmp_path / "alone", *search))
    run_here(tmp_path / "after", *SMALL, "scorer=dlc_50", "scorer.levels=20", "until=score")
    after = read_result(run_here(tmp_path / "after", *search))
    assert after["accuracy"] == alone["accuracy"]
    # The masked passes are charged only once, to the score.
    assert after["search_seconds"] < after["score_seconds"] / 2


def test_a_probe_is_charged_the_forward_passes_of_its_views_and_of_the_test_set(results, monkeypatch):
    for views in (0, 1):
        run = parsed_here(results, *SMALL, f"finetune.views={views}")
        task, training = image_run.open_task(run), image_run.Training(torch.arange(0, 100, 2), 0, Static(50))
        passes = []
        monkeypatch.setattr(image_run, "share_seconds", lambda outcomes, seconds, passes=passes: passes.append(seconds))
        image_run.finetune(run, task, [training])
        assert passes[0] > network.NetworkSignals(task.test, task.tuned.embedding).seconds_of_features() > 0


def test_a_tag_cannot_leave_its_folder(results):
    cfg = compose_here(results, *SMALL, "tag=../../evil place")
    assert run_folder(cfg).split("/")[-1] == "_.._evil_place"


def test_the_whole_pool_has_no_gamma(results):
    result = read_result(run_here(results, *SMALL, "ratio=1.0", "tag=whole"))
    assert (result["gamma"], result["selection_rule"], result["num_kept"]) == (None, None, 100)


def test_a_sampler_that_reads_features_is_charged_for_them_once(tmp_path):
    """TypiClust is charged for stored features, except if the scores are charged for them already."""
    run_here(tmp_path, *SMALL, "ratio=0.3", "scorer=herding")
    for meta in (tmp_path / "store" / "features").glob("*/meta.json"):
        meta.write_text(json.dumps({"seconds": 1000}))  # The store now says that the computation took 1000 seconds.
    shutil.rmtree(tmp_path / "store" / "scores")
    alone = read_result(run_here(tmp_path, *SMALL, "ratio=0.3", "scorer=none", "sampler=typiclust"))
    beside = read_result(run_here(tmp_path, *SMALL, "ratio=0.3", "scorer=herding", "sampler=typiclust"))
    assert alone["score_seconds"] < 1000 <= alone["sample_seconds"]
    assert beside["sample_seconds"] < 1000 <= beside["score_seconds"]


def test_a_key_that_another_group_has_is_pointed_to_and_the_results_folder_must_have_a_name(tmp_path):
    with pytest.raises(InputError, match=r"there is no option levels;.*Did you mean scorer\.levels\?"):
        parsed_here(tmp_path, *SMALL, "+levels=3")
    cfg = compose_here(tmp_path, *SMALL)
    cfg.results_dir = ""
    with pytest.raises(InputError, match="results_dir is the folder of runs and store and must not be empty"):
        parse_image_run(cfg)
