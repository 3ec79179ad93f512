"""Templates turn an example into the text that the model reads, with the positions of its responses.

alpaca (default): the template of Stanford Alpaca. A blank input is left out, and a prompt that already has the template
is not changed. stanford: the same without the line break between the heading Response and the response, as in the code
of Stanford Alpaca and of Cherry (IFD). none: instruction and input without headings, as Superfiltering reads them.
released: the version of the released code (`prompts.released_prompt`). It adds a second template to a prompt that has
one and ends without EOS. chat: the chat template of the tokenizer. auto: the chat template if the tokenizer has one,
else alpaca; text that is to be continued as it is (`Details.is_plain`) has no template. Chats of several turns, with
tools or with reasoning always use the chat template, since no other template separates turns. Other chats of one turn
are treated as instruction and response.
"""

from dataclasses import dataclass

from prunetune.base.errors import InputError
from prunetune.instruct.corpus.chats import Answer, ChatTemplate, Span, as_single_turn, up_to_last_response
from prunetune.instruct.corpus.corpora import Example
from prunetune.instruct.corpus.messages import Messages, answers
from prunetune.instruct.corpus.prompts import (
    alpaca_prompt,
    bare_instruction,
    heading_of,
    plain_prompt,
    released_prompt,
)


@dataclass(frozen=True)
class Rendered:
    """The text of one example.

    responses: characters [start, end) of the responses, ascending. answers: the same responses with their headings and
    without the tokens that end them. adds_special: whether the tokenizer adds its special
    tokens (BOS); a chat template writes them itself. adds_eos: whether EOS is added after the text.
    """

    text: str
    responses: tuple[Span, ...]
    answers: tuple[Answer, ...]
    adds_special: bool
    adds_eos: bool


def asks(example: Example) -> bool:
    """Return whether a sample has a prompt, or is text without one."""
    return example.details.is_plain or bool(prompt_of(example).strip())


def answered(example: Example) -> bool:
    """Return whether a sample has a response that is scored."""
    if example.messages:
        return bool(answers(example.messages, example.details))
    return bool(example.response.strip())


def prompt_of(example: Example) -> str:
    """Return the text of all prompts without any template. It is blank if the sample asks nothing."""
    if example.messages:
        return "\n".join(text for role, text in example.messages if role != "assistant")
    instruction = bare_instruction(example.instruction) if example.is_templated else example.instruction
    return f"{instruction}\n{example.input}"


def response_of(example: Example) -> str:
    """Return the text of all responses. It is blank if the sample has no response."""
    if example.messages:
        return "\n".join(text for role, text in example.messages if role == "assistant")
    return example.response


def render(example: Example, template: str, chat: ChatTemplate | None) -> Rendered:
    """Return the text of an example whose prompt and response are not blank.

    chat: the tokenizer's chat template, None if it has none.

    Raises:
        InputError: the example needs a chat template, and the tokenizer has none or its template refuses the example.
    """
    details = example.details
    if details.is_plain and (template == "auto" or not example.instruction):
        return _prompted(example.instruction, example.response, has_heading=False)
    if template == "auto":
        template = "alpaca" if chat is None else "chat"
    messages = up_to_last_response(example.messages, details) if example.messages else ()
    turn = as_single_turn(messages) if messages and not details.needs_chat else None
    if template == "chat" or details.needs_chat or (messages and turn is None):
        return _chat(example, messages or _as_chat(example), template, chat)
    instruction, response = turn or (_with_system(example), example.response)
    if template == "released":
        return _prompted(released_prompt(instruction, example.input), response, adds_eos=False)
    if template == "none":
        bare = bare_instruction(instruction) if example.is_templated else instruction
        return _prompted(plain_prompt(bare, example.input), response, has_heading=False)
    if template == "stanford":
        prompt = instruction if example.is_templated else alpaca_prompt(instruction, example.input).removesuffix("\n")
        return _prompted(prompt, response)
    if example.is_templated:
        return _prompted(_as_it_is(instruction), response)
    return _prompted(alpaca_prompt(instruction, example.input), response)


def _prompted(prompt: str, response: str, adds_eos: bool = True, has_heading: bool = True) -> Rendered:
    start, end = len(prompt), len(prompt) + len(response)
    answer = Answer(heading_of(prompt) if has_heading else start, start, end)
    return Rendered(prompt + response, ((start, end),), (answer,), adds_special=True, adds_eos=adds_eos)


def _as_it_is(prompt: str) -> str:
    """Return a templated prompt. If it ends with the colon of the heading Response, a line break is added."""
    return prompt if prompt[-1:].isspace() else f"{prompt}\n"


def _as_chat(example: Example) -> Messages:
    instruction = bare_instruction(example.instruction) if example.is_templated else example.instruction
    question = "\n\n".join(text for text in (instruction, example.input) if text.strip())
    system = (("system", example.details.system),) if example.details.system.strip() else ()
    return (*system, ("user", question), ("assistant", example.response))


def _with_system(example: Example) -> str:
    """Return the instruction, with the system prompt before it as in `as_single_turn`."""
    system = example.details.system
    return f"{system}\n\n{example.instruction}" if system.strip() else example.instruction


def _chat(example: Example, messages: Messages, template: str, chat: ChatTemplate | None) -> Rendered:
    if chat is None:
        kind = "a chat with tools" if example.details.needs_chat else "a chat of several turns"
        what = "corpus.template=chat" if template == "chat" else f"sample {example.sample_id}, {kind},"
        raise InputError(
            f"{what} needs a tokenizer with a chat template, and this one has none; use the tokenizer of a chat model, "
            "or a corpus of single turns with corpus.template=alpaca"
        )
    text, spans, is_ended = chat.write(messages, example.sample_id, example.details)
    return Rendered(text, spans, chat.answers(text, spans), adds_special=False, adds_eos=not is_ended)
