"""Every choice of the groups of text runs composes, has a folder and builds. Wrong settings are refused."""

import dataclasses
import re

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from config_files import CONFIGS, files, label, load
from prunetune.base.errors import InputError
from prunetune.config import catalogue
from prunetune.config.build import build, class_of
from prunetune.instruct import registration  # noqa: F401  registers the schema of text runs
from prunetune.instruct.identity import text_recorded
from prunetune.instruct.methods import TEXT_METHODS
from prunetune.instruct.names import resolve_text_names, text_run_folder
from prunetune.instruct.parse import parse_text_run
from prunetune.instruct.schema import EvaluationConfig, SftConfig
from prunetune.instruct.tuning.mmlu import EvaluationSettings
from prunetune.instruct.tuning.sft_settings import SftSettings

KINDS = {"corpus": "corpora", "llm": "llms", "text_scorer": "text_scorers"}
NAMELESS = {"corpus/local", "llm/local", "text_scorer/from_file"}


@pytest.fixture(scope="module", autouse=True)
def _hydra():
    with initialize_config_dir(config_dir=str(CONFIGS), version_base="1.3"):
        yield


@pytest.fixture
def needs(tmp_path) -> dict[str, list[str]]:
    """Return the overrides that files without a name of their own require."""
    for name, text in (("rows.json", "[]"), ("scores.csv", "sample_id,score\n")):
        (tmp_path / name).write_text(text)
    return {
        "corpus/local": [f"corpus.path={tmp_path / 'rows.json'}"],
        "llm/local": [f"llm.model={tmp_path}"],
        "text_scorer/from_file": [f"text_scorer.path={tmp_path / 'scores.csv'}"],
        "text_scorer/rds_plus": [f"text_scorer.queries={tmp_path / 'rows.json'}"],
        "text_method/rds_plus": [f"text_scorer.queries={tmp_path / 'rows.json'}"],
    }


def cfg_of(*overrides: str) -> DictConfig:
    return compose("instruct", overrides=list(overrides))


def choices() -> list:
    """Return pytest parameters: every choice of the groups that name a class."""
    found = [(group, name) for group, kind in KINDS.items() for name in catalogue.entries(kind)]
    return [pytest.param(group, name, id=f"{group}/{name}") for group, name in found]


@pytest.mark.parametrize(("group", "name"), choices())
def test_every_choice_composes_builds_its_class_and_names_the_folder(group, name, needs):
    cfg = cfg_of(f"{group}={name}", *needs.get(f"{group}/{name}", []))
    folder = text_run_folder(cfg)
    assert re.fullmatch(r"[\w.+-]+(/[\w.+-]+)+", folder), folder
    if f"{group}/{name}" not in NAMELESS:
        assert name in re.split(r"/|-(?=[a-z])", folder)
    assert type(build(cfg[group])) is class_of(cfg[group]._target_)


@pytest.mark.parametrize("path", files("corpus", "llm"))
def test_a_file_states_all_settings_of_its_class(path):
    content = load(path)
    fields = {field.name for field in dataclasses.fields(class_of(content["_target_"]))}
    assert set(content) - {"_target_", "name"} == fields - {"name"}
    assert content["name"] == (None if label(path) in NAMELESS else path.stem)
    assert path.read_text().startswith("# "), "the first line says what it is"


@pytest.mark.parametrize("name", catalogue.entries("text_scorers"))
def test_a_scorers_own_sampler_is_that_of_its_class(name, needs):
    cfg = cfg_of(f"text_scorer={name}", *needs.get(f"text_scorer/{name}", []))
    assert build(cfg.text_scorer).own_sampler == cfg.text_scorer.own_sampler == resolve_text_names(cfg).sampler


@pytest.mark.parametrize("path", files("sft"))
def test_every_recipe_states_all_its_numbers_and_can_be_made(path):
    fields = {field.name for field in dataclasses.fields(SftSettings)}
    assert set(load(path)) == fields == {field.name for field in dataclasses.fields(SftConfig)}
    assert parse_text_run(cfg_of(f"sft={path.stem}")).sft.name == path.stem


def test_the_evaluation_states_all_its_numbers():
    fields = {field.name for field in dataclasses.fields(EvaluationSettings)}
    assert set(cfg_of().evaluation) == fields == {field.name for field in dataclasses.fields(EvaluationConfig)}


@pytest.mark.parametrize("name", TEXT_METHODS)
def test_every_method_can_be_run(name, needs):
    cfg, method = cfg_of(f"text_method={name}", *needs.get(f"text_method/{name}", [])), TEXT_METHODS[name]
    assert (cfg.text_scorer.name, cfg.sampler.name) == (method.scorer, method.sampler)
    for key, value in method.settings.items():
        assert OmegaConf.select(cfg, key) == value
    parse_text_run(cfg)


def test_no_two_methods_share_a_run_folder():
    assert len({text_run_folder(cfg_of(f"text_method={name}")) for name in TEXT_METHODS}) == len(TEXT_METHODS)


def test_the_headline_command_is_dlc_with_flexrand():
    words = ["corpus=alpaca_cleaned", "llm=llama3_8b", "text_scorer=dlc", "sampler=flexrand", "ratio=0.5"]
    folder = text_run_folder(cfg_of(*words))
    assert folder == "alpaca_cleaned/llama3_8b/paper/dlc-flexrand/ratio_0.5/seed_0/default"


def test_another_language_model_that_scores_is_named_in_the_folder():
    folder = text_run_folder(cfg_of("llm=mistral_7b", "llm@scoring_llm=qwen_1_8b"))
    assert "/mistral_7b_scored_by_qwen_1_8b/" in folder


def test_the_identity_of_a_run_ignores_only_its_place_and_its_logging():
    same = text_recorded(cfg_of("device=cpu", "until=score", "wandb=disabled", "results_dir=there"))
    assert same == text_recorded(cfg_of())
    # The value auto is recorded as the sampler that it stands for.
    assert text_recorded(cfg_of("sampler=flexrand")) == text_recorded(cfg_of())
    assert text_recorded(cfg_of("strata=source")) != text_recorded(cfg_of())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["ratio=0"], "ratio is the fraction kept"),
        (["until=evalute"], "Did you mean 'evaluate'"),
        (["strata=topic"], "strata must be one of none, source, length"),
        (["held_out=1"], "held_out is a fraction"),
        (["max_tokens=0"], "max_tokens"),
        (["sampler=rs2"], "which a text run does not support"),
        (["sampler=typiclust"], "which a text run does not support"),
        (["sampler=flexrand", "sampler.budgets=drop"], "which a text run does not support"),
        (["text_scorer=longest", "sampler=flexrand"], "sampler=topk"),
        (["sampler=flexrand", "sampler.gamma=auto", "sft=none"], "trains none"),
        (["sampler=flexrand", "sampler.gamma=auto", "gamma_search.grid=[0,0.5]"], "gammas in"),
        (["sft.epochs=-1"], "sft.epochs"),
        (["evaluation.num_fewshot=[]"], "num_fewshot"),
    ],
)
def test_settings_that_no_step_can_use_are_refused_in_one_line(words, said):
    with pytest.raises(InputError, match=re.escape(said)) as caught:
        parse_text_run(cfg_of(*words))
    assert "\n" not in str(caught.value)
