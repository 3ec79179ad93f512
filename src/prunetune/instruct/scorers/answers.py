"""The answers of samples as tokens, within their sample and alone. A chat has one answer for each turn."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prunetune.base.errors import InputError
from prunetune.instruct.corpus.chats import Answer
from prunetune.instruct.corpus.encoding import CHUNK, Encoded, response_tokens
from prunetune.instruct.model.batches import Part


@dataclass(frozen=True)
class Alone:
    """K answers of N samples, each as a text of its own.

    part: K texts; the tokens of the answer are their responses. owners: [K] int64, the position of each one's sample.
    """

    part: Part
    owners: Tensor

    def means(self, losses: Tensor, size: int) -> Tensor:
        """Return each sample's mean loss over the tokens of all its answers, [size] float64.

        losses: [K] float64, the mean loss of each answer.
        """
        counts = torch.tensor([int(marks.sum()) for marks in self.part.responses], dtype=torch.float64)  # [K]
        sums, tokens = (
            torch.zeros(size, dtype=torch.float64).index_add_(0, self.owners, values)
            for values in (losses * counts, counts)
        )
        return sums / tokens


@dataclass(frozen=True)
class _Direct:
    """One answer of a sample, before its text is tokenized.

    row: the position of the sample. text: heading and answer. start: the character at which the answer begins. before:
    the token before the text, [0] or [1]. end: the tokens that end the answer. limit: the number of its tokens that are
    left in a sample that is cut, None if it is whole.
    """

    row: int
    text: str
    start: int
    before: Tensor
    end: Tensor
    limit: int | None


def in_context(encoded: Encoded, with_end: bool) -> Part:
    """Return N samples whose responses are the answers. with_end: whether the tokens that end them count too."""
    if with_end:
        return Part(encoded.ids, encoded.responses)
    rows = zip(encoded.responses, encoded.answers, strict=True)
    return Part(encoded.ids, tuple(_without_ends(marks, answers) for marks, answers in rows))


def alone(encoded: Encoded, tokenizer: Any, with_heading: bool, with_end: bool) -> Alone:
    """Return every answer without the texts before it.

    The text of an answer and its heading is tokenized anew. BOS precedes it if the sample begins with BOS. Without a
    heading BOS always precedes it, or else EOS, which ends the text before; otherwise the first token would not be
    predicted.

    Args:
        encoded: N samples.
        tokenizer: that of the samples.
        with_heading: whether an answer follows its heading, if its template writes one.
        with_end: whether the tokens that end an answer belong to it.

    Raises:
        InputError: an answer needs a token that begins a text, and the tokenizer has neither BOS nor EOS.
    """
    found = list(_answers(encoded, tokenizer, with_heading, with_end))
    ids, responses = [], []
    for start in range(0, len(found), CHUNK):
        chunk = found[start : start + CHUNK]
        texts = [direct.text for direct in chunk]
        batch = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        for direct, tokens, offsets in zip(chunk, batch["input_ids"], batch["offset_mapping"], strict=True):
            sample, marks = _tokens(direct, tokens, offsets)
            ids.append(sample)
            responses.append(marks)
    owners = torch.tensor([direct.row for direct in found], dtype=torch.int64)
    return Alone(Part(tuple(ids), tuple(responses)), owners)


def _without_ends(marks: Tensor, answers: tuple[Answer, ...]) -> Tensor:
    inside = torch.zeros_like(marks)
    for answer in answers:
        inside[answer.first : answer.stop] = True
    return marks & inside


def _answers(encoded: Encoded, tokenizer: Any, with_heading: bool, with_end: bool) -> Iterator[_Direct]:
    for row, (sample, marks, answers) in enumerate(zip(encoded.ids, encoded.responses, encoded.answers, strict=True)):
        nexts = [answer.first for answer in answers[1:]] + [len(sample)]
        for answer, after in zip(answers, nexts, strict=True):
            left = int(marks[answer.first : answer.stop].sum())
            if not left:  # The answer is cut off, or a chat excludes it.
                continue
            heading = answer.heading if with_heading else answer.start
            ending = sample[answer.stop : after][marks[answer.stop : after]]
            yield _Direct(
                row,
                encoded.texts[row][heading : answer.end],
                answer.start - heading,
                _before(sample, heading < answer.start, tokenizer),
                ending if with_end else ending[:0],
                left if answer.stop > len(sample) else None,
            )


def _before(sample: Tensor, has_heading: bool, tokenizer: Any) -> Tensor:
    """Return the token before the text of an answer, [0] or [1] of the type of the sample."""
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    if bos is not None and int(sample[0]) == bos:
        return sample[:1]
    if has_heading:  # The first token of the heading need not be predicted.
        return sample[:0]
    if bos is None and eos is None:
        raise InputError("the tokenizer has neither BOS nor EOS to begin a response with; use another scorer than ifd")
    return torch.tensor([eos if bos is None else bos], dtype=sample.dtype)


def _tokens(direct: _Direct, ids: list[int], offsets: list[tuple[int, int]]) -> tuple[Tensor, Tensor]:
    """Return ids [L] int32 and response tokens [L] bool of the text of an answer."""
    places = np.array([(0, 0)] * len(direct.before) + list(offsets), dtype=np.int64).reshape(-1, 2)
    marks = torch.from_numpy(response_tokens(places, [(direct.start, len(direct.text))]))
    tokens = torch.cat([direct.before, torch.tensor(ids, dtype=torch.int32)])
    if direct.limit is not None:
        is_left = ~marks | (marks.cumsum(dim=0) <= direct.limit)
        tokens, marks = tokens[is_left], marks[is_left]
    ending = direct.end.int()
    return torch.cat([tokens, ending]), torch.cat([marks, torch.ones(len(ending), dtype=torch.bool)])
