"""The LoRA adapter: attaching, counting, saving and detaching."""

import pytest
import torch

import tiny
from prunetune.base.errors import InputError
from prunetune.instruct.tuning import adapter
from prunetune.instruct.tuning.sft_settings import SftSettings

SETTINGS = SftSettings("x", lora_r=4, lora_dropout=0.0)
TOKENS = torch.randint(3, 259, (2, 9), generator=torch.Generator().manual_seed(0))


def logits(model):
    with torch.inference_mode():
        return model(input_ids=TOKENS).logits


def stirred(model, seed=1):
    """Give every adapter tensor other values, as training would."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in adapter.trainable(model).values():
            tensor.copy_(torch.randn(tensor.shape, generator=generator))
    return model


@pytest.mark.parametrize(("architecture", "tied"), tiny.CASES)
def test_a_new_adapter_changes_no_output_and_trains_nothing_else(architecture, tied):
    model = tiny.model(architecture, tied)
    before, base = logits(model), {name: tensor.clone() for name, tensor in model.state_dict().items()}
    wrapped = adapter.attach(model, SETTINGS, seed=0)
    assert torch.equal(logits(wrapped), before)
    names = set(adapter.trainable(wrapped))
    assert len(names) == 2 * 2 * 2  # The product is layers times targets times factors.
    assert all(".q_proj.lora_" in name or ".v_proj.lora_" in name for name in names)
    stirred(wrapped)
    assert not torch.allclose(logits(wrapped), before)
    returned = adapter.detach(wrapped)
    assert torch.equal(logits(returned), before)
    assert {name: tensor.shape for name, tensor in returned.state_dict().items()} == {
        name: tensor.shape for name, tensor in base.items()
    }
    assert all(torch.equal(tensor, base[name]) for name, tensor in returned.state_dict().items())
    assert not adapter.trainable(returned)


def test_the_adapter_has_rank_times_both_widths_weights():
    wrapped = adapter.attach(tiny.model(width=32), SETTINGS, seed=0)
    q, v = 4 * (32 + 4 * 8), 4 * (32 + 2 * 8)  # There are four heads of width 8 and two heads for keys and values.
    assert sum(tensor.numel() for tensor in adapter.trainable(wrapped).values()) == 2 * (q + v)


def test_the_adapter_scales_by_alpha_over_rank():
    wrapped = stirred(adapter.attach(tiny.model(), SETTINGS, seed=0))
    layer = wrapped.base_model.model.model.layers[0].self_attn.q_proj
    x = torch.randn(3, 32, generator=torch.Generator().manual_seed(2))
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    expected = x @ layer.base_layer.weight.T + SETTINGS.lora_alpha / SETTINGS.lora_r * (x @ a.T @ b.T)
    assert torch.allclose(layer(x), expected, atol=1e-4)


def test_the_first_weights_of_an_adapter_depend_on_the_seed_alone():
    torch.manual_seed(5)
    first = adapter.adapter_state(adapter.attach(tiny.model(), SETTINGS, seed=0))
    torch.manual_seed(6)
    state = torch.get_rng_state()
    again = adapter.adapter_state(adapter.attach(tiny.model(), SETTINGS, seed=0))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first[name], again[name]) for name in first)
    other = adapter.adapter_state(adapter.attach(tiny.model(), SETTINGS, seed=1))
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_the_adapter_is_float32_on_a_bfloat16_base():
    wrapped = adapter.attach(tiny.model().to(torch.bfloat16), SETTINGS, seed=0)
    assert {tensor.dtype for tensor in adapter.trainable(wrapped).values()} == {torch.float32}
    assert logits(wrapped).dtype == torch.bfloat16


def test_a_second_adapter_after_the_first_is_a_new_one():
    base = adapter.detach(stirred(adapter.attach(tiny.model(), SETTINGS, seed=0)))
    again = adapter.attach(base, SETTINGS, seed=0)
    fresh = adapter.attach(tiny.model(), SETTINGS, seed=0)
    assert all(torch.equal(a, b) for a, b in zip(*map(_tensors, (again, fresh)), strict=True))


def _tensors(model):
    return adapter.adapter_state(model).values()


def test_two_adapters_at_once_are_refused():
    with pytest.raises(InputError, match="already has an adapter"):
        adapter.attach(adapter.attach(tiny.model(), SETTINGS, seed=0), SETTINGS, seed=0)


def test_an_unknown_target_gives_a_one_line_error_with_the_known_ones():
    settings = SftSettings("x", lora_targets=("c_attn", "q_proj"))
    with pytest.raises(InputError, match="no linear layer named c_attn; it has .*q_proj"):
        adapter.attach(tiny.model(), settings, seed=0)


@pytest.mark.parametrize(("architecture", "tied"), tiny.CASES)
def test_a_saved_adapter_gives_the_same_outputs_when_loaded(tmp_path, architecture, tied):
    wrapped = stirred(adapter.attach(tiny.model(architecture, tied), SETTINGS, seed=0))
    adapter.save_adapter(wrapped, tmp_path / "a")
    loaded = adapter.load_adapter(tiny.model(architecture, tied), tmp_path / "a")
    assert torch.equal(logits(loaded), logits(wrapped))
    assert not adapter.trainable(loaded)
    assert not loaded.training
    assert (tmp_path / "a" / "adapter_model.safetensors").is_file()  # The file has the format of peft itself.


def test_a_model_saved_without_adapter_is_loaded_without_one(tmp_path):
    model = tiny.model()
    adapter.save_adapter(model, tmp_path)
    assert adapter.load_adapter(model, tmp_path) is model


def test_a_folder_without_adapter_gives_a_one_line_error(tmp_path):
    with pytest.raises(InputError, match="holds no adapter"):
        adapter.load_adapter(tiny.model(), tmp_path)


def test_an_adapter_of_another_model_gives_a_one_line_error(tmp_path):
    adapter.save_adapter(adapter.attach(tiny.model(width=32), SETTINGS, seed=0), tmp_path)
    with pytest.raises(InputError, match="does not fit the model"):
        adapter.load_adapter(tiny.model(width=48), tmp_path)


def test_a_state_of_another_rank_is_refused():
    state = adapter.adapter_state(adapter.attach(tiny.model(), SETTINGS, seed=0))
    other = adapter.attach(tiny.model(), SftSettings("x", lora_r=2), seed=0)
    with pytest.raises(InputError, match="other layers or another rank"):
        adapter.load_adapter_state(other, state)


def test_a_quantised_base_is_prepared_by_peft(monkeypatch):
    import peft

    seen = {}

    def prepare(model, **settings):
        seen.update(settings)
        return model.requires_grad_(False)

    monkeypatch.setattr(peft, "prepare_model_for_kbit_training", prepare)
    model = tiny.model()
    model.is_quantized = True
    adapter.attach(model, SETTINGS, seed=0)
    assert seen["use_gradient_checkpointing"] is False
