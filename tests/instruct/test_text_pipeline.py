"""Whole text runs on the embedded corpus and a tiny model: written files, continued runs, refused settings."""

import json
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest
import torch

from prunetune.base.errors import InputError
from prunetune.instruct import text_run, tuned
from prunetune.instruct.model import language_model, passes
from prunetune.instruct.model.processes import Processes
from prunetune.instruct.names import text_run_folder
from prunetune.instruct.parse import parse_text_run
from prunetune.instruct.task import open_task
from prunetune.instruct.tuning import mmlu, sft, sft_checkpoint
from runs import ROOT, compose_here, lasting, read_result, read_rows, run_commands, run_text_here

CORPUS = ["corpus=embedded", "corpus.limit=48", "wandb=disabled", "device=cpu"]
TINY = [*CORPUS, "llm=tiny", "llm.layers=1", "llm.width=32"]
QUICK = ["sft=released", "sft.batch_size=8", "sft.warmup_steps=1", "sft.checkpoint_every=1"]
ASKED = [f"evaluation.tasks_folder={ROOT / 'tests' / 'instruct' / 'tasks'}", "evaluation.tasks=[everyday]"]
SMALL = [*TINY, *QUICK, *ASKED, "evaluation.num_fewshot=[0,2]", "evaluation.limit=3"]
IMPORTS = ("prunetune.instruct.text_run", "transformers", "peft", "lm_eval.models.huggingface")


def run_text(results: Path, *overrides: str, base: list[str] = SMALL) -> Path:
    """Run in this process and return the run's folder."""
    return run_text_here(results, *base, *overrides)


def forbidden(*_, **__):
    raise AssertionError("this is in the store already")


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Path, Path]:
    """Return the results folder and the run folder of a finished run."""
    results = tmp_path_factory.mktemp("results")
    return results, run_text(results)


def test_a_run_writes_the_files_that_its_readers_expect(finished):
    results, folder = finished
    assert folder == results / "runs/embedded/tiny/released/dlc-flexrand/ratio_0.5/seed_0/default"
    result = read_result(folder)
    assert (result["kind"], result["dataset"], result["backbone"], result["finetune"]) == (
        *("text", "embedded", "tiny"),
        "released",
    )
    assert (result["num_pool"], result["num_kept"], result["gamma"], result["selection_rule"]) == (
        48,
        24,
        0.25,
        "fixed",
    )
    assert result["num_fewshot"] == [0, 2]
    assert result["accuracy"] == result["accuracy_0shot"] == result["evaluations"][0]["accuracy"]
    assert result["accuracy_2shot"] == result["evaluations"][1]["accuracy"]
    assert result["num_test"] == result["evaluations"][0]["num_questions"] == 9
    assert result["tokens_per_second"] > 0
    assert result["score_peak_memory_bytes"] > 0
    linear = 2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64  # Of one layer of width 32. Three norms of 32 weights remain.
    assert result["maskable_share"] == linear / (linear + 3 * 32)
    assert result["corpus_report"]["read"] == 48
    assert result["finetune_steps"] == 3
    kept = [row["sample_id"] for row in read_rows(folder / "subset.csv")]
    scores = read_rows(results / result["scores_path"])
    assert len(kept) == 24
    assert set(kept) < {row["sample_id"] for row in scores}
    history = read_rows(folder / "history.csv")
    assert [int(row["step"]) for row in history] == [1, 2, 3]
    assert [float(row["learning_rate"]) for row in history] == pytest.approx([0, 5e-4, 2.5e-4])


def test_a_run_leaves_an_adapter_for_peft_and_no_unfinished_files(finished):
    results, _ = finished
    [adapter] = (results / "store" / "adapters").iterdir()
    assert (adapter / "adapter_model.safetensors").is_file()
    assert json.loads((adapter / "adapter_config.json").read_text())["r"] == 16
    assert not list((results / "store").glob("training/*"))
    assert not list((results / "store").glob("passes/*"))


