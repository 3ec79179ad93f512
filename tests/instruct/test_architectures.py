"""Every scorer on a tiny model of every family, against references that read one sample at a time."""

import copy
import json
import math
from pathlib import Path

import pytest
import torch
import transformers
from torch import Tensor, nn

import tiny
from families import FAMILIES, Family
from prunetune.base.errors import InputError
from prunetune.base.seeding import derive_seed, stream
from prunetune.base.store import Store
from prunetune.instruct import DLC, IFD, LanguageModel, LCDropout, Perplexity, RDSPlus
from prunetune.instruct.corpus.corpora import LocalCorpus
from prunetune.instruct.corpus.encoding import encode
from prunetune.instruct.model.language_model import byte_tokenizer, check_causal
from prunetune.instruct.model.layers import maskable
from prunetune.instruct.model.weight_masking import TextMaskPath, linear_weights, masked
from prunetune.instruct.scorers.text_source import TextSource
from prunetune.runs.scores import compute_scores, stored_scores

ENCODED = tiny.encoded(5, longest=20)
CLOSE = {"atol": 2e-4, "rtol": 0}
QUICK = ("gpt2", "mixtral", "gpt_oss")  # The others are slow together.
every_family = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in FAMILIES]
)


def loss(model: nn.Module, ids: Tensor, marks: Tensor) -> float:
    """Return the mean negative log probability of the marked tokens of one sample."""
    log_p = model(input_ids=ids.long()[None], attention_mask=torch.ones(1, len(ids))).logits[0].double().log_softmax(-1)
    return math.fsum(-float(log_p[j - 1, ids[j]]) for j in range(1, len(ids)) if marks[j]) / int(marks[1:].sum())


def losses(model: nn.Module) -> Tensor:
    return torch.tensor([loss(model, *row) for row in zip(ENCODED.ids, ENCODED.responses, strict=True)]).double()


def matrices(family: Family, model: nn.Module) -> list[Tensor]:
    """Return the matrices that are masked, each of which is ranked by itself."""
    found = []
    for name, parameter in model.named_parameters():
        if family.is_stack(name):
            found += list(parameter.data)
        elif family.is_linear(name):
            found.append(parameter.data)
    return found


def without_smallest(family: Family, model: nn.Module, level: int, with_head: bool = False) -> nn.Module:
    """Return a copy in which n_k = n_{k-1} + round(0.2 * (P - n_{k-1})) of the P weights of each matrix are zero."""
    model = copy.deepcopy(model)
    head = [model.get_output_embeddings().weight.data] if with_head else []
    for weight in matrices(family, model) + head:
        count = 0
        for _ in range(level):
            count += round(0.2 * (weight.numel() - count))
        order = weight.abs().flatten().argsort(stable=True)
        weight[torch.zeros(weight.numel()).index_fill(0, order[:count], 1).bool().view_as(weight)] = 0
    return model


def without_units(family: Family, model: nn.Module, rate: float, seed: int) -> nn.Module:
    """Return a copy in which the weights of dropped input units are zero, and the others are scaled."""
    model = copy.deepcopy(model)
    is_transposed = family.prefix == "GPT2"
    for name, parameter in model.named_parameters():
        if family.is_linear(name) and not name.endswith(family.uncalled):
            weight = parameter.data.T if is_transposed else parameter.data
            draws = torch.rand(weight.shape[1], generator=stream("dropout", seed, name.removesuffix(".weight")))
            weight *= (draws >= rate) / (1 - rate)
    return model


def direct_loss(model: nn.Module, row: int) -> float:
    """Return the loss of an answer after its heading. Its text is tokenized anew; every byte is a token."""
    [answer] = ENCODED.answers[row]
    ids = torch.tensor(byte_tokenizer()(ENCODED.texts[row][answer.heading : answer.end])["input_ids"])
    return loss(model, ids, torch.arange(len(ids)) > answer.start - answer.heading)


def state(model: nn.Module, ids: Tensor) -> Tensor:
    states = model(input_ids=ids.long()[None], output_hidden_states=True).hidden_states[-1][0].double()
    mean = (torch.arange(1, len(ids) + 1)[:, None] * states).sum(dim=0)
    return mean / mean.norm()


def query_file(folder: Path) -> Path:
    rows = [{"instruction": f"Say {i}", "output": "x" * (3 * i + 1)} for i in range(2)]
    (folder / "queries.json").write_text(json.dumps(rows))
    return folder / "queries.json"


