"""The prompt template of Stanford Alpaca with its two preambles, and the variant of the released code.

Source: the preambles and section names are those of tatsu-lab/stanford_alpaca (PROMPT_DICT of train.py).
"""

PLAIN = "Below is an instruction that describes a task. Write a response that appropriately completes the request."
WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request."
)
INSTRUCTION, INPUT, RESPONSE = "### Instruction:", "### Input:", "### Response:"
INDENT = " " * 12  # The template of the released code is an indented literal, so its lines begin with these blanks.
LEAST_INPUT = 2  # The released code writes the section Input only if the input has at least so many characters.


def alpaca_prompt(instruction: str, context: str) -> str:
    """Return the prompt up to the first character of the response. A blank context is left out."""
    if not context.strip():
        return f"{PLAIN}\n\n{INSTRUCTION}\n{instruction}\n\n{RESPONSE}\n"
    return f"{WITH_INPUT}\n\n{INSTRUCTION}\n{instruction}\n\n{INPUT}\n{context}\n\n{RESPONSE}\n"


def released_prompt(instruction: str, context: str) -> str:
    """Return the prompt as the released code writes it.

    It always has the preamble that mentions an input. INDENT precedes every line of the template but the first, and not
    the later lines of an instruction with several lines. The released scoring script adds an empty line before the
    response of a sample with input, and the training script adds a line after the response. Here scoring and training
    read the same text, without these lines.
    """
    lines = [WITH_INPUT, "", INSTRUCTION, instruction, ""]
    if len(context) >= LEAST_INPUT:
        lines += [INPUT, context, ""]
    return f"\n{INDENT}".join([*lines, RESPONSE, ""])


def plain_prompt(instruction: str, context: str) -> str:
    """Return the instruction and the context, a line break after each. A blank context is left out.

    Source: the default prompt of tianyi-lab/Superfiltering.
    """
    return f"{instruction}\n{context}\n" if context.strip() else f"{instruction}\n"


def heading_of(prompt: str) -> int:
    """Return the character at which the last heading Response of a prompt begins; its end if it has no heading."""
    found = prompt.rfind(RESPONSE)
    return len(prompt) if found < 0 else found


def carries_template(prompt: str) -> bool:
    """Return whether a prompt already has the Alpaca template: a preamble, an instruction, and the heading Response."""
    text = prompt.strip()
    return text.startswith((PLAIN, WITH_INPUT)) and INSTRUCTION in text and text.endswith(RESPONSE)


def bare_instruction(prompt: str) -> str:
    """Return the text between the first heading Instruction and the last heading Response of a templated prompt."""
    inner = prompt.partition(INSTRUCTION)[2].rpartition(RESPONSE)[0]
    return inner.strip()
