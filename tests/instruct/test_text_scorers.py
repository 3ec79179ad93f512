"""Every text scorer against a slow reference: one sample at a time, no padding, weights masked by a sort."""

import copy
import json
import math
from pathlib import Path

import pandas
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import tiny
from prunetune.base.errors import InputError
from prunetune.base.seeding import derive_seed, stream
from prunetune.base.store import Store
from prunetune.config import catalogue
from prunetune.config.build import build
from prunetune.instruct import (
    DLC,
    IFD,
    S2L,
    LCDropout,
    Longest,
    Perplexity,
    RDSPlus,
    SourceBalancedRandom,
    registration,  # noqa: F401  adds the text scorers to the catalogue
)
from prunetune.instruct.corpus.corpora import LocalCorpus
from prunetune.instruct.corpus.encoding import Encoded, encode
from prunetune.instruct.model.forward import response_logits
from prunetune.instruct.scorers.base import equal_draws, in_pick_order
from prunetune.instruct.scorers.ifd import below_one_first
from prunetune.instruct.scorers.perplexity import distance_from_middle
from prunetune.instruct.scorers.rds_plus import round_robin
from prunetune.instruct.scorers.s2l import shared_by_clusters
from prunetune.instruct.scorers.signals import TextSignals
from prunetune.instruct.scorers.text_source import TextSource
from prunetune.runs.scores import compute_scores
from prunetune.samplers import TopK
from prunetune.scorers import FromFile, Random

ENCODED = tiny.encoded()
CLOSE = {"atol": 1e-4, "rtol": 0}
every_model = pytest.mark.parametrize(("architecture", "tied"), tiny.CASES)


def signals_of(folder, model=None, encoded=ENCODED, max_tokens=200, **more) -> TextSignals:
    llm = tiny.Loaded(model or tiny.model(), more.pop("tokens", None))
    return tiny.signals(folder, llm, encoded, max_tokens=max_tokens, **more)


def key_of(scorer, signals) -> dict:
    return TextSource(signals, Store(signals.folder)).key(scorer, None)


def reference_loss(model: nn.Module, ids: torch.Tensor, marks: torch.Tensor) -> float:
    """Return the mean loss of the marked tokens of one sample, token by token."""
    log_p = model(input_ids=ids.long().unsqueeze(0)).logits[0].double().log_softmax(dim=-1)
    own = [-float(log_p[j - 1, ids[j]]) for j in range(1, len(ids)) if marks[j]]
    return math.fsum(own) / len(own)


def reference_losses(model: nn.Module, encoded: Encoded = ENCODED) -> torch.Tensor:
    rows = zip(encoded.ids, encoded.responses, strict=True)
    return torch.tensor([reference_loss(model, ids, marks) for ids, marks in rows], dtype=torch.float64)


def reference_mask(model: nn.Module, share: float, with_head: bool = False) -> nn.Module:
    """Return a copy whose linear layers lack this share of their smallest weights. The head is included on request."""
    model = copy.deepcopy(model)
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and (with_head or name != "lm_head"):
            flat = module.weight.data.view(-1)
            flat[flat.abs().argsort(stable=True)[: round(share * len(flat))]] = 0
    return model


@every_model
@pytest.mark.parametrize("max_tokens", [1, 90, 5000])
def test_losses_are_those_of_one_sample_at_a_time_whatever_a_batch_holds(tmp_path, architecture, tied, max_tokens):
    model = tiny.model(architecture, tied)
    found = signals_of(tmp_path, model, max_tokens=max_tokens).response_losses()
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, reference_losses(model), **CLOSE)


@every_model
def test_dlc_is_the_mean_over_its_three_networks(tmp_path, architecture, tied):
    model = tiny.model(architecture, tied)
    signals = signals_of(tmp_path, model)
    scores = compute_scores(DLC(), signals, 0)
    levels = torch.stack([reference_losses(reference_mask(model, share)) for share in (0, 0.2, 0.36)])
    torch.testing.assert_close(signals.products["losses"], levels, **CLOSE)
    torch.testing.assert_close(scores, levels.mean(dim=0), **CLOSE)
    assert min((levels[a] - levels[b]).abs().max() for a, b in ((0, 1), (1, 2), (0, 2))) > 0.01


