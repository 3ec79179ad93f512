"""Tokens of a corpus: response tokens, cut samples, and dropped samples with their counts."""

import json
import logging
from dataclasses import asdict

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

import made_tokenizers as made
from prunetune.base.errors import InputError
from prunetune.instruct.corpus.corpora import EmbeddedCorpus, LocalCorpus
from prunetune.instruct.corpus.encoding import Report, encode, padding_id, response_tokens

BYTES = made.tokenizer()
MERGING = made.tokenizer(merges=("Ċ H", "Ċ Ċ", ": Ċ"))
BLANKS = made.tokenizer(merges=("Ġ Ġ", "ĠĠ ĠĠ"), trims_offsets=True)
CHAT = made.tokenizer(chat_template=made.CHATML)
TEXT = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="<"), min_size=1, max_size=30)


@pytest.fixture
def corpus(tmp_path):
    def write(rows, **settings):
        path = tmp_path / "rows.json"
        path.write_text(json.dumps(rows))
        return LocalCorpus(path=str(path), **settings)

    return write


def row(instruction="Name it.", output="It.", **more):
    return {"instruction": instruction, "output": output, **more}


def chat(*contents, first="user"):
    roles = ["user", "assistant"] if first == "user" else ["system", "user", "assistant"]
    names = [roles[turn] if turn < len(roles) else roles[-2:][(turn - len(roles)) % 2] for turn in range(len(contents))]
    return {"messages": [{"role": role, "content": text} for role, text in zip(names, contents, strict=True)]}


def words(encoded, tokenizer, sample=0):
    """The text of a sample's response tokens."""
    return tokenizer.decode(encoded.ids[sample][encoded.responses[sample]], clean_up_tokenization_spaces=False)


@pytest.mark.parametrize("tokenizer", [BYTES, MERGING, BLANKS], ids=["bytes", "merging", "blanks"])
@settings(max_examples=60, deadline=None)
@given(instruction=TEXT, context=st.text("ab \n", max_size=5), response=TEXT)
def test_the_response_tokens_are_the_response_and_its_end(tokenizer, instruction, context, response, tmp_path_factory):
    path = tmp_path_factory.mktemp("rows") / "rows.json"
    path.write_text(json.dumps([row(instruction, response, input=context), row("Always here.", "Yes.")]))
    encoded = encode(LocalCorpus(path=str(path), max_length=4096), tokenizer)
    if encoded.report.kept == 1:  # The sample is dropped if its prompt or response is blank.
        assert not (instruction + context).strip() or not response.strip()
        return
    found = words(encoded, tokenizer)
    # A token over the border may bring characters of the prompt, here the line end before the response.
    assert found in (f"{response}</s>", f"\n{response}</s>", f":\n{response}</s>")
    assert found == f"{response}</s>" or tokenizer is MERGING
    assert tokenizer.decode(encoded.ids[0], clean_up_tokenization_spaces=False) == f"<s>{encoded.texts[0]}</s>"


def test_a_token_over_the_border_is_response_where_reencoding_the_prompt_would_miss_it(corpus):
    tokenizer = made.tokenizer(merges=("Ċ H",))
    encoded = encode(corpus([row("Greet.", "Hi")]), tokenizer)
    prompt = encoded.texts[0].removesuffix("Hi")
    # The last token of the prompt is the line end, which the tokenizer joins with the H of the response.
    reencoded = len(tokenizer(prompt)["input_ids"])
    first = int(encoded.responses[0].nonzero()[0])
    assert tokenizer.convert_ids_to_tokens(encoded.ids[0][first:].tolist()) == ["ĊH", "i", "</s>"]
    assert reencoded == first + 1  # A mask by the length of the prompt would have begun at "i".


def test_a_response_that_begins_with_a_line_end_shares_its_first_token_with_the_prompt(corpus):
    tokenizer = made.tokenizer(merges=("Ċ Ċ",))
    encoded = encode(corpus([row("Greet.", "\nHi")]), tokenizer)
    first = int(encoded.responses[0].nonzero()[0])
    assert tokenizer.convert_ids_to_tokens(int(encoded.ids[0][first])) == "ĊĊ"
    assert int(encoded.response_lengths[0]) == 4  # The four tokens are the shared one, H, i and EOS.