def test_a_finished_run_returns_at_once(finished, monkeypatch):
    results, folder = finished
    before = (folder / "result.json").read_bytes()
    monkeypatch.setattr(text_run, "open_task", forbidden)
    run_text(results)
    assert (folder / "result.json").read_bytes() == before


def test_another_configuration_does_not_overwrite_a_result(finished):
    with pytest.raises(InputError, match=r"sft\.epochs: 1 there, 2 now.*pass tag="):
        run_text(finished[0], "sft.epochs=2")


def test_another_sampler_shares_the_scores_and_another_evaluation_shares_the_adapter(finished, monkeypatch):
    results, _ = finished
    monkeypatch.setattr(passes, "_write", forbidden)
    monkeypatch.setattr(sft_checkpoint, "save", forbidden)
    folder = run_text(results, "evaluation.num_fewshot=[1]", "tag=oneshot")
    assert "accuracy_1shot" in read_result(folder)
    with pytest.raises(AssertionError):
        run_text(results, "sampler=topk")  # Another subset needs a new training, which is forbidden here.


def test_until_stops_after_each_step_and_the_next_command_continues(tmp_path, monkeypatch):
    store = tmp_path / "store"
    folder = run_text(tmp_path, "until=score")
    assert list(store.glob("scores/*/scores.csv"))
    assert not folder.exists()
    run_text(tmp_path, "until=prune")
    assert {path.name for path in folder.iterdir()} == {"subset.csv", "corpus_report.json"}
    assert json.loads((folder / "corpus_report.json").read_text())["read"] == 48
    assert not (store / "adapters").exists()
    monkeypatch.setattr(passes, "_write", forbidden)
    run_text(tmp_path, "until=finetune")
    assert list(store.glob("adapters/*/adapter_model.safetensors"))
    assert not (folder / "result.json").exists()
    monkeypatch.setattr(sft_checkpoint, "save", forbidden)
    run_text(tmp_path)
    assert (folder / "result.json").is_file()


class Killed(BaseException):
    """Stands for SIGKILL, since no code catches this exception."""


def killing(function, after: int):
    """Return the function that is killed when it is called once more than `after` times."""
    calls = 0

    def call(*arguments, **options):
        nonlocal calls
        calls += 1
        if calls > after:
            raise Killed
        return function(*arguments, **options)

    return call


def test_a_run_that_is_killed_in_every_step_ends_like_an_undisturbed_one(finished, tmp_path, monkeypatch):
    small_batches = ["max_tokens=2000"]
    for module, name, after in (
        (passes, "_write", 4),  # This kill happens in the pass of the second network.
        (sft_checkpoint, "save", 2),
        (mmlu, "_ask", 1),
    ):
        with monkeypatch.context() as patched:
            patched.setattr(module, name, killing(getattr(module, name), after))
            with pytest.raises(Killed):
                run_text(tmp_path, *small_batches)
    recomputed = mock.Mock(wraps=passes._write)
    with monkeypatch.context() as patched:
        patched.setattr(passes, "_write", recomputed)
        patched.setattr(sft_checkpoint, "save", forbidden)
        folder = run_text(tmp_path, *small_batches)
    assert recomputed.call_count == 0  # The scores and the adapter were complete before the last kill.
    alone = run_text(tmp_path / "alone", *small_batches)
    assert lasting(read_result(folder)) == lasting(read_result(alone))
    assert (folder / "history.csv").read_bytes() == (alone / "history.csv").read_bytes()
    assert (folder / "subset.csv").read_bytes() == (alone / "subset.csv").read_bytes()
    for name in ("scores/*/scores.csv", "adapters/*/adapter_model.safetensors"):
        [mine], [theirs] = tmp_path.glob(f"store/{name}"), (tmp_path / "alone").glob(f"store/{name}")
        assert mine.read_bytes() == theirs.read_bytes()


