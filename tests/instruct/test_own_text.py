"""`prunetune prune-text` and `prune_text`: every form of data, what is written, and faults in one line."""

import csv
import gzip
import json
import logging
import re

import datasets
import numpy as np
import pandas as pd
import pytest
import torch

import made_tokenizers as made
from damage import damage, flip_a_bit
from prunetune import prune_text
from prunetune.base.errors import InputError
from prunetune.instruct.corpus import encoding
from prunetune.instruct.corpus.corpora import Example
from prunetune.instruct.corpus.encoding import encode, response_tokens
from prunetune.instruct.corpus.messages import Details
from prunetune.instruct.model import passes
from prunetune.instruct.model.language_model import TinyLanguageModel
from prunetune.instruct.own_text.mix import mixed
from prunetune.instruct.own_text.near import by_minhash, by_states
from prunetune.instruct.own_text.read import Reading, RowsCorpus, read_rows
from prunetune.instruct.own_text.trainers import axolotl, llama_factory
from prunetune.instruct.own_text.words import command, python, translated
from runs import prunetune_here, run_text_here
from runs import read_rows as read_table
from scripts.assets.doc_text_forms import FORMS, outcome

SMALL = TinyLanguageModel(layers=1, width=32)
TOOLED = (  # A template in the style of Qwen, which knows tools, reasoning and their results.
    "{% if tools %}<|im_start|>system\n{{ tools | tojson }}<|im_end|>\n{% endif %}{% for m in messages %}"
    "{% if m.role == 'tool' %}<|im_start|>user\n<tool_response>{{ m.content }}</tool_response><|im_end|>\n"
    "{% else %}<|im_start|>{{ m.role }}\n{% if m.reasoning_content %}"
    "<think>{{ m.reasoning_content }}</think>{% endif %}{{ m.content | trim }}{% for call in m.tool_calls or [] %}\n"
    "<tool_call>{{ call.function | tojson }}</tool_call>{% endfor %}<|im_end|>\n{% endif %}{% endfor %}"
)
CALLS = [
    {"role": "user", "content": "1 and 2?"},
    {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "add", "arguments": '{"a": 1}'}}]},
    {"role": "tool", "content": "3"},
    {"role": "assistant", "content": " It is 3.\n", "reasoning_content": "Easy."},
]


def made_rows(count=24):
    return [{"instruction": f"Say {i}.", "output": f"It is {i} or {i * 7 % 11}.", "topic": "n"} for i in range(count)]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Make an empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_lines(path, rows):
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return path


def write_csv(path, rows):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return path


def prune_here(data, *words):
    return prunetune_here("prune-text", str(data), "--model", "tiny", "--store", "store", "--out", "kept", *words)


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_kept_rows_are_the_users_rows_and_the_table_has_every_row(here):
    rows = made_rows(12)
    rows[2]["output"] = ""
    rows[5] = dict(rows[4])
    rows[7]["score"] = 3  # The user has a column of this name.
    rows[8]["output"] = "word " * 200
    rows[9]["instruction"] = "word " * 200
    write_lines(here / "my.jsonl", rows)
    done = prune_here("my.jsonl", "--keep", "4", "--scorer", "longest", "--max-length", "300")
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[0] == "keep 4 in all"
    assert "my.jsonl: not read, so that it does not count in the scores: column topic (12 times), column score" in (
        done.stderr
    )
    names = ["kept.jsonl", "all.parquet", "report.json", "dataset_info.json", "axolotl.yaml"]
    assert done.stdout.split() == [f"kept/{name}" for name in names]
    table = pd.read_parquet("kept/all.parquet")
    assert table.columns.tolist() == ["row", "id", "longest", "tokens", "kept", "reason", "stratum", "duplicate_group"]
    assert table.row.tolist() == list(range(12))
    assert table.reason[[2, 5, 9]].tolist() == ["no response", "duplicate of row 4", "response cut"]
    assert table.reason[8] == "kept, over long"
    assert table.tokens[8] == 300
    kept = lines_of(here / "kept" / "kept.jsonl")
    assert [{key: row[key] for key in row if key != "prunetune_score"} for row in kept] == [
        rows[row] for row in table.row[table.kept]
    ]
    assert [row["prunetune_score"] for row in kept] == table.longest[table.kept].tolist()
    report = json.loads((here / "kept" / "report.json").read_text())
    assert report["corpus_report"] == {
        **{"read": 12, "empty": 0, "prompt_only": 1, "duplicates": 1, "over_long": 1, "response_removed": 1},
        "kept": 9,
    }
    before = (here / "kept" / "kept.jsonl").stat().st_mtime_ns
    again = prune_here("my.jsonl", "--keep", "4", "--scorer", "longest", "--max-length", "300")
    assert "finished before" in again.stderr
    assert (here / "kept" / "kept.jsonl").stat().st_mtime_ns == before


