"""The text around an instruction: the two preambles of Stanford Alpaca and what a prompt in this template looks like.

Source: the preambles and section names are those of tatsu-lab/stanford_alpaca (PROMPT_DICT of train.py).
"""

PLAIN = "Below is an instruction that describes a task. Write a response that appropriately completes the request."
WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request."
)
INSTRUCTION, INPUT, RESPONSE = "### Instruction:", "### Input:", "### Response:"
INDENT = " " * 12  # of the released code, whose template is an indented literal
LEAST_INPUT = 2  # characters of an input for which the released code writes a section


def alpaca_prompt(instruction: str, context: str) -> str:
    """Return the prompt up to the first character of the response; a blank context is none."""
    if not context.strip():
        return f"{PLAIN}\n\n{INSTRUCTION}\n{instruction}\n\n{RESPONSE}\n"
    return f"{WITH_INPUT}\n\n{INSTRUCTION}\n{instruction}\n\n{INPUT}\n{context}\n\n{RESPONSE}\n"


def released_prompt(instruction: str, context: str) -> str:
    """Return the prompt as the released code writes it.

    Always the preamble that speaks of an input, and INDENT before every line of the template but the first (not
    before the later lines of an instruction that has several). The released scoring script has one more empty line
    before the response of a sample with input, and the training script one more line after the response; here both
    read the same text, without either.
    """
    lines = [WITH_INPUT, "", INSTRUCTION, instruction, ""]
    if len(context) >= LEAST_INPUT:
        lines += [INPUT, context, ""]
    return f"\n{INDENT}".join([*lines, RESPONSE, ""])


def carries_template(prompt: str) -> bool:
    """Whether a prompt is in the Alpaca template already: a preamble, the instruction, the head of the response."""
    text = prompt.strip()
    return text.startswith((PLAIN, WITH_INPUT)) and INSTRUCTION in text and text.endswith(RESPONSE)


def bare_instruction(prompt: str) -> str:
    """Return what stands between the first head Instruction and the last head Response of a templated prompt."""
    inner = prompt.partition(INSTRUCTION)[2].rpartition(RESPONSE)[0]
    return inner.strip()
