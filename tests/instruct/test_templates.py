"""The exact text of a sample in every template."""

import pytest

import made_tokenizers as made
from prunetune.base.errors import InputError
from prunetune.instruct.corpus.chats import ChatTemplate, as_single_turn, up_to_last_response
from prunetune.instruct.corpus.corpora import Example
from prunetune.instruct.corpus.messages import alternating, as_messages
from prunetune.instruct.corpus.prompts import bare_instruction, carries_template
from prunetune.instruct.corpus.templates import Rendered, prompt_of, render, response_of

PLAIN = "Below is an instruction that describes a task. Write a response that appropriately completes the request."
PAIRED = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request."
)
# The rows of the data set on the hub have this form.
DOLLY = f"{PLAIN}\n\n### Instruction:\nWhat is a stone?\n\n### Response:\n"
INDENT = "            "


def example(**fields):
    return Example("000000", "made", **fields)


def response(rendered: Rendered) -> str:
    return "|".join(rendered.text[start:end] for start, end in rendered.responses)


def chat_of(template):
    return ChatTemplate(made.tokenizer(chat_template=template))


def test_alpaca_without_an_input():
    rendered = render(example(instruction="Say hi.", response="Hi."), "alpaca", None)
    assert rendered.text == f"{PLAIN}\n\n### Instruction:\nSay hi.\n\n### Response:\nHi."
    assert response(rendered) == "Hi."
    assert (rendered.adds_special, rendered.adds_eos) == (True, True)


def test_alpaca_with_an_input():
    rendered = render(example(instruction="Translate.", input="pain", response="bread"), "alpaca", None)
    assert rendered.text == (f"{PAIRED}\n\n### Instruction:\nTranslate.\n\n### Input:\npain\n\n### Response:\nbread")
    assert response(rendered) == "bread"


def test_a_blank_input_is_no_input():
    bare = render(example(instruction="Say hi.", response="Hi."), "alpaca", None)
    assert render(example(instruction="Say hi.", input=" \n", response="Hi."), "alpaca", None) == bare


def test_released_indents_its_own_lines_and_always_speaks_of_an_input():
    rendered = render(example(instruction="One\ntwo", response="a\nb"), "released", None)
    assert rendered.text == (
        f"{PAIRED}\n{INDENT}\n{INDENT}### Instruction:\n{INDENT}One\ntwo\n{INDENT}\n{INDENT}### Response:\n{INDENT}a\nb"
    )
    assert response(rendered) == "a\nb"
    assert (rendered.adds_special, rendered.adds_eos) == (True, False)


@pytest.mark.parametrize(("context", "has_section"), [("", False), ("x", False), ("xy", True), ("  ", True)])
def test_released_writes_an_input_of_two_characters_or_more(context, has_section):
    text = render(example(instruction="Do.", input=context, response="Done."), "released", None).text
    section = f"\n{INDENT}### Input:\n{INDENT}{context}\n{INDENT}\n"
    assert (section in text) == has_section
    assert ("### Input" in text) == has_section


@pytest.mark.parametrize("prompt", [DOLLY, DOLLY.rstrip(), DOLLY.replace("\n", " ").replace("  ", " ")])
def test_a_prompt_in_the_template_is_not_wrapped_twice(prompt):
    templated = example(instruction=prompt, response="A rock.", is_templated=carries_template(prompt))
    rendered = render(templated, "alpaca", None)
    assert rendered.text.startswith(prompt)
    assert [rendered.text.count(head) for head in (PLAIN, "### Instruction:", "### Response:")] == [1, 1, 1]
    assert response(rendered) == "A rock."
    assert rendered.text[-8] in " \n", "the response begins behind the head, not in its line's last letter"


def test_a_prompt_in_the_template_is_used_unchanged():
    templated = example(instruction=DOLLY, response="A rock.", is_templated=True)
    same = example(instruction="What is a stone?", response="A rock.")
    assert render(templated, "alpaca", None) == render(same, "alpaca", None)


