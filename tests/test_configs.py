"""Every choice of every group composes, has a folder and builds. Wrong choices are refused when composing."""

import dataclasses
import functools
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from hydra_plugins.hydra_submitit_launcher.config import LocalQueueConf, SlurmQueueConf
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from config_files import CONFIGS, files, label, load
from prunetune.base.errors import InputError
from prunetune.config import catalogue
from prunetune.config.build import build, class_of
from prunetune.config.identity import recorded
from prunetune.config.methods import METHODS
from prunetune.config.named import SAMPLERS, SCORERS, own_sampler
from prunetune.config.names import resolve_names, run_folder
from prunetune.config.parse import (
    build_dataset,
    parse_candidates,
    parse_image_run,
    parse_proxy,
    parse_recipe,
    parse_search,
)
from prunetune.config.schema import FinetuneConfig, ProxyConfig
from prunetune.networks.backbone import Backbone
from prunetune.networks.named import BACKBONES
from prunetune.runs import sampler_search
from prunetune.runs.scores import check_fit
from prunetune.samplers import FlexRand, Window
from prunetune.samplers.candidates import Search
from prunetune.signals.proxy import LINEAR_PROBE, ProxyRecipe
from prunetune.training.recipe import Recipe
from runs import ROOT

BUILT = ("dataset", "backbone", "scorer", "sampler")  # The files of these groups name a class.
PRESETS = ("experiment", "sweep")  # The files of these groups change some keys of the root configuration.
PLAIN = ("finetune", "proxy")  # The files of these groups contain only numbers.
# Text runs use these groups. They are tested in tests/instruct/test_text_configs.py.
TEXT = ("corpus", "llm", "text_scorer", "sft")
# These files get their names from a folder, a model or a file.
NAMELESS = {"dataset/hf_images", "dataset/image_folder", "backbone/timm", "scorer/from_file"}
OF_TEXT_RUNS = {"sweep/instruction", "sweep/instruction_base", "sweep/v1_llm", "sweep/v1_llm_full"}
# Nothing downloads the weights of these networks.
PUBLISHED_ELSEWHERE = ("resnet50_simclr", "resnet50_in21k", "resnet50_supcon")
REFUSALS = (HydraException, OmegaConfBaseException)
# The published selection rules of scores, where these are not the largest scores first.
RULES = {
    "aum_probability": "ccs",
    "dlc_released": "flexrand_released",
    "dual": "beta",
    "lc_knn": "easy_diverse",
    "lc_optimisation": "flexrand",
    "moderate": "window",
    "none": "random",
    "random": "random",
}
KINDS = {"dataset": "datasets", "backbone": "backbones", "scorer": "scorers", "sampler": "samplers"}


@pytest.fixture(scope="module", autouse=True)
def _hydra():
    with initialize_config_dir(config_dir=str(CONFIGS), version_base="1.3"):
        yield


