"""Throughput and memory of DLC for text, level by level, beside a plain forward pass over the same batches.

python -m scripts.bench.text_scoring                                     a small Llama with random weights, anywhere
python -m scripts.bench.text_scoring --model <folder>                    a model of your own
python -m scripts.bench.text_scoring --layers 32 --hidden 4096 --intermediate 14336 --heads 32 --kv-heads 8 \
    --vocabulary 128256 --dtype bf16 --samples 2000                      Llama 3 8B's shape, on a GPU

Weights are random and so are the tokens: neither time nor memory depends on them. Lengths are log-normal, about those
of Alpaca-Cleaned (prompt 70, response 100 tokens in the median). The plain pass computes all logits and no loss.
It runs before and after the levels, and the table shows the mean, so that the comparison is fair even if the machine
becomes slower. The tokens per second of a level do not include its masking, which has its own column, since masking
happens once per level whatever the length of the corpus. The script prints a Markdown table.
"""

import argparse
import logging
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from prunetune.base.devices import describe_device, resolve_device
from prunetune.base.errors import InputError
from prunetune.base.peak_memory import measured
from prunetune.base.seeding import seeded, stream
from prunetune.data.pool import Pool
from prunetune.instruct import LanguageModel
from prunetune.instruct.corpus.chats import Answer
from prunetune.instruct.corpus.encoding import Encoded, Report, fingerprint
from prunetune.instruct.extra import needed
from prunetune.instruct.model.batches import Batch, bucketed, collate
from prunetune.instruct.model.language_model import DTYPES, byte_tokenizer
from prunetune.instruct.model.processes import Processes
from prunetune.instruct.model.reader import Reader
from prunetune.instruct.model.weight_masking import TextMaskPath, masked
from prunetune.instruct.scorers import signals as text_signals
from prunetune.instruct.scorers.signals import Level, TextSignals

# The medians are in tokens. The spread is the sigma of the logarithm.
MEDIANS, SPREAD = {"prompt": 70, "response": 100}, 0.8


@dataclass(frozen=True)
class Row:
    """One row of the table. The field masking is in seconds, and peak is in bytes."""

    network: str
    tokens_per_second: float
    masking: float | None
    peak: int


class Made:
    """A Llama of a given shape with random weights."""

    quantization = "none"

    def __init__(self, shape: dict[str, int]) -> None:
        self.shape = shape

    def tokenizer(self) -> Any:
        return byte_tokenizer()

    def identity(self) -> dict[str, Any]:
        return self.shape

    def load(self, device: str, dtype: str) -> nn.Module:
        library = needed("transformers")
        config = library.LlamaConfig(**self.shape, max_position_embeddings=2048, pad_token_id=0, use_cache=False)
        with seeded("bench text scoring"), torch.device(device):
            model = library.AutoModelForCausalLM.from_config(config, dtype=DTYPES[dtype])
        return model.eval().requires_grad_(False)


@dataclass(frozen=True)
class Loaded:
    """A language model in memory that replaces the one it was loaded from."""

    origin: LanguageModel | Made
    model: nn.Module

    quantization = "none"

    def tokenizer(self) -> Any:
        return self.origin.tokenizer()

    def identity(self) -> dict[str, Any]:
        return self.origin.identity()

    def load(self, device: str, dtype: str) -> nn.Module:
        return self.model


