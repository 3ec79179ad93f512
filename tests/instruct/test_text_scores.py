"""Stored scores: computed once, killed and continued, shared by processes; and a real model on a real corpus."""

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

import tiny
from prunetune.base.errors import InputError
from prunetune.base.seeding import stream
from prunetune.base.store import Store, read_meta
from prunetune.instruct import DLC, IFD, LanguageModel, LCDropout, Longest, Perplexity, RDSPlus
from prunetune.instruct.corpus.corpora import Corpus, Example, LocalCorpus
from prunetune.instruct.corpus.encoding import encode
from prunetune.instruct.model.processes import Processes
from prunetune.instruct.scorers.signals import TextSignals
from prunetune.instruct.scorers.text_source import TextSource
from prunetune.runs.scores import compute_scores, stored_scores
from prunetune.scorers import FromFile
from scripts.bench import text_scoring

ENCODED = tiny.encoded(20)


def signals_of(folder: Path, model=None, encoded=ENCODED, **more) -> TextSignals:
    llm = more.pop("llm", None) or tiny.Loaded(model or tiny.model())
    return tiny.signals(folder, llm, encoded, **{"max_tokens": 160, **more})


def stored(scorer, signals: TextSignals, seed: int = 0):
    return stored_scores(scorer, TextSource(signals, Store(signals.folder.parents[1])), seed)


class Killer:
    """Kills the forward pass when the model is called for the n-th time; counts the calls."""

    def __init__(self, model, at: int | None = None) -> None:
        self.calls, self.at = 0, at
        self.hook = model.model.register_forward_pre_hook(self._called)

    def _called(self, module, inputs) -> None:
        self.calls += 1
        if self.calls - 1 == self.at:
            raise KeyboardInterrupt


def passes_of(store: Store) -> list[Path]:
    return sorted((store.root / "passes").rglob("batch-*.npz"))


def test_scores_are_computed_once_and_then_read(tmp_path):
    signals = signals_of(tmp_path)
    first, again = stored(DLC(), signals), stored(DLC(), signals_of(tmp_path))
    assert (first.is_new, again.is_new) == (True, False)
    assert torch.equal(first.values, again.values)
    assert again.seconds == first.seconds > 0
    assert again.folder == first.folder
    assert list((tmp_path / "passes").iterdir()) == []
    losses = np.load(first.folder / "losses.npy")
    assert losses.shape == (3, 20)
    assert np.array_equal(losses.mean(axis=0), first.values.numpy())


def test_the_record_has_tokens_per_second_and_peak_memory(tmp_path):
    scores = stored(DLC(), signals_of(tmp_path))
    meta = read_meta(scores.folder)
    tokens = int(ENCODED.lengths.sum())
    assert meta["tokens"] == {"level0": tokens, "level1": tokens, "level2": tokens}
    assert meta["tokens_per_second"] == pytest.approx(3 * tokens / sum(meta["signals"].values()))
    assert meta["peak_memory_bytes"] > 2**20
    assert list(scores.signals) == ["level0", "level1", "level2"]
    assert scores.seconds >= sum(scores.signals.values())
    assert meta["processes"] == 1


def test_a_score_that_uses_no_model_has_no_throughput(tmp_path):
    assert read_meta(stored(Longest(), signals_of(tmp_path)).folder)["tokens_per_second"] is None


def test_the_key_contains_everything_that_changes_scores(tmp_path):
    other = tiny.encoded(20, seed=1)
    folders = [
        stored(scorer, signals_of(tmp_path, **settings), seed).folder
        for scorer, settings, seed in [
            (DLC(), {}, 0),
            (DLC(step=0.3), {}, 0),
            (DLC(mask_lm_head=True), {}, 0),
            (DLC(), {"encoded": other}, 0),
            (DLC(), {"llm": tiny.Loaded(tiny.model(seed=1), name="other")}, 0),
            (DLC(), {"dtype": "bf16"}, 0),
            (LCDropout(rates=(0.5,)), {}, 0),
            (LCDropout(rates=(0.5,)), {}, 1),
        ]
    ]
    assert len(set(folders)) == len(folders)
    # The key contains no seed, so the folder is the same.
    assert stored(DLC(), signals_of(tmp_path), seed=7).folder == folders[0]
    assert (
        stored(Longest(), signals_of(tmp_path, dtype="bf16")).folder == stored(Longest(), signals_of(tmp_path)).folder
    )


