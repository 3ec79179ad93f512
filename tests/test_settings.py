"""Every setting of every class that a configuration or a caller can make refuses what it cannot be."""

import dataclasses
import functools
import math
from pathlib import Path

import pytest

import prunetune.instruct.registration  # noqa: F401  adds the classes of text runs to the catalogue
from made_checkout import write_checkout
from prunetune.base import checks
from prunetune.base.errors import InputError
from prunetune.config import catalogue
from prunetune.config.build import class_of
from prunetune.instruct.tuning.mmlu import EvaluationSettings
from prunetune.instruct.tuning.sft_settings import SftSettings
from prunetune.samplers.candidates import Search
from prunetune.signals.proxy import ProxyRecipe
from prunetune.training.recipe import Recipe

RECIPES = {Recipe, ProxyRecipe, Search, SftSettings, EvaluationSettings}
TARGETS = {
    entry.settings["_target_"]
    for kind in catalogue.KINDS
    for entry in catalogue.entries(kind).values()
    if "_target_" in entry.settings
}
CLASSES = sorted(RECIPES | set(map(class_of, TARGETS)), key=lambda one: f"{one.__module__}.{one.__name__}")
# No setting takes one of these numbers, whatever its range.
NO_NUMBERS = (math.nan, math.inf, -math.inf, 1e30, -1e30, 10**23, -(10**23), 10**400)
OTHER_TYPES = ("abc", True, None, [[1]], {1: 1}, object())


@functools.cache
def needed(made_class: type, folder: Path) -> dict:
    """Return arguments that the class needs."""
    (folder / "file.jsonl").write_text('{"sample_id": "a", "score": 1, "prompt": "b", "response": "c"}\n')
    return {
        "SplitFolders": {"root": "", "prepare": "", "num_classes": 2, "num_pool": 2, "num_test": 2, "name": "made"},
        "FromFile": {"path": str(folder / "file.jsonl")},
        "RDSPlus": {"queries": str(folder / "file.jsonl")},
        "DeepCore": {"path": str(write_checkout(folder / "DeepCore"))} if made_class.__name__ == "DeepCore" else {},
        "LanguageModel": {"model": "made"},
        "Recipe": {"name": "made"},
        "SftSettings": {"name": "made"},
    }.get(made_class.__name__, {})


def may_be(value: object, kind: str) -> bool:
    """Return whether a value fits an annotation, such as "int | None" or "tuple[str, ...]"."""
    return (value is None and "None" in kind) or (
        ("str" in kind and "tuple" not in kind and isinstance(value, str))
        or ("bool" in kind and isinstance(value, bool))
        or ("Mapping" in kind and isinstance(value, dict))
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("files")


@pytest.mark.parametrize("made_class", CLASSES, ids=lambda one: f"{one.__module__}.{one.__name__}")
def test_a_setting_refuses_what_is_no_number_and_values_of_other_types(made_class, folder):
    given = needed(made_class, folder)
    made_class(**given)
    for field in dataclasses.fields(made_class):
        kind = getattr(field.type, "__name__", str(field.type)) if isinstance(field.type, type) else str(field.type)
        for value in (*NO_NUMBERS, *OTHER_TYPES):
            if may_be(value, kind):
                continue
            with pytest.raises(InputError) as caught:
                made_class(**{**given, field.name: value})
            assert "\n" not in str(caught.value), (field.name, value)


NUMBERS = {  # A setting, and values just outside its range.
    (Recipe, "learning_rate"): (0, -0.1, 1001),
    (Recipe, "momentum"): (-0.1, 1, 2),
    (Recipe, "weight_decay"): (-1e-9, 1001),
    (Recipe, "decay"): (0, -1, 1.1),
    (Recipe, "milestones"): ([-1], [0], [1.5], 5, "25"),
    (Recipe, "epochs"): (0, 1.5, 2**31),
    (Recipe, "batch_size"): (0, 1e23),
    (Recipe, "views"): (-1,),
    (Recipe, "evaluate_every"): (0,),
    (SftSettings, "learning_rate"): (0, 1001),
    (SftSettings, "momentum"): (-0.1, 1),
    (SftSettings, "lora_dropout"): (-0.1, 1),
    (SftSettings, "epochs"): (-1,),
    (Search, "held_out"): (0, 1),
    (Search, "repeats"): (0,),
    (Search, "grid"): ([], [0], [1], [math.nan], 0.5, ["0.5"]),
    (Search, "betas"): ([], [-0.1], [1], [1e30]),
}


@pytest.mark.parametrize(("made_class", "key"), NUMBERS, ids=lambda one: getattr(one, "__name__", one))
def test_a_number_outside_its_range_is_refused_with_its_key(made_class, key, folder):
    for value in NUMBERS[made_class, key]:
        with pytest.raises(InputError, match=rf"\b{key} must be .*, got "):
            made_class(**{**needed(made_class, folder), key: value})


def test_the_ends_of_the_ranges_belong_to_them():
    Recipe("made", learning_rate=1000, momentum=0.999, weight_decay=0, decay=1, milestones=[])
    Recipe("made", epochs=2**31 - 1, batch_size=1_000_000_000, momentum=0, nesterov=False)


@dataclasses.dataclass
class Made:
    count: int = 1
    share: float = 0.5
    text: str = ""
    flag: bool = False
    numbers: tuple[float, ...] = ()
    choice: int | str | None = None


def test_the_types_of_fields():
    fine = [{"share": 1}, {"text": Path("a")}, {"numbers": [1, 0.5]}, {"choice": "a"}, {"choice": 3}, {"choice": None}]
    for given in fine:
        checks.fields("made", Made(**given))
    checks.fields("made", object())  # It has no fields.
    for given, message in [
        ({"count": 1.5}, "made.count must be a whole number, got 1.5"),
        ({"count": True}, "made.count must be a whole number, got True"),
        ({"share": "1"}, "made.share must be a number, got '1'"),
        ({"text": 5}, "made.text must be a text, got 5"),
        ({"flag": "no"}, "made.flag must be true or false, got 'no'"),
        ({"numbers": 5}, "made.numbers must be a list of numbers, got 5"),
        ({"numbers": [1, math.nan]}, r"made.numbers must be a list of numbers, got \[1, nan\]"),
        ({"choice": 1.5}, "made.choice must be a whole number or a text or null, got 1.5"),
    ]:
        with pytest.raises(InputError, match=f"^{message}$"):
            checks.fields("made", Made(**given))


def test_a_number_without_a_natural_limit_has_one():
    checks.whole_number("a", 2**31 - 1)
    checks.number("a", 1e9, "(0, inf)")
    with pytest.raises(InputError, match=r"^a must be a whole number in 1\.\.2147483647, got 2147483648$"):
        checks.whole_number("a", 2**31)
    with pytest.raises(InputError, match="^a must be a number above 0 and at most 1e\\+09, got 1e\\+30$"):
        checks.number("a", 1e30, "(0, inf)")
    with pytest.raises(InputError, match="^a must be a whole number in -9223372036854775808"):
        checks.whole_number("a", 2**63, least=None)