def test_blanks_inside_a_response_count_although_a_tokenizer_trims_their_offsets(corpus):
    encoded = encode(corpus([row("Indent.", "if a:\n        b\n    c")]), BLANKS)
    assert words(encoded, BLANKS) == "if a:\n        b\n    c</s>"
    offsets = np.array(BLANKS(encoded.texts[0], return_offsets_mapping=True)["offset_mapping"])
    inside = encoded.responses[0][: len(offsets)].numpy()
    assert (offsets[inside, 0] == offsets[inside, 1]).sum() == 4  # The blanks are 8, then 4 in two tokens, and 1.


def test_response_tokens_by_hand():
    offsets = np.array([[0, 0], [0, 2], [2, 5], [5, 6], [6, 6], [6, 9]])
    assert response_tokens(offsets, [(4, 6)]).tolist() == [False, False, True, True, False, False]
    assert response_tokens(offsets, [(0, 2), (6, 7)]).tolist() == [False, True, False, False, False, True]
    # No token precedes the first one.
    assert response_tokens(np.array([[0, 3], [3, 5]]), [(0, 5)]).tolist() == [False, True]
    assert response_tokens(np.array([[0, 2], [4, 4], [4, 5]]), [(2, 4)]).tolist() == [False, True, False]


def test_types_and_lengths(corpus):
    encoded = encode(corpus([row("One.", "a"), row("Two.", "bb")]), BYTES)
    assert [ids.dtype for ids in encoded.ids] == [torch.int32] * 2
    assert [mask.dtype for mask in encoded.responses] == [torch.bool] * 2
    assert encoded.lengths.dtype == encoded.response_lengths.dtype == torch.int64
    assert encoded.lengths.tolist() == [len(ids) for ids in encoded.ids]
    assert encoded.response_lengths.tolist() == [2, 3]  # The lengths include EOS.
    assert not any(mask[0] for mask in encoded.responses)
    assert (encoded.pool.name, len(encoded.pool), len(encoded)) == ("rows", 2, 2)
    assert encoded.pool.labels.tolist() == [0, 0]
    assert encoded.sources == ("rows", "rows")


def test_a_cut_sample_loses_its_end_and_is_counted(corpus):
    whole = encode(corpus([row("Count.", "1 2 3 4 5 6 7 8 9")]), BYTES)
    limit = int(whole.lengths[0]) - 4
    cut = encode(corpus([row("Count.", "1 2 3 4 5 6 7 8 9")], max_length=limit), BYTES)
    assert torch.equal(cut.ids[0], whole.ids[0][:limit])
    assert torch.equal(cut.responses[0], whole.responses[0][:limit])
    assert words(cut, BYTES) == "1 2 3 4 5 6 7 "
    assert (cut.report.over_long, cut.report.response_removed, cut.report.kept) == (1, 0, 1)
    assert (whole.report.over_long, whole.report.kept) == (0, 1)
    exact = encode(corpus([row("Count.", "1 2 3 4 5 6 7 8 9")], max_length=limit + 4), BYTES)
    assert exact.report.over_long == 0


def test_a_sample_whose_response_is_cut_away_is_dropped_with_a_line(corpus, caplog):
    rows = [row("Say yes. " * 40, "Yes."), row("Say no.", "No.")]
    with caplog.at_level(logging.WARNING):
        encoded = encode(corpus(rows, max_length=200), BYTES)
    assert encoded.pool.sample_ids == ("000001",)
    assert (encoded.report.response_removed, encoded.report.over_long) == (1, 0)
    assert [record.getMessage() for record in caplog.records] == [
        "rows: 1 samples dropped, because their prompt alone fills the 200 tokens at which samples are cut"
    ]


def test_a_cut_exactly_at_the_end_of_the_prompt_drops_the_sample_and_one_token_later_keeps_it(corpus):
    rows = [row("Say yes.", "Yes."), row("No?", "No, never.")]
    prompt = int(encode(corpus(rows), BYTES).responses[0].nonzero()[0])
    assert encode(corpus(rows, max_length=prompt), BYTES).pool.sample_ids == ("000001",)
    assert encode(corpus(rows, max_length=prompt + 1), BYTES).response_lengths.tolist() == [1, 6]