def test_released_wraps_a_prompt_in_the_template_a_second_time():
    rendered = render(example(instruction=DOLLY, response="A rock.", is_templated=True), "released", None)
    head, foot = f"\n{INDENT}\n{INDENT}### Instruction:\n{INDENT}", f"\n{INDENT}\n{INDENT}### Response:\n{INDENT}"
    assert rendered.text == f"{PAIRED}{head}{DOLLY}{foot}A rock."
    assert [rendered.text.count(head) for head in ("Below is", "### Instruction:", "### Response:")] == [2, 2, 2]


def test_only_a_whole_template_is_recognised_in_a_prompt():
    assert carries_template(DOLLY)
    assert carries_template(f"{PAIRED}\n### Instruction:\na\n### Input:\nb\n### Response:")
    assert not carries_template("What is a stone?")
    assert not carries_template(PLAIN)
    assert not carries_template(f"Explain this: {DOLLY}")
    assert not carries_template(f"{DOLLY}A rock.")
    assert bare_instruction(DOLLY) == "What is a stone?"


def test_a_template_around_an_empty_instruction_gives_a_blank_prompt():
    empty = example(instruction=DOLLY.replace("What is a stone?", ""), response="A rock.", is_templated=True)
    assert not prompt_of(empty).strip()
    assert prompt_of(example(instruction=DOLLY, is_templated=True)).strip() == "What is a stone?"


def test_a_chat_of_one_turn_is_an_instruction_and_its_response():
    messages = (("user", "Say hi."), ("assistant", "Hi."), ("user", "Thanks."))
    plain = example(instruction="Say hi.", response="Hi.")
    for template in ("alpaca", "released"):
        assert render(example(messages=messages), template, None) == render(plain, template, None)
    with_system = example(messages=(("system", "Be kind."), *messages))
    assert "### Instruction:\nBe kind.\n\nSay hi.\n" in render(with_system, "alpaca", None).text


def test_a_sample_under_the_chat_template_is_a_chat_of_one_turn():
    chat = chat_of(made.CHATML)
    rendered = render(example(instruction="Translate.", input="pain", response="bread"), "chat", chat)
    assert rendered.text == ("<|im_start|>user\nTranslate.\n\npain<|im_end|>\n<|im_start|>assistant\nbread<|im_end|>\n")
    assert response(rendered) == "bread|<|im_end|>"
    assert (rendered.adds_special, rendered.adds_eos) == (False, False)
    templated = example(instruction=DOLLY, response="A rock.", is_templated=True)
    bare = example(instruction="What is a stone?", response="A rock.")
    assert render(templated, "chat", chat) == render(bare, "chat", chat)


def test_a_response_that_repeats_the_question_is_found_where_the_assistant_gives_it():
    messages = (("user", "assistant"), ("assistant", "assistant"), ("user", "again"), ("assistant", "user"))
    text, spans, is_ended = chat_of(made.CHATML).write(messages, "x")
    assert [text[start:end] for start, end in spans] == ["assistant", "<|im_end|>", "user", "<|im_end|>"]
    assert all(text[:start].endswith("<|im_start|>assistant\n") for start, _ in spans[::2])
    assert is_ended


def test_a_stripping_template_is_followed_exactly():
    messages = (
        ("system", " Be kind. "),
        ("user", "\nHi"),
        ("assistant", "  Hello\n\n"),
        ("user", "?"),
        ("assistant", "!"),
    )
    text, spans, _ = chat_of(made.STRIPPING).write(messages, "x")
    assert text == "<s>[INST] <<SYS>>Be kind.<</SYS>>\n\nHi [/INST] Hello </s>[INST] ? [/INST] ! </s>"
    assert [text[start:end] for start, end in spans] == ["Hello", "</s>", "!", "</s>"]


def test_a_template_that_changes_responses_is_followed_where_its_own_words_separate_them():
    messages = (("user", "a"), ("assistant", "b c"))
    text, spans, is_ended = chat_of(made.MARKED).write(messages, "x")
    assert text == "#user#A#assistant#B C"
    assert [text[start:end] for start, end in spans] == ["B C"]
    assert not is_ended


