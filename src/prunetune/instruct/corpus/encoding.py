"""Tokenize a corpus, and mark the tokens that belong to responses."""

import hashlib
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prunetune.base.errors import InputError
from prunetune.base.progress import track
from prunetune.data.pool import Pool
from prunetune.instruct.corpus.chats import Answer, ChatTemplate, Span
from prunetune.instruct.corpus.corpora import Corpus, Example
from prunetune.instruct.corpus.forms import ignored_line
from prunetune.instruct.corpus.templates import Rendered, answered, asks, render

log = logging.getLogger(__name__)

Sample = tuple[np.ndarray, np.ndarray, tuple[Answer, ...]]  # Ids [L] int32, response tokens [L] bool, answers.
CHUNK = 1000  # Number of texts that are tokenized in one call.
# What became of a row, beside "kept" and "not chosen"; "duplicate" is followed by the row that stays.
EMPTY, NO_RESPONSE, DUPLICATE, OVER_LONG, CUT = "empty", "no response", "duplicate", "over long", "response cut"


@dataclass(frozen=True)
class Report:
    """The number of rows of a corpus by what became of them.

    read = empty + prompt_only + duplicates + response_removed + kept. empty: the prompt is blank. prompt_only: only the
    response is blank. duplicates: the text equals that of a smaller sample_id. over_long: the sample is cut at
    max_length, and a part of its response is left; these are among the kept. response_removed: the sample is dropped,
    because no response token is left after the cut.
    """

    read: int
    empty: int
    prompt_only: int
    duplicates: int
    over_long: int
    response_removed: int
    kept: int