def test_gamma_auto_is_chosen_on_validation_questions_and_the_winner_is_not_trained_again(tmp_path, monkeypatch):
    trained, asked = mock.Mock(wraps=tuned.fine_tune), mock.Mock(wraps=mmlu.evaluate)
    monkeypatch.setattr(tuned, "fine_tune", trained)
    monkeypatch.setattr(mmlu, "evaluate", asked)
    result = read_result(run_text(tmp_path, "sampler=flexrand", "sampler.gamma=auto"))
    assert trained.call_count == 2
    assert [call.kwargs["split"] for call in asked.call_args_list] == ["validation", "validation", "test", "test"]
    search = result["search"]
    accuracy = {row["label"]: row["accuracy"] for row in search["candidates"]}
    assert set(accuracy) == {"0.25", "0.75"}
    assert accuracy[search["chosen"]] == max(accuracy.values())
    assert result["gamma"] == float(search["chosen"])
    assert (result["selection_rule"], search["recipe"]) == ("validation", "released")
    assert result["search_seconds"] > 0


def test_the_base_model_is_evaluated_without_training(tmp_path, monkeypatch):
    monkeypatch.setattr(sft, "attach", forbidden)
    result = read_result(run_text(tmp_path, "sft=none", "text_scorer=random", "ratio=1", "held_out=0.25"))
    assert result["versions"]["transformers"]
    assert (result["num_kept"], result["finetune_steps"], result["num_trainable"]) == (36, 0, 0)
    assert result["maskable_share"] is None  # This scorer masks nothing.
    assert result["held_out_loss"] == result["held_out_loss_before"]


def test_what_is_held_out_is_neither_scored_nor_kept_and_its_loss_falls(tmp_path):
    folder = run_text(tmp_path, "held_out=0.25", "sft.epochs=4", "sft.learning_rate=0.02")
    result = read_result(folder)
    assert (result["num_pool"], result["num_kept"]) == (36, 18)
    scored = {row["sample_id"] for row in read_rows(tmp_path / result["scores_path"])}
    assert len(scored) == 36
    assert result["held_out_loss"] < result["held_out_loss_before"]
    assert result["held_out_perplexity"] == pytest.approx(torch.tensor(result["held_out_loss"]).exp().item(), rel=1e-6)
    other = compose_here(tmp_path, *SMALL, "held_out=0.25", "seed=5", config="instruct")
    # The pool is the same for every seed.
    assert {sample for sample in open_task(parse_text_run(other)).pool.sample_ids} == scored


def test_strata_keep_their_share(tmp_path):
    cfg = compose_here(tmp_path, *TINY, "corpus.limit=null", "strata=source", config="instruct")
    task = open_task(parse_text_run(cfg))
    folder = run_text(tmp_path, "corpus.limit=null", "strata=source", "text_scorer=random", "ratio=0.25", "until=prune")
    kept = {row["sample_id"] for row in read_rows(folder / "subset.csv")}
    for source in set(task.tuned.encoded.sources):
        members = [i for i, name in enumerate(task.tuned.encoded.sources) if name == source]
        ids = {task.pool.sample_ids[i] for i in members}
        assert len(ids & kept) == round(len(members) * 0.25)
    by_length = open_task(parse_text_run(compose_here(tmp_path, *TINY, "strata=length", config="instruct")))
    assert by_length.pool.class_counts.tolist() == [12, 12, 12, 12]
    lengths = by_length.tuned.encoded.lengths
    longest = [int(lengths[by_length.pool.labels == label].max()) for label in range(4)]
    shortest = [int(lengths[by_length.pool.labels == label].min()) for label in range(4)]
    assert all(high <= low for high, low in zip(longest, shortest[1:], strict=False))


