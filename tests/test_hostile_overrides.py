"""Words of a command line that nobody should write: each ends in one line before anything is computed."""

import os

import pytest
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from prunetune import doors
from prunetune.base.errors import InputError
from prunetune.config.build import build
from prunetune.config.cells import compose_cell
from prunetune.config.explain import UNREADABLE, explain, is_from_composing
from prunetune.config.parse import parse_image_run
from prunetune.config.words import arranged, check_choices, check_folders
from prunetune.instruct.parse import parse_text_run
from runs import SMALL, compose_here

TEXT = ["corpus=embedded", "llm=tiny", "sft=released"]


def refusal(results, *words: str, config: str = "config") -> str | None:
    """Return the line that a command line ends in, or None if its run would begin."""
    try:
        check_choices(words)
        cfg = compose_here(results, *words, config=config)
        doors.pipeline(cfg)
        parse_text_run(cfg) if config == "instruct" else parse_image_run(cfg)
    except (HydraException, OmegaConfBaseException, InputError) as error:
        return explain(error)
    return None


IMAGES = {
    "ratio=inf": "ratio is the fraction kept and must be in (0, 1], got inf",
    "ratio={a:1}": "ratio must be a fraction in (0, 1] or a number of images of each class such as 4_per_class, got {",
    "seed=1e23": "could not be converted to Integer",
    "seed=100000000000000000000000": "seed must be a whole number in -9223372036854775808..9223372036854775807",
    "batch_size=100000000000000000000000": "must be a whole number in 1..2147483647",
    "images.short_side=0": "images.short_side is in pixels and must be a whole number in 1..8192 or null, got 0",
    "finetune.momentum=2": "finetune.momentum must be in [0, 1), got 2.0",
    "finetune.decay=nan": "finetune.decay must be in (0, 1], got nan",
    "finetune.milestones=[-1]": "each of finetune.milestones must be a whole number of at least 1, got -1",
    "finetune.learning_rate=1e30": "finetune.learning_rate must be in (0, 1000], got 1e+30",
    "proxy.learning_rate=1e30": "proxy.learning_rate must be in (0, 1000], got 1e+30",
    "gamma_search.grid=[nan]": "gamma_search.grid must be a list of gammas in (0, 1), got [nan]",
    "scorer.levels=1000000": "levels is the number of masked networks and must be a whole number in 1..10000",
    "dataset.size=nan": "dataset.size is the side in pixels and must be a whole number in 16..256, got nan",
    "backbone.input_size=0": "backbone.input_size is in pixels and must be a whole number in 2..8192 or null, got 0",
    "backbone.pretrained=abc": "backbone.pretrained must be true or false, got 'abc'",
    "backbone.std=[0.5,0.5,0]": "backbone.std must be three numbers in (0, 1], got [0.5, 0.5, 0]",
    "scorer=null": "scorer=null chooses from the group scorer, which takes the name of a choice, got null",
    "finetune=5": "finetune=5 chooses from the group finetune",
    "scorer=../scorer/dlc": "scorer=../scorer/dlc chooses from the group scorer",
    "backbone=/etc/passwd": "backbone=/etc/passwd chooses from the group backbone",
    "~scorer": "scorer must be the settings of a group, got None; choose one by its name: scorer=<name>",
    "pipeline=os.system": "pipeline is set by the root configuration and must be prunetune.doors.image, got 'os.",
    "pipeline=prunetune.doors.grid": "must be prunetune.doors.image, got 'prunetune.doors.grid'",
    "dataset._target_=os.system": "dataset needs a _target_ inside prunetune, got 'os.system'",
    "dataset._target_=prunetune.nope.X": "the _target_ prunetune.nope.X cannot be found",
    "dataset._target_=prunetune.doors.image": "dataset cannot be made by the _target_ prunetune.doors.image",
    "scorer._target_=prunetune.scorers.Scorer": "scorer cannot be made by the _target_ prunetune.scorers.Scorer",
    "scorer._target_=prunetune.instruct.DLC": "scorer cannot be made by the _target_ prunetune.instruct.DLC",
}
TEXTS = {
    "held_out=nan": "held_out is a fraction of the corpus and must be in [0, 1), got nan",
    "sft.momentum=2": "sft.momentum must be in [0, 1), got 2.0",
    "llm.layers=1e23": "llm.layers must be a multiple of 1 in 1..4096",
    "text_scorer._target_=prunetune.scorers.Herding": "text_scorer cannot be made by the _target_ prunetune.scorers.",
    "text_scorer.mask_lm_head=maybe": "text_scorer.mask_lm_head must be true or false, got 'maybe'",
}


