"""Generate the embedded corpus: short samples from ten sources, whose response follows from the prompt, and some chats.

python -m scripts.assets.make_corpus

The script writes src/prunetune/instruct/corpus/embedded.jsonl. Every run gives the same bytes.
"""

import argparse
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from prunetune.instruct.corpus import corpora

PER_SOURCE = 32
NUM_CHATS = 16
SEED = 6

NAMES = ("Ada", "Ben", "Cleo", "Dara", "Emil", "Fay", "Gus", "Hana", "Ivo", "June")
THINGS = ("apples", "marbles", "stamps", "pencils", "shells", "cards", "buttons", "coins")
WORDS = (
    "river stone lamp cloud bread chair garden window paper bottle ladder mirror candle basket pocket "
    "bridge forest kettle saddle hammer needle pillow rocket tunnel violin walnut zipper anchor beacon copper"
).split()
COLOURS = {
    ("red", "yellow"): "orange",
    ("blue", "yellow"): "green",
    ("blue", "red"): "purple",
    ("black", "white"): "grey",
    ("red", "white"): "pink",
}
PAINTED = ("wall", "fence", "boat", "door", "kite", "bench", "vase")
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
UNITS = (("metres", "centimetres", 100), ("hours", "minutes", 60), ("kilograms", "grams", 1000), ("weeks", "days", 7))

Fields = dict[str, str]


def arithmetic(draw: random.Random) -> Fields:
    """A sum, a difference or a product."""
    first, second, small = draw.randrange(2, 60), draw.randrange(2, 40), draw.randrange(2, 13)
    total = first + second
    question, answer = draw.choice(
        [
            (f"What is the sum of {first} and {second}?", f"{first} + {second} = {total}"),
            (f"Compute {total} - {second}.", f"{total} - {second} = {first}"),
            (f"What is the product of {first} and {small}?", f"{first} * {small} = {first * small}"),
        ]
    )
    return {"instruction": question, "output": answer}


def story_sums(draw: random.Random) -> Fields:
    """Somebody has things, gets some and gives some away."""
    name, thing = draw.choice(NAMES), draw.choice(THINGS)
    had, got = draw.randrange(5, 30), draw.randrange(2, 20)
    gave = draw.randrange(1, had)
    total = had + got
    return {
        "instruction": f"{name} has {had} {thing}, finds {got} more and then gives {gave} away. "
        f"How many {thing} does {name} have left?",
        "output": f"First {name} has {had} + {got} = {total} {thing}. After giving {gave} away, "
        f"{total} - {gave} = {total - gave} {thing} are left.",
    }


def number_sorting(draw: random.Random) -> Fields:
    """Sort numbers, up or down."""
    numbers = draw.sample(range(1, 100), draw.randrange(4, 9))
    is_down = draw.random() < 0.5
    order = "largest to smallest" if is_down else "smallest to largest"
    return {
        "instruction": f"Sort these numbers from {order}.",
        "input": ", ".join(map(str, numbers)),
        "output": ", ".join(map(str, sorted(numbers, reverse=is_down))),
    }


def word_sorting(draw: random.Random) -> Fields:
    """Put words into the order of the alphabet."""
    words = draw.sample(WORDS, draw.randrange(3, 8))
    return {
        "instruction": "Put the words into alphabetical order, one on each line.",
        "input": " ".join(words),
        "output": "\n".join(sorted(words)),
    }


def colour_mixing(draw: random.Random) -> Fields:
    """Mix two paints."""
    pair, mixed = draw.choice(list(COLOURS.items()))
    first, second = draw.sample(pair, 2)
    thing, name = draw.choice(PAINTED), draw.choice(NAMES)
    return {
        "instruction": f"{name} mixes {first} and {second} paint and paints a {thing} with it. "
        f"What colour is the {thing}?",
        "output": f"{first.capitalize()} and {second} make {mixed}, so the {thing} is {mixed}.",
    }


