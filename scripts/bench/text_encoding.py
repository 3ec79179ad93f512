"""Time and memory of reading and encoding a corpus of text, as a ratio to the plain tokenizer on the same texts.

python -m scripts.bench.text_encoding                          200,000 made rows of about 415 bytes, 83 MB
python -m scripts.bench.text_encoding --file <file> --model <folder>          your own rows and tokenizer

The rows are drawn from a vocabulary of made words with frequencies as in natural text (Zipf). By default the tokenizer
is a byte-level BPE of 32,000 tokens that is trained on a part of them. Encoding reads the file, applies the template of
Alpaca, drops duplicates, tokenizes and marks the responses. The plain tokenizer is called on the finished texts, in
chunks of the same size, twice; its mean counts. Seconds are of processor time of all threads, so that other work on the
machine changes little. The memory is what encoding adds to that of the process before.
"""

import argparse
import json
import logging
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from prunetune.base.errors import InputError
from prunetune.base.peak_memory import measured
from prunetune.instruct import LanguageModel, LocalCorpus
from prunetune.instruct.corpus.encoding import CHUNK, encode
from prunetune.instruct.extra import needed

WORDS, VOCABULARY = 30_000, 32_000
LENGTHS = {"instruction": (8, 20), "output": (20, 56)}  # Words of the shortest and longest text.


def made_rows(count: int) -> Iterator[dict[str, str]]:
    """Yield rows of made words."""
    draws = np.random.default_rng(0)
    letters = np.array(list("etaoinshrdlucmfwypvbgkjqxz"))
    words = ["".join(draws.choice(letters, size=draws.integers(2, 11))) for _ in range(WORDS)]
    weights = 1 / np.arange(1, WORDS + 1)
    chosen = draws.choice(WORDS, size=count * 62, p=weights / weights.sum())
    at = 0
    for _ in range(count):
        row = {"input": ""}
        for name, (low, high) in LENGTHS.items():
            size = int(draws.integers(low, high))
            row[name] = " ".join(words[number] for number in chosen[at : at + size]).capitalize() + "."
            at = (at + size) % (len(chosen) - 100)
        yield row


def trained_tokenizer(file: Path) -> Any:
    """Return a byte-level BPE that is trained on the first rows of a file."""
    parts = needed("tokenizers")
    made = parts.Tokenizer(parts.models.BPE())
    made.pre_tokenizer = parts.pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = parts.pre_tokenizers.ByteLevel.alphabet()
    trainer = parts.trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet, show_progress=False
    )
    with file.open(encoding="utf-8") as lines:
        made.train_from_iterator((line for _, line in zip(range(20_000), lines, strict=False)), trainer)
    return needed("transformers").PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>")


def plain_seconds(tokenizer: Any, texts: tuple[str, ...]) -> float:
    """Return the seconds of processor time that the tokenizer alone takes."""
    start = time.process_time()
    for at in range(0, len(texts), CHUNK):
        tokenizer(list(texts[at : at + CHUNK]))
    return time.process_time() - start


def bench(file: Path, tokenizer: Any) -> str:
    """Return a line of a Markdown table."""
    corpus, start = LocalCorpus(path=str(file)), time.process_time()
    with measured() as peak:
        before = peak()
        encoded = encode(corpus, tokenizer)
    seconds, memory = time.process_time() - start, peak() - before
    plain = (plain_seconds(tokenizer, encoded.texts) + plain_seconds(tokenizer, encoded.texts)) / 2
    tokens = int(torch.sum(encoded.lengths))
    return (
        f"| {len(encoded):,} | {file.stat().st_size / 1e6:.0f} | {tokens / 1e6:.1f} | {seconds:.1f} | {plain:.1f} | "
        f"{seconds / plain:.2f} | {memory / 2**30:.2f} |"
    )


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--file", type=Path, help="rows to encode; by default made ones")
    parser.add_argument("--model", help="folder of a tokenizer; by default one that is trained on the rows")
    parser.add_argument("--rows", type=int, default=200_000, help="number of made rows")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        file = options.file or Path(folder) / "rows.jsonl"
        if options.file is None:
            with file.open("w", encoding="utf-8") as lines:
                lines.writelines(json.dumps(row) + "\n" for row in made_rows(options.rows))
        tokenizer = LanguageModel(model=options.model).tokenizer() if options.model else trained_tokenizer(file)
        line = bench(file, tokenizer)
    print("| rows | MB | million tokens | encoding, s | plain tokenizer, s | ratio | peak memory, GiB |")
    print("|---:|---:|---:|---:|---:|---:|---:|")
    print(line)


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
