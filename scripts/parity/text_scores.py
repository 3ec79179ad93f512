"""Developer tool: scores of real instructions by the code of the methods' authors, which a test compares with ours.

python -m scripts.parity.text_scores --peers <folder of checkouts> --data <folder with data/ and weights/> [--out <csv>]

The folder has the checkouts of the repositories in `PEERS`, each called name, owner+name or owner/name. Each of their
scripts runs unchanged, in a process of its own, in float32 on the CPU. It reads the first rows of a file of Alpaca that
fit into the context of a small language model. The table has numbers only, and a row for each sample.
"""

import argparse
import csv
import json
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer
from transformers.utils import logging

from scripts.parity.checkouts import find_checkout
from scripts.real_data import check_folder

OUT = Path("results/parity/text_scores.csv")
MODEL = Path("weights/stories260K-hf")
ROWS = Path("data/instruct/alpagasus/alpaca_random_9k.json")
QUERIES = Path("data/instruct/gsm8k/gsm_8k_train.json")
COUNT, NUM_QUERIES = 300, 20
MOST_TOKENS = 480  # Of a sample in the template of Alpaca, so that no script cuts one at the context of 512 tokens.
CHERRY = "tianyi-lab/Cherry_LLM@01fac8d"
SUPERFILTERING = "tianyi-lab/Superfiltering@f0764af"
RDS = "hamishivi/automated-instruction-selection@df71a04"
PEERS = (CHERRY, SUPERFILTERING, RDS)
# The scripts of RDS+ import code for evaluations that are not run here, and that code imports these packages.
STAND_INS = ("openai", "vllm", "evaluate")
# That code also loads data sets of the hub when it is imported. Files are loaded as usual.
WRAPPER = (
    "import runpy, sys, unittest.mock as m, datasets\n"
    "sys.modules.update({name: m.MagicMock() for name in sys.argv.pop(1).split(',')})\n"
    "load = datasets.load_dataset\n"
    "datasets.load_dataset = lambda kind, *a, **k: load(kind, *a, **k) if kind == 'json' else m.MagicMock()\n"
    "runpy.run_module(sys.argv.pop(1), run_name='__main__', alter_sys=True)\n"
)