def test_the_command_the_function_and_a_run_keep_the_same_rows(here):
    done = prune_here("embedded", "--keep", "0.25", "--limit", "48", "--template", "alpaca", "--max-length", "512")
    assert done.returncode == 0, done.stderr
    table = pd.read_parquet("kept/all.parquet")
    subset = prune_text("embedded", 0.25, "tiny", limit=48, template="alpaca", store="store")
    assert subset.positions.tolist() == table.row[table.kept].tolist()
    assert subset.to_frame().dlc.tolist() == table.dlc.tolist() == subset.scores.tolist()
    words = ["corpus=embedded", "corpus.limit=48", "llm=tiny", "ratio=0.25", "until=prune", "device=cpu"]
    run = run_text_here(here / "results", *words)
    assert [int(row["row"]) for row in read_table(run / "subset.csv")] == subset.positions.tolist()
    assert json.loads((run / "corpus_report.json").read_text()) == subset.report
    assert repr(subset) == "Subset: 12 of 48 samples kept by dlc with flexrand"


def test_every_kind_of_data_keeps_the_same_rows(here):
    rows = made_rows()
    texts = [{key: str(value) for key, value in row.items()} for row in rows]
    frame = pd.DataFrame(rows, index=range(100, 124))
    both = datasets.DatasetDict(train=datasets.Dataset.from_list(rows), test=datasets.Dataset.from_list(rows[:3]))
    both.save_to_disk("saved")
    (here / "shards").mkdir()
    for number, part in enumerate((rows[:10], rows[10:])):
        datasets.Dataset.from_list(part).to_parquet(f"shards/train-0000{number}-of-00002.parquet")
    datasets.Dataset.from_list(rows[:3]).to_parquet("shards/test-00000-of-00001.parquet")
    (here / "shards" / "README.json").write_text("{}")
    (here / "list.json").write_text(json.dumps(rows))
    kinds = [
        *(rows, tuple(rows), frame, both, both["train"], "saved", "shards", "list.json", here / "list.json"),
        write_lines(here / "my.jsonl", rows),
        write_lines(here / "zipped.jsonl.gz", rows),
        write_csv(here / "my.csv", texts),
    ]
    for data in kinds:
        subset = prune_text(data, 6, SMALL, "longest", store="store")
        longest = sorted(range(24), key=lambda row: (-len(rows[row]["output"]), row))[:6]
        assert subset.positions.tolist() == sorted(longest)
        assert [row["instruction"] for row in subset.kept_rows] == [f"Say {i}." for i in subset.positions]
    assert len(prune_text("saved", 1.0, SMALL, "longest", split="test").rows) == 3
    assert len(prune_text("shards", 1.0, SMALL, "longest", split="all").rows) == 27
    assert prune_text(both["train"], 2, SMALL, "longest").as_hf().column_names == ["instruction", "output", "topic"]
    assert prune_text(frame, 2, SMALL, "longest").as_hf().num_rows == 2


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_the_scored_text_of_each_form_has_the_response_and_not_the_prompt(form):
    shown = outcome(form)
    scored = "".join(re.findall("»(.*?)«", shown, re.DOTALL))
    answers = ("3", "6", "Hello.", "It is 3.", " blue.", "The sky is blue.")
    assert any(answer in scored for answer in answers)
    assert not any(word in scored for word in ("Add.", "Hi.", "Be brief", "1 and 2?", "green", "No.", "Bye"))
    context = json.dumps(form.row)
    for word in ("Be brief.", "1 and 2", "A greeting."):
        assert (word in context) == (word in shown)
    if form.name == "weight 0":
        assert scored.count("Hello.") == 1
        assert shown.count("Hello.") == 2


def scored_words(encoded, tokenizer):
    ids = encoded.ids[0][encoded.responses[0]]
    return tokenizer.decode(ids)


