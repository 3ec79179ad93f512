"""A tokenized corpus together with its language model."""

from dataclasses import dataclass, replace
from typing import Any

from prunetune.instruct.corpus.encoding import Encoded, padding_id
from prunetune.instruct.model.language_model import LanguageModel, TinyLanguageModel


@dataclass(frozen=True)
class Reader:
    """A language model that is not loaded yet, its tokenizer, and N samples in tokens."""

    llm: LanguageModel | TinyLanguageModel
    tokenizer: Any
    encoded: Encoded

    @property
    def pad_id(self) -> int:
        """The id of the padding token. Padding never counts in a loss.

        Raises:
            InputError: the tokenizer has neither a padding nor an EOS token.
        """
        return padding_id(self.tokenizer)

    def of(self, encoded: Encoded) -> "Reader":
        """Return the same model and tokenizer with other samples."""
        return replace(self, encoded=encoded)