def test_a_corpus_of_dropped_samples_only_gives_a_one_line_error_with_the_counts(corpus):
    with pytest.raises(InputError, match="rows: no sample is left.*1 prompt only.*1 response removed") as caught:
        encode(corpus([row("Say yes."), row("Say no.", "")], max_length=10), BYTES)
    assert "\n" not in str(caught.value)
    assert "corpus.max_length=10" in str(caught.value)


def test_every_row_is_counted_once(corpus):
    rows = [
        row("Say yes.", "Yes."),
        row("Say yes.", "Yes."),  # This row is a duplicate.
        row("Say yes.", "Yes.", input="  \n"),  # This text is the same, since a blank input counts as none.
        row("Say yes.", "YES."),
        row(" ", "Nobody asked."),
        row("", "", input=""),
        row("Asked.", " \n"),
        row("", "About the input.", input="Only an input."),
        row("Long. " * 60, "Never read."),
        row("Say much.", "much " * 80),
    ]
    encoded = encode(corpus(rows, max_length=300), BYTES)
    assert encoded.report == Report(
        read=10, empty=2, prompt_only=1, duplicates=2, over_long=1, response_removed=1, kept=4
    )
    assert encoded.pool.sample_ids == ("000000", "000003", "000007", "000009")
    counts = asdict(encoded.report)
    assert counts["read"] == sum(value for name, value in counts.items() if name not in ("read", "over_long"))


def test_blank_turns_of_chats_are_counted_like_blank_samples(corpus):
    rows = [
        chat("Hi.", "Hello."),
        chat("Hi.", " "),
        {"messages": []},
        {"messages": [{"role": "user", "content": "Alone."}]},
        {"messages": [{"role": "assistant", "content": "Unasked."}]},
    ]
    report = encode(corpus(rows), CHAT).report
    assert (report.read, report.empty, report.prompt_only, report.kept) == (5, 2, 2, 1)


def test_the_order_of_the_rows_changes_nothing_but_their_numbers(corpus):
    rows = [{**row(f"Say {name}.", name), "key": name, "kind": name[0]} for name in ("bb", "aa", "cc")]
    rows.append({**row("Say aa.", "aa"), "key": "ab", "kind": "z"})
    listed = encode(corpus(rows, id_column="key", source_column="kind"), BYTES)
    turned = encode(corpus(rows[::-1], id_column="key", source_column="kind"), BYTES)
    assert listed.pool.sample_ids == turned.pool.sample_ids == ("aa", "bb", "cc")
    assert listed.sources == turned.sources == ("a", "b", "c")
    assert listed.fingerprint == turned.fingerprint
    assert listed.texts == turned.texts


def test_the_fingerprint_depends_on_ids_tokens_and_response_tokens(corpus):
    base = encode(corpus([row()]), BYTES)
    others = [
        encode(corpus([row(output="Is.")]), BYTES),
        encode(corpus([row()], template="released"), BYTES),
        encode(corpus([{**row(), "key": "x"}], id_column="key"), BYTES),
        encode(corpus([row()], max_length=int(base.lengths[0]) - 1), BYTES),
    ]
    assert len({base.fingerprint, *(other.fingerprint for other in others)}) == 5
    assert encode(corpus([row()]), BYTES).fingerprint == base.fingerprint


def test_an_id_that_occurs_twice_is_refused(corpus):
    rows = [{**row(f"Say {word}."), "key": "x"} for word in "ab"]
    with pytest.raises(InputError, match="1 ids occur more than once, first 'x'.*corpus.id_column"):
        encode(corpus(rows, id_column="key"), BYTES)