def test_tool_calls_and_reasoning_are_scored_as_the_template_writes_them():
    tokenizer = made.tokenizer(chat_template=TOOLED)
    corpus = RowsCorpus(rows=[{"messages": CALLS, "tools": [{"name": "add"}]}], template="auto")
    encoded = encode(corpus, tokenizer)
    assert encoded.texts[0] == (
        '<|im_start|>system\n[{"name": "add"}]<|im_end|>\n<|im_start|>user\n1 and 2?<|im_end|>\n<|im_start|>assistant\n'
        '<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call><|im_end|>\n<|im_start|>user\n'
        "<tool_response>3</tool_response><|im_end|>\n<|im_start|>assistant\n<think>Easy.</think>It is 3.<|im_end|>\n"
    )
    assert scored_words(encoded, tokenizer) == (
        '<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call><|im_end|><think>Easy.</think>It is 3.<|im_end|>'
    )
    last = [{**message, "weight": 0} if turn == 1 else message for turn, message in enumerate(CALLS)]
    assert scored_words(encode(RowsCorpus(rows=[{"messages": last}], template="auto"), tokenizer), tokenizer) == (
        "<think>Easy.</think>It is 3.<|im_end|>"
    )


def test_what_the_template_does_not_write_is_counted_and_a_chat_of_tool_calls_alone_says_what_is_wrong(caplog):
    tokenizer = made.tokenizer(chat_template=made.CHATML)
    encoded = encode(RowsCorpus(name="my", rows=[{"messages": CALLS}], template="auto"), tokenizer)
    assert scored_words(encoded, tokenizer) == " It is 3.\n<|im_end|>"
    assert "my: not read, so that it does not count in the scores: tool_calls of messages (1 times), reasoning" in (
        caplog.text
    )
    with pytest.raises(InputError, match="no sample is left .*1 prompt only.*only call tools, which the tokenizer's"):
        encode(RowsCorpus(name="my", rows=[{"messages": CALLS[:3]}], template="auto"), tokenizer)
    with pytest.raises(InputError, match="sample 000000, a chat with tools, needs a tokenizer with a chat template"):
        encode(RowsCorpus(name="my", rows=[{"messages": CALLS}], template="auto"), made.tokenizer())


def test_an_answer_that_is_json_stays_text_and_chats_in_a_csv_file_are_read(here):
    rows = [{"prompt": "A list?", "chosen": '{"a": [1]}', "rejected": "[2]"}]
    [example] = RowsCorpus(rows=rows).examples()
    assert (example.instruction, example.response) == ("A list?", '{"a": [1]}')
    write_csv(here / "my.csv", [{"messages": json.dumps(CALLS), "tools": "[]"}])
    [example] = RowsCorpus(rows=read_rows("my.csv", Reading(python)).rows).examples()
    assert [role for role, _ in example.messages] == ["user", "assistant", "tool", "assistant"]
    assert example.details.extra(1)["tool_calls"][0]["function"]["arguments"] == {"a": 1}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"messages": [{"role": "user", "content": "a", "weight": "none"}]}, "a message's weight must be a number"),
        ({"messages": [], "tools": "add"}, "tools must be a list of objects, got 'add'"),
        ({"messages": [{"role": "user", "content": 1}]}, "a message's content must be text or a list of parts"),
        ({"chosen": 1, "rejected": 2}, "a chat must be a list of messages, got 1"),
    ],
)
def test_a_cell_of_another_type_names_its_row(row, message):
    with pytest.raises(InputError, match=f"my: row 1: {message}"):
        RowsCorpus(where="my", rows=[row]).examples()