@dataclass(frozen=True)
class Encoded:
    """N samples as tokens, in the order of the pool, which is sorted by sample_id.

    pool: one class, no images. sources: [N]. ids: N tensors [L_i] int32, with BOS if the tokenizer adds it, and EOS
    after the response. responses: N tensors [L_i] bool, True for a token that belongs to a response. The first token is
    always False, since no token precedes it. answers: the responses of each sample, one for each turn, as characters of
    its text and as tokens. In a sample that is cut, the tokens of the last one go beyond its end. texts: [N]. report:
    that of the whole corpus. fingerprint: SHA-256 of tokens, response tokens and sample_ids. rows: [N] the number of
    each sample in its file, from 0; None if the samples come from no file. outcomes: maps the row of each sample of the
    whole corpus that was dropped or cut to EMPTY, NO_RESPONSE, DUPLICATE with the row that stays, CUT or OVER_LONG;
    only the last are here.
    """

    pool: Pool
    sources: tuple[str, ...]
    ids: tuple[Tensor, ...]
    responses: tuple[Tensor, ...]
    answers: tuple[tuple[Answer, ...], ...]
    texts: tuple[str, ...]
    report: Report
    fingerprint: str
    rows: tuple[int, ...] | None = None
    outcomes: Mapping[int, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def lengths(self) -> Tensor:
        """The number of tokens of each sample, [N] int64."""
        return torch.tensor([len(ids) for ids in self.ids], dtype=torch.int64)

    @cached_property
    def response_lengths(self) -> Tensor:
        """The number of response tokens of each sample, [N] int64, at least 1."""
        return torch.tensor([int(mask.sum()) for mask in self.responses], dtype=torch.int64)

    def take(self, positions: Sequence[int] | Tensor) -> "Encoded":
        """Return the samples at these positions in ascending order. A repeated position counts once."""
        chosen = sorted(int(position) for position in positions)
        names = ("sources", "ids", "responses", "answers", "texts")
        parts = {name: tuple(getattr(self, name)[i] for i in chosen) for name in names}
        pool = self.pool.take(chosen)
        parts["rows"] = None if self.rows is None else tuple(self.rows[i] for i in chosen)
        return replace(self, pool=pool, **parts, fingerprint=fingerprint(pool, parts["ids"], parts["responses"]))


def fingerprint(pool: Pool, ids: Sequence[Tensor], responses: Sequence[Tensor]) -> str:
    """Return the SHA-256 of the tokens [L_i] int32, response tokens [L_i] bool and sample_ids of N samples."""
    digest = hashlib.sha256()
    for sample_id, tokens, mask in zip(pool.sample_ids, ids, responses, strict=True):
        digest.update(f"{sample_id!r} {len(tokens)}\n".encode())
        digest.update(tokens.numpy().astype("<i4").tobytes() + mask.numpy().tobytes())
    return digest.hexdigest()


def encode(corpus: Corpus, tokenizer: Any) -> Encoded:
    """Read a corpus, apply its template, and tokenize it.

    Samples with a blank prompt or response, duplicates, and samples whose response is cut off are dropped and counted.

    Raises:
        InputError: the corpus cannot be read, a text is not valid Unicode, the tokenizer lacks offsets, EOS or a chat
            template where these are needed, or no sample is left.
    """
    _check(tokenizer)
    examples = sorted(corpus.examples(), key=lambda example: example.sample_id)
    _check_ids(corpus, examples)
    outcomes: dict[int, str] = {}
    rendered, ignored = _rendered(corpus, examples, tokenizer, outcomes)
    ids, responses, answers, kept = [], [], [], []
    texts = [written for _, written in rendered]
    for position, (tokens, mask, turns) in enumerate(track(_tokens(texts, tokenizer), "encoding", len(texts))):
        row = rendered[position][0].row
        if len(tokens) > corpus.max_length:
            tokens, mask = tokens[: corpus.max_length], mask[: corpus.max_length]
            outcomes[row] = OVER_LONG
        if not mask.any():
            outcomes[row] = CUT
            continue
        ids.append(torch.from_numpy(tokens))
        responses.append(torch.from_numpy(mask))
        answers.append(turns)
        kept.append(position)
    report = _report(corpus, len(examples), outcomes, ignored)
    pool = _pool(corpus.resolved_name, [rendered[i][0].sample_id for i in kept])
    return Encoded(
        pool=pool,
        sources=tuple(rendered[i][0].source for i in kept),
        ids=tuple(ids),
        responses=tuple(responses),
        answers=tuple(answers),
        texts=tuple(rendered[i][1].text for i in kept),
        report=report,
        fingerprint=fingerprint(pool, ids, responses),
        rows=tuple(rendered[i][0].row for i in kept),
        outcomes=outcomes,
    )


def padding_id(tokenizer: Any) -> int:
    """Return the token that pads a batch: the padding token, or EOS if the tokenizer has none.

    The choice does not change any result, since padding is masked.

    Raises:
        InputError: the tokenizer has neither of them.
    """
    for token in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    raise InputError("the tokenizer has neither a padding nor an EOS token; set its pad_token in tokenizer_config.json")


def response_tokens(offsets: np.ndarray, spans: Sequence[Span]) -> np.ndarray:
    """Return which tokens contain at least one character of the spans.

    A token with characters of both prompt and response counts as response, since its response characters would
    otherwise never be scored or trained on. The first token never counts, since no token precedes it.

    Args:
        offsets: [L, 2] characters [start, end) of each token in the text, (0, 0) for tokens without characters.
        spans: characters [start, end) of the responses.

    Returns:
        [L] bool.
    """
    starts, ends = offsets[:, 0].copy(), offsets[:, 1]
    # Byte-level tokenizers may leave blanks out of the offsets. A token that has only blanks then has no characters.
    # Such a token is given the characters between itself and the token before it.
    before = np.concatenate([[0], np.maximum.accumulate(ends)[:-1]])
    blank = starts == ends
    starts[blank] = np.minimum(starts, before)[blank]
    mask = np.zeros(len(offsets), dtype=bool)
    for start, end in spans:
        mask |= (starts < end) & (ends > start)
    mask[:1] = False
    return mask


def answer_tokens(offsets: np.ndarray, answers: Sequence[Answer]) -> tuple[Answer, ...]:
    """Return answers with their tokens. The first token never belongs to a response.

    Args:
        offsets: [L, 2], see `response_tokens`.
        answers: in characters only.
    """
    reached = np.maximum.accumulate(offsets[:, 1])
    firsts = np.searchsorted(reached, [answer.start for answer in answers], side="right").tolist()
    lasts = np.searchsorted(reached, [answer.end for answer in answers]).tolist()
    return tuple(
        answer._replace(first=max(1, first), stop=min(last + 1, len(offsets)))
        for answer, first, last in zip(answers, firsts, lasts, strict=True)
    )


def _check(tokenizer: Any) -> None:
    if not getattr(tokenizer, "is_fast", False):
        raise InputError(
            f"response tokens are found by character offsets, which {type(tokenizer).__name__} does not provide; "
            "use a fast tokenizer (a model folder with tokenizer.json)"
        )


def _check_ids(corpus: Corpus, examples: Sequence[Example]) -> None:
    twice = [name for name, count in Counter(example.sample_id for example in examples).items() if count > 1]
    if twice:
        raise InputError(
            f"{corpus.resolved_name}: {len(twice)} ids occur more than once, first {twice[0]!r}; give every sample a "
            "unique id, or leave corpus.id_column out"
        )


def _rendered(
    corpus: Corpus, examples: Sequence[Example], tokenizer: Any, outcomes: dict[int, str]
) -> tuple[list[tuple[Example, Rendered]], Counter[str]]:
    """Return the samples with their texts, and what the chat template does not write; note what is dropped."""
    chat = ChatTemplate(tokenizer) if getattr(tokenizer, "chat_template", None) else None
    seen: dict[str, int] = {}
    rendered, ignored = [], Counter()
    for example in examples:
        if not asks(example):
            outcomes[example.row] = EMPTY
            continue
        written = render(example, corpus.template, chat) if answered(example) else None
        if written is None or not written.responses:
            outcomes[example.row] = NO_RESPONSE
            continue
        _check_text(corpus, example, written.text)
        first = seen.setdefault(written.text, example.row)
        if first != example.row:
            outcomes[example.row] = f"{DUPLICATE} of row {first}"
            continue
        if written.adds_special:  # No chat template was used, which alone writes these fields.
            ignored.update(f"{key} of messages" for extra in example.details.extras for key in extra)
        rendered.append((example, written))
    ignored.update({} if chat is None else chat.ignored)
    if ignored:
        log.warning("%s", ignored_line(corpus.resolved_name, ignored))
    return rendered, ignored


def _check_text(corpus: Corpus, example: Example, text: str) -> None:
    """Refuse a text with half of a surrogate pair, which no tokenizer reads."""
    if text.isascii():
        return
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{corpus.resolved_name}: row {example.row + 1} (sample {example.sample_id}) holds {text[error.start]!a}, "
            "half of a surrogate pair, which is no character; repair its text"
        ) from None