def test_another_model_can_score(tmp_path):
    words = ["llm@scoring_llm=tiny", "scoring_llm.name=other", "scoring_llm.seed=7", "until=score"]
    run_text(tmp_path, *words)
    run_text(tmp_path, "until=score")
    [first, second] = tmp_path.glob("store/scores/*/scores.csv")
    assert first.read_bytes() != second.read_bytes()


def test_s2l_records_a_fine_tuning_and_leaves_nothing_else(tmp_path):
    folder = run_text(tmp_path, "text_scorer=s2l", "text_scorer.clusters=5", "trajectory.checkpoints=3", "until=prune")
    assert len(read_rows(folder / "subset.csv")) == 24
    [stored] = tmp_path.glob("store/scores/*/trajectories.npy")
    assert stored.is_file()
    assert not list(tmp_path.glob("store/training/*"))


def test_seeds_share_the_recorded_fine_tuning_and_what_it_cost(tmp_path, monkeypatch):
    words = ["text_scorer=s2l", "text_scorer.clusters=5", "trajectory.checkpoints=3", "until=score"]
    run_text(tmp_path, *words)
    monkeypatch.setattr(sft_checkpoint, "save", forbidden)
    run_text(tmp_path, *words, "seed=1")
    first, second = sorted(tmp_path.glob("store/scores/*"))
    assert (first / "scores.csv").read_bytes() != (second / "scores.csv").read_bytes()
    assert (first / "trajectories.npy").read_bytes() == (second / "trajectories.npy").read_bytes()
    costs = [json.loads((folder / "meta.json").read_text()) for folder in (first, second)]
    assert costs[0]["signals"] == costs[1]["signals"]
    assert all(cost["seconds"] >= cost["signals"]["trajectory"] for cost in costs)


def test_a_killed_recording_gives_the_same_as_an_undisturbed_one(tmp_path, monkeypatch):
    words = ["text_scorer=s2l", "text_scorer.clusters=5", "trajectory.checkpoints=3", "until=score"]
    with monkeypatch.context() as patched:
        patched.setattr(sft_checkpoint, "save", killing(sft_checkpoint.save, 3))
        with pytest.raises(Killed):
            run_text(tmp_path, *words)
    run_text(tmp_path, *words)
    run_text(tmp_path / "alone", *words)
    [mine], [theirs] = (root.glob("store/scores/*/trajectories.npy") for root in (tmp_path, tmp_path / "alone"))
    assert mine.read_bytes() == theirs.read_bytes()


def test_of_several_processes_the_first_one_writes_and_the_others_stop_after_fine_tuning(tmp_path, monkeypatch):
    cfg = compose_here(tmp_path, *SMALL, config="instruct")
    folder = tmp_path / "runs" / text_run_folder(cfg)
    task = open_task(parse_text_run(cfg))
    waits = mock.Mock()
    monkeypatch.setattr(Processes, "wait", waits)
    second = replace(task, processes=Processes(1, 2, "cpu"))
    made = mock.Mock(return_value={"seconds": 1.0})
    second.entry("adapters", "name", {"a": 1}, made)
    assert made.call_count == 1  # The second process takes part in the training.
    assert not list(tmp_path.glob("store/adapters/*"))
    assert waits.call_count == 2
    assert not folder.exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["corpus.max_length=3"], "no sample is left"),
        (["trajectory.checkpoints=99", "text_scorer=s2l"], "trajectory.checkpoints must be between 1 and the 6 steps"),
        (["held_out=0.001"], "of 48 samples is 0"),
    ],
)
def test_a_run_that_is_impossible_is_refused_in_one_line(words, said, tmp_path):
    with pytest.raises(InputError) as caught:
        run_text(tmp_path, *words)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_model_is_said_in_one_line(tmp_path):
    with pytest.raises(InputError, match="/no/such/folder") as caught:
        run_text(tmp_path, "llm=local", "llm.model=/no/such/folder", base=CORPUS)
    assert "\n" not in str(caught.value)