def test_half_of_a_surrogate_pair_names_its_row():
    rows = [{"text": "good"}, {"text": "bad \ud83d"}]
    with pytest.raises(InputError, match=r"my: row 2 \(sample 000001\) holds '\\ud83d', half of a surrogate pair"):
        encode(RowsCorpus(name="my", rows=rows, template="auto"), made.tokenizer())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["my.jsonl", "--keep", "2", "--scorer", "dcl"], "no scorer 'dcl'.*Did you mean 'dlc'"),
        (["my.jsonl", "--keep", "2", "--sampler", "k_centre"], "no sampler 'k_centre'.*Did you mean 'k_center'"),
        (["my.jsonl", "--keep", "2", "--scorer", "s2l"], "s2l reads the losses of a fine-tuning"),
        (["my.jsonl", "--keep", "2", "--scorer", "rds_plus"], "--option queries=<value> must be a json"),
        (["my.jsonl", "--keep", "2", "--option", "stepp=1"], "option stepp: none of the scorers dlc has this setting"),
        (["my.jsonl", "--keep", "2", "--option", "levels"], "--option takes NAME=VALUE"),
        (["my.jsonl", "--keep", "2", "--mix", "dlc"], "a mix names scorers and positive weights, as in --mix dlc:0.5"),
        (["my.jsonl", "--keep", "2", "--near-duplicates", "hash"], "--near-duplicates is minhash or embedding"),
        (["my.jsonl", "--keep", "2", "--near-duplicates", "minhash:2"], "takes a threshold above 0 and at most 1"),
        (["my.jsonl", "--keep", "2", "--strata", "topic"], "strata must be one of none, source, length, cluster"),
        (["my.jsonl", "--keep", "2", "--columns", "output"], "--columns takes NAME=VALUE"),
        (
            ["my.jsonl", "--keep", "2", "--columns", "output=reply"],
            "row 1 has no column 'reply', which --columns",
        ),
        (["my.jsonl", "--keep", "2", "--max-length", "5000"], None),
        (["my.jsonl", "--keep", "2", "--max-length", "4"], "no sample is left.*raise --max-length 4"),
        (["my.jsonl", "--keep", "2", "--split", "train"], "my.jsonl has no splits; leave --split train out"),
        (["my.jsonl", "--keep", "99"], "there are 24 candidates, so that 99 cannot be kept"),
        (
            ["my.jsonl", "--keep", "2", "--pairs", "margin", "--scorer", "longest"],
            "needs the columns chosen",
        ),
        (["my.jsonl"], "exactly one of --keep, --ratio, --per-stratum says how much is kept, got none.*number of rows"),
        (["no.jsonl", "--keep", "2"], "there is no file or folder no.jsonl; check the path, or write hf:no.jsonl"),
        (["hf:no/such", "--keep", "2"], "'no/such' could not be fetched from the Hugging Face hub"),
        (["empty.jsonl", "--keep", "2"], "must hold a list of samples, found none"),
        (["folder", "--keep", "2"], "folder holds no file of rows; expected .json, .jsonl"),
    ],
)
def test_a_mistake_is_one_line_in_the_words_of_the_command(here, words, message):
    write_lines(here / "my.jsonl", made_rows())
    (here / "empty.jsonl").write_text("")
    (here / "folder").mkdir()
    done = prune_here(*words, *(["--scorer", "longest"] if message is None else []))
    if message is None:
        assert done.returncode == 0, done.stderr
        return
    assert (done.returncode, done.stdout) == (1, "")
    assert re.search(message, done.stderr.splitlines()[-1]), done.stderr
    assert not (here / "kept").exists()


def test_the_keys_of_a_run_are_translated():
    line = "pass corpus.max_length=512, text_scorer.step or sampler=topk; pass llm=local llm.model=<folder>"
    assert translated(line, command) == (
        "pass --max-length 512, --option step=<value> or --sampler topk; pass --model <folder>"
    )
    assert translated(line, python).startswith("pass max_length=512, option='step=<value>' or sampler='topk'")


def test_an_existing_path_wins_over_the_hub_and_over_the_word_embedded(here):
    write_lines(here / "embedded", made_rows(3))
    (here / "embedded").rename(here / "embedded.jsonl")
    (here / "hub").mkdir()
    (here / "embedded.jsonl").rename(here / "hub" / "my.jsonl")
    assert len(prune_text("hf:hub", 1.0, SMALL, "longest")) == 3
    (here / "embedded").mkdir()
    write_lines(here / "embedded" / "my.jsonl", made_rows(4))
    assert len(prune_text("embedded", 1.0, SMALL, "longest")) == 4


def test_a_limit_stops_reading(here):
    contents = {
        "my.jsonl": '{"text": "a"}\n{"text": "b"}\n{broken',
        "my.json": '[{"text": "a"}, {"text": "b"}, {broken',
        "my.csv": "text\na\nb\nc,d\n",
    }
    for name, content in contents.items():
        (here / name).write_text(content)
        reading = Reading(python, limit=2)
        assert [row["text"] for row in read_rows(name, reading).rows] == ["a", "b"]
        with pytest.raises(InputError):
            read_rows(name, Reading(python, limit=3))


