"""Language models: loading, identity, and a one-line error for everything that can be wrong."""

import dataclasses
import json
import shutil
import sys
from pathlib import Path

import httpx
import pytest
import torch
import transformers
import yaml
from huggingface_hub import errors
from safetensors.torch import load_file, save_file

import tiny
from prunetune.base.errors import InputError
from prunetune.config.build import build
from prunetune.instruct import LanguageModel, TinyLanguageModel
from prunetune.instruct.model.forward import mean_losses
from prunetune.instruct.model.language_model import byte_tokenizer

CONFIGS = Path(__file__).parents[2] / "configs"
GATED = "meta-llama/Meta-Llama-3-8B"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tiny.save(tmp_path_factory.mktemp("model") / "llama")


def one_line(caught) -> str:
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_folder_gives_a_frozen_model_in_eval_mode_and_its_tokenizer(folder):
    llm = LanguageModel(model=str(folder))
    model, original = llm.load("cpu", "fp32"), tiny.model()
    assert not model.training
    assert not model.config.use_cache
    assert not [name for name, weight in model.named_parameters() if weight.requires_grad]
    for name, weight in original.state_dict().items():
        assert torch.equal(model.state_dict()[name], weight), name
    assert llm.tokenizer()("hé!")["input_ids"] == byte_tokenizer()("hé!")["input_ids"]


def test_the_type_of_the_weights_is_the_one_asked_for(folder):
    assert {weight.dtype for weight in LanguageModel(model=str(folder)).load("cpu", "bf16").parameters()} == {
        torch.bfloat16
    }
    assert LanguageModel(model=str(folder), dtype="bf16").resolved_dtype("cpu") == "bf16"
    assert LanguageModel(model=str(folder), dtype="auto").resolved_dtype("cpu") in ("bf16", "fp32")


def test_gradient_checkpointing_acts_in_training_and_changes_no_gradient(folder):
    gradients = []
    for is_on in (False, True):
        model = LanguageModel(model=str(folder), gradient_checkpointing=is_on).load("cpu", "fp32").train()
        assert any(getattr(module, "gradient_checkpointing", False) for module in model.modules()) == is_on
        weight = model.model.layers[0].mlp.up_proj.weight.requires_grad_()
        model(input_ids=torch.arange(3, 30).unsqueeze(0)).logits.square().mean().backward()
        gradients.append(weight.grad)
    torch.testing.assert_close(*gradients)


def test_a_folder_is_identified_by_its_content(folder, tmp_path):
    identity = LanguageModel(model=str(folder)).identity()
    copied = shutil.copytree(folder, tmp_path / "elsewhere")
    (copied / "README.md").write_text("notes")
    assert LanguageModel(model=str(copied), dtype="bf16").identity() == identity
    assert json.loads(json.dumps(identity)) == identity
    weights = bytearray((copied / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copied / "model.safetensors").write_bytes(weights)
    assert LanguageModel(model=str(copied)).identity() != identity
    assert LanguageModel(model=str(folder), quantization="8bit").identity() != identity


def test_the_tiny_model_is_the_same_every_time_and_another_with_another_seed():
    one, other = TinyLanguageModel(), TinyLanguageModel(seed=1)
    assert one.identity() == TinyLanguageModel(name="x").identity() != other.identity()
    state = torch.get_rng_state()
    weights = [llm.load("cpu", "fp32").state_dict()["lm_head.weight"] for llm in (one, TinyLanguageModel(), other)]
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_the_tokenizer_of_bytes_gives_the_text_back_with_its_offsets():
    tokenizer, text = byte_tokenizer(), "Añ 漢\n\n  x</s>"
    coded = tokenizer(text, return_offsets_mapping=True)
    assert coded["input_ids"][0] == tokenizer.bos_token_id
    assert tokenizer.decode(coded["input_ids"], skip_special_tokens=True) == text.removesuffix("</s>")
    assert [text[a:b] for a, b in coded["offset_mapping"]][:5] == ["", "A", "ñ", "ñ", " "]
    assert len(tokenizer) == 259 == len(set(tokenizer.get_vocab().values()))


def test_the_tiny_models_chat_template_holds_every_turn():
    chat = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]
    text = byte_tokenizer().apply_chat_template(chat, tokenize=False)
    assert text == "<|user|>\nWhy?\n<|assistant|>\nSo.</s>\n"


@pytest.mark.parametrize(
    "model", ["/nowhere/at/all", "weights/missing", "mistralai/Mistral-7B-v0.3", "two words", "a/b/c"]
)
@pytest.mark.parametrize("step", ["tokenizer", "load", "identity"])
def test_a_missing_model_gives_a_one_line_error(monkeypatch, model, step):
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # The hub's client waits between its attempts, 23 s in all.
    llm = LanguageModel(model=model)
    with pytest.raises(InputError) as caught:
        llm.load("cpu", "fp32") if step == "load" else getattr(llm, step)()
    message = one_line(caught)
    assert message.startswith(model)
    assert "llm.model" in message


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (errors.GatedRepoError, f"{GATED} is gated: accept its licence at https://huggingface.co/{GATED}"),
        (errors.RepositoryNotFoundError, "neither a folder nor a model of the Hugging Face hub"),
        (errors.RevisionNotFoundError, "has no revision 'v9'"),
        (errors.LocalEntryNotFoundError, "is not in the Hugging Face cache, and the hub cannot be reached"),
        (errors.OfflineModeIsEnabled, "is not in the Hugging Face cache, and the hub cannot be reached"),
        (httpx.ConnectError, "is not in the Hugging Face cache, and the hub cannot be reached"),
    ],
)
@pytest.mark.parametrize("step", ["tokenizer", "load", "identity"])
def test_a_refusal_of_the_hub_gives_a_one_line_error(monkeypatch, kind, expected, step):
    def refuse(*args, **kwargs):
        if issubclass(kind, errors.HfHubHTTPError):
            request = httpx.Request("GET", "https://huggingface.co")
            raise kind("403\nForbidden", response=httpx.Response(403, request=request))
        raise kind("no\nway")

    for name in ("hf_hub_download", "snapshot_download"):
        monkeypatch.setattr(transformers.utils.hub, name, refuse)
    llm = LanguageModel(model=GATED, revision="v9")
    with pytest.raises(InputError) as caught:
        llm.load("cpu", "fp32") if step == "load" else getattr(llm, step)()
    assert expected in one_line(caught)