@every_model
def test_dlc_released_is_the_mean_over_0_20_20_with_the_head(tmp_path, architecture, tied):
    model = tiny.model(architecture, tied)
    signals = signals_of(tmp_path, model)
    scores = compute_scores(DLC(schedule="released", mask_lm_head=True), signals, 0)
    levels = [reference_losses(reference_mask(model, share, with_head=True)) for share in (0, 0.2, 0.2)]
    torch.testing.assert_close(scores, torch.stack(levels).mean(dim=0), **CLOSE)
    assert signals.products["losses"].shape == (3, 12)
    assert list(signals.charges) == ["level0", "level1"]  # The signals of the same network are not computed twice.


def test_only_response_positions_reach_the_output_head(tmp_path):
    model, seen = tiny.model("gemma2"), []
    model.lm_head.register_forward_hook(lambda module, inputs, output: seen.append(tuple(output.shape)))
    signals_of(tmp_path, model).response_losses()
    assert sum(shape[1] for shape in seen) == int(ENCODED.response_lengths.sum())
    assert {shape[0] for shape in seen} == {1}


def test_a_model_without_a_head_of_its_own_gives_the_same_losses(tmp_path, monkeypatch):
    model = tiny.model()
    monkeypatch.setattr(model, "get_output_embeddings", lambda: None)
    torch.testing.assert_close(signals_of(tmp_path, model).response_losses(), reference_losses(model), **CLOSE)


def test_a_head_whose_weight_alone_is_used_gives_the_same_losses(tmp_path, monkeypatch):
    model = tiny.model()
    monkeypatch.setattr(model, "get_output_embeddings", lambda: nn.Linear(32, 259))  # This head is never called.
    torch.testing.assert_close(signals_of(tmp_path, model).response_losses(), reference_losses(model), **CLOSE)


@every_model
def test_lc_dropout_is_one_minus_the_mean_inverse_perplexity(tmp_path, architecture, tied):
    model = tiny.model(architecture, tied)
    scores = compute_scores(LCDropout(rates=(0.1, 0.5, 0.9)), signals_of(tmp_path, model), seed=4)
    seed, inverse = derive_seed("score", 4), []
    for rate in (0.1, 0.5, 0.9):
        thinned = copy.deepcopy(model)
        for name, module in thinned.named_modules():
            # Dropping a unit has the same effect as setting its column of weights to zero.
            if isinstance(module, nn.Linear) and name != "lm_head":
                draws = torch.rand(module.in_features, generator=stream("dropout", seed, name))
                module.weight.data *= (draws >= rate) / (1 - rate)
        inverse.append((-reference_losses(thinned)).exp())
    torch.testing.assert_close(scores, 1 - torch.stack(inverse).mean(dim=0), **CLOSE)


def test_lc_dropout_depends_on_the_seed_and_its_rates(tmp_path):
    signals = signals_of(tmp_path)
    assert LCDropout().rates == tuple(rate / 10 for rate in range(1, 10))
    scorer = LCDropout(rates=[0.2])
    assert not torch.equal(compute_scores(scorer, signals, 0), compute_scores(scorer, signals, 1))


@every_model
@pytest.mark.parametrize("tokens", ["response", "all"])
def test_perplexity_keeps_its_end_or_the_middle(tmp_path, architecture, tied, tokens):
    model = tiny.model(architecture, tied)
    marks = ENCODED.responses if tokens == "response" else [torch.ones(len(ids)).bool() for ids in ENCODED.ids]
    losses = [reference_loss(model, ids, own) for ids, own in zip(ENCODED.ids, marks, strict=True)]
    ranked = sorted(range(12), key=losses.__getitem__)
    signals = signals_of(tmp_path, model)
    for keep, expected in (("low", ranked[:4]), ("high", ranked[-4:]), ("mid", ranked[4:8])):
        scores = compute_scores(Perplexity(keep=keep, tokens=tokens), signals, 0)
        kept = TopK().select(scores, signals.pool.labels, 1 / 3, torch.Generator())
        assert kept.tolist() == sorted(expected)


def test_the_middle_of_the_ranking_by_hand():
    assert distance_from_middle(torch.tensor([3.0, 1.0, 9.0, 7.0, 5.0])).tolist() == [1, 2, 2, 1, 0]
    assert distance_from_middle(torch.tensor([3.0, 1.0, 9.0, 7.0])).tolist() == [0.5, 1.5, 1.5, 0.5]


