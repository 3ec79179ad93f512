"""Corpora: the layouts of the hub, local files and the embedded rows, and the errors for wrong ones."""

import json
import logging

import datasets
import pytest
from datasets import Dataset
from datasets.exceptions import DatasetNotFoundError

from prunetune.base.errors import InputError
from prunetune.instruct.corpus.corpora import (
    EMBEDDED,
    AlpacaCleaned,
    Corpus,
    DollyHHRLHF,
    EmbeddedCorpus,
    EvolInstruct,
    LocalCorpus,
    UltraChat,
    row_id,
)
from prunetune.instruct.extra import needed
from scripts.assets import make_corpus

DOLLY = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\nWhat is a stone?\n\n### Response:\n"
)
ALPACA_ROWS = [
    {"instruction": "Translate.", "input": "pain", "output": "bread"},
    {"instruction": "Say hi.", "input": "", "output": "Hi."},
    {"instruction": "Count.", "input": None, "output": "1 2 3"},
]
CHAT = [{"from": "human", "value": "Hi."}, {"from": "gpt", "value": "Hello."}]
HUB = {
    AlpacaCleaned: ALPACA_ROWS,
    DollyHHRLHF: [{"prompt": DOLLY, "response": "A rock."}, {"prompt": "Bare.", "response": "Yes."}],
    EvolInstruct: [{"idx": "7", "conversations": CHAT}] * 2,
    UltraChat: [{"id": "0", "data": ["Hi.", "Hello.", "Bye.", "See you."]}, {"id": "0", "data": ["A?", "B."]}],
}


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Write rows in the hub's layout and return the folder; the library's cache is a folder of this test."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))

    def write(rows, suffix="parquet", split="train"):
        folder = tmp_path / "hub"
        (folder / "data").mkdir(parents=True, exist_ok=True)
        if suffix == "parquet":
            Dataset.from_list(rows).to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")
        else:
            text = "".join(json.dumps(row) + "\n" for row in rows)
            (folder / "data" / f"{split}_0.jsonl").write_text(text)
        return str(folder)

    return write


@pytest.fixture
def local(tmp_path):
    def write(rows, name="rows.json", **settings):
        path = tmp_path / name
        if path.suffix == ".parquet":
            Dataset.from_list(rows).to_parquet(path)
        elif path.suffix == ".json":
            path.write_text(json.dumps(rows))
        else:
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return LocalCorpus(path=str(path), **settings)

    return write


def one_line(caught):
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
def test_alpaca_cleaned_in_the_hubs_layout(hub, suffix):
    folder = hub([{**row, "input": row["input"] or ""} for row in ALPACA_ROWS], suffix)
    examples = AlpacaCleaned(hub=folder).examples()
    assert [example.sample_id for example in examples] == ["000000", "000001", "000002"]
    assert [example.input for example in examples] == ["pain", "", ""]
    assert (examples[0].instruction, examples[0].response, examples[0].source) == (
        "Translate.",
        "bread",
        "alpaca_cleaned",
    )
    assert not any(example.is_templated or example.messages for example in examples)


def test_dolly_hhrlhf_in_the_hubs_layout_reads_the_training_split(hub):
    hub(HUB[DollyHHRLHF][1:], split="test")
    examples = DollyHHRLHF(hub=hub(HUB[DollyHHRLHF])).examples()
    assert [example.instruction for example in examples] == [DOLLY, "Bare."]
    assert [example.is_templated for example in examples] == [True, False]
    assert len(DollyHHRLHF(hub=hub(HUB[DollyHHRLHF]), split="test").examples()) == 1


def test_evol_instruct_in_the_hubs_layout_has_row_numbers_although_its_ids_repeat(hub):
    examples = EvolInstruct(hub=hub(HUB[EvolInstruct])).examples()
    assert [example.sample_id for example in examples] == ["000000", "000001"]
    assert examples[0].messages == (("user", "Hi."), ("assistant", "Hello."))


@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
def test_ultrachat_in_the_hubs_layout(hub, suffix):
    examples = UltraChat(hub=hub(HUB[UltraChat], suffix)).examples()
    assert [role for role, _ in examples[0].messages] == ["user", "assistant", "user", "assistant"]
    assert [example.sample_id for example in examples] == ["000000", "000001"]
    assert UltraChat().template == "chat"


@pytest.mark.parametrize("made", HUB, ids=lambda made: made.__name__)
def test_a_limit_takes_the_first_rows_and_may_be_larger_than_the_corpus(hub, made):
    folder = hub(HUB[made][:2])
    whole = made(hub=folder).examples()
    assert made(hub=folder, limit=1).examples() == whole[:1]
    assert made(hub=folder, limit=99).examples() == whole


