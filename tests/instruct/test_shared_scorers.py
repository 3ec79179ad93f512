"""What images and text share: random, from_file and the reader of score files; and that keys of stored scores stay."""

import hashlib
import json
from pathlib import Path

import pandas
import pytest
import torch

import tiny
from prunetune.base.errors import InputError
from prunetune.base.store import Store
from prunetune.data.pool import Pool
from prunetune.instruct.parse import TextRun, parse_text_run
from prunetune.instruct.scorers.text_source import TextSource
from prunetune.instruct.task import open_task
from prunetune.instruct.text_run import score_source
from prunetune.runs.scores import compute_scores
from prunetune.scorers import FromFile, Random, Scorer
from prunetune.signals.tensors import TensorSignals
from runs import SMALL, compose_here, read_rows, run_here, run_text_here

TEXT = ["corpus=embedded", "llm=tiny", "sft=released", "device=cpu", "wandb=disabled"]
TEXTS = tiny.encoded()
IMAGES = Pool("made", torch.zeros(12, dtype=torch.int64), TEXTS.pool.sample_ids, ("train",) * 12, ("only",))
FORMATS = pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
# This is the fingerprint of the embedded corpus in tokens of bytes.
CORPUS = "f40a86f6e1ee9c35f3b122a7d1e95af9cc4c3579b0ad06ace8c490a9cffb0610"


def both(scorer: Scorer, folder: Path) -> list[list[float]]:
    """Return the scores of twelve images and of twelve texts with the same ids, by one scorer object."""
    of_images = compute_scores(scorer, TensorSignals(torch.zeros(12, 1), pool=IMAGES), 0)
    of_texts = compute_scores(scorer, tiny.signals(folder, tiny.Loaded(tiny.model()), TEXTS), 0)
    return [of_images.tolist(), of_texts.tolist()]


def write(path: Path, rows: list[dict]) -> Path:
    """Write rows in the format that the suffix tells."""
    if path.suffix == ".csv":
        pandas.DataFrame(rows).to_csv(path, index=False)
    elif path.suffix == ".parquet":
        pandas.DataFrame(rows).to_parquet(path)
    else:
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def rescored(scores: Path) -> list[dict]:
    """Return other scores of the samples of a scores.csv, in another order."""
    return [{"sample_id": row["sample_id"], "score": i / 7} for i, row in enumerate(reversed(read_rows(scores)))]


def stored(results: Path, name: str) -> Path:
    [scores] = results.glob(f"store/scores/*-{name}-*/scores.csv")
    return scores


def test_one_random_object_scores_images_and_text(tmp_path):
    assert both(Random(), tmp_path) == [[0] * 12, [0] * 12]


@FORMATS
def test_one_from_file_object_scores_images_and_text(tmp_path, suffix):
    rows = [{"sample_id": sample_id, "score": i / 7 - 0.5} for i, sample_id in enumerate(IMAGES.sample_ids)]
    scorer = FromFile(path=str(write(tmp_path / f"scores{suffix}", rows[::-1])))
    assert both(scorer, tmp_path) == [[row["score"] for row in rows]] * 2


@FORMATS
def test_image_runs_and_text_runs_read_every_format(tmp_path, suffix):
    doors = [
        (run_here, [*SMALL, "until=score"], "scorer"),
        (run_text_here, [*TEXT, "corpus.limit=20", "until=score"], "text_scorer"),
    ]
    for run, words, group in doors:
        results = tmp_path / group
        run(results, *words, f"{group}=random")
        rows = rescored(stored(results, "random"))
        file = write(tmp_path / f"{group}{suffix}", rows)
        run(results, *words, f"{group}=from_file", f"{group}.path={file}")
        found = read_rows(stored(results, "from_file"))
        assert {row["sample_id"]: float(row["score"]) for row in found} == {
            row["sample_id"]: row["score"] for row in rows
        }


def test_an_error_about_a_missing_file_names_the_option_of_the_command(tmp_path):
    with pytest.raises(InputError, match=r"^scorer\.path must be .*; pass scorer\.path=<file>$"):
        run_here(tmp_path, *SMALL, "scorer=from_file", "scorer.path=nowhere.csv")
    with pytest.raises(InputError, match=r"^text_scorer\.path must be .*; pass text_scorer\.path=<file>$"):
        run_text_here(tmp_path, *TEXT, "text_scorer=from_file", "text_scorer.path=nowhere.csv")


def test_an_empty_score_counts_only_for_a_sample_of_the_pool(tmp_path):
    rows = [{"sample_id": sample_id, "score": 1.0} for sample_id in IMAGES.sample_ids]
    spare = write(tmp_path / "spare.jsonl", [*rows, {"sample_id": "elsewhere", "score": None}])
    assert both(FromFile(path=str(spare)), tmp_path / "spare") == [[1] * 12] * 2
    lacking = write(tmp_path / "lacking.jsonl", [{**rows[0], "score": None}, *rows[1:]])
    with pytest.raises(InputError, match="has 1 scores that are not finite"):
        both(FromFile(path=str(lacking)), tmp_path / "lacking")


