"""Removed options in old commands, old results and old stores."""

import pytest

from prunetune.base.errors import InputError
from prunetune.base.store import Store
from prunetune.config.build import build
from prunetune.config.identity import REMOVED
from prunetune.config.removed import explanation
from prunetune.samplers.flexrand import FlexRand
from prunetune.scorers.dlc import DLC
from prunetune.scorers.dlc_finetuned import DLCFinetuned

OLD_DLC = {  # These are the values of scorer.key() in the version that had these options.
    "scorer": "DLC",
    "version": 1,
    "schedule": "compound",
    "levels": 5,
    "step": 0.2,
    "include_unmasked": True,
    "masking": "l1",
    "scope": "global",
    "mask_modules": None,
    "pooling": "backbone",
    "transform": "evaluation",
    "prototypes": "unmasked",
}
NOT_FINETUNED = ("pooling", "transform", "prototypes")
OLD_FINETUNED = {key: value for key, value in OLD_DLC.items() if key not in NOT_FINETUNED} | {"scorer": "DLCFinetuned"}


def test_the_keys_of_stored_scores_are_those_of_the_version_that_had_the_options(tmp_path):
    assert DLC().key() == OLD_DLC
    assert DLC(levels=50, step=0.02).key() == {**OLD_DLC, "levels": 50, "step": 0.02}
    assert DLCFinetuned().key() == OLD_FINETUNED
    place = Store(tmp_path).place("scores", "made-dlc", {"scorer": DLC().key()})
    assert place.name == "made-dlc-6bd22cd8acd9f9f1"


@pytest.mark.parametrize(
    "text",
    [
        "Could not override 'scorer.scope'. To append to your config use +scorer.scope=layerwise Key 'scope' is not in",
        "scorer.scope",
    ],
)
def test_an_error_that_names_a_removed_option_is_explained(text):
    line = "the option scorer.scope was removed, and every run now takes its value global; leave the option out"
    assert explanation(text) == line


@pytest.mark.parametrize("text", ["Could not override 'text_scorer.scope'", "scorer.scopes", "scorer.scope.x", ""])
def test_other_errors_are_left_alone(text):
    assert explanation(text) is None


@pytest.mark.parametrize("key", REMOVED)
def test_every_removed_option_names_its_remaining_value(key):
    assert f"takes its value {REMOVED[key]};" in explanation(f"Could not override '{key}'.")


def test_settings_of_old_results_build_the_same_objects():
    old = {"_target_": "prunetune.scorers.DLC", "name": "dlc", "levels": 3, "scope": "global", "prototypes": "unmasked"}
    assert build(old) == DLC(levels=3)
    old = {"_target_": "prunetune.samplers.FlexRand", "name": "flexrand", "gamma": 0.3, "remainder": "second"}
    assert build(old) == FlexRand(gamma=0.3)


@pytest.mark.parametrize(
    ("target", "key", "value", "left"),
    [
        ("scorers.DLC", "scorer.scope", "layerwise", "global"),
        ("scorers.DLC", "scorer.prototypes", "per_level", "unmasked"),
        ("samplers.FlexRand", "sampler.remainder", "coin", "second"),
    ],
)
def test_a_removed_value_in_a_file_gives_a_one_line_error(target, key, value, left):
    with pytest.raises(InputError, match=f"the option {key} was removed, .* its value {left}; .*, got '{value}'"):
        build({"_target_": f"prunetune.{target}", key.partition(".")[2]: value})


def test_a_removed_option_of_another_class_is_an_unknown_option():
    with pytest.raises(InputError, match="Textures has no option 'scope'"):
        build({"_target_": "prunetune.data.readers.Textures", "scope": "global"})