def test_a_part_of_the_samples_keeps_their_order(corpus):
    encoded = encode(corpus([row(f"Say {word}.", word) for word in ("a", "b", "c", "d")]), BYTES)
    part = encoded.take(torch.tensor([3, 1]))
    assert part.pool.sample_ids == ("000001", "000003")
    assert [words(part, BYTES, sample) for sample in range(2)] == ["b</s>", "d</s>"]
    assert part.fingerprint not in ("", encoded.fingerprint)
    assert part.report == encoded.report
    assert encoded.take(range(4)).fingerprint == encoded.fingerprint


def test_an_end_that_the_tokenizer_adds_is_not_added_twice(corpus):
    own = made.tokenizer(adds_eos=True)
    encoded = encode(corpus([row()]), own)
    assert encoded.ids[0].tolist().count(own.eos_token_id) == 1
    assert words(encoded, own) == "It.</s>"
    assert encoded.fingerprint == encode(corpus([row()]), BYTES).fingerprint


def test_the_released_template_adds_no_end(corpus):
    encoded = encode(corpus([row()], template="released"), BYTES)
    assert words(encoded, BYTES) == "It."
    assert encoded.ids[0][0] == BYTES.bos_token_id


def test_a_tokenizer_that_lacks_something_gives_a_one_line_error(corpus):
    class Slow:
        is_fast = False

    with pytest.raises(InputError, match="character offsets, which Slow does not provide.*fast tokenizer"):
        encode(corpus([row()]), Slow())
    with pytest.raises(InputError, match="no EOS token"):
        encode(corpus([row()]), made.tokenizer(eos_token=None))
    assert encode(corpus([row()], template="released"), made.tokenizer(eos_token=None)).report.kept == 1


def test_padding_uses_the_padding_token_or_else_the_end_token():
    assert padding_id(BYTES) == 0
    assert padding_id(made.tokenizer(pad_token=None)) == 2
    with pytest.raises(InputError, match="neither a padding nor an EOS token") as caught:
        padding_id(made.tokenizer(pad_token=None, eos_token=None))
    assert "\n" not in str(caught.value)


CASES = {
    "chatml": (made.CHATML, "<|im_end|>"),
    "stripping": (made.STRIPPING, "</s>"),
    "thinking": (made.THINKING, "<|im_end|>"),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("first", ["user", "system"])
def test_the_response_tokens_of_a_chat_are_every_response_and_its_end(corpus, name, first):
    template, end = CASES[name]
    tokenizer = made.tokenizer(chat_template=template)
    contents = ["a", " a\n", "b and a", "b", "a", "c\nd  ", "Thanks."]
    contents = contents if first == "user" else ["Be brief: a, b.", *contents]
    encoded = encode(corpus([chat(*contents, first=first)], template="chat"), tokenizer)
    cut = str if name == "chatml" else str.strip
    answers = [cut(text) for text in (" a\n", "b", "c\nd  ")]
    assert words(encoded, tokenizer) == "".join(answer + end for answer in answers)
    assert "Thanks" not in encoded.texts[0]  # No response follows this message.
    assert encoded.ids[0].tolist().count(tokenizer.eos_token_id) == (3 if end == "</s>" else 0)
    begins = encoded.ids[0].tolist().count(tokenizer.bos_token_id)
    assert begins == (1 if name == "stripping" else 0)  # Only the template of "stripping" writes BOS.


def test_a_template_that_reads_the_response_is_followed(corpus):
    tokenizer = made.tokenizer(chat_template=made.THINKING)
    encoded = encode(corpus([chat("Sum?", "1 and 1</think>\n 2", "Sure?", "2")], template="chat"), tokenizer)
    assert "1 and 1" not in encoded.texts[0]
    assert words(encoded, tokenizer) == "2<|im_end|>2<|im_end|>"


def test_a_chat_template_without_an_end_gets_one_after_the_last_response(corpus):
    tokenizer = made.tokenizer(chat_template=made.ENDLESS)
    encoded = encode(corpus([chat("a", "b", "c", "d")]), tokenizer)
    assert encoded.texts[0] == "USER: a\nASSISTANT: b\nUSER: c\nASSISTANT: d\n"
    assert words(encoded, tokenizer) == "bd</s>"
    assert encoded.ids[0][-1] == tokenizer.eos_token_id


def test_a_blank_response_between_others_has_no_tokens(corpus):
    encoded = encode(corpus([chat("a", "", "c", "d")]), CHAT)
    assert words(encoded, CHAT) == "d<|im_end|>"


def test_chats_of_one_turn_are_wrapped_like_samples_and_chats_of_several_written_by_the_chat_template(corpus):
    rows = [chat("Say yes.", "Yes."), row("Say no.", "No."), chat("a", "b", "c", "d")]
    encoded = encode(corpus(rows), CHAT)
    assert [text.startswith("Below is an instruction") for text in encoded.texts] == [True, True, False]
    assert words(encoded, CHAT, 2) == "b<|im_end|>d<|im_end|>"
    assert [int(ids[0]) == CHAT.bos_token_id for ids in encoded.ids] == [True, True, False]


def test_a_chat_of_several_turns_without_a_chat_template_gives_a_one_line_error(corpus):
    with pytest.raises(
        InputError, match="sample 000001, a chat of several turns, needs a tokenizer with a chat"
    ) as caught:
        encode(corpus([chat("a", "b"), chat("a", "b", "c", "d")]), BYTES)
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="corpus.template=chat needs a tokenizer with a chat template"):
        encode(corpus([chat("a", "b")], template="chat"), BYTES)
    assert encode(corpus([chat("a", "b")]), BYTES).report.kept == 1