def main() -> None:
    """Run all scripts and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", required=True, type=Path, help="folder of checkouts")
    parser.add_argument("--data", required=True, type=Path, help="folder with data/ and weights/")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    check_folder(options.data)
    places = {peer: find_checkout(options.peers, peer.partition("@")[0]) for peer in PEERS}
    if missing := [peer for peer, place in places.items() if place is None]:
        sys.exit(f"error: {options.peers} lacks {', '.join(missing)}; clone them there at these commits")
    rows = fitting_rows(options.data)
    with tempfile.TemporaryDirectory() as scratch:
        files = Inputs(Path(scratch), options.data, [row for _, row in rows])
        columns = {
            "row": [position for position, _ in rows],
            **cherry(places[CHERRY].resolve(), files),
            **superfiltering(places[SUPERFILTERING].resolve(), files),
            **rds(places[RDS].resolve(), files),
        }
    with options.out.open("w", newline="") as file:
        file.write(f"# {', '.join(PEERS)}; float32 on the CPU; {MODEL.name}; {ROWS.name}; queries: {QUERIES.name}\n")
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        numbers = ([f"{value:.8g}" for value in column] for column in columns.values())
        writer.writerows(zip(*numbers, strict=True))


def fitting_rows(data: Path) -> list[tuple[int, dict[str, str]]]:
    """Return the first COUNT rows of at most MOST_TOKENS tokens, with their positions in the file."""
    logging.set_verbosity_error()  # Longer rows are measured too.
    tokenizer = AutoTokenizer.from_pretrained(data / MODEL)
    preamble = len(tokenizer(ALPACA.format(instruction="", input="", output=""))["input_ids"])
    found = []
    for position, row in enumerate(json.loads((data / ROWS).read_text(encoding="utf-8"))):
        text = "".join(row[key] for key in ("instruction", "input", "output"))
        if row["output"].strip() and preamble + len(tokenizer(text)["input_ids"]) <= MOST_TOKENS:
            found.append((position, row))
    return found[:COUNT]


ALPACA = (  # The longer of the two templates, to measure how many tokens it takes.
    "Below is an instruction that describes a task, paired with an input that provides further context. Write a "
    "response that appropriately completes the request.\n\n### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n"
    "### Response:{output}"
)


class Inputs:
    """The files that the scripts read."""

    def __init__(self, folder: Path, data: Path, rows: list[dict[str, str]]) -> None:
        self.folder, self.model = folder, (data / MODEL).resolve()
        self.alpaca = folder / "rows.json"
        self.alpaca.write_text(json.dumps(rows), encoding="utf-8")
        queries = json.loads((data / QUERIES).read_text(encoding="utf-8"))[:NUM_QUERIES]
        self.chats, self.queries = self._chats("rows.jsonl", rows), self._chats("queries.jsonl", queries)

    def _chats(self, name: str, rows: Iterable[dict[str, str]]) -> Path:
        """Write rows as chats of one turn, since the scripts of RDS+ read only chats."""
        path = self.folder / name
        chats = [{"messages": as_chat(row)} for row in rows]
        path.write_text("".join(json.dumps(chat) + "\n" for chat in chats), encoding="utf-8")
        return path


def as_chat(row: dict[str, str]) -> list[dict[str, str]]:
    """Return a row of Alpaca as a chat of one turn: the question is instruction and input, an empty line between."""
    question = "\n\n".join(text for text in (row["instruction"], row["input"]) if text.strip())
    return [{"role": "user", "content": question}, {"role": "assistant", "content": row["output"]}]


def cherry(place: Path, files: Inputs) -> dict[str, list[float]]:
    """Return the mean losses of the answer, direct and with its prompt; Cherry's ratio is that of the two means."""
    out = files.folder / "cherry.pt"
    words = ["--data_path", files.alpaca, "--save_path", out, "--model_name_or_path", files.model, "--max_length", 512]
    run(place / "cherry_seletion", "data_analysis", *words, "--prompt", "alpaca", "--mod", "cherry")
    found = torch.load(out, weights_only=False)
    return {
        "cherry_direct": [float(sample["ppl"][1].double().log()) for sample in found],
        "cherry_conditioned": [float(sample["ppl"][2].double().log()) for sample in found],
    }


def superfiltering(place: Path, files: Inputs) -> dict[str, list[float]]:
    """Return the perplexities of the answer, direct and with its prompt."""
    out = files.folder / "superfiltering.jsonl"
    words = ["--data_path", files.alpaca, "--save_path", out, "--model_name_or_path", files.model, "--max_length", 512]
    run(place / "code_ifd", "data_analysis", *words)
    found = [json.loads(line) for line in out.read_text().splitlines()]
    return {
        "superfiltering_direct": [sample["ppl"][1] for sample in found],
        "superfiltering_conditioned": [sample["ppl"][3] for sample in found],
    }


def rds(place: Path, files: Inputs) -> dict[str, list[float]]:
    """Return each sample's largest cosine to a query, and its mean loss over all tokens."""
    out = files.folder / "rds"
    out.mkdir()
    words = ["--model_name", files.model, "--train_dataset", files.chats, "--save_dir", out, "--dtype", "fp32"]
    index = ["--eval_dataset", files.queries, "--index_path", out / "index.pt"]
    run(place, "minimal_multitask.compute_influence_cosinesim", *words, *index)
    run(place, "minimal_multitask.compute_influence_perplexity", *words)
    by_query = pickle.loads((out / f"{files.queries.name}_cossim.pkl").read_bytes())
    losses = pickle.loads((out / "nlls.pkl").read_bytes())
    return {
        "rds_plus": [max(cosines[row] for cosines in by_query.values()) for row in range(len(losses))],
        "loss_of_all_tokens": [losses[row] for row in range(len(losses))],
    }


def run(folder: Path, module: str, *words: Any) -> None:
    """Run a module of a checkout with these words on its command line."""
    command = [sys.executable, "-c", WRAPPER, ",".join(STAND_INS), module, *map(str, words)]
    print(f"{folder.name}: {module}", flush=True)
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"error: {module} of {folder} ended with {done.stderr.strip().splitlines()[-1]}")


if __name__ == "__main__":
    main()
