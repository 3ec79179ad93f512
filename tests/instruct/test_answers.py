"""The answers that IFD reads: with their heading, without their end, of every turn, and where a sample is cut."""

import math

import pytest
import torch
from torch import nn

import made_tokenizers as made
import tiny
from prunetune.base.errors import InputError
from prunetune.instruct import IFD
from prunetune.instruct.corpus.chats import ChatTemplate
from prunetune.instruct.corpus.corpora import Example
from prunetune.instruct.corpus.encoding import Encoded, encode
from prunetune.instruct.corpus.templates import render
from prunetune.instruct.scorers.answers import alone, in_context
from prunetune.runs.scores import compute_scores

WORDS = made.tokenizer(("H i", "# #"), chat_template=made.CHATML)
CHAT = (("system", "Be."), ("user", "One?"), ("assistant", "Hi 1"), ("user", "And?"), ("assistant", "Hi, two"))
HEADING = "<|im_start|>assistant\n"


class Corpus:
    """Samples in the place of a corpus."""

    resolved_name, template, max_length = "made", "alpaca", 512

    def __init__(self, *samples: Example, **settings) -> None:
        self._samples = samples
        vars(self).update(settings)

    def examples(self) -> list[Example]:
        return list(self._samples)


def sample(**fields) -> Example:
    given = {"sample_id": "0", "source": "made", "instruction": "Greet.", "response": "Hi there", **fields}
    return Example(**given)


def words(tokenizer, ids: torch.Tensor) -> str:
    return tokenizer.decode(ids.tolist(), skip_special_tokens=False, clean_up_tokenization_spaces=False)


def texts_of(encoded: Encoded, tokenizer=WORDS, with_heading: bool = True, with_end: bool = False) -> list[tuple]:
    """Return the text of every answer alone, and the part of it that counts."""
    part = alone(encoded, tokenizer, with_heading, with_end).part
    return [
        (words(tokenizer, ids), words(tokenizer, ids[marks]))
        for ids, marks in zip(part.ids, part.responses, strict=True)
    ]


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("alpaca", "### Response:\nHi there"),
        ("stanford", "### Response:Hi there"),
        ("released", f"### Response:\n{' ' * 12}Hi there"),
        ("none", "Hi there"),
        ("chat", f"{HEADING}Hi there"),
    ],
)
def test_the_answer_alone_is_its_heading_and_the_answer_without_its_end(template, text):
    encoded = encode(Corpus(sample(), template=template), WORDS)
    bos = "" if template == "chat" else "<s>"  # This chat template writes no BOS.
    assert texts_of(encoded) == [(bos + text, "Hi there")]
    assert words(WORDS, encoded.ids[0][in_context(encoded, with_end=False).responses[0]]) == "Hi there"
    ends = {"released": "", "chat": "<|im_end|>"}.get(template, "</s>")
    assert texts_of(encoded, with_end=True) == [(bos + text + ends, "Hi there" + ends)]
    assert in_context(encoded, with_end=True).responses == encoded.responses


@pytest.mark.parametrize(("bos", "first"), [("<s>", "<s>"), (None, "</s>")])
def test_an_answer_without_heading_begins_with_bos_or_else_with_the_end_of_the_text_before(bos, first):
    tokenizer = made.tokenizer(bos_token=bos, chat_template=made.CHATML)
    encoded = encode(Corpus(sample(), template="chat"), tokenizer)
    assert texts_of(encoded, tokenizer, with_heading=False) == [(f"{first}Hi there", "Hi there")]


def test_without_bos_and_end_an_answer_needs_a_heading():
    bare = made.tokenizer(bos_token=None, eos_token=None, chat_template=made.CHATML)
    encoded = encode(Corpus(sample(), template="chat"), bare)
    assert texts_of(encoded, bare) == [(f"{HEADING}Hi there", "Hi there")]
    with pytest.raises(InputError, match="neither BOS nor EOS to begin a response with"):
        alone(encoded, bare, with_heading=False, with_end=False)


def test_the_answers_of_a_chat_are_those_of_its_turns():
    encoded = encode(Corpus(sample(messages=CHAT)), WORDS)
    assert texts_of(encoded) == [(f"{HEADING}Hi 1", "Hi 1"), (f"{HEADING}Hi, two", "Hi, two")]
    ends = [text + "<|im_end|>" for text in ("Hi 1", "Hi, two")]
    assert [own for _, own in texts_of(encoded, with_end=True)] == ends
    assert words(WORDS, encoded.ids[0][in_context(encoded, with_end=False).responses[0]]) == "Hi 1Hi, two"