def test_row_numbers_of_the_file_name_the_samples_of_a_score_file(here):
    rows = [{"key": f"id{9 - i}", "instruction": "" if i == 3 else f"Say {i}.", "output": "Yes."} for i in range(9)]
    write_lines(here / "my.jsonl", rows)
    (here / "scores.csv").write_text("sample_id,score\n" + "".join(f"{i},{i}\n" for i in range(9)))
    words = ["corpus=local", f"corpus.path={here / 'my.jsonl'}", "corpus.id_column=key", "llm=tiny", "device=cpu"]
    words += ["text_scorer=from_file", f"text_scorer.path={here / 'scores.csv'}", "sampler=topk", "ratio=0.25"]
    run = run_text_here(here / "results", *words, "until=prune")
    kept = read_table(run / "subset.csv")
    assert sorted(int(row["row"]) for row in kept) == [7, 8]
    assert {row["sample_id"] for row in kept} == {rows[7]["key"], rows[8]["key"]}


def test_a_mix_is_the_weighted_mean_of_ranks():
    scores = {"a": torch.tensor([1.0, 3.0, 2.0, 3.0]), "b": torch.tensor([4.0, 3.0, 2.0, 1.0])}
    expected = [0.25 * 0 + 0.75 * 1, 0.25 * 2.5 / 3 + 0.75 * 2 / 3, 0.25 / 3 + 0.75 / 3, 0.25 * 2.5 / 3]
    assert mixed(scores, {"a": 1, "b": 3}).tolist() == pytest.approx(expected)
    subset = prune_text(made_rows(), 5, SMALL, "longest", mix={"dlc": 0.5, "ifd_loss": 0.5}, options={"levels": 2})
    table = subset.to_frame()
    own = (0.5 * table.dlc.rank() + 0.5 * table.ifd_loss.rank()).sort_values(ascending=False, kind="stable")
    assert set(table.row[table.kept]) == set(own.index[:5])
    assert {"mix", "dlc", "ifd_loss", "longest"} <= set(table.columns)


@pytest.mark.parametrize("sampler", ["k_center", "k_medoids", "facility_location", "herding"])
def test_coverage_reads_the_hidden_states_of_each_stratum(sampler):
    rows = made_rows(16)
    subset = prune_text(rows, None, SMALL, "longest", sampler, per_stratum=2, strata="cluster", clusters=3)
    counts = subset.pool.labels[subset.kept].bincount(minlength=3).tolist()
    assert counts == [min(2, size) for size in subset.pool.class_counts.tolist()]
    states = _states(subset)
    for label in range(3):
        members = torch.nonzero(subset.pool.labels == label).flatten()
        chosen = [position for position in subset.kept.tolist() if position in members.tolist()]
        if sampler != "k_center":
            assert int(members[_first_pick(states[members], sampler)]) in chosen
        elif len(chosen) == 2:  # The first centre is drawn, and the second one is the farthest from it.
            farthest = [int(members[(states[members] - states[one]).norm(dim=1).argmax()]) for one in chosen]
            assert farthest[0] == chosen[1] or farthest[1] == chosen[0]


def test_damaged_hidden_states_are_named_and_made_again(tmp_path, caplog):
    def kept(keep, store):
        return prune_text(made_rows(16), keep, SMALL, "longest", "herding", store=store).positions.tolist()

    expected = kept(6, tmp_path / "whole")
    kept(4, tmp_path / "store")
    [states] = (tmp_path / "store").glob("text_states/*/states.pt")
    damage(states, flip_a_bit)
    assert kept(6, tmp_path / "store") == expected
    assert "is damaged (states.pt" in caplog.text


def _states(subset):
    """Return the hidden states of the samples, one by one: the mean of the last layer, weighted by position."""
    model, rows = SMALL.load("cpu", "fp32"), []
    for ids in subset.encoded.ids:
        hidden = model.base_model(input_ids=ids.long().unsqueeze(0)).last_hidden_state[0]
        weights = torch.arange(1, len(ids) + 1).float()
        rows.append(torch.nn.functional.normalize((weights @ hidden) / weights.sum(), dim=0))
    return torch.stack(rows)


def _first_pick(states, sampler):
    distances = torch.cdist(states, states)
    if sampler == "herding":
        return int((states - states.mean(dim=0)).norm(dim=1).argmin())
    return int(distances.square().sum(dim=0).argmin())