def test_cutting_a_chat_keeps_its_first_responses(corpus):
    whole = encode(corpus([chat("a", "b" * 20, "c", "d" * 20)]), CHAT)
    first_end = int(whole.responses[0].nonzero()[20]) + 1
    encoded = encode(corpus([chat("a", "b" * 20, "c", "d" * 20)], max_length=first_end), CHAT)
    assert words(encoded, CHAT) == "b" * 20 + "<|im_end|>"
    assert encoded.report.over_long == 1


def test_no_sample_of_the_embedded_corpus_is_dropped_by_a_byte_tokenizer():
    encoded = encode(EmbeddedCorpus(), BYTES)
    assert encoded.report == Report(320, 0, 0, 0, 0, 0, 320)
    assert len(set(encoded.sources)) == 10
    assert int(encoded.lengths.max()) <= 512
    chats = encode(EmbeddedCorpus(chats=True, max_length=1024), CHAT)
    assert chats.report.kept == 336
    assert chats.sources.count("chat") == 16


@pytest.mark.data
@pytest.mark.parametrize(
    "file", ["alpagasus/dolly_3k.json", "gsm8k/gsm_8k_train.json", "cherry/cherry_alpaca_5_percent.json"]
)
def test_real_samples_under_a_real_tokenizer_have_their_responses_as_response_tokens(real_data, file):
    tokenizer = AutoTokenizer.from_pretrained(real_data / "weights" / "stories260K-hf")
    path = real_data / "data" / "instruct" / file
    corpus = LocalCorpus(path=str(path), max_length=4096, limit=1000)
    encoded = encode(corpus, tokenizer)
    answers = {example.sample_id: example.response for example in corpus.examples()}
    assert encoded.report.kept > 980
    is_cut = encoded.lengths == 4096
    different = [
        sample_id
        for sample, sample_id in enumerate(encoded.pool.sample_ids)
        if not is_cut[sample] and words(encoded, tokenizer, sample).strip() != f"{answers[sample_id]}</s>".strip()
    ]
    assert different == []
    assert int(is_cut.sum()) == encoded.report.over_long


@pytest.mark.data
def test_a_real_corpus_is_read_completely_and_every_row_is_counted(real_data):
    tokenizer = AutoTokenizer.from_pretrained(real_data / "weights" / "stories260K-hf")
    path = real_data / "data" / "instruct" / "alpagasus" / "dolly_3k.json"
    encoded = encode(LocalCorpus(path=str(path), source_column="category"), tokenizer)
    assert encoded.report == Report(
        read=2996, empty=0, prompt_only=0, duplicates=2, over_long=161, response_removed=117, kept=2877
    )
    assert len(set(encoded.sources)) == 8
    assert int(encoded.lengths.max()) == 1024
    assert bool((encoded.ids[0] < len(tokenizer)).all())