def test_a_template_without_headings_has_none_and_a_thought_stands_between_heading_and_answer():
    bare = ChatTemplate(made.tokenizer(chat_template=made.STRIPPING))
    text, spans, _ = bare.write((("user", "a"), ("assistant", "b")), "x")
    assert [(text[one.heading : one.start], text[one.start : one.end]) for one in bare.answers(text, spans)] == [
        ("", "b")
    ]
    thinking = made.CHATML.replace(
        "'role'] }}\n{{", "'role'] }}\n{% if m['role'] == 'assistant' %}<think>{% endif %}{{"
    )
    chat = ChatTemplate(made.tokenizer(chat_template=thinking))
    text, spans, _ = chat.write((("user", "a"), ("assistant", "b")), "x")
    [one] = chat.answers(text, spans)
    assert text[one.heading : one.end] == f"{HEADING}<think>b"
    assert text[one.start : one.end] == "b"


@pytest.mark.parametrize("length", [20, 24, 25, 29, 30, 34])
def test_of_a_cut_sample_the_same_number_of_tokens_counts_with_and_without_prompt(length):
    whole = encode(Corpus(sample(instruction="Go", response="abcdefghij"), template="none"), made.tokenizer())
    start = whole.answers[0][0].first
    cut = encode(
        Corpus(sample(instruction="Go", response="abcdefghij"), template="none", max_length=start + length - 19),
        made.tokenizer(),
    )
    left = int(in_context(cut, with_end=False).responses[0].sum())
    assert left == min(10, length - 19)
    [(_, own)] = texts_of(cut, made.tokenizer())
    assert own == "abcdefghij"[:left]


def reference(model: nn.Module, ids: list[int], scored: range) -> list[float]:
    log_p = model(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(dim=-1)
    return [-float(log_p[place - 1, ids[place]]) for place in scored]


@pytest.mark.parametrize("max_tokens", [1, 500])
def test_ifd_of_a_chat_averages_over_the_tokens_of_all_answers(tmp_path, max_tokens):
    model = tiny.model(width=32)
    tokenizer = tiny.tokenizer()
    encoded = encode(Corpus(sample(messages=CHAT), sample(sample_id="1", response="Good evening")), tokenizer)
    signals = tiny.signals(tmp_path, tiny.Loaded(model), encoded, max_tokens=max_tokens)
    compute_scores(IFD(), signals, 0)
    text = tokenizer.apply_chat_template([{"role": r, "content": c} for r, c in CHAT], tokenize=False)
    whole = tokenizer(text, add_special_tokens=False)["input_ids"]
    prompted, direct = [], []
    for answer in ("Hi 1", "Hi, two"):
        # Every byte is a token but </s> at the end of an answer, which is one token instead of four bytes.
        start = text.index(f"<|assistant|>\n{answer}") + len("<|assistant|>\n")
        start -= 3 * text[:start].count("</s>")
        assert tokenizer.decode(whole[start : start + len(answer)]) == answer
        prompted += reference(model, whole, range(start, start + len(answer)))
        own = tokenizer(f"<|assistant|>\n{answer}", add_special_tokens=False)["input_ids"]
        direct += reference(model, own, range(len(own) - len(answer), len(own)))
    losses = signals.products["losses"]  # [2, 2]
    assert losses[0, 0].item() == pytest.approx(math.fsum(prompted) / 11, abs=1e-4)
    assert losses[1, 0].item() == pytest.approx(math.fsum(direct) / 11, abs=1e-4)


def test_the_plain_templates_by_hand():
    assert render(sample(input="Now."), "none", None).text == "Greet.\nNow.\nHi there"
    assert render(sample(input=" "), "none", None).text == "Greet.\nHi there"
    alpaca, stanford = (render(sample(input="Now."), name, None).text for name in ("alpaca", "stanford"))
    assert stanford == alpaca.replace("### Response:\n", "### Response:")
    templated = sample(instruction=alpaca.removesuffix("Hi there"), is_templated=True)
    assert render(templated, "stanford", None).text == alpaca  # A prompt that has the template is not changed.
    assert render(templated, "none", None).text.endswith("Greet.\n\n### Input:\nNow.\nHi there")
