"""Every YAML of the groups of text runs: it composes, it builds, and it says what the class says."""

import dataclasses
import importlib
import re
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from config_files import CONFIGS, files, label, load
from prunetune.base.errors import InputError
from prunetune.config.build import build
from prunetune.instruct import registration  # noqa: F401  registers the schema of text runs
from prunetune.instruct.identity import text_compared
from prunetune.instruct.names import text_names, text_run_folder
from prunetune.instruct.parse import parse_text_run
from prunetune.instruct.schema import EvaluationConfig, SftConfig
from prunetune.instruct.tuning.mmlu import EvaluationSettings
from prunetune.instruct.tuning.sft_settings import SftSettings

BUILT = ("corpus", "llm", "text_scorer")
NAMELESS = {"corpus/local", "llm/local", "text_scorer/from_file"}


@pytest.fixture(scope="module", autouse=True)
def _hydra():
    with initialize_config_dir(config_dir=str(CONFIGS), version_base="1.3"):
        yield


@pytest.fixture
def needs(tmp_path) -> dict[str, list[str]]:
    """What the nameless files cannot do without."""
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


def class_of(path: Path) -> type:
    module, _, name = load(path)["_target_"].rpartition(".")
    return getattr(importlib.import_module(module), name)


@pytest.mark.parametrize("path", files(*BUILT, "sft", "text_method"))
def test_every_file_composes_and_its_run_has_a_folder(path, needs):
    cfg = cfg_of(f"{path.parent.name}={path.stem}", *needs.get(label(path), []))
    folder = text_run_folder(cfg)
    assert re.fullmatch(r"[\w.+-]+(/[\w.+-]+)+", folder), folder
    if path.parent.name != "text_method" and label(path) not in NAMELESS:
        assert path.stem in re.split(r"/|-(?=[a-z])", folder)


@pytest.mark.parametrize("path", files(*BUILT))
def test_every_file_builds_the_class_that_it_names_and_states_all_its_settings(path, needs):
    cfg = cfg_of(f"{path.parent.name}={path.stem}", *needs.get(label(path), []))
    kind = class_of(path)
    assert type(build(cfg[path.parent.name])) is kind
    content = load(path)
    fields = {field.name for field in dataclasses.fields(kind)}
    assert set(content) - {"_target_", "name", "own_sampler"} == fields - {"name"}
    assert content["name"] == (None if label(path) in NAMELESS else path.stem)
    assert path.read_text().startswith("# "), "the first line says what it is"


@pytest.mark.parametrize("path", files("text_scorer"))
def test_a_file_names_its_scorers_own_sampler(path, needs):
    cfg = cfg_of(f"text_scorer={path.stem}", *needs.get(label(path), []))
    assert build(cfg.text_scorer).own_sampler == cfg.text_scorer.own_sampler == text_names(cfg).sampler


@pytest.mark.parametrize("path", files("sft"))
def test_every_recipe_states_all_its_numbers_and_can_be_made(path):
    fields = {field.name for field in dataclasses.fields(SftSettings)}
    assert set(load(path)) == fields == {field.name for field in dataclasses.fields(SftConfig)}
    assert parse_text_run(cfg_of(f"sft={path.stem}")).sft.name == path.stem


def test_the_evaluation_states_all_its_numbers():
    fields = {field.name for field in dataclasses.fields(EvaluationSettings)}
    assert set(cfg_of().evaluation) == fields == {field.name for field in dataclasses.fields(EvaluationConfig)}


@pytest.mark.parametrize("path", files("text_method"))
def test_every_method_is_a_scorer_a_sampler_and_their_settings(path, needs):
    cfg = cfg_of(f"text_method={path.stem}", *needs.get(label(path), []))
    content = load(path)
    chosen = {key.split()[-1].strip("/"): name for entry in content["defaults"] for key, name in entry.items()}
    assert set(chosen) == {"text_scorer", "sampler"}
    assert set(content) <= {"defaults", "text_scorer", "sampler", "tag"}
    assert (cfg.text_scorer.name, cfg.sampler.name) == (chosen["text_scorer"], chosen["sampler"])
    parse_text_run(cfg)


def test_no_two_methods_share_a_run_folder():
    folders = [text_run_folder(cfg_of(f"text_method={param.values[0].stem}")) for param in files("text_method")]
    assert len(set(folders)) == len(folders)


def test_the_headline_command_is_dlc_with_flexrand():
    words = ["corpus=alpaca_cleaned", "llm=llama3_8b", "text_scorer=dlc", "sampler=flexrand", "ratio=0.5"]
    folder = text_run_folder(cfg_of(*words))
    assert folder == "alpaca_cleaned/llama3_8b/paper/dlc-flexrand/ratio_0.5/seed_0/default"


def test_another_language_model_that_scores_is_named_in_the_folder():
    folder = text_run_folder(cfg_of("llm=mistral_7b", "llm@scoring_llm=qwen_1_8b"))
    assert "/mistral_7b_scored_by_qwen_1_8b/" in folder


def test_a_run_is_told_apart_by_all_but_where_and_how_loudly_it_ran():
    same = text_compared(cfg_of("device=cpu", "until=score", "wandb=disabled", "results_dir=there"))
    assert same == text_compared(cfg_of())
    assert text_compared(cfg_of("sampler=flexrand")) == text_compared(cfg_of())  # auto is written out
    assert text_compared(cfg_of("strata=source")) != text_compared(cfg_of())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["ratio=0"], "ratio is the fraction kept"),
        (["until=evalute"], "Did you mean 'evaluate'"),
        (["strata=topic"], "strata must be one of none, source, length"),
        (["held_out=1"], "held_out is a fraction"),
        (["max_tokens=0"], "max_tokens"),
        (["sampler=rs2"], "which a text run has not"),
        (["sampler=typiclust"], "which a text run has not"),
        (["sampler=flexrand", "sampler.budgets=drop"], "which a text run has not"),
        (["text_scorer=longest", "sampler=flexrand"], "sampler=topk"),
        (["sampler=flexrand", "sampler.gamma=auto", "sft=none"], "trains none"),
        (["sampler=flexrand", "sampler.gamma=auto", "gamma_search.grid=[0,0.5]"], "gammas in"),
        (["sft.epochs=-1"], "sft.epochs"),
        (["evaluation.num_fewshot=[]"], "num_fewshot"),
    ],
)
def test_what_no_step_could_use_is_refused_in_one_line(words, said):
    with pytest.raises(InputError, match=re.escape(said)) as caught:
        parse_text_run(cfg_of(*words))
    assert "\n" not in str(caught.value)