@pytest.mark.parametrize("made", HUB, ids=lambda made: made.__name__)
def test_other_columns_give_a_one_line_error_with_what_was_expected_and_found(hub, made):
    folder = hub([{"question": "a", "answer": "b"}])
    with pytest.raises(InputError, match="expected the columns .* found question, answer: .* missing") as caught:
        made(hub=folder).examples()
    assert "corpus=local" in one_line(caught)


@pytest.mark.parametrize("made", HUB, ids=lambda made: made.__name__)
def test_id_revision_split_and_limit_reach_the_library(monkeypatch, made):
    calls = []

    def load_dataset(hub, **words):
        calls.append((hub, words))
        return Dataset.from_list(HUB[made][:2])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    corpus = made(limit=1)
    assert len(corpus.examples()) == 1
    assert calls == [(corpus.hub, {"revision": corpus.revision, "split": "train"})]
    assert len(corpus.revision) == 40
    expected = {"hub": corpus.hub, "revision": corpus.revision, "split": "train", "limit": 1}
    assert corpus.identity() == expected
    assert len(calls) == 1, "a pinned revision identifies a corpus without reading it"


@pytest.mark.parametrize("made", HUB, ids=lambda made: made.__name__)
def test_a_corpus_out_of_reach_gives_a_one_line_error(made, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    with pytest.raises(
        InputError, match="is not in the cache, and the hub cannot be reached.*run once online"
    ) as caught:
        made().examples()
    assert made().hub in one_line(caught)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            DatasetNotFoundError("Dataset 'a/b' is a gated dataset on the Hub.\nSee the docs."),
            "is gated; accept its terms",
        ),
        (
            DatasetNotFoundError("Dataset 'a/b' doesn't exist on the Hub\nor cannot be accessed."),
            "doesn't exist on the Hub",
        ),
        (ConnectionError("Couldn't reach 'a/b' on the Hub"), "is not in the cache, and the hub cannot be reached"),
        (ValueError('Unknown split "train". Should be one of [].'), "Unknown split"),
        (OSError(), "OSError"),
    ],
)
def test_every_error_of_the_library_gives_a_one_line_error(monkeypatch, error, words):
    def load_dataset(*_, **__):
        raise error

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(InputError, match=words) as caught:
        AlpacaCleaned().examples()
    assert one_line(caught).startswith("alpaca_cleaned: yahma/alpaca-cleaned")