def reference_ratio(model: nn.Module, row: int, ratio_of: str, heading: bool, end: bool) -> float:
    """Return the IFD of one sample by its definition. Its text is tokenized anew without the prompt."""
    ids, marks, answer, text = (part[row] for part in (ENCODED.ids, ENCODED.responses, ENCODED.answers, ENCODED.texts))
    [answer] = answer
    begins = answer.heading if heading else answer.start
    own = torch.tensor(tiny.tokenizer()(text[begins : answer.end])["input_ids"] + [2] * end)
    is_answer = torch.arange(len(own)) > answer.start - begins  # Every byte is a token, and <s> precedes them.
    in_context = marks if end else marks & (torch.arange(len(ids)) < len(ids) - 1)
    prompted, alone = reference_loss(model, ids, in_context), reference_loss(model, own, is_answer)
    return prompted / alone if ratio_of == "losses" else math.exp(prompted) / math.exp(alone)


@every_model
@pytest.mark.parametrize("ratio_of", ["losses", "perplexities"])
def test_ifd_is_the_ratio_with_and_without_the_prompt(tmp_path, architecture, tied, ratio_of):
    model, heading = tiny.model(architecture, tied), ratio_of == "losses"
    expected = [reference_ratio(model, row, ratio_of, heading, end=not heading) for row in range(12)]
    expected = [ratio if ratio < 1 else -ratio for ratio in expected]
    scorer = IFD(ratio_of=ratio_of, heading=heading, end=not heading)
    found = compute_scores(scorer, signals_of(tmp_path, model), 0)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), atol=1e-3, rtol=0)


def test_a_ratio_of_one_or_more_ranks_last():
    ratios = torch.tensor([0.2, 1.0, 0.999, 5.0, 1.001, math.inf, math.nan, 0.0], dtype=torch.float64)
    scores = below_one_first(ratios)
    assert scores.isfinite().all()
    assert scores.argsort(descending=True, stable=True).tolist() == [2, 0, 7, 1, 6, 4, 3, 5]


def test_longest_counts_response_tokens(tmp_path):
    scores = compute_scores(Longest(), signals_of(tmp_path), 0)
    assert scores.tolist() == [sum(marks.tolist()) for marks in ENCODED.responses]


def query_file(folder: Path) -> Path:
    tasks = ["sums", "sums", "colours", "sums", "colours"]
    rows = [{"instruction": f"Say {i}", "output": f"{'x' * (3 * i + 1)}", "task": task} for i, task in enumerate(tasks)]
    path = folder / "queries.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def reference_state(model: nn.Module, ids: torch.Tensor) -> torch.Tensor:
    states = model(input_ids=ids.long().unsqueeze(0), output_hidden_states=True).hidden_states[-1][0].double()
    mean = sum((position + 1) * state for position, state in enumerate(states)) / sum(range(1, len(ids) + 1))
    return mean / mean.norm()


@every_model
def test_rds_plus_lets_the_tasks_take_turns(tmp_path, architecture, tied):
    model, path = tiny.model(architecture, tied), query_file(tmp_path)
    signals = signals_of(tmp_path, model)
    scores = compute_scores(RDSPlus(queries=str(path), source_column="task"), signals, 0)
    queries = encode(LocalCorpus(path=str(path), source_column="task"), tiny.tokenizer())
    samples = [reference_state(model, ids) for ids in ENCODED.ids]
    tasks = {}
    for task in ("colours", "sums"):
        own = [
            reference_state(model, ids) for ids, name in zip(queries.ids, queries.sources, strict=True) if name == task
        ]
        tasks[task] = [max(float(sample @ query) for query in own) for sample in samples]
    found = signals.products["similarities"]
    torch.testing.assert_close(found, torch.tensor(list(tasks.values())).double().T, atol=1e-5, rtol=0)
    picked = []
    while len(picked) < 12:
        for similarity in tasks.values():
            picked.append(max((row for row in range(12) if row not in picked), key=similarity.__getitem__))
    assert scores.argsort(descending=True).tolist() == picked


def test_pooling_sees_real_tokens_only(tmp_path):
    model, path = tiny.model(), query_file(tmp_path)
    alone = signals_of(tmp_path / "a", model, max_tokens=1)
    padded = signals_of(tmp_path / "b", model, max_tokens=5000)
    scorer = RDSPlus(queries=str(path), source_column="task")
    for signals in (alone, padded):
        compute_scores(scorer, signals, 0)
    torch.testing.assert_close(alone.products["similarities"], padded.products["similarities"], atol=1e-5, rtol=0)


def test_round_robin_by_hand():
    similarities = torch.tensor([[0.9, 0.9], [0.8, 0.1], [0.1, 0.2], [0.8, 0.3]])
    assert round_robin(similarities).tolist() == [0, 3, 1, 2]  # Sample 0 is already taken when the second task chooses.
    assert round_robin(similarities[:, :1]).tolist() == [0, 1, 3, 2]