def damaged(folder: Path, tmp_path: Path, name: str, content: bytes | None) -> LanguageModel:
    copied = shutil.copytree(folder, tmp_path / "damaged")
    if content is None:
        (copied / name).unlink()
    else:
        (copied / name).write_bytes(content)
    return LanguageModel(model=str(copied))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", None),
        ("config.json", b"{"),
        ("config.json", b'{"model_type": "unheard_of"}'),
        ("model.safetensors", None),
        ("model.safetensors", b"short"),
    ],
)
def test_a_damaged_folder_gives_a_one_line_error(folder, tmp_path, name, content):
    with pytest.raises(InputError) as caught:
        damaged(folder, tmp_path, name, content).load("cpu", "fp32")
    assert "damaged" in one_line(caught)


def test_a_folder_without_config_has_no_identity(folder, tmp_path):
    with pytest.raises(InputError, match="holds no config.json"):
        damaged(folder, tmp_path, "config.json", None).identity()


def test_missing_weights_are_not_replaced_by_random_ones(folder, tmp_path):
    copied = shutil.copytree(folder, tmp_path / "partial")
    weights = {name: tensor for name, tensor in tiny.model().state_dict().items() if "layers.1.mlp.up" not in name}
    save_file(weights, copied / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match="lacks 1 weights, first: model.layers.1.mlp.up_proj.weight; fetch it again"):
        LanguageModel(model=str(copied)).load("cpu", "fp32")


def test_weights_of_whole_numbers_are_refused(folder, tmp_path):
    copied = shutil.copytree(folder, tmp_path / "copied")
    weights = load_file(copied / "model.safetensors")
    weights["model.norm.weight"] = torch.ones(len(weights["model.norm.weight"]), dtype=torch.int64)
    save_file(weights, copied / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match="model.norm.weight should hold real numbers, holds I64; save it as float32"):
        LanguageModel(model=str(copied)).load("cpu", "fp32")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": ""}, "llm.model must be a hub id or a folder, got ''; pass llm.model=<folder>"),
        ({"model": None}, "llm.model must be a hub id or a folder, got None"),
        ({"model": "x", "dtype": "fp16"}, "llm.dtype must be auto, bf16 or fp32, got 'fp16'"),
        ({"model": "x", "quantization": "2bit"}, "llm.quantization must be none, 8bit or 4bit, got '2bit'"),
    ],
)
def test_a_wrong_setting_gives_a_one_line_error(settings, message):
    with pytest.raises(InputError) as caught:
        LanguageModel(**settings)
    assert one_line(caught).startswith(message)


@pytest.mark.parametrize("settings", [{"layers": 0}, {"width": 20}, {"width": True}, {"dtype": "half"}])
def test_a_wrong_tiny_setting_gives_a_one_line_error(settings):
    with pytest.raises(InputError, match=f"llm.{next(iter(settings))} must be"):
        TinyLanguageModel(**settings)


def test_quantisation_needs_cuda_and_bitsandbytes(folder, monkeypatch):
    llm = LanguageModel(model=str(folder), quantization="4bit")
    with pytest.raises(
        InputError, match="llm.quantization=4bit needs CUDA, but the device is cpu; pass llm.quantization=none"
    ):
        llm.load("cpu", "bf16")
    monkeypatch.setattr("prunetune.instruct.model.language_model.find_spec", lambda name: None)
    with pytest.raises(
        InputError, match="needs bitsandbytes; run pip install bitsandbytes, or pass llm.quantization=none"
    ):
        llm.load("cuda", "bf16")


@pytest.mark.parametrize("llm", [TinyLanguageModel(), LanguageModel(model="x/y")])
def test_without_the_extra_one_line_says_what_to_install(llm, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(InputError, match=r"pip install -e '\.\[instruct\]'"):
        llm.tokenizer()


def yaml_files(group: str) -> list:
    return [pytest.param(path, id=path.stem) for path in sorted((CONFIGS / group).glob("*.yaml"))]


@pytest.mark.parametrize("path", yaml_files("llm"))
def test_every_yaml_builds_and_states_every_field(path):
    content, text = yaml.safe_load(path.read_text()), path.read_text()
    assert text.startswith("# ")
    assert content["name"] == (None if path.stem == "local" else path.stem)
    llm = build({**content, "model": content["model"] or "x"} if "model" in content else content)
    assert set(content) - {"_target_"} == {field.name for field in dataclasses.fields(llm)}


@pytest.mark.gpu
def test_on_a_gpu_the_losses_are_those_of_the_cpu(folder):
    from prunetune.instruct.model.batches import collate

    llm, batch = LanguageModel(model=str(folder)), collate(tiny.encoded(), torch.arange(12), 0)
    expected = mean_losses(llm.load("cpu", "fp32"), batch)
    found = mean_losses(llm.load("cuda", "fp32"), batch.to("cuda"))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