def test_a_template_in_which_responses_are_not_found_gives_a_one_line_error():
    glued = "{% for m in messages %}{{ m['content'] | upper }}{% endfor %}"
    twice = "{% for m in messages %}{{ m['content'] }} {{ m['content'] }}{% endfor %}"
    silent = "{% for m in messages if m['role'] == 'user' %}{{ m['content'] }}{% endfor %}"
    for template in (glued, twice, silent):
        with pytest.raises(InputError, match="responses of sample x cannot be found.*corpus.template=alpaca") as caught:
            chat_of(template).write((("user", "a"), ("assistant", "b")), "x")
        assert "\n" not in str(caught.value)


def test_a_chat_that_the_template_refuses_gives_a_one_line_error():
    messages = (("user", "a"), ("user", "b"), ("assistant", "c"))
    with pytest.raises(InputError, match="refuses sample x with the roles user, user, assistant.*must alternate"):
        chat_of(made.STRIPPING).write(messages, "x")


def test_a_template_with_todays_date_writes_the_same_text_on_every_day():
    messages = (("user", "a"), ("assistant", "b"))
    plain = chat_of(made.CHATML).write(messages, "x")[0]
    for form, date in (("%d %b %Y", "26 Jul 2024"), ("%Y-%m-%d", "2024-07-26")):
        dated = "\n{% if strftime_now is defined %}{{ strftime_now('" + form + "') }}{% endif %}" + made.CHATML
        assert chat_of(dated).write(messages, "x")[0] == f"\n{date}{plain}"


def test_of_several_templates_the_default_is_taken_and_it_must_exist():
    messages = (("user", "a"), ("assistant", "b"))
    several = chat_of({"default": made.CHATML, "other": made.ENDLESS})
    assert several.write(messages, "x") == chat_of(made.CHATML).write(messages, "x")
    with pytest.raises(InputError, match="several chat templates and none is called default"):
        chat_of({"one": made.CHATML, "other": made.ENDLESS}).write(messages, "x")


def test_chats_are_read_from_messages_of_either_form_and_from_alternating_texts():
    expected = (("system", "s"), ("user", "u"), ("assistant", "a"))
    roles = [{"role": role, "content": text} for role, text in expected]
    shared = [{"from": role, "value": text} for role, text in (("system", "s"), ("human", "u"), ("gpt", "a"))]
    assert as_messages(roles, "x") == as_messages(shared, "x") == expected
    assert alternating(["u", "a", "v"], "x") == (("user", "u"), ("assistant", "a"), ("user", "v"))
    assert as_messages([{"role": "user", "content": None}], "x") == (("user", ""),)


@pytest.mark.parametrize(
    ("turns", "words"),
    [
        ("hello", "must be a list of messages"),
        ([{"role": "robot", "content": "a"}], "role must be one of system, developer, user.*got 'robot'"),
        ([{"text": "a"}], "must have role and content, or from and value"),
        (["a"], "must have role and content"),
        ([{"role": "user", "content": 3}], "content must be text or a list of parts"),
        ([{"role": "user", "content": [3]}], "a part of a message must be text or an object"),
        ([{"role": "assistant", "tool_calls": "f()"}], "tool_calls must be a list of objects"),
    ],
)
def test_a_chat_of_another_form_gives_a_one_line_error(turns, words):
    with pytest.raises(InputError, match=f"rows: row 3.*{words}") as caught:
        as_messages(turns, "rows: row 3")
    assert "\n" not in str(caught.value)


def test_a_list_that_holds_no_texts_gives_a_one_line_error():
    with pytest.raises(InputError, match="row 1: a chat must be a list of texts"):
        alternating([{"role": "user"}], "row 1")


def test_what_follows_the_last_response_is_left_out():
    messages = (("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", " "), ("user", "d"))
    assert up_to_last_response(messages) == messages[:2]
    assert up_to_last_response(messages[:1]) == messages[:1]
    assert response_of(example(messages=messages)).strip() == "b"


def test_a_chat_of_one_turn_and_one_of_two():
    assert as_single_turn((("user", "a"), ("assistant", "b"))) == ("a", "b")
    assert as_single_turn((("system", " "), ("user", "a"), ("assistant", "b"))) == ("a", "b")
    assert as_single_turn((("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"))) is None
    assert as_single_turn((("assistant", "b"),)) is None
