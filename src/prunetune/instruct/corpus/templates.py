"""Templates: from an example to the text that the model reads, with the places of its responses.

alpaca (default): Stanford Alpaca's template; a blank input is no input, a prompt that carries the template already is
used as it is. released: the released code's version of it (`prompts.released_prompt`), which wraps such a prompt a
second time and ends without EOS. chat: the tokenizer's chat template. Chats of several turns are written by the chat
template whatever the template, as nothing else separates their turns; chats of one turn are instruction and response.
"""

from dataclasses import dataclass

from prunetune.base.errors import InputError
from prunetune.instruct.corpus.chats import ChatTemplate, Messages, Span, as_single_turn, up_to_last_response
from prunetune.instruct.corpus.corpora import Example
from prunetune.instruct.corpus.prompts import alpaca_prompt, bare_instruction, released_prompt


@dataclass(frozen=True)
class Rendered:
    """The text of one example.

    responses: characters [start, end) of the responses, ascending. adds_special: the tokenizer's own special tokens
    (BOS) come on top; a chat template writes its own. adds_eos: EOS is added behind the text.
    """

    text: str
    responses: tuple[Span, ...]
    adds_special: bool
    adds_eos: bool


def prompt_of(example: Example) -> str:
    """Return everything that was asked, without any template; blank for a sample that asks nothing."""
    if example.messages:
        return "\n".join(text for role, text in example.messages if role != "assistant")
    instruction = bare_instruction(example.instruction) if example.is_templated else example.instruction
    return f"{instruction}\n{example.input}"


def response_of(example: Example) -> str:
    """Return everything that was answered; blank for a sample without a response."""
    if example.messages:
        return "\n".join(text for role, text in example.messages if role == "assistant")
    return example.response


def render(example: Example, template: str, chat: ChatTemplate | None) -> Rendered:
    """Write an example whose prompt and response are not blank.

    chat: the tokenizer's chat template, None if it has none.

    Raises:
        InputError: the example needs a chat template that the tokenizer lacks, or that refuses it.
    """
    messages = up_to_last_response(example.messages)
    turn = as_single_turn(messages) if messages else None
    if template == "chat" or (messages and turn is None):
        return _chat(example, messages or _as_chat(example), template, chat)
    instruction, response = turn or (example.instruction, example.response)
    if template == "released":
        return _prompted(released_prompt(instruction, example.input), response, adds_eos=False)
    if example.is_templated:
        return _prompted(_as_it_is(instruction), response)
    return _prompted(alpaca_prompt(instruction, example.input), response)


def _prompted(prompt: str, response: str, adds_eos: bool = True) -> Rendered:
    spans = ((len(prompt), len(prompt) + len(response)),)
    return Rendered(prompt + response, spans, adds_special=True, adds_eos=adds_eos)


def _as_it_is(prompt: str) -> str:
    """Return a templated prompt; a head Response that ends in its colon gets the line end that our template has."""
    return prompt if prompt[-1:].isspace() else f"{prompt}\n"


def _as_chat(example: Example) -> Messages:
    instruction = bare_instruction(example.instruction) if example.is_templated else example.instruction
    question = "\n\n".join(text for text in (instruction, example.input) if text.strip())
    return (("user", question), ("assistant", example.response))


def _chat(example: Example, messages: Messages, template: str, chat: ChatTemplate | None) -> Rendered:
    if chat is None:
        what = "corpus.template=chat" if template == "chat" else f"sample {example.sample_id}, a chat of several turns,"
        raise InputError(
            f"{what} needs a tokenizer with a chat template, and this one has none; use the tokenizer of a chat model, "
            "or a corpus of single turns with corpus.template=alpaca"
        )
    text, spans, is_ended = chat.write(messages, example.sample_id)
    return Rendered(text, spans, adds_special=False, adds_eos=not is_ended)