def test_a_copy_in_a_folder_is_identified_by_its_rows(hub):
    folder = hub(HUB[UltraChat])
    first = UltraChat(hub=folder).identity()
    assert (first["hub"], len(first["sha256"])) == (None, 64)
    assert UltraChat(hub=folder).identity() == first
    changed = hub([{"id": "0", "data": ["Hi.", "Good day."]}])
    assert UltraChat(hub=changed).identity()["sha256"] != first["sha256"]


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl", "rows.ndjson", "rows.parquet"])
def test_a_local_file_of_any_kind_holds_the_same_samples(local, name):
    corpus = local(ALPACA_ROWS, name)
    examples = corpus.examples()
    assert [(example.instruction, example.input, example.response) for example in examples] == [
        ("Translate.", "pain", "bread"),
        ("Say hi.", "", "Hi."),
        ("Count.", "", "1 2 3"),
    ]
    assert [example.sample_id for example in examples] == ["000000", "000001", "000002"]
    assert (corpus.resolved_name, examples[0].source) == ("rows", "rows")


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.parquet"])
@pytest.mark.parametrize("column", ["messages", "conversations"])
def test_local_chats_of_either_form(local, name, column):
    roles = [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hello."}]
    for turns in (roles, CHAT):
        assert local([{column: turns}], name).examples()[0].messages == (("user", "Hi."), ("assistant", "Hello."))


def test_local_rows_under_other_names(local):
    rows = [
        {"instruction": "Sum up.", "context": "Long.", "response": "Short.", "category": "summary"},
        {"prompt": DOLLY, "response": "A rock.", "category": "open"},
    ]
    examples = local(rows, source_column="category", name="mine.jsonl").examples()
    assert (examples[0].instruction, examples[0].input, examples[0].response) == ("Sum up.", "Long.", "Short.")
    assert [example.is_templated for example in examples] == [False, True]
    with_input = local([{"instruction": DOLLY, "input": "Granite.", "output": "A rock."}]).examples()[0]
    assert not with_input.is_templated, "a prompt that is used as it is would lose the input"
    assert [example.source for example in examples] == ["summary", "open"]


def test_lines_of_json_under_the_suffix_json(tmp_path):
    path = tmp_path / "rows.json"
    path.write_text("".join(json.dumps(row) + "\n" for row in ALPACA_ROWS))
    assert len(LocalCorpus(path=str(path)).examples()) == 3


def test_local_ids_names_limit_and_identity(local):
    rows = [{**row, "key": number} for number, row in enumerate(ALPACA_ROWS, start=10)]
    corpus = local(rows, id_column="key", name="my.rows.jsonl", limit=2)
    assert [example.sample_id for example in corpus.examples()] == ["10", "11"]
    assert corpus.resolved_name == "my.rows"
    identity = corpus.identity()
    assert local(rows, name="other.jsonl", limit=2).identity() == identity, "the same bytes under another name"
    assert local(rows[:2], name="other.jsonl", limit=2).identity() != identity
    assert LocalCorpus(path="x.json", template="chat").resolved_name == "x"


@pytest.mark.parametrize(
    ("rows", "settings", "words"),
    [
        ([{"words": "a"}], {}, "row 1 has the columns words; expected instruction and output, prompt and response"),
        (
            [{"instruction": "a", "output": "b"}, {"instruction": "a"}],
            {},
            "row 2 has the columns instruction; expected",
        ),
        ([{"instruction": 3, "output": "b"}], {}, "row 1: instruction must be text, got 3"),
        ([{"instruction": "a", "output": ["b"]}], {}, "row 1: output must be text"),
        ([{"messages": [{"role": "robot", "content": "a"}]}], {}, "row 1: a message's role must be one of"),
        ([{"conversations": "a"}], {}, "row 1: a chat must be a list of messages"),
        ([{"instruction": "a", "output": "b"}], {"id_column": "key"}, "row 1 has no 'key'; it has instruction, output"),
        ([{"instruction": "a", "output": "b"}], {"source_column": "kind"}, "row 1 has no 'kind'"),
        ([], {}, "must hold a list of samples, found none"),
        ({"train": []}, {}, "must hold a list of samples, found dict"),
        (["a"], {}, "row 1 must be an object with named columns"),
    ],
)
def test_local_rows_of_another_form_give_a_one_line_error(local, rows, settings, words):
    with pytest.raises(InputError, match=words) as caught:
        local(rows, **settings).examples()
    assert "rows.json" in one_line(caught)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("rows.xlsx", b"a,b", "must be a file .json, .jsonl, .ndjson, .csv, .tsv, .parquet, got .xlsx"),
        ("rows.csv", b"text,text\na,b\n", "has the column 'text' twice"),
        ("rows.csv", b"text\na,b\n", "row 1 has 2 fields and the header 1"),
        ("rows.csv", b"text\n", "must hold a list of samples, found none"),
        ("rows.jsonl.gz", b"{}", "is not a readable text file"),
        ("rows.json", b'[{"a": ', "is not valid json"),
        ("rows.jsonl", b'{"a": 1}\n{"a": ', "line 2 is not valid json"),
        ("rows.jsonl", b"\xff\xfe\x00", "is not a readable text file"),
        ("rows.parquet", b"nothing", "is not a readable parquet file"),
    ],
)
def test_a_local_file_that_cannot_be_read_gives_a_one_line_error(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=words) as caught:
        LocalCorpus(path=str(tmp_path / name)).examples()
    one_line(caught)


@pytest.mark.parametrize("path", [None, "", "no/such/file.json"])
def test_a_local_corpus_needs_a_file(path):
    with pytest.raises(InputError, match="corpus.path must be a json, jsonl, csv or parquet file"):
        LocalCorpus(path=path).examples()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"template": "alpca"},
            "corpus.template must be one of alpaca, stanford, none, released, chat, auto, got 'alpca'. Did you mean",
        ),
        ({"template": None}, "corpus.template must be one of"),
        ({"max_length": 1}, "corpus.max_length is a number of tokens and must be a whole number of at least 2, got 1"),
        ({"max_length": 10.5}, "got 10.5"),
        ({"limit": 0}, "corpus.limit is a number of rows and must be a whole number of at least 1 or null, got 0"),
        ({"limit": True}, "got True"),
    ],
)
@pytest.mark.parametrize("made", [*HUB, LocalCorpus, EmbeddedCorpus], ids=lambda made: made.__name__)
def test_a_wrong_setting_gives_a_one_line_error(made, settings, words):
    with pytest.raises(InputError, match=words) as caught:
        made(**settings)
    one_line(caught)


