"""Masked networks: exact counts in a stable order, unchanged embeddings, and exactly restored weights."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import tiny
from prunetune.base.errors import InputError
from prunetune.instruct.model.weight_masking import TextMaskPath, linear_weights, masked, smallest, with_dropout

COMPOUND = TextMaskPath()
RELEASED = TextMaskPath("released", mask_lm_head=True)


def bits(model: nn.Module) -> dict[str, list[int]]:
    """Return every parameter's bits, so that -0.0 and 0.0 differ."""
    return {name: weight.detach().view(torch.uint8).flatten().tolist() for name, weight in model.named_parameters()}


def zeros(model: nn.Module, path: TextMaskPath) -> dict[str, int]:
    return {name: int((weight == 0).sum()) for name, weight in linear_weights(model, path.mask_lm_head).items()}


def reference_masked(weight: torch.Tensor, count: int) -> torch.Tensor:
    order = weight.abs().float().flatten().argsort(stable=True)
    flags = torch.zeros(weight.numel(), dtype=torch.bool)
    flags[order[:count]] = True
    return flags.view_as(weight)


@pytest.mark.parametrize(
    ("total", "path", "expected"),
    [
        (1000, COMPOUND, [0, 200, 360]),
        (1000, TextMaskPath("released"), [0, 200, 200]),
        # The counts are in docs/method_notes.md, Instruction data.
        (7, TextMaskPath(levels=5), [0, 1, 2, 3, 4]),
        (40, TextMaskPath(levels=5, step=0.25), [0, 10, 18, 24, 28]),
        (1000, TextMaskPath("released", levels=1), [0]),
    ],
)
def test_counts_by_hand(total, path, expected):
    assert path.counts(total) == expected


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"schedule": "linear"}, "schedule must be compound or released, got 'linear'"),
        ({"levels": 0}, "levels is the number of masked networks"),
        ({"levels": 2.5}, "levels is the number of masked networks"),
        ({"step": 0}, "step is the fraction masked at each level"),
        ({"step": 1.0}, "must keep some weights"),
    ],
)
def test_a_wrong_path_gives_a_one_line_error(settings, message):
    with pytest.raises(InputError, match=message):
        TextMaskPath(**settings)


@given(
    st.lists(st.sampled_from([0.0, -0.0, 0.5, -0.5, 0.25, 1.0, -2.0, 3e-8]), min_size=1, max_size=60),
    st.floats(0, 1),
    st.booleans(),
)
def test_the_smallest_are_those_of_a_stable_sort(values, share, half):
    weight = torch.tensor(values, dtype=torch.bfloat16 if half else torch.float32)
    count = round(share * len(values))
    mask = smallest(weight, count)
    assert int(mask.sum()) == count
    assert mask.tolist() == reference_masked(weight, count).tolist()


def test_in_bfloat16_with_thousands_of_ties_the_counts_are_exact():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        weight = (torch.randn(300, 400) * 0.02).bfloat16()
    # Many weights are equal, so a threshold would mask a very different number of them.
    assert len(weight.abs().unique()) < weight.numel() / 50
    for count in COMPOUND.counts(weight.numel()):
        mask = smallest(weight, count)
        assert int(mask.sum()) == count
        assert torch.equal(mask, reference_masked(weight, count))