def test_the_key_of_rds_plus_depends_on_the_content_of_its_queries(tmp_path):
    path = query_file(tmp_path)
    key = RDSPlus(queries=str(path)).key()
    copied = tmp_path / "copy.jsonl"
    copied.write_text(path.read_text())
    assert RDSPlus(queries=str(copied)).key() == key
    copied.write_text(path.read_text() + '\n{"instruction": "a", "output": "b", "task": "c"}')
    assert RDSPlus(queries=str(copied)).key() != key


class Recorded:
    """Losses of two kinds of samples, as a small fine-tuning would give them."""

    def __call__(self) -> tuple[torch.Tensor, float]:
        kinds = torch.tensor([0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 2, 2])
        return torch.stack([kinds * 5.0 + step for step in range(4)]), 60.0

    def key(self) -> dict:
        return {"checkpoints": 4}


def test_s2l_draws_equally_from_its_clusters_the_larger_first_and_from_the_smallest_last(tmp_path):
    signals = signals_of(tmp_path, trajectory=Recorded())
    scores = compute_scores(S2L(clusters=3), signals, 0)
    order = scores.argsort(descending=True).tolist()
    kinds = [[0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 2, 2][row] for row in order]
    assert kinds == [0, 1, 0, 1, 0, 1, 0, 0, 0, 0, 2, 2]  # The cluster of two samples comes last.
    assert not torch.equal(scores, compute_scores(S2L(clusters=3), signals, 1))
    assert key_of(S2L(), signals)["trajectory"] == {"checkpoints": 4}
    assert signals.charges["trajectory"] == 60  # The cost is also charged if the trajectory was recorded before.
    assert compute_scores(S2L(clusters=100), signals, 0).unique().numel() == 12


def test_s2l_without_a_trajectory_or_with_a_broken_one_gives_a_one_line_error(tmp_path):
    with pytest.raises(InputError, match="reads the losses of a small fine-tuning"):
        compute_scores(S2L(), signals_of(tmp_path), 0)
    broken = Recorded()
    broken.__class__ = type("Broken", (Recorded,), {"__call__": lambda self: (torch.full((4, 12), torch.nan), 1.0)})
    with pytest.raises(InputError, match="of which 48 are not finite"):
        compute_scores(S2L(), signals_of(tmp_path, trajectory=broken), 0)


def shares_of_s2l(sizes: dict[int, int], budget: int) -> dict[int, int]:
    """Return how many samples of each cluster the published rule takes, written from its description."""
    shares, left = dict.fromkeys(sizes, 0), budget
    large = sorted((group for group in sizes if sizes[group] > 2), key=sizes.__getitem__)  # A stable sort, as theirs.
    for place, group in enumerate(large):
        shares[group] = min(sizes[group], left // (len(large) - place))
        left -= shares[group]
    return {**shares, None: left}  # What is left is drawn from all small clusters together.


@given(st.lists(st.integers(0, 4), min_size=1, max_size=40), st.integers(0, 3), st.integers(0, 40))
def test_every_budget_of_s2l_is_shared_as_in_its_code(groups, seed, budget):
    order = shared_by_clusters(torch.tensor(groups), torch.Generator().manual_seed(seed)).tolist()
    assert sorted(order) == list(range(len(groups)))
    budget = min(budget, len(groups))
    sizes = {group: groups.count(group) for group in sorted(set(groups))}
    drawn = [groups[row] for row in order[:budget]]
    found = {group: drawn.count(group) if size > 2 else 0 for group, size in sizes.items()}
    assert {**found, None: budget - sum(found.values())} == shares_of_s2l(sizes, budget)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=40), st.integers(0, 3), st.integers(0, 40))
def test_equal_draws_share_every_budget_as_equally_as_the_groups_allow(groups, seed, budget):
    order = equal_draws(torch.tensor(groups), torch.Generator().manual_seed(seed))
    assert sorted(order.tolist()) == list(range(len(groups)))
    budget = min(budget, len(groups))
    drawn = [[groups[row] for row in order[:budget].tolist()].count(group) for group in range(5)]
    most = max(drawn)
    for group, count in enumerate(drawn):
        assert count >= min(groups.count(group), most - 1)