def test_near_duplicates_are_those_whose_shingles_agree():
    words = [f"w{i}" for i in range(40)]
    texts = [" ".join(words), " ".join([*words[:-1], "x"]), " ".join(reversed(words)), "short", "short"]
    found = by_minhash(texts, 0.8)
    assert found.groups == ((0, 1), (3, 4))
    assert by_minhash(texts, 0.99).groups == ((3, 4),)
    chain = [" ".join(words[start : start + 36]) for start in range(4)]  # Neighbours agree in 33 of 35 shingles.
    assert by_minhash([*chain, "other words here", *chain], 0.94).groups == ((0, 1, 2, 3, 5, 6, 7, 8),)
    states = torch.eye(4)[[0, 1, 0, 2, 3]] + torch.tensor([[0.0], [0.0], [0.01], [0.0], [0.0]])
    assert by_states(states, 0.9).groups == ((0, 2),)


def test_of_near_duplicates_the_first_row_is_a_candidate():
    rows = made_rows(8)
    rows[6] = {**rows[1], "output": rows[1]["output"] + " Yes."}
    subset = prune_text(rows, 1.0, SMALL, "longest", near_duplicates="minhash:0.5")
    table = subset.to_frame()
    assert table.reason[6] == "near-duplicate of row 1"
    assert table.duplicate_group[[1, 6]].tolist() == [0, 0]
    assert not np.isnan(table.longest[6])
    assert subset.positions.tolist() == [0, 1, 2, 3, 4, 5, 7]


def test_a_margin_is_the_difference_of_the_scores_of_both_answers():
    rows = [{"prompt": f"Q{i}?", "chosen": f" Good {i}", "rejected": f" A bad one {i}"} for i in range(5)]
    rows[3]["rejected"] = ""
    sides = {
        side: prune_text([{"prompt": row["prompt"], "completion": row[side]} for row in rows], 1.0, SMALL).scores
        for side in ("chosen", "rejected")
    }
    subset = prune_text(rows, 2, SMALL, pairs="margin")
    assert subset.scores[[0, 1, 2, 4]].tolist() == pytest.approx(
        (sides["chosen"] - sides["rejected"])[[0, 1, 2, 4]].tolist(), rel=1e-9
    )
    assert subset.to_frame().reason[3] == "the other answer cannot be scored"
    chosen = prune_text(rows, 2, SMALL)
    assert chosen.scores.tolist() == pytest.approx(sides["chosen"].tolist(), rel=1e-6)


def test_a_killed_call_goes_on_and_says_how_far_it_was(here, monkeypatch, caplog):
    class KilledError(BaseException):
        """Stands for SIGKILL."""

    write, done = passes._write, []

    def killing(*arguments):
        if len(done) == 3:
            raise KilledError
        done.append(arguments)
        write(*arguments)

    words = {"store": "store", "max_tokens": 200}
    monkeypatch.setattr(passes, "_write", killing)
    with pytest.raises(KilledError):
        prune_text(made_rows(), 4, SMALL, **words)
    monkeypatch.setattr(passes, "_write", write)
    caplog.set_level(logging.INFO, "prunetune")
    subset = prune_text(made_rows(), 4, SMALL, **words)
    found = re.search(r"level0: continues, 3 of (\d+) batches exist", caplog.text)
    assert int(found.group(1)) > 3
    assert subset.scores.tolist() == prune_text(made_rows(), 4, SMALL, max_tokens=200).scores.tolist()


# The keys that data/README.md of LLaMA-Factory and the dataset pages of Axolotl document.
LLAMA_KEYS = {"file_name", "formatting", "ranking", "columns", "tags"}
LLAMA_COLUMNS = {"prompt", "query", "response", "history", "messages", "system", "tools", "chosen", "rejected"}
LLAMA_TAGS = {f"{name}_tag" for name in ("role", "content", "user", "assistant", "observation", "function", "system")}
AXOLOTL_KEYS = {"path", "ds_type", "type", "field_messages", "message_property_mappings", "roles", "field"}
AXOLOTL_FIELDS = {f"field_{name}" for name in ("system", "instruction", "input", "output")}


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_the_files_for_other_trainers_have_documented_keys_and_columns_that_exist(form):
    subset = prune_text([form.row], 1.0, SMALL, "longest", columns=form.columns)
    info, settings = llama_factory(subset), axolotl(subset)
    if info is None:
        assert settings is None
        assert {"chosen", "completion"} & set(form.row)
        return
    [entry], [dataset] = info.values(), settings["datasets"]
    assert set(entry) <= LLAMA_KEYS
    assert set(entry["columns"]) <= LLAMA_COLUMNS
    assert set(entry["columns"].values()) <= set(form.row)
    assert set(entry.get("tags", ())) <= LLAMA_TAGS
    assert set(dataset) <= AXOLOTL_KEYS
    if isinstance(dataset["type"], dict):
        assert set(dataset["type"]) <= AXOLOTL_FIELDS | {"format", "no_input_format"}
        assert {value for key, value in dataset["type"].items() if key.startswith("field")} <= set(form.row)