def test_row_numbers_sort_as_rows_do():
    assert row_id(7, 10) == "000007"
    assert row_id(7, 1_500_000) == "0000007"
    ids = [row_id(number, 1_000_001) for number in (0, 9, 10, 999_999, 1_000_000)]
    assert ids == sorted(ids)


def test_the_embedded_rows_are_what_the_script_computes(tmp_path):
    make_corpus.main(tmp_path / "rows.jsonl")
    assert (tmp_path / "rows.jsonl").read_bytes() == EMBEDDED.read_bytes()


def test_the_embedded_corpus_has_ten_sources_and_chats_on_request():
    examples = EmbeddedCorpus().examples()
    assert len(examples) == 320
    assert len({example.source for example in examples}) == 10
    assert not any(example.messages for example in examples)
    assert len({(example.instruction, example.input) for example in examples}) > 310, "questions differ"
    with_chats = EmbeddedCorpus(chats=True).examples()
    assert [example for example in with_chats if not example.messages] == examples
    assert {len([1 for role, _ in example.messages if role == "user"]) for example in with_chats[320:]} == {2, 3, 4}
    assert EmbeddedCorpus(chats=True).identity() != EmbeddedCorpus().identity()
    assert EmbeddedCorpus(limit=5).examples() == examples[:5]


def test_the_embedded_answers_follow_from_their_questions():
    by_source = {}
    for example in EmbeddedCorpus().examples():
        by_source.setdefault(example.source, []).append(example)
    for example in by_source["arithmetic"]:
        question, _, result = example.response.partition(" = ")
        # The text has only digits and signs that this package wrote, so eval is safe.
        assert eval(question) == int(result)
        assert all(number in example.instruction for number in question.split(" ")[::2])
    for example in by_source["number_sorting"]:
        numbers = [int(number) for number in example.input.split(", ")]
        is_down = "largest to smallest" in example.instruction
        assert [int(number) for number in example.response.split(", ")] == sorted(numbers, reverse=is_down)
    for example in by_source["word_sorting"]:
        assert example.response.split("\n") == sorted(example.input.split())
    for example in by_source["letter_counting"]:
        words = example.instruction.split()
        assert f" {example.input.count(words[words.index('letter') + 1])} time" in example.response


def test_a_missing_library_gives_a_one_line_error_with_the_extra():
    with pytest.raises(
        InputError, match=r"no_such_library, which is not installed; run pip install -e '\.\[instruct\]'"
    ):
        needed("no_such_library")
    assert needed("json") is json


def test_reading_is_silent(local, caplog, capfd):
    with caplog.at_level(logging.WARNING):
        local(ALPACA_ROWS, "rows.parquet").examples()
    assert caplog.records == []
    assert capfd.readouterr().out == ""


@pytest.mark.data
@pytest.mark.parametrize(
    ("file", "count", "source_column"),
    [
        ("alpagasus/alpaca_random_9k.json", 9229, None),
        ("alpagasus/alpaca_claude_t45.json", 5305, None),
        ("alpagasus/dolly_3k.json", 2996, "category"),
        ("cherry/cherry_alpaca_5_percent.json", 3111, None),
        ("gsm8k/gsm_8k_train.json", 7473, None),
    ],
)
def test_real_files_are_read_whole(real_data, file, count, source_column):
    path = real_data / "data" / "instruct" / file
    corpus = LocalCorpus(path=str(path), source_column=source_column)
    examples = corpus.examples()
    assert len(examples) == len({example.sample_id for example in examples}) == count
    assert len({example.source for example in examples}) == (8 if source_column else 1)
    assert sum(not example.response.strip() for example in examples) < 10


@pytest.mark.data
def test_real_seed_tasks_without_a_response_column_are_refused(real_data):
    path = real_data / "data" / "instruct" / "eval_sets" / "alpaca_seed_tasks.jsonl"
    with pytest.raises(InputError, match="row 1 has the columns id, name, instruction, instances"):
        LocalCorpus(path=str(path)).examples()


def test_a_corpus_without_rows_cannot_be_made():
    with pytest.raises(TypeError, match="abstract"):
        Corpus()


def test_a_blank_input_does_not_hide_a_context(local):
    [example] = local([{"instruction": "d", "input": " ", "context": "e", "output": "f"}]).examples()
    assert example.input == "e"
