"""Tokenizers made in code, with merges, blanks and chat templates, which a byte tokenizer does not have."""

from typing import Any

import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

SPECIAL = ("<pad>", "<s>", "</s>", "<|im_start|>", "<|im_end|>")
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# This template strips every message, puts a system message into the first question and ends responses with a blank.
STRIPPING = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set head = '<<SYS>>' + messages[0]['content'] | trim + "
    "'<</SYS>>\n\n' %}{% set rest = messages[1:] %}{% else %}{% set head = '' %}{% set rest = messages %}{% endif %}"
    "{% for m in rest %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
    "{% if m['role'] == 'user' %}[INST] {{ (head if loop.first else '') + m['content'] | trim }} [/INST]"
    "{% else %} {{ m['content'] | trim }} </s>{% endif %}{% endfor %}"
)
THINKING = (  # This template reads the responses and drops the text before the last </think>.
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['role'] == 'assistant' %}{{ m['content'].split('</think>')[-1].strip() }}{% else %}{{ m['content'] }}"
    "{% endif %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
ENDLESS = "{% for m in messages %}{{ m['role'] | upper }}: {{ m['content'] }}\n{% endfor %}"
MARKED = "{% for m in messages %}{{ '#' + m['role'] + '#' + m['content'].upper() }}{% endfor %}"


def tokenizer(
    merges: tuple[str, ...] = (),
    trims_offsets: bool = False,
    adds_eos: bool = False,
    chat_template: str | None = None,
    **special: str | None,
) -> Any:
    """Return a byte-level BPE tokenizer that merges these pairs of symbols ("a b"), with <s> before every text."""
    symbols = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet()), *(merge.replace(" ", "") for merge in merges)]
    vocabulary = {symbol: index for index, symbol in enumerate(symbols)}
    pairs = [tuple(merge.split(" ")) for merge in merges]
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=pairs))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    around = processors.TemplateProcessing(
        single="<s> $A </s>" if adds_eos else "<s> $A", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    blanks = [processors.ByteLevel(trim_offsets=True, add_prefix_space=False)] if trims_offsets else []
    made.post_processor = processors.Sequence([*blanks, around])
    named = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", **special}
    wrapped = transformers.PreTrainedTokenizerFast(
        tokenizer_object=made,
        additional_special_tokens=["<|im_start|>", "<|im_end|>"],
        **{key: token for key, token in named.items() if token},
    )
    wrapped.chat_template = chat_template
    return wrapped