def test_the_tags_of_chats_are_those_of_the_messages():
    form = next(form for form in FORMS if form.name == "ShareGPT function calls")
    entry = llama_factory(prune_text([form.row], 1.0, SMALL, "longest"))["rows"]
    assert entry["columns"] == {"messages": "conversations"}
    assert entry["tags"] == {
        **{"role_tag": "from", "content_tag": "value", "user_tag": "human", "assistant_tag": "gpt"},
        **{"function_tag": "function_call", "observation_tag": "observation"},
    }


@pytest.mark.parametrize("trims", [False, True])
def test_the_fast_marking_of_responses_equals_that_by_all_offsets(monkeypatch, trims):
    tokenizer = made.tokenizer(merges=("Ġ Ġ", "a b", "Ġ a", ": Ċ"), trims_offsets=trims)
    texts = ["ab  ab", " a\n", "\n\nä 😀 b", "  ", "x", "😀", "a :\n b", "\u200da"]
    examples = [
        Example(f"{i}{j}", "made", instruction=first, response=second, details=Details(is_plain=True), row=10 * i + j)
        for i, first in enumerate(["", *texts])
        for j, second in enumerate(texts)
        if second.strip()
    ]
    corpus = RowsCorpus(rows=(), template="auto")
    monkeypatch.setattr(RowsCorpus, "examples", lambda self: examples)
    fast = encode(corpus, tokenizer)
    calls = []

    def slow(found, length, spans):
        calls.append(found)
        return response_tokens(np.array(found.offsets, dtype=np.int64).reshape(-1, 2), spans)

    monkeypatch.setattr(encoding, "_response_mask", slow)
    assert encode(corpus, tokenizer).fingerprint == fast.fingerprint
    assert len(calls) >= 50


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated", "ignore:'pin_memory' argument is set")
def test_trl_trains_on_the_kept_rows(here):
    import trl  # The import takes seconds, so that only this test pays for it.

    rows = [
        {"messages": [{"role": "user", "content": f"Say {i}."}, {"role": "assistant", "content": f"{i}."}]}
        for i in range(8)
    ]
    done = prune_here(write_lines(here / "my.jsonl", rows), "--keep", "4", "--scorer", "longest")
    assert done.returncode == 0, done.stderr
    dataset = datasets.load_dataset("json", data_files="kept/kept.jsonl", split="train", cache_dir=str(here / "cache"))
    arguments = trl.SFTConfig(
        output_dir="trained",
        max_steps=2,
        per_device_train_batch_size=2,
        use_cpu=True,
        bf16=False,
        report_to=[],
        logging_steps=1,
    )
    trainer = trl.SFTTrainer(
        model=SMALL.load("cpu", "fp32").requires_grad_(True),
        args=arguments,
        train_dataset=dataset,
        processing_class=SMALL.tokenizer(),
    )
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == 2
    assert all(np.isfinite(losses))


@pytest.mark.data
@pytest.mark.parametrize("file", ["alpagasus/alpaca_random_9k", "alpagasus/dolly_3k", "gsm8k/gsm_8k_train"])
def test_real_rows_are_pruned_by_a_real_model(real_data, tmp_path, file):
    data = real_data / "data" / "instruct" / f"{file}.json"
    subset = prune_text(data, 0.2, real_data / "weights" / "stories260K-hf", "ifd_loss", limit=40, max_length=256)
    rows = json.loads(data.read_text())[:40]
    assert list(subset.kept_rows) == [rows[row] for row in subset.positions.tolist()]
    assert len(subset) == round(0.2 * len(subset.pool))
    subset.to_folder(tmp_path / "kept")
    assert len(lines_of(tmp_path / "kept" / "kept.jsonl")) == len(subset)
