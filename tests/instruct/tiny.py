"""Tiny language models made from config, a tokenizer of bytes, and corpora of a few made samples."""

from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from prunetune.base.seeding import seeded, stream
from prunetune.data.pool import Pool
from prunetune.instruct.corpus.chats import Answer
from prunetune.instruct.corpus.encoding import Encoded, Report, fingerprint
from prunetune.instruct.model.language_model import byte_tokenizer
from prunetune.instruct.model.processes import Processes
from prunetune.instruct.model.reader import Reader
from prunetune.instruct.scorers.signals import TextSignals

ARCHITECTURES = ("llama", "mistral", "gemma2")
CASES = [(architecture, tied) for architecture in ARCHITECTURES for tied in (False, True)]
CLASSES = {
    "llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM),
    "mistral": (transformers.MistralConfig, transformers.MistralForCausalLM),
    "gemma2": (transformers.Gemma2Config, transformers.Gemma2ForCausalLM),
}
EXTRA = {
    "mistral": {"sliding_window": 24},  # The window is shorter than the samples, so that it has an effect.
    "gemma2": {"sliding_window": 24, "final_logit_softcapping": 3.0, "query_pre_attn_scalar": 8},
}


def tokenizer(pad: bool = True, bos: bool = True, chat: bool = True) -> Any:
    """Return the byte tokenizer, on request without pad token, leading <s> or chat template."""
    made = byte_tokenizer()
    if not bos:
        made.backend_tokenizer.post_processor = type(byte_tokenizer().backend_tokenizer.post_processor)(
            single="$A", pair="$A $B", special_tokens=[]
        )
        made.bos_token = None
    if not pad:
        made.pad_token = None
    if not chat:
        made.chat_template = None
    return made


def model(architecture: str = "llama", tied: bool = False, seed: int = 0, width: int = 32) -> nn.Module:
    """Return a model with random weights, float32 on the CPU, in eval mode and without gradients."""
    config_class, model_class = CLASSES[architecture]
    config = config_class(
        vocab_size=259,
        hidden_size=width,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=512,
        initializer_range=0.2,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        tie_word_embeddings=tied,
        use_cache=False,
        **EXTRA.get(architecture, {}),
    )
    with seeded("tiny", architecture, tied, seed):
        return model_class(config).eval().requires_grad_(False)


def save(folder: Path, architecture: str = "llama", tied: bool = False, seed: int = 0) -> Path:
    """Write a tiny model and its tokenizer as a folder that `LanguageModel` reads."""
    model(architecture, tied, seed).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


class Loaded:
    """A language model that is already in memory, in the place of `LanguageModel`; counts how often it is loaded."""

    quantization = "none"

    def __init__(self, network: nn.Module, tokens: Any = None, name: str = "made") -> None:
        self.network, self.tokens, self.name, self.times = network, tokens or byte_tokenizer(), name, 0

    def tokenizer(self) -> Any:
        return self.tokens

    def load(self, device: str, dtype: str) -> nn.Module:
        self.times += 1
        return self.network.to(device, {"bf16": torch.bfloat16, "fp32": torch.float32}[dtype])

    def skeleton(self) -> nn.Module:
        return self.network

    def identity(self) -> dict[str, str]:
        return {"model": self.name}


def encoded(count: int = 12, seed: int = 0, longest: int = 40, vocabulary: int = 259) -> Encoded:
    """Return samples of random tokens: <s>, a prompt of 1 to `longest` tokens, as long a response, </s>."""
    generator = stream("made samples", count, seed)

    def draw(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (1,), generator=generator))

    ids, responses = [], []
    for _ in range(count):
        prompt, response = draw(1, longest), draw(1, longest)
        tokens = torch.randint(3, vocabulary, (prompt + response,), generator=generator)
        ids.append(torch.cat([torch.tensor([1]), tokens, torch.tensor([2])]).int())
        responses.append(torch.arange(prompt + response + 2) > prompt)
    return of_tokens(ids, responses, [f"source{row % 3}" for row in range(count)])


def of_tokens(ids: list[Tensor], responses: list[Tensor], sources: list[str]) -> Encoded:
    """Return these samples as an encoded corpus."""
    names = tuple(f"{row:06d}" for row in range(len(ids)))
    pool = Pool("made", torch.zeros(len(ids), dtype=torch.int64), names, ("train",) * len(ids), ("made",))
    counts = {key: 0 for key in Report.__dataclass_fields__}
    return Encoded(
        pool=pool,
        sources=tuple(sources),
        ids=tuple(ids),
        responses=tuple(responses),
        answers=tuple((answer_of(*sample),) for sample in zip(ids, responses, strict=True)),
        texts=tuple(map(text_of, ids)),
        report=Report(**{**counts, "read": len(ids), "kept": len(ids)}),
        fingerprint=fingerprint(pool, ids, responses),
    )


def text_of(ids: Tensor) -> str:
    """Return a text for tokens that are no text: their numbers."""
    return " ".join(map(str, ids.tolist()))


def answer_of(ids: Tensor, response: Tensor) -> Answer:
    """Return the answer of a sample of one turn. Its heading is the token before it, and its last token ends it."""
    first, stop = int(response.int().argmax()), len(ids) - 1
    heading, start, end = (len(text_of(ids[:place])) for place in (first - 1, first, stop))
    return Answer(heading, start, end, first, stop)


def reader(llm: Any, samples: Encoded) -> Reader:
    """Return these samples as a language model with its tokenizer reads them."""
    return Reader(llm, llm.tokenizer(), samples)


def signals(folder: Path, llm: Any, samples: Encoded, **settings: Any) -> TextSignals:
    """Return signals of these samples in one process on the CPU, in float32; passes lie in the folder."""
    given = {"dtype": "fp32", "processes": Processes(0, 1, settings.pop("device", "cpu")), **settings}
    return TextSignals(reader(llm, samples), folder=folder / "passes" / "unnamed", **given)