def test_a_line_without_a_column_is_named(tmp_path):
    file = write(tmp_path / "scores.jsonl", [{"sample_id": "a", "score": 1}, {"id": "b", "score": 2}])
    with pytest.raises(InputError, match="needs the columns sample_id and score, has id, score in line 2"):
        FromFile(path=str(file)).score(IMAGES, None, torch.Generator())


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    file = write(tmp_path / "scores.parquet", [{"sample_id": "a", "score": 1.0}])

    def lacking(path):
        raise ImportError("Unable to find a usable engine")

    monkeypatch.setattr(pandas, "read_parquet", lacking)
    with pytest.raises(InputError, match="needs pyarrow, .* run pip install pyarrow, or pass a csv or jsonl file"):
        FromFile(path=str(file)).score(IMAGES, None, torch.Generator())


def test_the_store_keys_of_a_score_file_are_those_of_earlier_versions(tmp_path):
    """The key of image scores never contained the suffix of the file. That of text scores always did."""
    content = "sample_id,score\na,1\n"
    (tmp_path / "scores.csv").write_text(content)
    scorer = FromFile(path=str(tmp_path / "scores.csv"))
    before = {"scorer": "FromFile", "version": 1, "content": hashlib.sha256(content.encode()).hexdigest()}
    assert scorer.key() == before
    source = TextSource(tiny.signals(tmp_path, tiny.Loaded(tiny.model()), TEXTS), Store(tmp_path))
    assert source.key(scorer, None) == {
        "text_scorer": {**before, "suffix": ".csv"},
        "seed": None,
        "corpus": TEXTS.fingerprint,
    }


@pytest.fixture(scope="module")
def keys_now(tmp_path_factory):
    """Return a function that gives the key and the place in the store of a text scorer."""
    results = tmp_path_factory.mktemp("results")

    def parsed(name: str) -> TextRun:
        return parse_text_run(compose_here(results, *TEXT, f"text_scorer={name}", config="instruct"))

    task = open_task(parsed("random"))  # All scorers share the corpus and the model.

    def key_of(name: str) -> tuple[dict, Path]:
        run = parsed(name)
        source = score_source(run, task)
        key = source.key(run.scorer, 0 if run.scorer.uses_seed else None)
        return key, source.store.place("scores", f"embedded-{run.scorer.name}", key)

    return key_of


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("random", "embedded-random-ededba3dd67f0ce5"),
        ("longest", "embedded-longest-7d8ba8f2b9e51914"),
        ("source_balanced_random", "embedded-source_balanced_random-b7523bb63546adb0"),
    ],
)
def test_scores_that_read_no_model_keep_their_place_in_the_store(keys_now, name, folder):
    assert keys_now(name)[1].name == folder


RATES = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
DLC = {"scorer": "DLC", "version": 1, "levels": 3, "step": 0.2}
RECORDED = {
    **{"batch_size": 4, "clip_norm": 1.0, "epochs": 1, "learning_rate": 0.0005, "lora_alpha": 32.0, "lora_r": 16},
    **{"lora_dropout": 0.05, "lora_targets": ["q_proj", "v_proj"], "loss_on": "all", "micro_batch_tokens": 8192},
    **{"momentum": 0.0, "optimizer": "adamw", "schedule": "cosine", "warmup_steps": 100, "weight_decay": 0.0005},
}


@pytest.mark.parametrize(
    ("name", "scorer", "seed", "more"),
    [
        ("dlc", {**DLC, "schedule": "compound", "mask_lm_head": False}, None, {}),
        ("dlc_released", {**DLC, "schedule": "released", "mask_lm_head": True}, None, {}),
        ("lc_dropout", {"scorer": "LCDropout", "version": 1, "rates": RATES}, 0, {}),
        ("perplexity_low", {"scorer": "Perplexity", "version": 1, "keep": "low", "tokens": "response"}, None, {}),
        ("ifd_loss", {"scorer": "IFD", "version": 2, "ratio_of": "losses", "heading": True, "end": False}, None, {}),
        (
            "ifd_ppl",
            {"scorer": "IFD", "version": 2, "ratio_of": "perplexities", "heading": False, "end": False},
            None,
            {},
        ),
        (
            "s2l",
            {"scorer": "S2L", "version": 2, "clusters": 100},
            0,
            {"trajectory": {"checkpoints": 8, "seed": 0, "sft": RECORDED}},
        ),
    ],
)
def test_scores_that_read_a_model_keep_their_store_key(keys_now, name, scorer, seed, more):
    key = json.loads(json.dumps(keys_now(name)[0]))
    weights = key["llm"].pop("weights")  # Torch draws these weights, and another version may draw others.
    assert len(weights) == 64
    assert key == {
        "text_scorer": scorer,
        "seed": seed,
        "corpus": CORPUS,
        "llm": {"layers": 2, "model": "tiny", "quantization": "none", "seed": 0, "width": 64},
        **{"dtype": "fp32", "max_tokens": 16384, "device": "cpu"},
        **more,
    }