def made_samples(count: int, vocabulary: int, max_length: int) -> Encoded:
    """Return samples of random tokens with Alpaca-like lengths."""
    generator = stream("bench text scoring", count)

    def lengths(part: str) -> list[int]:
        drawn = torch.randn(count, generator=generator).mul(SPREAD).exp() * MEDIANS[part]
        return drawn.round().clamp(1, max_length // 2 - 1).int().tolist()

    ids, marks = [], []
    for prompt, response in zip(lengths("prompt"), lengths("response"), strict=True):
        ids.append(torch.randint(3, vocabulary, (1 + prompt + response,), generator=generator).int())
        marks.append(torch.arange(1 + prompt + response) > prompt)
    names = tuple(f"{row:06d}" for row in range(count))
    pool = Pool("random", torch.zeros(count, dtype=torch.int64), names, ("train",) * count, ("text",))
    report = Report(count, 0, 0, 0, 0, 0, count)
    answers = tuple((Answer(0, 0, 0, int(own.int().argmax()), len(own)),) for own in marks)
    tokens = (tuple(ids), tuple(marks), answers)
    return Encoded(pool, ("random",) * count, *tokens, names, report, fingerprint(pool, ids, marks))


def plain_pass(model: nn.Module, batches: list[Batch], device: str) -> float:
    """Return the seconds of a forward pass that computes all logits of all batches."""
    start = time.perf_counter()
    with torch.inference_mode():
        for batch in batches:
            model(input_ids=batch.to(device).input_ids, use_cache=False)
            _synchronise(device)
    return time.perf_counter() - start


def bench(llm: Loaded, encoded: Encoded, device: str, dtype: str, max_tokens: int, path: TextMaskPath) -> list[Row]:
    """Return the rows: the plain pass, then every level."""
    model = llm.model
    batches = [collate(encoded, rows, 0) for rows in bucketed(encoded.lengths, max_tokens)]
    tokens = int(encoded.lengths.sum())
    plain_pass(model, [batches[0], batches[-1]], device)  # This pass is a warm-up and is not timed.
    with measured() as peak:
        plain = [plain_pass(model, batches, device)]
    plain_peak = peak()
    reader, levels = Reader(llm, llm.tokenizer(), encoded), []
    for level in range(path.levels):
        with tempfile.TemporaryDirectory() as folder, _timed_masking(device) as masking, measured() as peak:
            signals = TextSignals(reader, dtype, Processes(0, 1, device), Path(folder), max_tokens)
            signals.response_losses(f"level{level}", Level.of_path(path, level))
            share = path.counts(1_000_000)[level] / 1_000_000
            name = f"level {level}: {share:.0%} of the weights at zero"
            levels.append(Row(name, signals.tokens_per_second, sum(masking), peak()))
    plain.append(plain_pass(model, batches, device))
    return [Row("plain forward pass, all logits", 2 * tokens / sum(plain), None, plain_peak), *levels]


@contextmanager
def _timed_masking(device: str) -> Iterator[list[float]]:
    """Note the seconds that masking and restoring take."""
    seconds: list[float] = []

    @contextmanager
    def timed(model: nn.Module, path: TextMaskPath, level: int) -> Iterator[nn.Module]:
        start = time.perf_counter()
        with masked(model, path, level) as network:
            _synchronise(device)
            seconds.append(time.perf_counter() - start)
            yield network
            start = time.perf_counter()
        _synchronise(device)
        seconds.append(time.perf_counter() - start)

    text_signals.masked = timed
    try:
        yield seconds
    finally:
        text_signals.masked = masked


def _synchronise(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


def table(rows: list[Row], caption: str) -> str:
    """Return the rows as Markdown."""
    lines = [caption, "", "| network | tokens/s | of plain | masking, s | peak, GiB |", "|---|---:|---:|---:|---:|"]
    for row in rows:
        share = row.tokens_per_second / rows[0].tokens_per_second
        masking = "" if row.masking is None else f"{row.masking:.2f}"
        lines.append(
            f"| {row.network} | {row.tokens_per_second:,.0f} | {share:.0%} | {masking} | {row.peak / 2**30:.2f} |"
        )
    return "\n".join(lines)


def described(model: nn.Module, encoded: Encoded, device: str, dtype: str, max_tokens: int) -> str:
    """Return the table's caption."""
    weights = sum(weight.numel() for weight in model.parameters())
    response: Tensor = encoded.response_lengths.sum() / encoded.lengths.sum()
    return (
        f"{type(model).__name__}, {weights / 1e9:.3f} B weights, {dtype}; {len(encoded)} samples, "
        f"{int(encoded.lengths.sum()):,} tokens, {float(response):.0%} of them response; at most {max_tokens} tokens a "
        f"batch; {describe_device(device)}, torch {torch.__version__}, "
        f"transformers {needed('transformers').__version__}"
    )


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="folder of a model; by default a Llama with random weights")
    for name, value in (("layers", 4), ("hidden", 256), ("intermediate", 688), ("heads", 8), ("kv-heads", 4)):
        parser.add_argument(f"--{name}", type=int, default=value, help="shape of the random Llama")
    parser.add_argument("--vocabulary", type=int, default=32000, help="number of tokens of the random Llama")
    parser.add_argument("--samples", type=int, default=200, help="number of samples")
    parser.add_argument("--max-length", type=int, default=1024, help="largest number of tokens of a sample")
    parser.add_argument(
        "--max-tokens", type=int, default=16384, help="largest number of tokens of a batch, with padding"
    )
    parser.add_argument("--dtype", choices=tuple(DTYPES), default="fp32", help="type of the weights")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--out", type=Path, help="also append the table to this file")
    options = parser.parse_args()
    device = resolve_device(options.device)
    shape = {
        "num_hidden_layers": options.layers,
        "hidden_size": options.hidden,
        "intermediate_size": options.intermediate,
        "num_attention_heads": options.heads,
        "num_key_value_heads": options.kv_heads,
        "vocab_size": options.vocabulary,
    }
    made = LanguageModel(model=options.model) if options.model else Made(shape)
    llm = Loaded(made, made.load(device, options.dtype))
    encoded = made_samples(options.samples, llm.model.config.vocab_size, options.max_length)
    caption = described(llm.model, encoded, device, options.dtype, options.max_tokens)
    rows = bench(llm, encoded, device, options.dtype, options.max_tokens, TextMaskPath())
    text = table(rows, caption)
    print(text)
    if options.out:
        with options.out.open("a") as file:
            file.write(f"{text}\n\n")


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