def letter_counting(draw: random.Random) -> Fields:
    """Count a letter in a word."""
    word = draw.choice(WORDS) + draw.choice(WORDS)
    letter = draw.choice(word)
    count = word.count(letter)
    return {
        "instruction": f"How often does the letter {letter} occur in the word below?",
        "input": word,
        "output": f"The letter {letter} occurs {count} {'time' if count == 1 else 'times'} in {word}.",
    }


def word_reversal(draw: random.Random) -> Fields:
    """Write a word backwards."""
    word = draw.choice(WORDS)
    times = draw.randrange(1, 4)
    return {
        "instruction": f"Write the word {word} backwards{'.' if times == 1 else f', {times} times in a row.'}",
        "output": " ".join([word[::-1]] * times),
    }


def comparison(draw: random.Random) -> Fields:
    """Which of two people has more."""
    one, other = draw.sample(NAMES, 2)
    few, many = sorted(draw.sample(range(3, 90), 2))
    thing = draw.choice(THINGS)
    counts = {one: few, other: many} if draw.random() < 0.5 else {one: many, other: few}
    winner = max(counts, key=counts.__getitem__)
    return {
        "instruction": f"{one} has {counts[one]} {thing} and {other} has {counts[other]}. Who has more, and how many?",
        "output": f"{winner} has {many - few} more {thing} than {one if winner == other else other}.",
    }


def weekdays(draw: random.Random) -> Fields:
    """Count days onwards."""
    start, steps = draw.randrange(7), draw.randrange(1, 30)
    return {
        "instruction": f"Today is {DAYS[start]}. Which day is it in {steps} {'day' if steps == 1 else 'days'}?",
        "output": f"In {steps} {'day' if steps == 1 else 'days'} it is {DAYS[(start + steps) % 7]}.",
    }


def unit_conversion(draw: random.Random) -> Fields:
    """Turn large units into small ones."""
    large, small, factor = draw.choice(UNITS)
    count = draw.randrange(2, 40)
    return {
        "instruction": f"How many {small} are {count} {large}?",
        "output": f"{count} {large} are {count} * {factor} = {count * factor} {small}.",
    }


SOURCES: tuple[Callable[[random.Random], Fields], ...] = (
    arithmetic,
    story_sums,
    number_sorting,
    word_sorting,
    colour_mixing,
    letter_counting,
    word_reversal,
    comparison,
    weekdays,
    unit_conversion,
)


def chat(draw: random.Random) -> list[Fields]:
    """Two to four questions, one after the other, each about the last answer."""
    number = draw.randrange(2, 20)
    messages = []
    if draw.random() < 0.5:
        messages.append({"role": "system", "content": "Answer with one short sentence."})
    for turn in range(draw.randrange(2, 5)):
        step = draw.randrange(2, 9)
        word, result = draw.choice([("Add", number + step), ("Multiply by", number * step)])
        question = f"{word} {step}." if turn else f"Take the number {number}. {word} {step}."
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": f"That gives {result}."}]
        number = result
    return messages


def rows() -> Iterator[dict[str, Any]]:
    """Yield the rows: PER_SOURCE different ones of each source, then the chats."""
    for make in SOURCES:
        draw = random.Random(f"{SEED} {make.__name__}")
        seen: list[Fields] = []
        while len(seen) < PER_SOURCE:
            fields = make(draw)
            if fields not in seen:
                seen.append(fields)
        for number, fields in enumerate(seen):
            source = make.__name__
            filled = {
                "instruction": fields["instruction"],
                "input": fields.get("input", ""),
                "output": fields["output"],
            }
            yield {"id": f"{source}/{number:03d}", "source": source, **filled}
    draw = random.Random(f"{SEED} chat")
    for number in range(NUM_CHATS):
        yield {"id": f"chat/{number:03d}", "source": "chat", "messages": chat(draw)}


def main(file: Path) -> None:
    """Write the rows, one json object on each line."""
    file.write_text("".join(json.dumps(row) + "\n" for row in rows()), encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "file", type=Path, nargs="?", default=corpora.EMBEDDED, help="file to write; by default the embedded corpus"
    )
    main(parser.parse_args().file)