def _tokens(rendered: Sequence[Rendered], tokenizer: Any) -> Iterator[Sample]:
    """Yield ids [L] int32, response tokens [L] bool and answers of each text, with EOS if it is added."""
    for start in range(0, len(rendered), CHUNK):
        chunk = rendered[start : start + CHUNK]
        done: dict[int, Sample] = {}
        for adds_special in (True, False):
            places = [place for place, written in enumerate(chunk) if written.adds_special == adds_special]
            if not places:
                continue
            batch = tokenizer(
                [chunk[place].text for place in places],
                add_special_tokens=adds_special,
                return_attention_mask=False,
                return_token_type_ids=False,
                verbose=False,  # Do not warn about texts longer than the model's context, since they are cut later.
            )
            for place, ids, encoding in zip(places, batch["input_ids"], batch.encodings, strict=True):
                done[place] = _sample(chunk[place], ids, encoding, tokenizer)
        yield from (done[place] for place in range(len(chunk)))


def _sample(written: Rendered, ids: list[int], encoding: Any, tokenizer: Any) -> Sample:
    mask = _response_mask(encoding, len(ids), written.responses)
    answers = _answers(encoding, len(ids), written.answers)
    if written.adds_eos and mask.any():
        eos = tokenizer.eos_token_id
        if eos is None:
            raise InputError(
                "the tokenizer has no EOS token to end a response; set its eos_token in tokenizer_config.json"
            )
        if ids[-1] == eos and encoding.offsets[-1] == (0, 0):  # The tokenizer has already added EOS.
            mask[-1] = True
        else:
            ids, mask = [*ids, eos], np.append(mask, True)
    return np.array(ids, dtype=np.int32), mask, answers