def test_damaged_scores_are_computed_again(tmp_path, caplog):
    first = stored(DLC(), signals_of(tmp_path))
    (first.folder / "scores.csv").write_text("position,sample_id,label,score\n")
    again = stored(DLC(), signals_of(tmp_path))
    assert again.is_new
    assert torch.equal(again.values, first.values)
    assert "damaged" in caplog.text


@pytest.mark.parametrize(
    "scorer", [DLC(), DLC(schedule="released", mask_lm_head=True), LCDropout(rates=(0.2, 0.6)), IFD(), Perplexity()]
)
@pytest.mark.parametrize("tied", [False, True])
def test_a_run_killed_anywhere_continues_and_loses_nothing(tmp_path, scorer, tied):
    model = tiny.model("gemma2", tied)
    counter = Killer(model)
    whole = stored(scorer, signals_of(tmp_path / "whole", model)).values
    counter.hook.remove()
    weights = {name: weight.clone() for name, weight in model.state_dict().items()}
    for at in {1, counter.calls // 2, counter.calls - 1}:
        folder = tmp_path / f"killed{at}"
        killer = Killer(model, at)
        with pytest.raises(KeyboardInterrupt):
            stored(scorer, signals_of(folder, model))
        killer.hook.remove()
        assert len(passes_of(Store(folder))) == at  # Every batch before the kill is stored on disk.
        assert all(torch.equal(weight, weights[name]) for name, weight in model.state_dict().items())
        resumed = Killer(model)
        scores = stored(scorer, signals_of(folder, model))
        resumed.hook.remove()
        assert resumed.calls == counter.calls - at  # Stored batches are not computed again.
        assert torch.equal(scores.values, whole)
        assert passes_of(Store(folder)) == []


def test_a_run_killed_many_times_ends_with_the_same_scores(tmp_path):
    model, kills = tiny.model(), 0
    whole = stored(DLC(), signals_of(tmp_path / "whole", model)).values
    while True:
        killer = Killer(model, at=2)
        try:
            scores = stored(DLC(), signals_of(tmp_path / "killed", model))
            break
        except KeyboardInterrupt:
            kills += 1
        finally:
            killer.hook.remove()
    assert kills > 3
    assert torch.equal(scores.values, whole)


def test_a_resumed_score_is_charged_for_the_time_before_the_kill(tmp_path):
    model = tiny.model()
    killer = Killer(model, 5)
    with pytest.raises(KeyboardInterrupt):
        stored(DLC(), signals_of(tmp_path, model))
    killer.hook.remove()
    spent = sum(float(np.load(path)["seconds"]) for path in passes_of(Store(tmp_path)))
    scores = stored(DLC(), signals_of(tmp_path, model))
    assert sum(scores.signals.values()) > spent > 0
    assert scores.seconds > sum(scores.signals.values())


def test_batches_of_another_batch_size_are_not_reused(tmp_path):
    model = tiny.model()
    killer = Killer(model, 3)
    with pytest.raises(KeyboardInterrupt):
        stored(DLC(), signals_of(tmp_path, model))
    killer.hook.remove()
    other = Killer(model)
    stored(DLC(), signals_of(tmp_path, model, max_tokens=5000))
    assert other.calls == 3  # There is one batch for each level.


def test_the_model_is_loaded_once_for_all_levels_and_not_at_all_for_stored_scores(tmp_path):
    llm = tiny.Loaded(tiny.model())
    signals = signals_of(tmp_path, llm=llm)
    for scorer in (DLC(), Perplexity(), IFD()):
        stored(scorer, signals)
    assert llm.times == 1
    again = tiny.Loaded(tiny.model())
    stored(DLC(), signals_of(tmp_path, llm=again))
    assert again.times == 0
    signals.release()
    stored(Perplexity(tokens="all"), signals)
    assert llm.times == 2


@dataclass(frozen=True)
class InSequence(Processes):
    """A process that does not wait for the others, so that a test can run them one after another."""

    def wait(self) -> None:
        pass


def test_two_processes_give_the_scores_of_one(tmp_path):
    model = tiny.model()
    alone = stored(DLC(), signals_of(tmp_path / "alone", model))
    folder = tmp_path / "two"
    second, first = (signals_of(folder, model, processes=InSequence(rank, 2, "cpu")) for rank in (1, 0))
    # Each process computes its share, and continues only when the share of the other is stored.
    for process in (second, first, second):
        with pytest.raises(InputError, match="another process has failed"):
            stored(DLC(), process)
    scores = stored(DLC(), first)
    assert torch.equal(scores.values, alone.values)
    assert passes_of(Store(folder)) == []
    assert read_meta(scores.folder)["processes"] == 2
    read = stored(DLC(), second)
    assert not read.is_new
    assert torch.equal(read.values, alone.values)


def test_in_bfloat16_scores_are_close_and_the_weights_are_restored(tmp_path):
    model = tiny.model("mistral")
    exact = compute_scores(DLC(), signals_of(tmp_path / "fp32", model), 0)
    half = model.bfloat16()
    weights = {name: weight.clone() for name, weight in half.state_dict().items()}
    rounded = compute_scores(DLC(), signals_of(tmp_path / "bf16", half, dtype="bf16"), 0)
    torch.testing.assert_close(rounded, exact, atol=0.15, rtol=0)
    assert all(torch.equal(weight, weights[name]) for name, weight in half.state_dict().items())


def test_the_order_of_the_samples_changes_no_score(tmp_path):
    model, order = tiny.model(), torch.randperm(20, generator=torch.Generator().manual_seed(0)).tolist()
    shuffled = tiny.of_tokens([ENCODED.ids[i] for i in order], [ENCODED.responses[i] for i in order], ["a"] * 20)
    scores = compute_scores(DLC(), signals_of(tmp_path / "a", model), 0)
    again = compute_scores(DLC(), signals_of(tmp_path / "b", model, encoded=shuffled), 0)
    torch.testing.assert_close(again, scores[order], atol=1e-5, rtol=0)


def test_a_local_folder_is_scored_from_end_to_end(tmp_path):
    rows = [{"instruction": f"Add {i} and {i}.", "output": f"It is {2 * i}."} for i in range(8)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    llm = LanguageModel(model=str(tiny.save(tmp_path / "model", "mistral", tied=True)))
    encoded = encode(LocalCorpus(path=str(tmp_path / "rows.jsonl"), max_length=300), llm.tokenizer())
    scores = stored(DLC(), signals_of(tmp_path / "store", llm=llm, encoded=encoded))
    moved = LanguageModel(model=str(shutil.copytree(tmp_path / "model", tmp_path / "moved")))
    again = stored(DLC(), signals_of(tmp_path / "store", llm=moved, encoded=encoded))
    assert scores.is_new
    assert not again.is_new
    pairs = zip(encoded.pool.sample_ids, scores.values.tolist(), strict=True)
    exported = [{"sample_id": name, "score": score} for name, score in pairs]
    (tmp_path / "scores.jsonl").write_text("\n".join(map(json.dumps, exported)))
    imported = stored(FromFile(path=str(tmp_path / "scores.jsonl")), signals_of(tmp_path / "store", encoded=encoded))
    assert torch.equal(imported.values, scores.values)


def test_a_store_that_cannot_be_written_gives_a_one_line_error(tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(InputError, match="could not be written .* pass results_dir=<folder>"):
        stored(DLC(), signals_of(tmp_path / "taken"))


@dataclass(frozen=True, kw_only=True)
class Rows(Corpus):
    """A corpus of examples that are already in memory."""

    rows: tuple[Example, ...]

    def examples(self) -> list[Example]:
        return list(self.rows)

    def identity(self) -> dict:
        return {}


def shuffled_words(text: str, *names) -> str:
    words = text.split()
    return " ".join(words[i] for i in torch.randperm(len(words), generator=stream("shuffle", *names)).tolist())


@pytest.fixture(scope="module")
def real_pair(real_data):
    """Return a small real language model and 200 real samples."""
    model, corpus = (
        real_data / "weights" / "stories260K-hf",
        real_data / "data" / "instruct" / "alpagasus" / "dolly_3k.json",
    )
    if not model.is_dir() or not corpus.is_file():
        pytest.skip("PRUNETUNE_REAL_DATA lacks stories260K-hf or dolly_3k.json")
    llm = LanguageModel(model=str(model), dtype="fp32")
    return llm, LocalCorpus(path=str(corpus), limit=200, max_length=512)


@pytest.mark.data
def test_on_a_real_model_the_levels_differ_and_batches_do_not_matter(real_pair, tmp_path):
    llm, corpus = real_pair
    encoded = encode(corpus, llm.tokenizer())
    signals = signals_of(tmp_path, llm=llm, encoded=encoded, max_tokens=8192)
    compute_scores(DLC(), signals, 0)
    losses = signals.products["losses"]
    means = losses.mean(dim=1).tolist()
    assert min(abs(means[a] - means[b]) for a, b in ((0, 1), (1, 2), (0, 2))) > 0.01
    few = encoded.take(range(12))
    one_by_one = signals_of(tmp_path / "one", llm=llm, encoded=few, max_tokens=1).response_losses()
    torch.testing.assert_close(one_by_one, losses[0, :12], atol=1e-4, rtol=0)


@pytest.mark.slow
@pytest.mark.data
def test_on_a_real_model_a_shuffled_response_is_harder(real_pair, tmp_path):
    llm, corpus = real_pair
    examples = [example for example in corpus.examples() if len(example.response.split()) >= 5]
    pairs = (examples, [replace(e, response=shuffled_words(e.response, e.sample_id)) for e in examples])
    by_id = []
    for number, rows in enumerate(pairs):
        encoded = encode(Rows(rows=tuple(rows), max_length=512), llm.tokenizer())
        scores = compute_scores(DLC(), signals_of(tmp_path / str(number), llm=llm, encoded=encoded, max_tokens=8192), 0)
        by_id.append(dict(zip(encoded.pool.sample_ids, scores.tolist(), strict=True)))
    both = sorted(by_id[0].keys() & by_id[1].keys())
    share = sum(by_id[1][name] > by_id[0][name] for name in both) / len(both)
    assert len(both) > 100
    assert share >= 0.8, share


@pytest.mark.data
def test_on_a_real_model_a_query_finds_the_sample_that_it_equals(real_pair, tmp_path):
    llm, corpus = real_pair
    encoded = encode(corpus, llm.tokenizer())
    chosen = corpus.examples()[5]
    row = {"instruction": chosen.instruction, "input": chosen.input, "output": chosen.response}
    (tmp_path / "queries.jsonl").write_text(json.dumps(row))
    scorer = RDSPlus(queries=str(tmp_path / "queries.jsonl"), max_length=512)
    scores = compute_scores(scorer, signals_of(tmp_path, llm=llm, encoded=encoded, max_tokens=8192), 0)
    assert encoded.pool.sample_ids[int(scores.argmax())] == chosen.sample_id


def test_the_bench_prints_a_row_for_the_plain_pass_and_each_level(monkeypatch, capsys, tmp_path):
    shape = ["--layers", "2", "--hidden", "32", "--intermediate", "48", "--heads", "4", "--vocabulary", "100"]
    sizes = ["--samples", "6", "--max-length", "64", "--max-tokens", "128", "--device", "cpu"]
    monkeypatch.setattr("sys.argv", ["bench", *shape, *sizes, "--out", str(tmp_path / "bench.md")])
    text_scoring.main()
    lines = capsys.readouterr().out.splitlines()
    assert "6 samples" in lines[0]
    assert [line.split("|")[1].split(":")[0].strip() for line in lines[4:]] == [
        "plain forward pass, all logits",
        "level 0",
        "level 1",
        "level 2",
    ]
    assert (tmp_path / "bench.md").read_text().splitlines()[0] == lines[0]


@pytest.mark.gpu
def test_on_a_gpu_a_killed_pass_resumes_and_the_weights_are_restored(tmp_path):
    model = tiny.model("llama").to("cuda", torch.bfloat16)
    weights = {name: weight.clone() for name, weight in model.state_dict().items()}
    killer = Killer(model, 5)
    with pytest.raises(KeyboardInterrupt):
        stored(DLC(), signals_of(tmp_path, model, device="cuda", dtype="bf16"))
    killer.hook.remove()
    scores = stored(DLC(), signals_of(tmp_path, model, device="cuda", dtype="bf16"))
    assert scores.values.isfinite().all()
    assert all(torch.equal(weight, weights[name]) for name, weight in model.state_dict().items())