def test_source_balanced_random_has_as_many_of_each_source(tmp_path):
    sources = ["a"] * 8 + ["b"] * 3 + ["c"]
    encoded = tiny.of_tokens(list(ENCODED.ids), list(ENCODED.responses), sources)
    signals = signals_of(tmp_path, encoded=encoded)
    scores = compute_scores(SourceBalancedRandom(), signals, 0)
    kept = [sources[row] for row in scores.argsort(descending=True)[:7].tolist()]
    assert [kept.count(name) for name in "abc"] == [3, 3, 1]
    assert not torch.equal(scores, compute_scores(SourceBalancedRandom(), signals, 1))
    other = signals_of(tmp_path)
    assert key_of(SourceBalancedRandom(), signals) != key_of(SourceBalancedRandom(), other)


def test_random_scores_nothing_and_loads_no_model(tmp_path):
    signals = signals_of(tmp_path)
    for scorer in (Random(), Longest(), SourceBalancedRandom()):
        compute_scores(scorer, signals, 0)
    assert signals.llm.times == 0
    assert compute_scores(Random(), signals, 0).tolist() == [0] * 12


def test_a_pick_order_becomes_descending_scores():
    assert in_pick_order(torch.tensor([2, 0, 1])).tolist() == [2, 1, 3]


def write_scores(path: Path, rows: list[dict]) -> str:
    if path.suffix == ".csv":
        pandas.DataFrame(rows).to_csv(path, index=False)
    elif path.suffix == ".parquet":
        pandas.DataFrame(rows).to_parquet(path)
    else:
        path.write_text("\n".join(map(json.dumps, rows)) + "\n")
    return str(path)


ROWS = [{"sample_id": f"{row:06d}", "score": row / 7 - 0.5} for row in reversed(range(12))]
suffixes = pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])


@suffixes
def test_scores_of_a_file_are_found_by_sample_id(tmp_path, suffix):
    path = write_scores(tmp_path / f"scores{suffix}", [*ROWS, {"sample_id": "unknown", "score": 1.0}])
    scores = compute_scores(FromFile(path=path), signals_of(tmp_path), 0)
    assert scores.tolist() == [row / 7 - 0.5 for row in range(12)]


@suffixes
@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (ROWS[1:], "has no score for 1 of 12 samples, first: 000011"),
        ([*ROWS, ROWS[0]], "sample_id '000011' occurs twice"),
        ([{**row, "score": math.inf} for row in ROWS], "12 scores that are not finite"),
        (
            [{"id": row["sample_id"], "score": row["score"]} for row in ROWS],
            "needs the columns sample_id and score, has id, score",
        ),
        ([{**row, "score": "high"} for row in ROWS], "row 1 has no number as its score, but 'high'"),
    ],
)
def test_a_wrong_file_of_scores_gives_a_one_line_error(tmp_path, suffix, rows, message):
    path = write_scores(tmp_path / f"scores{suffix}", rows)
    with pytest.raises(InputError, match=message) as caught:
        compute_scores(FromFile(path=path), signals_of(tmp_path), 0)
    assert "\n" not in str(caught.value)


@suffixes
def test_a_file_without_readable_scores_gives_a_one_line_error(tmp_path, suffix):
    (tmp_path / f"scores{suffix}").write_bytes(b"\xff\xfe\x00{")
    with pytest.raises(InputError, match="is not a readable .* file of scores|needs the columns sample_id and score"):
        compute_scores(FromFile(path=str(tmp_path / f"scores{suffix}")), signals_of(tmp_path), 0)


def test_the_key_of_a_score_file_depends_on_its_content(tmp_path):
    one = FromFile(path=write_scores(tmp_path / "a.csv", ROWS))
    same = FromFile(path=write_scores(tmp_path / "b.csv", ROWS))
    other = FromFile(path=write_scores(tmp_path / "c.csv", ROWS[1:]))
    assert one.key() == same.key() != other.key()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Perplexity(keep="middle"), "text_scorer.keep must be one of low, mid, high, got 'middle'"),
        (lambda: Perplexity(tokens="prompt"), "text_scorer.tokens must be one of response, all, got 'prompt'"),
        (lambda: IFD(ratio_of="loss"), "text_scorer.ratio_of must be one of losses, perplexities, got 'loss'. Did you"),
        (lambda: LCDropout(rates=(0.5, 1.0)), "text_scorer.rates must be different numbers in [0, 1), got [0.5, 1.0]"),
        (lambda: LCDropout(rates=()), "text_scorer.rates must be different numbers in [0, 1), got []"),
        (lambda: LCDropout(rates=(0.5, 0.5)), "text_scorer.rates must be different numbers"),
        (lambda: DLC(schedule="linear"), "text_scorer.schedule must be compound or released, got 'linear'"),
        (lambda: S2L(clusters=0), "text_scorer.clusters must be a whole number of at least 1, got 0"),
        (
            lambda: FromFile(),
            "scorer.path must be a csv, jsonl or parquet file with the columns sample_id and score, got",
        ),
        (lambda: RDSPlus(), "text_scorer.queries must be a json, jsonl or parquet file of samples like those"),
    ],
)
def test_a_wrong_setting_gives_a_one_line_error(make, message):
    with pytest.raises(InputError) as caught:
        make()
    assert str(caught.value).startswith(message)


