"""Scores of real instructions against those of the methods' own code, written by scripts/parity/text_scores.py."""

import json
from pathlib import Path

import pandas
import pytest
import torch
from scipy.stats import spearmanr

import tiny
from prunetune.instruct import IFD, LanguageModel, LocalCorpus, Perplexity, RDSPlus
from prunetune.instruct.corpus.encoding import encode
from prunetune.runs.scores import compute_scores
from scripts.parity import text_scores

pytestmark = [pytest.mark.data, pytest.mark.slow]

OFFICIAL = Path(__file__).parents[2] / "results" / "parity" / "text_scores.csv"
# The format of the scripts of RDS+: BOS, every message under its role, EOS after a response.
TULU = (
    "{{ bos_token }}{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] | trim }}"
    "{% if m['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% if not loop.last %}{{ '\n' }}{% endif %}{% endfor %}"
)


@pytest.fixture(scope="module")
def official() -> pandas.DataFrame:
    return pandas.read_csv(OFFICIAL, comment="#")


@pytest.fixture
def products(real_data, official, tmp_path):
    """Return a function that returns what a scorer keeps, for the rows of the table in their order."""
    rows = json.loads((real_data / text_scores.ROWS).read_text(encoding="utf-8"))
    chosen = [{**rows[row], "messages": text_scores.as_chat(rows[row]), "id": f"{row:06d}"} for row in official["row"]]
    llm = LanguageModel(model=str(real_data / text_scores.MODEL), dtype="fp32")

    def found(scorer, template: str, columns: tuple[str, ...] = ("id", "instruction", "input", "output")):
        path = tmp_path / f"{template}.json"
        path.write_text(json.dumps([{column: row[column] for column in columns} for row in chosen]))
        tokenizer = llm.tokenizer()
        tokenizer.chat_template = TULU
        encoded = encode(LocalCorpus(path=str(path), id_column="id", template=template, max_length=512), tokenizer)
        assert encoded.report.kept == len(official) == 300
        signals = tiny.signals(tmp_path / template, tiny.Loaded(llm.load("cpu", "fp32"), tokenizer), encoded)
        compute_scores(scorer, signals, 0)
        [kept] = signals.products.values()
        return kept

    return found


@pytest.mark.parametrize(
    ("template", "scorer", "peer"),
    [
        ("stanford", IFD(), "cherry"),
        ("none", IFD(ratio_of="perplexities", heading=False), "superfiltering"),
    ],
)
def test_ifd_is_that_of_its_own_code(products, official, template, scorer, peer):
    prompted, direct = products(scorer, template)
    theirs = torch.tensor(official[[f"{peer}_conditioned", f"{peer}_direct"]].to_numpy()).T
    ours = torch.stack([prompted, direct])
    torch.testing.assert_close(ours, theirs.log() if scorer.ratio_of == "perplexities" else theirs, atol=1e-4, rtol=0)
    ratio = prompted / direct if scorer.ratio_of == "losses" else torch.exp(prompted - direct)
    assert spearmanr(ratio, theirs[0] / theirs[1]).statistic > 0.999
    assert int((ratio < 1).sum()) == int((theirs[0] < theirs[1]).sum())


def test_the_line_break_of_the_default_template_moves_ifd_of_this_small_model(products, official):
    prompted, direct = products(IFD(), "alpaca")
    theirs = official["cherry_conditioned"] / official["cherry_direct"]
    assert spearmanr(prompted / direct, theirs).statistic == pytest.approx(0.852, abs=0.01)


def test_rds_plus_and_perplexity_are_those_of_their_own_code(products, official, real_data, tmp_path, monkeypatch):
    losses = products(Perplexity(tokens="all"), "chat", ("id", "messages"))
    torch.testing.assert_close(losses, torch.tensor(official["loss_of_all_tokens"].to_numpy()), atol=1e-4, rtol=0)
    queries = json.loads((real_data / text_scores.QUERIES).read_text(encoding="utf-8"))[: text_scores.NUM_QUERIES]
    path = tmp_path / "queries.json"
    path.write_text(json.dumps([{"messages": text_scores.as_chat(row)} for row in queries]))
    cosines = products(RDSPlus(queries=str(path), template="chat"), "chat", ("id", "messages"))[:, 0]
    theirs = torch.tensor(official["rds_plus"].to_numpy())
    torch.testing.assert_close(cosines, theirs, atol=1e-4, rtol=0)
    assert spearmanr(cosines, theirs).statistic > 0.999