@pytest.mark.parametrize("word", IMAGES)
def test_a_hostile_word_of_an_image_run_ends_in_one_line(tmp_path, monkeypatch, word):
    monkeypatch.setattr(os, "system", lambda command: pytest.fail("os.system was called"))
    line = refusal(tmp_path, *SMALL, word)
    assert line is not None
    assert IMAGES[word] in line
    assert "\n" not in line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("word", TEXTS)
def test_a_hostile_word_of_a_text_run_ends_in_one_line(tmp_path, word):
    line = refusal(tmp_path, *TEXT, word, config="instruct")
    assert line is not None
    assert TEXTS[word] in line
    assert "\n" not in line


def test_the_words_between_which_the_hostile_ones_stand_are_accepted(tmp_path):
    assert refusal(tmp_path, *SMALL, "batch_size=1000000000", "seed=-1") is None
    assert refusal(tmp_path, *TEXT, config="instruct") is None


@pytest.mark.parametrize("word", ["hydra.run.dir=", "hydra.sweep.dir=''", 'hydra.run.dir=""'])
def test_an_empty_folder_of_hydra_is_refused(word):
    with pytest.raises(InputError, match="is empty, which would be the current folder"):
        check_folders(["ratio=0.1", word])
    check_folders(["hydra.run.dir=.", "--help", "tag="])


def test_the_scoring_network_is_named_by_its_own_key(tmp_path):
    another = ["backbone@scoring_backbone=micro", "scoring_backbone.name=other"]
    line = refusal(tmp_path, *SMALL, *another, "scoring_backbone.input_size=0")
    assert line.startswith("scoring_backbone.input_size is in pixels")


def test_a_method_of_a_grid_chooses_by_name_too():
    with pytest.raises(InputError, match="sampler=null chooses from the group sampler"):
        compose_cell("random sampler=null", ())


def test_a_group_of_a_preset_that_is_null_or_a_number_is_one_line():
    for group in (None, 5, "dlc", ["dlc"]):
        with pytest.raises(
            InputError, match=r"^scorer must be the settings of a group, got .*; choose one by its name"
        ):
            build(group, "scorer")


@pytest.mark.parametrize(
    "content", [b"5\n", b"a: [\n", b"\xff\xfe", b"defaults: 5\n", b"defaults:\n  - override /scorer: 5\n"]
)
def test_a_preset_that_is_no_configuration_is_told_from_a_bug(tmp_path, content):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_bytes(content)
    with pytest.raises(UNREADABLE) as caught:
        compose_here(tmp_path, "experiment=mine", f"hydra.searchpath=[file://{tmp_path}]")
    assert is_from_composing(caught.value)
    assert "\n" not in explain(caught.value)
    with pytest.raises(ValueError, match="no number") as bug:
        raise ValueError("no number")
    assert not is_from_composing(bug.value)


def test_a_folder_or_a_name_of_digits_is_text(tmp_path):
    settings = {"_target_": "prunetune.data.readers.ImageFolder", "root": 2024, "name": 7}
    assert (build(settings).root, build(settings).name) == ("2024", "7")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["a=1", "-m", "b=1,2"], ["a=1", "b=1,2", "-m"]),
        (["--config-name", "grid", "a=1", "-c", "job", "b=1"], ["a=1", "b=1", "--config-name", "grid", "-c", "job"]),
        (["a=1"], ["a=1"]),
        (["--help"], ["--help"]),
        (["~a", "--config-dir", "b=1", "b=1"], ["~a", "b=1", "--config-dir", "b=1"]),
    ],
)
def test_options_may_stand_between_overrides(words, expected):
    assert arranged(words) == expected


def test_an_option_that_is_not_there_or_lacks_its_value_is_one_line():
    with pytest.raises(InputError, match="^unrecognized arguments: --bogus; --help lists the options$"):
        arranged(["--bogus", "a=1"])
    with pytest.raises(InputError, match="^argument --config-name/-cn: expected one argument; --help lists"):
        arranged(["a=1", "--config-name"])