def _response_mask(encoding: Any, length: int, spans: Sequence[Span]) -> np.ndarray:
    """Return what `response_tokens` returns, [L] bool, without a list of all offsets, which takes much time to make.

    The tokens of a span reach from the first one that contains its first character to the last one that contains its
    last character. For a character that no token contains, such as a blank that is left out of the offsets, all of them
    are read.
    """
    mask = np.zeros(length, dtype=bool)
    for start, end in spans:
        first = encoding.char_to_token(start) if start < end else None
        last = encoding.char_to_token(end - 1) if start < end else None
        if first is None or last is None:
            return response_tokens(_offsets(encoding), spans)
        while last + 1 < length and _contains(encoding.token_to_chars(last + 1), end - 1):
            last += 1  # Several tokens of bytes can share a character.
        mask[first : last + 1] = True
    mask[:1] = False
    return mask


def _answers(encoding: Any, length: int, answers: Sequence[Answer]) -> tuple[Answer, ...]:
    """Return what `answer_tokens` returns, in the way of `_response_mask`."""
    found = []
    for answer in answers:
        first = encoding.char_to_token(answer.start) if answer.start < answer.end else None
        last = encoding.char_to_token(answer.end - 1) if answer.start < answer.end else None
        if first is None or last is None:
            return answer_tokens(_offsets(encoding), answers)
        found.append(answer._replace(first=max(1, first), stop=min(last + 1, length)))
    return tuple(found)


def _offsets(encoding: Any) -> np.ndarray:
    return np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2)


def _contains(span: Span | None, place: int) -> bool:
    return span is not None and span[0] <= place < span[1]


def _report(corpus: Corpus, read: int, outcomes: Mapping[int, str], ignored: Counter[str]) -> Report:
    counts = Counter(outcome.partition(" of row")[0] for outcome in outcomes.values())
    report = Report(
        read=read,
        empty=counts[EMPTY],
        prompt_only=counts[NO_RESPONSE],
        duplicates=counts[DUPLICATE],
        over_long=counts[OVER_LONG],
        response_removed=counts[CUT],
        kept=read - len(outcomes) + counts[OVER_LONG],
    )
    line = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in asdict(report).items())
    if report.kept == 0:
        fix = f"raise corpus.max_length={corpus.max_length} or check the rows"
        if report.prompt_only and any("tool_calls" in name for name in ignored):
            fix = "the responses only call tools, which the tokenizer's chat template does not write; use another model"
        raise InputError(f"{corpus.resolved_name}: no sample is left ({line}); {fix}")
    log.info("%s: %s", corpus.resolved_name, line)
    if report.response_removed:
        log.warning(
            "%s: %d samples dropped, because their prompt alone fills the %d tokens at which samples are cut",
            corpus.resolved_name,
            report.response_removed,
            corpus.max_length,
        )
    return report


def _pool(name: str, sample_ids: Sequence[str]) -> Pool:
    return Pool(
        name=name,
        labels=torch.zeros(len(sample_ids), dtype=torch.int64),
        sample_ids=tuple(sample_ids),
        splits=("train",) * len(sample_ids),
        classes=("text",),
    )