@every_family
def test_every_scorer_agrees_with_a_reference_that_reads_one_sample_at_a_time(tmp_path, name):
    family = FAMILIES[name]
    model = family.model()
    check_causal(model, name)

    def products(scorer, seed: int = 0) -> Tensor:
        signals = tiny.signals(tmp_path / type(scorer).__name__, tiny.Loaded(model), ENCODED, max_tokens=90)
        compute_scores(scorer, signals, seed)
        [found] = signals.products.values()
        return found

    levels = [losses(without_smallest(family, model, level)) for level in range(3)]
    torch.testing.assert_close(products(DLC()), torch.stack(levels), **CLOSE)
    assert (levels[0] - levels[2]).abs().max() > 0.01
    released = losses(without_smallest(family, model, 1, with_head=True))
    found = products(DLC(schedule="released", mask_lm_head=True))
    torch.testing.assert_close(found, torch.stack([levels[0], released, released]), **CLOSE)
    inner = [marks & (torch.arange(len(marks)) < len(marks) - 1) for marks in ENCODED.responses]
    prompted = [loss(model, ids, marks) for ids, marks in zip(ENCODED.ids, inner, strict=True)]
    direct = [direct_loss(model, row) for row in range(5)]
    torch.testing.assert_close(products(IFD()), torch.tensor([prompted, direct]).double(), **CLOSE)
    every = [loss(model, ids, torch.ones(len(ids))) for ids in ENCODED.ids]
    torch.testing.assert_close(products(Perplexity(tokens="all")), torch.tensor(every).double(), **CLOSE)
    path = str(query_file(tmp_path))
    queries = [state(model, ids) for ids in encode(LocalCorpus(path=path), byte_tokenizer()).ids]
    cosines = [max(float(state(model, ids) @ query) for query in queries) for ids in ENCODED.ids]
    torch.testing.assert_close(products(RDSPlus(queries=path))[:, 0], torch.tensor(cosines).double(), **CLOSE)
    if family.experts:
        with pytest.raises(InputError, match="are weights of linear layers, whose units can be dropped"):
            products(LCDropout())
    else:
        dropped = losses(without_units(family, model, 0.3, derive_seed("score", 4)))
        torch.testing.assert_close(products(LCDropout(rates=(0.3,)), seed=4)[0], dropped, **CLOSE)


@every_family
def test_nine_tenths_of_every_family_are_masked_and_its_skeleton_shows_it_without_weights(name):
    family = FAMILIES[name]
    model = family.model()
    tables = {id(p) for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    tables |= {id(p) for p in model.get_output_embeddings().parameters()}
    total = sum(p.numel() for p in model.parameters() if id(p) not in tables)
    found = maskable(model)
    assert found.share == sum(weight.numel() for weight in matrices(family, model)) / total
    assert found.share > 0.9
    assert found.is_plain == (not family.experts and name != "gpt2")
    with torch.device("meta"):
        skeleton = maskable(transformers.AutoModelForCausalLM.from_config(model.config))
    assert (skeleton.share, skeleton.others, skeleton.is_plain) == (found.share, found.others, found.is_plain)
    assert list(skeleton.weights) == list(found.weights)


def test_each_expert_has_its_exact_count_and_the_router_none():
    model = FAMILIES["mixtral"].model()
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    with masked(model, TextMaskPath(), 2):
        for name, parameter in model.named_parameters():
            if name.endswith("experts.gate_up_proj"):  # [4, 96, 32]
                assert [int((part == 0).sum()) for part in parameter] == [614 + 492] * 4
            if "gate.weight" in name or "norm" in name or "embed" in name or "lm_head" in name:
                assert torch.equal(parameter, before[name]), name
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())
    assert not [name for name in linear_weights(model) if ".gate." in name]


def test_scores_of_an_earlier_version_are_not_taken_for_those_of_a_mixture(tmp_path, caplog):
    caplog.set_level("INFO")
    for name, is_marked in (("llama", False), ("mixtral", True)):
        signals = tiny.signals(tmp_path / name, tiny.Loaded(FAMILIES[name].model()), ENCODED)
        source = TextSource(signals, Store(tmp_path / name))
        assert ("masked_weights" in source.key(DLC(), None)) == is_marked
        assert "masked_weights" not in source.key(Perplexity(), None)
    stored_scores(DLC(), source, 0)
    assert "dlc can mask 99.0 % of the parameters of made" in caplog.text


def test_a_model_of_which_too_little_can_be_masked_is_refused_before_it_is_loaded(tmp_path):
    settings = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    config = {**settings, "num_hidden_layers": 3, "lru_width": 32, "num_key_value_heads": 1, "vocab_size": 259}
    llm = tiny.Loaded(transformers.AutoModelForCausalLM.from_config(transformers.RecurrentGemmaConfig(**config)))
    source = TextSource(tiny.signals(tmp_path, llm, ENCODED), Store(tmp_path))
    for scorer, words in ((DLC(), "can be masked"), (LCDropout(), "of linear layers, whose units can be dropped")):
        with pytest.raises(InputError, match=rf"8\d% of the parameters of made are weights .*{words}.* at least 90%"):
            stored_scores(scorer, source, 0)
    assert llm.times == 0
    assert stored_scores(Perplexity(), source, 0).is_new


def saved(folder: Path, model: nn.Module) -> LanguageModel:
    model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return LanguageModel(model=str(folder), dtype="fp32")


def bert() -> nn.Module:
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    return transformers.BertForMaskedLM(transformers.BertConfig(vocab_size=259, **sizes))


def test_a_model_that_reads_later_tokens_is_refused(tmp_path):
    with pytest.raises(InputError, match="predicts a token from later ones too, but scores need a causal") as caught:
        saved(tmp_path, bert()).load("cpu", "fp32")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["t5", "vit"])
def test_an_encoder_decoder_or_a_network_of_images_is_refused_before_the_corpus_is_read(tmp_path, kind):
    t5 = transformers.T5Config(vocab_size=259, d_model=16, d_ff=16, d_kv=4, num_layers=1, num_heads=4)
    config = {"t5": t5, "vit": transformers.ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2)}[kind]
    config.save_pretrained(tmp_path)
    llm = LanguageModel(model=str(tmp_path), dtype="fp32")
    what = {"t5": r"is an encoder-decoder \(t5\)", "vit": "is a model of type vit"}[kind]
    for use in (llm.context_length, llm.skeleton, lambda: llm.load("cpu", "fp32")):
        with pytest.raises(InputError, match=f"{what}, but scores need a causal language model.*or GPT-2>$") as caught:
            use()
        assert "\n" not in str(caught.value)
