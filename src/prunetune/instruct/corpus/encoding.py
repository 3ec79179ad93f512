"""Tokenize a corpus, and mark the tokens that belong to responses."""

import hashlib
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prunetune.base.errors import InputError
from prunetune.data.pool import Pool
from prunetune.instruct.corpus.chats import Answer, ChatTemplate, Span
from prunetune.instruct.corpus.corpora import Corpus, Example
from prunetune.instruct.corpus.templates import Rendered, prompt_of, render, response_of

log = logging.getLogger(__name__)

Sample = tuple[np.ndarray, np.ndarray, tuple[Answer, ...]]  # Ids [L] int32, response tokens [L] bool, answers.
CHUNK = 1000  # Number of texts that are tokenized in one call.


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
    always False, since no token precedes it. answers: the responses of each sample, one for each
    turn, as characters of its text and as tokens. In a sample that is cut, the tokens of the last one go beyond its
    end. texts: [N]. report: that of the whole corpus. fingerprint: SHA-256 of tokens, response tokens and sample_ids.
    """

    pool: Pool
    sources: tuple[str, ...]
    ids: tuple[Tensor, ...]
    responses: tuple[Tensor, ...]
    answers: tuple[tuple[Answer, ...], ...]
    texts: tuple[str, ...]
    report: Report
    fingerprint: str

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
        InputError: the corpus cannot be read, the tokenizer lacks offsets, EOS or a chat template where these are
            needed, or no sample is left.
    """
    _check(tokenizer)
    examples = sorted(corpus.examples(), key=lambda example: example.sample_id)
    _check_ids(corpus, examples)
    counts: Counter[str] = Counter(read=len(examples))
    rendered = _rendered(corpus, examples, tokenizer, counts)
    ids, responses, answers, kept = [], [], [], []
    for position, (tokens, mask, turns) in enumerate(_tokens([text for _, text in rendered], tokenizer)):
        tokens, mask, is_cut = tokens[: corpus.max_length], mask[: corpus.max_length], len(tokens) > corpus.max_length
        if not mask.any():
            counts["response_removed"] += 1
            continue
        counts["over_long"] += is_cut
        ids.append(torch.from_numpy(tokens))
        responses.append(torch.from_numpy(mask))
        answers.append(turns)
        kept.append(position)
    report = _report(corpus, counts, len(kept))
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
    corpus: Corpus, examples: Sequence[Example], tokenizer: Any, counts: Counter[str]
) -> list[tuple[Example, Rendered]]:
    chat = ChatTemplate(tokenizer) if getattr(tokenizer, "chat_template", None) else None
    seen: set[str] = set()
    rendered = []
    for example in examples:
        if not prompt_of(example).strip():
            counts["empty"] += 1
            continue
        if not response_of(example).strip():
            counts["prompt_only"] += 1
            continue
        written = render(example, corpus.template, chat)
        if written.text in seen:
            counts["duplicates"] += 1
            continue
        seen.add(written.text)
        rendered.append((example, written))
    return rendered


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
                return_offsets_mapping=True,
                verbose=False,  # Do not warn about texts longer than the model's context, since they are cut later.
            )
            for place, ids, offsets in zip(places, batch["input_ids"], batch["offset_mapping"], strict=True):
                done[place] = _sample(chunk[place], ids, offsets, tokenizer)
        yield from (done[place] for place in range(len(chunk)))


def _sample(written: Rendered, ids: Sequence[int], offsets: Sequence[Span], tokenizer: Any) -> Sample:
    tokens, places = np.array(ids, dtype=np.int32), np.array(offsets, dtype=np.int64).reshape(-1, 2)
    mask, answers = response_tokens(places, written.responses), answer_tokens(places, written.answers)
    if not written.adds_eos or not mask.any():
        return tokens, mask, answers
    if tokenizer.eos_token_id is None:
        raise InputError("the tokenizer has no EOS token to end a response; set its eos_token in tokenizer_config.json")
    if tokens[-1] == tokenizer.eos_token_id and tuple(offsets[-1]) == (0, 0):  # The tokenizer has already added EOS.
        mask[-1] = True
        return tokens, mask, answers
    return np.append(tokens, np.int32(tokenizer.eos_token_id)), np.append(mask, True), answers


def _report(corpus: Corpus, counts: Counter[str], kept: int) -> Report:
    fields = ("read", "empty", "prompt_only", "duplicates", "over_long", "response_removed")
    report = Report(**{field: counts[field] for field in fields}, kept=kept)
    line = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in asdict(report).items())
    if kept == 0:
        raise InputError(
            f"{corpus.resolved_name}: no sample is left ({line}); raise corpus.max_length={corpus.max_length} or check "
            "the rows"
        )
    log.info("%s: %s", corpus.resolved_name, line)
    if report.response_removed:
        log.warning(
            "%s: %d samples dropped, because their prompt alone fills corpus.max_length=%d tokens",
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