def test_a_sample_without_response_tokens_gives_a_one_line_error(tmp_path):
    marks = [marks & (row != 4) for row, marks in enumerate(ENCODED.responses)]
    encoded = tiny.of_tokens(list(ENCODED.ids), marks, ["a"] * 12)
    with pytest.raises(InputError, match="1 samples have no response tokens to predict, first 000004; remove them"):
        signals_of(tmp_path, encoded=encoded).response_losses()


def test_a_tokenizer_without_padding_pads_with_eos_and_one_without_either_is_refused(tmp_path):
    tokens = tiny.tokenizer(pad=False)
    model = tiny.model()
    found = signals_of(tmp_path / "eos", model, tokens=tokens).response_losses()
    torch.testing.assert_close(found, reference_losses(model), **CLOSE)
    tokens.eos_token = None
    with pytest.raises(InputError, match="neither a padding nor an EOS token"):
        signals_of(tmp_path / "none", model, tokens=tokens).response_losses()


def test_a_quantised_model_is_refused_before_it_is_loaded(tmp_path):
    signals = signals_of(tmp_path)
    signals.llm.quantization = "8bit"
    with pytest.raises(InputError, match="weights stored in 8bit cannot be masked; pass llm.quantization=none"):
        compute_scores(DLC(), signals, 0)
    assert signals.llm.times == 0


def test_scores_that_are_not_finite_stop_the_run(tmp_path):
    model = tiny.model()
    model.model.norm.weight.fill_(torch.nan)
    with pytest.raises(InputError, match="values that are not finite for 12 of 12 samples; check its weights"):
        compute_scores(DLC(), signals_of(tmp_path, model), 0)


def test_a_batch_too_large_for_the_memory_gives_a_one_line_error(tmp_path):
    model = tiny.model()

    def full(module, inputs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    model.lm_head.register_forward_pre_hook(full)
    with pytest.raises(InputError, match="too little memory for a batch of .* samples of .* tokens; lower max_tokens"):
        signals_of(tmp_path, model).response_losses()


@pytest.mark.parametrize("name", catalogue.entries("text_scorers"))
def test_every_text_scorer_of_the_catalogue_builds(tmp_path, name):
    content = catalogue.settings("text_scorer", name)
    assert content["name"] == (None if name == "from_file" else name)
    needs = {
        "from_file": {"path": write_scores(tmp_path / "scores.csv", ROWS)},
        "rds_plus": {"queries": str(query_file(tmp_path))},
    }
    scorer = build({**content, **needs.get(name, {})})
    assert content["own_sampler"] == scorer.own_sampler
    assert name.startswith(scorer.name)
    own = {"lc_dropout": "topk_easiest", "none": "random", "random": "random"}
    assert scorer.own_sampler == own.get(name, "flexrand" if name.startswith("dlc") else "topk")
    assert scorer.higher_means in ("harder", "picked earlier", "nothing")


def test_the_presets_of_dlc_have_the_published_mask_paths():
    dlc, released = (build(catalogue.settings("text_scorer", name)) for name in ("dlc", "dlc_released"))
    assert dlc == DLC()
    assert released == DLC(schedule="released", mask_lm_head=True)


def test_the_head_on_response_positions_gives_the_same_logits_as_on_all(tmp_path):
    from prunetune.instruct.model.batches import collate

    for architecture, tied in tiny.CASES:
        model, batch = tiny.model(architecture, tied), collate(ENCODED, torch.arange(12), 0)
        logits, targets = response_logits(model, batch)
        whole = model(input_ids=batch.input_ids).logits[:, :-1][batch.responses[:, 1:]]
        torch.testing.assert_close(logits, whole, atol=1e-5, rtol=0)
        assert targets.tolist() == batch.input_ids[batch.responses].tolist()
        assert len(model.lm_head._forward_pre_hooks) == 0
