"""Causal language models from the hub or from a local folder, and a tiny one made in code."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from prunetune.base import checks
from prunetune.base.devices import resolve_precision
from prunetune.base.errors import InputError
from prunetune.base.seeding import seeded
from prunetune.instruct.extra import needed
from prunetune.networks.checkpoint import weights_hash

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
REAL = {"F64", "F32", "F16", "BF16"}  # The names of these types in a safetensors file.
HASHED = {".json", ".safetensors", ".bin", ".model", ".txt", ".jinja"}  # The files that define model and tokenizer.
UNREADABLE = (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError)
TINY_CONTEXT = 2048  # The context length in tokens.
MOST_TINY = 4096  # A tiny model with more layers or a larger width than this is a slip of the pen.
UNREACHABLE = ("LocalEntryNotFoundError", "OfflineModeIsEnabled", "ConnectionError", "ConnectError", "ConnectTimeout")
NEEDED = (
    "but scores need a causal language model, which predicts each token from the tokens before it; pass llm.model=<a "
    "decoder-only model, such as Llama or GPT-2>"
)
PROBE = 16  # The number of tokens of the text that shows whether a model is causal.
CHAT = (  # The chat template of the tiny model. Its form does not matter, since the model is untrained.
    "{% for message in messages %}{{ '<|' + message['role'] + '|>\n' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)


@dataclass(frozen=True, kw_only=True)
class LanguageModel:
    """A pretrained causal language model and its tokenizer.

    model: a hub id, or a folder in the hub's format. revision: branch, tag or commit of a hub id. dtype: the type of
    the weights, bf16 | fp32 | auto (bf16 if the hardware supports it). quantization: none | 8bit | 4bit, the last two
    with bitsandbytes on CUDA. gradient_checkpointing: training needs less memory and more time.
    """

    name: str | None = None
    model: str = ""
    revision: str | None = None
    dtype: str = "auto"
    quantization: str = "none"
    gradient_checkpointing: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.model, str) or not self.model:
            raise InputError(f"llm.model must be a hub id or a folder, got {self.model!r}; pass llm.model=<folder>")
        _check_dtype(self.dtype)
        if self.quantization not in ("none", "8bit", "4bit"):
            raise InputError(f"llm.quantization must be none, 8bit or 4bit, got {self.quantization!r}")
        checks.fields("llm", self)

    def resolved_dtype(self, device: str) -> str:
        """Return the type of the weights on this device, "bf16" or "fp32"."""
        return resolve_precision(self.dtype, device.split(":")[0])

    def tokenizer(self) -> Any:
        """Return the tokenizer that transformers loads.

        Raises:
            InputError: it cannot be loaded.
        """
        with self._explained():
            return _transformers().AutoTokenizer.from_pretrained(self._source, revision=self._revision)

    def load(self, device: str, dtype: str) -> nn.Module:
        """Return the model in eval mode, without gradients, on a device.

        Args:
            device: cpu, cuda or cuda:<n>.
            dtype: the type of the weights, bf16 or fp32. In a quantised model it is that of the weights that are not
                quantised.

        Raises:
            InputError: the model cannot be loaded, lacks weights, or cannot be quantised on this device.
        """
        quantization = self._quantization(device)
        with self._explained():
            if self._is_folder:
                _require_real_weights(Path(self._source))
            self._config()
            model, loading = _transformers().AutoModelForCausalLM.from_pretrained(
                self._source,
                revision=self._revision,
                dtype=DTYPES[dtype],
                quantization_config=quantization,
                device_map=None if device == "cpu" else {"": _numbered(device)},  # Move weights to the GPU one by one.
                output_loading_info=True,
            )
        if loading["missing_keys"]:  # transformers would use random weights instead.
            missing = sorted(loading["missing_keys"])
            raise InputError(f"{self.model} lacks {len(missing)} weights, first: {missing[0]}; fetch it again")
        model = _frozen(model, self.gradient_checkpointing)
        check_causal(model, self.model)
        return model

    def skeleton(self) -> nn.Module:
        """Return the model without values, on the device "meta", which shows its layers in a second and no memory.

        Raises:
            InputError: the configuration cannot be read, or is not that of a causal language model.
        """
        with self._explained():
            config = self._config()
            with torch.device("meta"):
                return _transformers().AutoModelForCausalLM.from_config(config)

    def identity(self) -> dict[str, Any]:
        """Return what results depend on: hub id and commit or the SHA-256 of a folder's files, and quantisation."""
        with self._explained():
            if self._is_folder:
                origin = {"sha256": _folder_hash(self._source)}
            else:
                config = self._config()
                origin = {"model": self.model, "commit": getattr(config, "_commit_hash", None) or self.revision}
        return {**origin, "quantization": self.quantization}

    def context_length(self) -> int | None:
        """Return the largest number of tokens that the model accepts, or None if its configuration has none.

        Raises:
            InputError: the configuration cannot be read, or is not that of a causal language model.
        """
        with self._explained():
            return getattr(self._config(), "max_position_embeddings", None)

    def _config(self) -> Any:
        """Return the configuration, and refuse the kinds of models that cannot be causal language models."""
        library = _transformers()
        config = library.AutoConfig.from_pretrained(self._source, revision=self._revision)
        if getattr(config, "is_encoder_decoder", False):
            raise InputError(f"{self.model} is an encoder-decoder ({config.model_type}), {NEEDED}")
        own_code = getattr(config, "auto_map", None) or {}
        if type(config) not in library.MODEL_FOR_CAUSAL_LM_MAPPING and "AutoModelForCausalLM" not in own_code:
            raise InputError(f"{self.model} is a model of type {config.model_type}, {NEEDED}")
        return config

    @property
    def _is_folder(self) -> bool:
        return Path(self.model).expanduser().is_dir()

    @property
    def _source(self) -> str:
        return str(Path(self.model).expanduser()) if self._is_folder else self.model

    @property
    def _revision(self) -> str | None:
        return None if self._is_folder else self.revision

    def _quantization(self, device: str) -> Any:
        if self.quantization == "none":
            return None
        if not device.startswith("cuda"):
            raise InputError(
                f"llm.quantization={self.quantization} needs CUDA, but the device is {device}; "
                "pass llm.quantization=none"
            )
        if find_spec("bitsandbytes") is None:
            raise InputError(
                f"llm.quantization={self.quantization} needs bitsandbytes; "
                "run pip install bitsandbytes, or pass llm.quantization=none"
            )
        return _transformers().BitsAndBytesConfig(
            load_in_8bit=self.quantization == "8bit",
            load_in_4bit=self.quantization == "4bit",
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=torch.bfloat16,
        )

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn an error of loading into an InputError of one line."""
        try:
            yield
        except InputError:
            raise
        except Exception as error:
            if not isinstance(error, UNREADABLE) and not _kinds(error).intersection(UNREACHABLE):
                raise
            raise InputError(self._reason(error)) from error

    def _reason(self, error: BaseException) -> str:
        kinds = _kinds(error)
        called = f"{self.model}" + (f" at revision {self.revision}" if self._revision else "")
        if "GatedRepoError" in kinds:
            return (
                f"{self.model} is gated: accept its licence at https://huggingface.co/{self.model} and run "
                "`hf auth login`, or pass llm=local llm.model=<folder>"
            )
        if "RevisionNotFoundError" in kinds:
            return f"{self.model} has no revision {self.revision!r} on the Hugging Face hub; pass another llm.revision"
        if {"RepositoryNotFoundError", "HFValidationError"} & kinds:
            return f"{self.model} is neither a folder nor a model of the Hugging Face hub; pass another llm.model"
        if kinds.intersection(UNREACHABLE):
            return (
                f"{called} is not a folder, is not in the Hugging Face cache, and the hub cannot be reached; "
                "download it once (`hf download <id>`) or pass llm=local llm.model=<folder>"
            )
        return f"{called} could not be read ({type(error).__name__}: {_sentence(str(error))})"


@dataclass(frozen=True, kw_only=True)
class TinyLanguageModel:
    """A small Llama with seeded random weights and a tokenizer of single bytes, for trials and tests without a network.

    It is untrained, so its results show only that the code works and say nothing about a method.
    """

    quantization: ClassVar[str] = "none"

    name: str | None = "tiny"
    dtype: str = "fp32"
    gradient_checkpointing: bool = False
    layers: int = 2
    width: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        _check_dtype(self.dtype)
        for key, least in (("layers", 1), ("width", 16)):
            value = getattr(self, key)
            if not checks.is_whole_number(value, least) or value % least or value > MOST_TINY:
                raise InputError(f"llm.{key} must be a multiple of {least} in {least}..{MOST_TINY}, got {value!r}")
        checks.fields("llm", self)

    def resolved_dtype(self, device: str) -> str:
        """Return the type of the weights on this device, "bf16" or "fp32"."""
        return resolve_precision(self.dtype, device.split(":")[0])

    def tokenizer(self) -> Any:
        """Return a tokenizer of single bytes."""
        return byte_tokenizer()

    def load(self, device: str, dtype: str) -> nn.Module:
        """Return the model in eval mode, without gradients. Its weights are the same on every machine."""
        return _frozen(self._made().to(device, DTYPES[dtype]), self.gradient_checkpointing)

    def skeleton(self) -> nn.Module:
        """Return the model without values, on the device "meta"."""
        with torch.device("meta"):
            return _transformers().LlamaForCausalLM(self._configuration())

    def identity(self) -> dict[str, Any]:
        """Return what results depend on."""
        settings = {key: value for key, value in asdict(self).items() if key in ("layers", "width", "seed")}
        return {"model": "tiny", **settings, "weights": weights_hash(self._made()), "quantization": "none"}

    def context_length(self) -> int:
        """Return the largest number of tokens that the model accepts."""
        return TINY_CONTEXT

    def _made(self) -> nn.Module:
        with seeded("tiny language model", self.seed):
            return _transformers().LlamaForCausalLM(self._configuration())

    def _configuration(self) -> Any:
        tokenizer = byte_tokenizer()
        return _transformers().LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=self.width,
            intermediate_size=2 * self.width,
            num_hidden_layers=self.layers,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=TINY_CONTEXT,
            initializer_range=0.1,  # Large, so that logits differ between tokens in spite of the small width.
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            tie_word_embeddings=False,
        )


def byte_tokenizer() -> Any:
    """Return a tokenizer with the 256 bytes, <pad>, <s> and </s> as tokens. Every text begins with <s>."""
    parts = needed("tokenizers")
    special = ["<pad>", "<s>", "</s>"]
    symbols = sorted(parts.pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {symbol: index for index, symbol in enumerate(special + symbols)}
    tokenizer = parts.Tokenizer(parts.models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = parts.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = parts.decoders.ByteLevel()
    tokenizer.post_processor = parts.processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", vocabulary["<s>"])]
    )
    return _transformers().PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", chat_template=CHAT
    )


def is_quantised(model: nn.Module) -> bool:
    """Return whether weights are stored in 8 or 4 bits."""
    return bool(getattr(model, "is_quantized", False))


def check_causal(model: nn.Module, name: str) -> None:
    """Refuse a model whose predictions depend on later tokens, such as BERT, which AutoModelForCausalLM loads too.

    The model reads two short texts that differ in their second half only. In the first half a causal model predicts
    the same for both, and a model that reads later tokens predicts something else at every position.

    Raises:
        InputError: the predictions differ at all positions of the first half.
    """
    half = PROBE // 2
    texts = torch.arange(PROBE).repeat(2, 1) % (model.config.get_text_config().vocab_size - 1)
    texts[1, half:] += 1
    device = next(model.parameters()).device
    with torch.inference_mode():
        logits = model(input_ids=texts.to(device), use_cache=False).logits  # [2, PROBE, V]
    first, second = logits[:, :half].float()
    change = (first - second).abs().amax(dim=1)  # [half]
    # Roundings differ between the rows of a batch if experts read other numbers of tokens. At some positions a token
    # may even reach another expert, but not at all of them.
    rounding = max(1e-5, 4 * torch.finfo(logits.dtype).eps) * logits.abs().max()
    if change.min() > rounding:
        raise InputError(f"{name} ({type(model).__name__}) predicts a token from later ones too, {NEEDED}")


def _frozen(model: nn.Module, gradient_checkpointing: bool) -> nn.Module:
    model.config.use_cache = False  # The cache serves generation only.
    if gradient_checkpointing:
        is_new = hasattr(model, "activation_checkpointing_enable")  # The method has this name in newer transformers.
        enable = model.activation_checkpointing_enable if is_new else model.gradient_checkpointing_enable
        enable({"use_reentrant": False})  # True would give an adapter on a frozen embedding no gradients.
    return model.eval().requires_grad_(False)


def _numbered(device: str) -> str:
    return device if ":" in device else f"{device}:{torch.cuda.current_device()}"


def _check_dtype(dtype: str) -> None:
    if dtype not in ("auto", *DTYPES):
        raise InputError(f"llm.dtype must be auto, bf16 or fp32, got {dtype!r}")


def _transformers() -> Any:
    library = needed("transformers")
    library.utils.logging.disable_progress_bar()  # One bar per shard would fill the log of a job.
    return library


def _kinds(error: BaseException | None) -> set[str]:
    """Return the names of the classes of an error and of its causes, with their base classes."""
    kinds: set[str] = set()
    while error is not None:
        kinds |= {base.__name__ for base in type(error).__mro__}
        error = error.__cause__ or error.__context__
    return kinds


def _sentence(text: str) -> str:
    """Return the beginning of a message in one line: whole sentences, about 200 characters."""
    whole = " ".join(text.split())
    end = whole.find(". ", 100)
    return whole if len(whole) <= 200 or end < 0 else whole[: end + 1]


def _require_real_weights(folder: Path) -> None:
    """Refuse weights that are no real numbers, which transformers would convert without a word.

    Buffers may be whole numbers, such as positions. A checkpoint that its authors have quantised has other names too.

    Raises:
        InputError: a safetensors file of a folder holds such weights.
    """
    config = folder / "config.json"
    if not config.is_file() or "quantization_config" in json.loads(config.read_text(encoding="utf-8")):
        return
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            for name in [name for name in tensors.keys() if name.endswith(".weight")]:
                if (kind := tensors.get_slice(name).get_dtype()) not in REAL:
                    raise InputError(f"{file}: {name} should hold real numbers, holds {kind}; save it as float32")


def _folder_hash(folder: str) -> str:
    files = sorted(path for path in Path(folder).iterdir() if path.is_file() and path.suffix in HASHED)
    if not any(path.name == "config.json" for path in files):
        raise InputError(f"llm.model={folder} holds no config.json; pass a folder that save_pretrained has written")
    digest = hashlib.sha256()
    for path in files:
        content = _file_hash(str(path), path.stat().st_size, path.stat().st_mtime_ns)
        digest.update(f"{path.name} {content}\n".encode())
    return digest.hexdigest()


@lru_cache
def _file_hash(path: str, size: int, changed: int) -> str:
    """Return the SHA-256 of a file. It is cached, and computed again if size or time of change differ."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