@pytest.fixture
def needs(tmp_path) -> dict[str, list[str]]:
    """Return the overrides that files without a name of their own require."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "scores.csv").write_text("sample_id,score\n")
    checkout = tmp_path / "DeepCore" / "deepcore"
    (checkout / "methods").mkdir(parents=True)
    for name in ("__init__", "methods/coresetmethod", "methods/earlytrain"):
        (checkout / f"{name}.py").write_text("class EarlyTrain: ...")
    return {
        "dataset/hf_images": ["dataset.id=somebody/photos"],
        "dataset/image_folder": [f"dataset.root={tmp_path / 'photos'}"],
        "backbone/timm": ["backbone.model=test_vit.r160_in1k"],
        "scorer/from_file": [f"scorer.path={tmp_path / 'scores.csv'}"],
        "scorer/deepcore": [f"scorer.path={checkout.parent}"],
        **{f"backbone/{name}": [f"backbone.checkpoint={tmp_path / 'scores.csv'}"] for name in PUBLISHED_ELSEWHERE},
    }


def cfg_of(*overrides: str, root: str = "config") -> DictConfig:
    return compose(root, overrides=list(overrides))


def choices() -> list:
    """Return pytest parameters: every choice of the groups that name a class."""
    found = [(group, name) for group, kind in KINDS.items() for name in catalogue.entries(kind)]
    return [pytest.param(group, name, id=f"{group}/{name}") for group, name in found]


def test_every_config_group_is_tested_and_none_is_empty():
    groups = {path.name for path in CONFIGS.iterdir() if path.is_dir()}
    assert groups - {"hydra"} == {*BUILT, *PRESETS, *PLAIN, *TEXT}
    assert all(files(group) for group in groups - {"hydra"})


@pytest.mark.parametrize(("group", "name"), choices())
def test_every_choice_composes_builds_its_class_and_names_the_folder(group, name, needs):
    cfg = cfg_of(f"{group}={name}", *needs.get(f"{group}/{name}", []))
    folder = run_folder(cfg)
    assert re.fullmatch(r"[\w.+-]+(/[\w.+-]+)+", folder), folder
    if f"{group}/{name}" == "sampler/auto":
        return
    if f"{group}/{name}" not in NAMELESS:
        assert name in re.split(r"/|-(?=[a-z])", folder)
    make = build_dataset if group == "dataset" else build
    made = list(parse_candidates(cfg).values()) if group == "sampler" else [make(cfg[group])]
    assert {type(one) for one in made} == {class_of(cfg[group]._target_)}
    assert (len(made) == 2) == (name == "topk_flexible"), "its two ends are tried in a run"
    # The short name in the library must give the same scorer as the YAML file.
    if group == "scorer" and name in SCORERS:
        assert made == [SCORERS[name]]


@pytest.mark.parametrize("path", files(*PRESETS, *PLAIN, without=OF_TEXT_RUNS))
def test_every_preset_composes_and_its_run_has_a_folder(path):
    for root in ("config", "grid"):
        folder = run_folder(cfg_of(f"{path.parent.name}={path.stem}", root=root))
        assert re.fullmatch(r"[\w.+-]+(/[\w.+-]+)+", folder), folder


@pytest.mark.parametrize("name", catalogue.entries("scorers"))
def test_auto_takes_the_sampler_that_the_scorer_names(name, needs):
    cfg = cfg_of(f"scorer={name}", *needs.get(f"scorer/{name}", []))
    own = RULES.get(name, "flexrand" if name.startswith("dlc") else "topk")
    assert cfg.scorer.own_sampler == own_sampler(name) == own
    assert resolve_names(cfg).sampler == own
    assert parse_candidates(cfg) == {"": SAMPLERS[own]}
    # An object knows the sampler of its class only. These two variants have their own by name.
    assert build(cfg.scorer).own_sampler == {"dlc_released": "flexrand", "aum_probability": "topk"}.get(name, own)


@pytest.mark.parametrize("name", sorted(METHODS.keys() & catalogue.entries("scorers")))
def test_a_method_named_like_a_scorer_takes_the_scorers_own_sampler(name):
    # The table of DUAL's paper has the score alone as a row, and with Beta sampling as another, dual_beta.
    assert METHODS[name].sampler == ("topk" if name == "dual" else own_sampler(name))


def test_a_scorer_may_have_another_sampler_of_its_own_and_an_unknown_one_is_refused():
    cfg = cfg_of("scorer=herding", "scorer.own_sampler=window")
    assert (resolve_names(cfg).sampler, parse_candidates(cfg)) == ("window", {"": Window()})
    assert recorded(cfg)["sampler"] == recorded(cfg_of("scorer=herding", "sampler=window"))["sampler"]
    with pytest.raises(InputError, match=r"there is no sampler 'windw'\. Did you mean 'window'\?"):
        recorded(cfg_of("scorer=herding", "scorer.own_sampler=windw"))


@pytest.mark.parametrize("path", files("dataset", "backbone", *PLAIN))
def test_the_name_in_a_file_is_its_stem_or_is_left_open(path):
    assert load(path)["name"] == (None if label(path) in NAMELESS else path.stem)


@pytest.mark.parametrize("path", files(*BUILT))
def test_the_targets_are_classes_of_this_package_and_a_variant_has_none(path):
    content = load(path)
    assert ("_target_" in content) != ("defaults" in content or label(path) == "sampler/auto")
    assert content.get("_target_", "prunetune.").startswith("prunetune.")
    assert path.read_text().count("_target_") == ("_target_" in content)
    assert path.read_text().startswith("# "), "the first line says what it is"


@pytest.mark.parametrize("path", files(*PRESETS, *PLAIN))
def test_presets_and_plain_files_name_no_class(path):
    assert "_target_" not in path.read_text()


@pytest.mark.parametrize("path", files("dataset", "backbone"))
def test_a_file_states_every_setting_of_its_class(path):
    content = load(path)
    fields = {field.name for field in dataclasses.fields(class_of(content["_target_"]))}
    told = {"name", "published_at"}  # These keys inform readers. A class has them too if it needs them.
    assert set(content) - {"_target_", *told} == fields - told


@pytest.mark.parametrize("name", ["digits", "textures", "dtd", "fgvcaircraft", "cifar10"])
def test_the_default_file_of_a_data_set_is_its_class_without_arguments(name):
    made = build_dataset(cfg_of(f"dataset={name}").dataset)
    assert made == type(made)()


def test_the_default_recipe_and_search_are_those_of_the_classes():
    cfg = cfg_of()
    assert parse_recipe(cfg.finetune) == Recipe("linear_probe")
    assert dataclasses.replace(sampler_search.RECIPE, evaluate_every=1) == Recipe("linear_probe")
    assert parse_search(cfg.gamma_search) == Search()
    assert {field.name for field in dataclasses.fields(Recipe)} == {f.name for f in dataclasses.fields(FinetuneConfig)}


@pytest.mark.parametrize("path", files("finetune"))
def test_every_recipe_states_all_its_numbers_and_can_be_made(path):
    assert set(load(path)) == {field.name for field in dataclasses.fields(Recipe)}
    assert parse_recipe(cfg_of(f"finetune={path.stem}").finetune).name == path.stem


@pytest.mark.parametrize("path", files("proxy"))
def test_every_proxy_states_all_its_numbers_and_can_be_made(path):
    assert set(load(path)) == {field.name for field in dataclasses.fields(ProxyConfig)}
    assert parse_proxy(cfg_of(f"proxy={path.stem}").proxy).training.name == path.stem


def test_the_default_proxies_are_those_of_the_library():
    for name, recipe in {"full": ProxyRecipe(), "linear_probe": LINEAR_PROBE}.items():
        assert parse_proxy(cfg_of(f"proxy={name}").proxy).key() == recipe.key()


def test_the_name_of_a_score_tells_if_its_proxy_is_not_the_papers():
    assert resolve_names(cfg_of("scorer=el2n")).scorer == "el2n"
    assert resolve_names(cfg_of("scorer=el2n", "proxy=linear_probe")).scorer == "el2n_probe"
    assert resolve_names(cfg_of("scorer=el2n", "proxy=deepcore")).scorer == "el2n_scratch"
    assert resolve_names(cfg_of("scorer=dlc", "proxy=linear_probe")).scorer == "dlc"


def test_a_proxy_that_nothing_reads_does_not_change_the_identity_of_a_run():
    assert recorded(cfg_of("scorer=dlc", "proxy=linear_probe")) == recorded(cfg_of("scorer=dlc"))
    assert recorded(cfg_of("scorer=el2n", "proxy=linear_probe")) != recorded(cfg_of("scorer=el2n"))


def test_the_released_recipe_decays_once_and_the_full_one_twice():
    full, released = (parse_recipe(cfg_of(f"finetune={name}").finetune) for name in ("full", "full_released"))
    epochs = (1, 25, 26, 37, 38, 50)
    assert [full.rate(epoch) for epoch in epochs] == pytest.approx([1e-3, 1e-3, 1e-4, 1e-4, 1e-5, 1e-5])
    assert [released.rate(epoch) for epoch in epochs] == pytest.approx([1e-3, 1e-3, *[1e-4] * 4])
    assert (full.last_batch, released.last_batch) == ("balanced", "keep")
    same = {"name": "", "milestones": (), "last_batch": "keep"}
    assert dataclasses.replace(full, **same) == dataclasses.replace(released, **same)


def test_the_headline_command_is_dlc_with_flexrand_and_a_probe():
    cfg = cfg_of("dataset=dtd", "scorer=dlc", "ratio=0.1")
    assert run_folder(cfg) == "dtd/resnet18/linear_probe/dlc-flexrand/ratio_0.1/seed_0/default"
    assert parse_candidates(cfg) == {"": FlexRand(gamma=0.25)}
    assert run_folder(cfg_of()) == run_folder(cfg)


@pytest.mark.parametrize("name", PUBLISHED_ELSEWHERE)
def test_weights_that_must_be_downloaded_by_hand_are_named_in_one_line_with_their_source(name):
    with pytest.raises(InputError, match=rf"{name} are expected in weights/{name}\.pth.*published at github") as caught:
        build(cfg_of(f"backbone={name}").backbone).load()
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith("pass backbone.checkpoint=<file>")


def test_the_recipe_of_the_first_version_differs_from_the_second_as_its_paper_says():
    full, first = (parse_recipe(cfg_of(f"finetune={name}").finetune) for name in ("full", "full_v1"))
    assert (first.batch_size, first.nesterov, first.weight_decay, first.learning_rate) == (64, False, 0, 1e-2)
    assert first.last_batch == "keep"
    same = {"name": "", "batch_size": 1, "nesterov": False, "weight_decay": 0, "learning_rate": 1, "last_batch": "keep"}
    assert dataclasses.replace(full, **same) == dataclasses.replace(first, **same)


def test_a_score_from_fine_tuned_features_has_its_proxy_in_name_and_identity():
    words = ["method=herding", "scorer.features=finetuned"]
    assert resolve_names(cfg_of(*words)).scorer == "herding"
    assert resolve_names(cfg_of(*words, "proxy=linear_probe")).scorer == "herding_probe"
    assert recorded(cfg_of(*words))["proxy"]["name"] == "full"
    assert resolve_names(cfg_of("method=herding", "proxy=linear_probe")).scorer == "herding"


@pytest.mark.parametrize(("name", "kind"), [("slurm", SlurmQueueConf), ("local", LocalQueueConf)])
def test_a_launcher_is_that_of_submitit_with_other_numbers(name, kind):
    cfg = compose("grid", overrides=[f"hydra/launcher={name}"], return_hydra_config=True).hydra.launcher
    assert cfg._target_ == kind._target_
    own = load(CONFIGS / "hydra" / "launcher" / f"{name}.yaml")
    assert set(own) - {"defaults"} <= {field.name for field in dataclasses.fields(kind)}
    assert {key: cfg[key] for key in own if key != "defaults"} == {k: v for k, v in own.items() if k != "defaults"}


def test_a_slurm_job_is_put_back_into_the_queue_after_its_time_limit():
    cfg = compose("grid", overrides=["hydra/launcher=slurm"], return_hydra_config=True).hydra.launcher
    assert cfg.max_num_timeout == 3
    assert cfg.signal_delay_s < 60 * cfg.timeout_min
    assert cfg.array_parallelism > 1


@functools.cache
def cfg_of_method(name: str) -> DictConfig:
    """Return the configuration of a method, composed once: tests read it and do not change it."""
    return cfg_of(f"method={name}")


@pytest.mark.parametrize("name", METHODS)
def test_every_method_can_be_run_alone_and_in_a_grid(name):
    cfg, method = cfg_of_method(name), METHODS[name]
    run = parse_image_run(cfg)
    check_fit(run.scorer, next(iter(run.candidates.values())), run.amount.fraction)
    assert (cfg.scorer.name, cfg.sampler.name) == (method.scorer, method.sampler)
    for key, value in method.settings.items():
        # A setting may refer to another key, as "${ratio}" does.
        assert OmegaConf.select(cfg, key) == OmegaConf.create({"ratio": cfg.ratio, "value": value}).value
    in_grid = cfg_of(f"method={name}", root="grid")
    assert (in_grid.scorer, in_grid.sampler, in_grid.tag) == (cfg.scorer, cfg.sampler, cfg.tag)


def test_no_two_methods_share_a_run_folder():
    assert len({run_folder(cfg_of_method(name)) for name in METHODS}) == len(METHODS)


def test_the_papers_method_chooses_gamma_on_validation_and_the_prior_is_tagged():
    assert cfg_of("method=dlc").sampler.gamma == "auto"
    fixed = cfg_of("method=dlc_g0.25")
    assert (fixed.sampler.gamma, fixed.tag) == (0.25, "g0.25")


@pytest.mark.parametrize(("name", "settings"), BACKBONES.items())
def test_the_librarys_backbones_are_those_of_the_config_group(name, settings):
    assert Backbone(name=name, **settings) == build(cfg_of(f"backbone={name}").backbone)


@pytest.mark.parametrize(
    "override",
    [
        "ratoi=0.1",
        "scorer.levls=3",
        "sampler.gama=0.3",
        "finetune.epoch=3",
        "gamma_search.repeat=1",
        "finetune.epochs=ten",
        "finetune.nesterov=perhaps",
        "seed=0.5",
        "batch_size=many",
        "gamma_search.grid=[low]",
        "images.short_side=small",
        "scorer=dcl",
        "dataset=imagenet",
    ],
)
def test_a_misspelt_key_or_a_value_of_another_type_is_refused_at_composition(override):
    with pytest.raises(REFUSALS):
        cfg_of(override)


@pytest.mark.parametrize("content", ["ratoi: 0.2\n", "finetune: {epochs: ten}\n", "finetune: {epoch: 3}\n"])
def test_a_preset_with_a_misspelt_key_is_refused_at_composition(tmp_path, content):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(f"# @package _global_\n{content}")
    with pytest.raises(REFUSALS):
        cfg_of("experiment=mine", f"hydra.searchpath=[file://{tmp_path}]")


def test_a_key_that_a_class_does_not_have_is_refused_with_the_nearest_one():
    group = {**catalogue.settings("scorer", "dlc"), "levls": 3}
    with pytest.raises(InputError, match=r"DLC has no option 'levls'.* Did you mean 'levels'\?"):
        build(group)


@pytest.mark.parametrize("target", ["torch.nn.Linear", "os.system", None, "prunetuned.scorers.DLC"])
def test_only_classes_of_this_package_are_built(target):
    with pytest.raises(InputError, match="inside prunetune"):
        build({"_target_": target, "in_features": 1, "out_features": 1})


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (["dataset=image_folder", "dataset.root=a/photos"], ["dataset=image_folder", "dataset.root=a/drawings"]),
        (
            ["backbone=timm", "backbone.model=vit_tiny_patch16_224.augreg_in1k"],
            ["backbone=timm", "backbone.model=vit_tiny_patch16_224.augreg_in21k"],
        ),
        (["scorer=from_file", "scorer.path=el2n.csv"], ["scorer=from_file", "scorer.path=b/grand.csv"]),
        (["backbone@scoring_backbone=vit_small"], ["backbone@scoring_backbone=resnet50"]),
        (["backbone@scoring_backbone=resnet50"], []),
        (["finetune=full"], ["finetune=full_released"]),
        (["scorer=dlc"], ["scorer=dlc_50"]),
        (["sampler=topk"], ["sampler=topk_easiest"]),
        (["ratio=0.1"], ["ratio=0.2"]),
        (["seed=0"], ["seed=1"]),
        (["tag=a"], ["tag=b"]),
        (["dataset=dtd", "dataset.name=dtd10"], ["dataset=dtd"]),
    ],
)
def test_runs_of_different_things_never_share_a_folder(one, other):
    folders = {run_folder(cfg_of(*words)) for words in (one, other)}
    assert len(folders) == 2
    assert "unnamed" not in folders


def test_a_scoring_backbone_joins_the_backbones_folder():
    cfg = cfg_of("backbone=resnet50", "backbone@scoring_backbone=resnet18")
    assert run_folder(cfg).split("/")[1] == "resnet50_scored_by_resnet18"
    same = cfg_of("backbone=resnet18", "backbone@scoring_backbone=resnet18")
    assert run_folder(same) == run_folder(cfg_of())


def test_a_grid_takes_a_scoring_backbone_and_its_settings_as_a_single_run_does():
    words = ["backbone=resnet18", "backbone@scoring_backbone=timm", "scoring_backbone.model=vit_tiny_patch16_224"]
    cfg = compose("grid", overrides=words)
    assert resolve_names(cfg).backbone_folder == "resnet18_scored_by_vit_tiny_patch16_224"
    assert compose("grid", overrides=["backbone=resnet18"]).scoring_backbone is None


def test_a_scoring_backbone_of_the_same_name_and_other_settings_is_refused():
    cfg = cfg_of("backbone@scoring_backbone=resnet18", "scoring_backbone.checkpoint=other.safetensors")
    with pytest.raises(InputError, match=r"both are called 'resnet18'; pass scoring_backbone\.name="):
        resolve_names(cfg)
    cfg.scoring_backbone.name = "resnet18_other"
    assert resolve_names(cfg).backbone_folder == "resnet18_scored_by_resnet18_other"


def test_names_are_safe_in_paths_and_open_names_come_from_folder_model_and_file(tmp_path):
    (tmp_path / "my photos (2)").mkdir()
    (tmp_path / "scores of el2n.csv").touch()
    cfg = cfg_of(
        "dataset=image_folder",
        f"dataset.root='{tmp_path}/my photos (2)/'",
        "backbone=timm",
        "backbone.model=hf_hub:someone/vit:tiny",
        "scorer=from_file",
        f"scorer.path='{tmp_path}/scores of el2n.csv'",
    )
    called = resolve_names(cfg)
    assert (called.dataset, called.backbone, called.scorer) == ("my_photos__2_", "vit_tiny", "scores_of_el2n")
    assert resolve_names(cfg_of("dataset=image_folder", "dataset.root=.")).dataset == Path.cwd().name


def test_a_run_folder_never_raises():
    assert run_folder(OmegaConf.create({"dataset": None})) == "unnamed"


def test_composing_and_naming_need_no_torch():
    code = (
        "import sys; from hydra import compose, initialize_config_dir; from prunetune.config import run_folder\n"
        f"with initialize_config_dir(config_dir={str(CONFIGS)!r}, version_base='1.3'):\n"
        "    run_folder(compose('config'))\n"
        "assert 'torch' not in sys.modules and 'prunetune.runs.image_run' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_conda_environment_is_the_project_with_its_extras_and_no_second_list():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    *conda, pip = environment["dependencies"]
    assert environment["name"] == project["name"]
    assert [entry.split("=")[0] for entry in conda] == ["python", "pip"]
    assert conda[0].split("=")[1] in SpecifierSet(project["requires-python"])
    extras = ",".join(project["optional-dependencies"])
    assert pip == {"pip": ["-c constraints.txt", f"-e .[{extras}]"]}


def test_every_dependency_is_pinned_at_a_version_that_the_project_allows():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert all("://" not in line and not line.startswith("-") for line in lines), "no index and no address"
    pins = dict(line.lower().replace("_", "-").split("==") for line in lines if "==" in line)
    wanted = [*project["dependencies"], *sum(project["optional-dependencies"].values(), [])]
    for requirement in map(Requirement, wanted):
        assert requirement.name.lower() in pins, f"{requirement.name} has no pin"
        assert requirement.specifier.contains(pins[requirement.name.lower()]), requirement