def test_samples_longer_than_the_models_context_are_said_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(language_model.TinyLanguageModel, "context_length", lambda _: 100)
    with pytest.raises(InputError, match=r"takes 100; pass corpus\.max_length=100"):
        run_text(tmp_path)


def test_scores_of_weights_that_give_nan_are_never_ranked(tmp_path, monkeypatch):
    made = language_model.TinyLanguageModel._made

    def broken(self):
        network = made(self)
        network.get_output_embeddings().weight.data[5] = float("nan")
        return network

    monkeypatch.setattr(language_model.TinyLanguageModel, "_made", broken)
    for scorer in ("perplexity_mid", "ifd_loss", "dlc"):
        with pytest.raises(InputError, match="gives values that are not finite for"):
            run_text(tmp_path, f"text_scorer={scorer}", "until=score")
    assert not list(tmp_path.glob("store/scores/*"))


def test_a_name_where_settings_belong_is_explained(tmp_path):
    with pytest.raises(InputError, match="llm@scoring_llm=<name>"):
        run_text(tmp_path, "scoring_llm=tiny")


def test_tasks_are_checked_before_anything_is_computed(tmp_path, monkeypatch):
    monkeypatch.setattr(text_run, "score", forbidden)
    wrong = "evaluation.tasks=[everydya]"
    with pytest.raises(InputError, match="Did you mean 'everyday'"):
        run_text(tmp_path, wrong)
    with pytest.raises(InputError, match="Did you mean 'everyday'"):
        run_text(tmp_path, wrong, "sampler=flexrand", "sampler.gamma=auto", "until=prune")
    with pytest.raises(AssertionError):
        run_text(tmp_path, wrong, "until=prune")  # This step asks no questions.


def test_wrong_columns_are_said_in_one_line(tmp_path):
    (tmp_path / "rows.json").write_text(json.dumps([{"topic": "a", "answer": "b"}]))
    with pytest.raises(InputError, match="topic") as caught:
        run_text(tmp_path, "corpus=local", f"corpus.path={tmp_path / 'rows.json'}", "~corpus.limit")
    assert "\n" not in str(caught.value)


def test_a_mistaken_command_ends_in_one_line_and_a_correct_one_with_its_folder(tmp_path):
    root = ["--config-name", "instruct", f"results_dir={tmp_path / 'results'}"]
    jobs = [
        [*root, *SMALL],
        [*root, *SMALL, "text_scorer=dcl"],
        [*root, *SMALL, "sampler.gama=0.3"],
        [*root, *CORPUS, "llm=local", f"llm.model={tmp_path / 'nowhere'}"],
    ]
    right, *wrong = run_commands(tmp_path / "jobs", [{"arguments": job} for job in jobs], imports=IMPORTS)
    assert right.returncode == 0, right.stderr
    folder = tmp_path / "results/runs/embedded/tiny/released/dlc-flexrand/ratio_0.5/seed_0/default"
    assert right.stdout.strip().endswith(f"run: {folder}")
    assert "Warning" not in right.stderr
    for outcome in wrong:
        assert outcome.returncode != 0
        assert [line for line in outcome.stderr.splitlines() if line.startswith("error: ")], outcome.stderr
        assert "Traceback" not in outcome.stderr


def test_a_gated_model_is_explained(tmp_path, monkeypatch):
    class GatedRepoError(OSError):
        """Has the signature by which huggingface_hub calls it."""

    def refuse(*_, **__):
        raise OSError("You are trying to access a gated repo.") from GatedRepoError("403")

    transformers = pytest.importorskip("transformers")
    for part in (transformers.AutoConfig, transformers.AutoTokenizer):
        monkeypatch.setattr(part, "from_pretrained", refuse)
    assert language_model.LanguageModel(model="meta/one").model
    with pytest.raises(InputError, match="gated|licence|access") as caught:
        run_text(tmp_path, "llm=llama3_8b", base=CORPUS)
    assert "\n" not in str(caught.value)