@pytest.mark.parametrize(("architecture", "tied"), tiny.CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_level_has_its_exact_count_in_every_layer_and_nothing_else_changes(architecture, tied, dtype):
    model = tiny.model(architecture, tied).to(dtype)
    before, original = bits(model), copy.deepcopy(model.state_dict())
    layers = linear_weights(model)
    assert len(layers) == 14
    assert not [name for name in layers if "lm_head" in name or "embed" in name]
    for level in range(3):
        with masked(model, COMPOUND, level) as network:
            counts = {name: COMPOUND.counts(weight.numel())[level] for name, weight in layers.items()}
            assert zeros(network, COMPOUND) == counts
            for name, weight in network.state_dict().items():
                expected = original[name]
                if name in layers:
                    expected = expected.masked_fill(reference_masked(expected, counts[name]), 0)
                assert torch.equal(weight, expected), name
        assert bits(model) == before


def test_the_masks_of_levels_are_nested_and_differ():
    model, zero = tiny.model(), []
    for level in range(3):
        with masked(model, COMPOUND, level):
            zero.append(torch.cat([(weight == 0).flatten() for weight in linear_weights(model).values()]))
    assert [int(flags.sum()) / flags.numel() for flags in zero] == pytest.approx([0, 0.2, 0.36], abs=1e-3)
    assert bool((zero[2] | ~zero[1]).all())


@pytest.mark.parametrize(("architecture", "tied"), tiny.CASES)
def test_the_released_path_masks_the_head_and_repeats_its_second_network(architecture, tied):
    model = tiny.model(architecture, tied)
    head, embedding = model.get_output_embeddings().weight, model.get_input_embeddings().weight
    original, states = embedding.clone(), []
    for level in range(3):
        with masked(model, RELEASED, level):
            states.append(bits(model))
            if level:
                assert int((head == 0).sum()) == round(0.2 * head.numel())
            assert torch.equal(embedding, original) == (not tied or level == 0)  # A tied tensor is masked only once.
    assert states[1] == states[2] != states[0]


@pytest.mark.parametrize("path", [COMPOUND, RELEASED])
def test_weights_are_restored_bit_by_bit_after_an_error(path):
    model = tiny.model("gemma2", tied=True)
    layer = next(iter(linear_weights(model).values()))
    layer.view(-1)[:4] = torch.tensor([-0.0, 0.0, -0.0, 1e-40])  # These values are signed zeros and a subnormal number.
    before = bits(model)
    during = None

    def fail() -> None:
        nonlocal during
        with masked(model, path, 2):
            during = bits(model)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert bits(model) == before != during


def test_weights_are_restored_if_masking_itself_fails(monkeypatch):
    model = tiny.model()
    before, calls = bits(model), []

    def failing(weight, count):
        calls.append(count)
        if len(calls) == 5:
            raise RuntimeError("out of memory")
        return reference_masked(weight, count)

    monkeypatch.setattr("prunetune.instruct.model.weight_masking.smallest", failing)
    with pytest.raises(RuntimeError, match="out of memory"), masked(model, COMPOUND, 1):
        pass
    assert bits(model) == before


def test_a_quantised_model_is_refused():
    model = tiny.model()
    model.is_quantized = True
    with pytest.raises(InputError, match="stored in 8 or 4 bits cannot be masked; pass llm.quantization=none"):
        linear_weights(model)
    model.is_quantized = False
    model.model.layers[0].mlp.up_proj.weight = nn.Parameter(torch.zeros(2, 2, dtype=torch.int8), requires_grad=False)
    with pytest.raises(InputError, match="stored in 8 or 4 bits"):
        linear_weights(model)


def test_a_model_too_small_for_different_networks_is_refused():
    model = tiny.model()
    for name, module in model.model.named_modules():
        if isinstance(module, nn.Linear) or "norm" in name:  # Without norms all weights can be masked.
            size = (1, 2) if isinstance(module, nn.Linear) else 0
            module.weight = nn.Parameter(torch.ones(size), requires_grad=False)
    with (
        pytest.raises(InputError, match=r"would be the same \(masked weights \[0, 0, 0\]\)"),
        masked(model, COMPOUND, 1),
    ):
        pass


def test_dropout_hides_whole_units_alike_for_every_token_and_goes_when_the_block_ends():
    model = tiny.model()
    tokens = torch.arange(3, 23).unsqueeze(0)
    before = model(input_ids=tokens).logits
    seen = {}
    module = model.model.layers[0].mlp.up_proj
    with with_dropout(model, 0.5, seed=3):
        module.register_forward_pre_hook(lambda module, inputs: seen.update(inputs=inputs[0]))
        during = model(input_ids=tokens).logits
    assert 0 < int((seen["inputs"] == 0).all(dim=(0, 1)).sum()) < 32
    assert bool(((seen["inputs"] == 0).all(dim=(0, 1)) | (seen["inputs"] != 0).all(dim=(0, 1))).all())
    assert not torch.allclose(before, during)
    assert torch.equal(model(input_ids=tokens).logits, before)


def test_dropout_is_nested_in_the_rate_and_depends_on_the_seed():
    def dropped(rate: float, seed: int) -> set[int]:
        model, seen = tiny.model(), {}
        module = model.model.layers[1].self_attn.q_proj
        with with_dropout(model, rate, seed):
            module.register_forward_pre_hook(lambda module, inputs: seen.update(inputs=inputs[0]))
            model(input_ids=torch.arange(3, 23).unsqueeze(0))
        return set(torch.nonzero((seen["inputs"] == 0).all(dim=(0, 1))).flatten().tolist())

    assert dropped(0.0, 0) == set()
    assert dropped(0.3, 0) < dropped(0.6, 0)
    assert dropped(0.6, 0) != dropped(0.6, 1)
