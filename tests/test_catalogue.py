"""The catalogue: every class by name with the settings of its source, variants, methods; what Hydra makes of them."""

import dataclasses
import importlib
import inspect
import pkgutil
import subprocess
import sys

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import OmegaConf

from config_files import CONFIGS, load
from prunetune import samplers, scorers
from prunetune.base.errors import InputError
from prunetune.config import catalogue
from prunetune.config.build import build, class_of
from prunetune.config.cells import compose_cell
from prunetune.config.class_source import ClassSource, read_class
from prunetune.config.explain import explain
from prunetune.config.methods import METHODS
from prunetune.config.named import SAMPLERS, SCORERS
from prunetune.instruct import registration  # noqa: F401  adds the choices of text runs to the catalogue
from prunetune.instruct.methods import TEXT_METHODS
from runs import run_command

MADE_CLASSES = '''
from dataclasses import dataclass
from typing import ClassVar


@dataclass
class Base:
    """The base."""

    share: float = 0.5
    epochs: ClassVar[int] = 3
    own_sampler: ClassVar[str] = "topk"


@dataclass
class Made(Base):
    """The first line.

    Source: Doe et al. 2020 (a journal). A second sentence.
    Cost: one pass
    over the pool. No training.
    Reads: features.
    """

    name: ClassVar[str] = "made"
    epochs: int = 7
    sizes: tuple[int, ...] = (1_000, 2)
    start: float | None = None

    def method(self):
        local: int = 3
        return local


@dataclass
class Computed(Base):
    size: int = 3 * len("abc")


@dataclass
class Without(Base):
    size: int
'''


@pytest.fixture
def made_module(tmp_path, monkeypatch):
    """Return the name of a module that can be found and must not be imported."""
    (tmp_path / "made_classes.py").write_text(MADE_CLASSES)
    monkeypatch.syspath_prepend(tmp_path)
    yield "made_classes"
    assert "made_classes" not in sys.modules


@pytest.fixture(scope="module", autouse=True)
def _hydra():
    with initialize_config_dir(config_dir=str(CONFIGS), version_base="1.3"):
        yield


def class_choices():
    """Return pytest parameters: every class of the catalogue by group and name."""
    chosen = [(group, name) for group in catalogue.PACKAGES for name in catalogue.class_entries(group)]
    return [pytest.param(group, name, id=f"{group}/{name}") for group, name in chosen]


def variants():
    """Return pytest parameters: every YAML file that names another choice in its defaults list."""
    paths = sorted(path for group in catalogue.PACKAGES for path in (CONFIGS / group).glob("*.yaml"))
    return [pytest.param(path, id=f"{path.parent.name}/{path.stem}") for path in paths if "defaults" in load(path)]


def test_a_class_is_read_with_what_it_inherits_and_is_not_imported(made_module):
    assert read_class(made_module, "Made") == ClassSource(
        docstring=read_class(made_module, "Made").docstring,
        settings={"share": 0.5, "epochs": 7, "sizes": (1000, 2), "start": None},
        variables={"name": "made", "own_sampler": "topk"},  # Here epochs is a setting of the class.
    )


def test_a_docstring_gives_one_line_one_cost_and_one_source(made_module):
    source = read_class(made_module, "Made")
    assert source.about == "The first line."
    assert (source.part("Source"), source.part("Cost")) == ("Doe et al. 2020 (a journal)", "one pass over the pool")
    assert source.part("Differs") == ""


@pytest.mark.parametrize(
    ("name", "said"),
    [("Computed", "Computed.size must be a literal"), ("Without", "size needs a default"), ("Other", "no class Other")],
)
def test_a_class_that_cannot_be_read_as_text_is_a_bug_that_is_named(made_module, name, said):
    with pytest.raises(TypeError, match=said):
        read_class(made_module, name)


@pytest.mark.parametrize(("group", "name"), class_choices())
def test_the_source_of_a_class_says_what_the_class_is(group, name):
    settings = catalogue.class_entries(group)[name].settings
    kind = class_of(settings["_target_"])
    fields = {field.name: field.default for field in dataclasses.fields(kind)}
    in_runs = kind.in_runs
    assert {key: settings[key] for key in fields} == fields | {k: v for k, v in in_runs.items() if k in fields}
    assert set(settings) - set(fields) <= {"_target_", "name", "own_sampler", "uses_proxy"}
    assert settings["name"] == in_runs.get("name", kind.name)
    assert settings.get("own_sampler") == getattr(kind, "own_sampler", None)
    if group != "sampler" and name != "from_file":
        assert catalogue.entries(f"{group}s")[name].about == inspect.cleandoc(kind.__doc__).splitlines()[0]


@pytest.mark.parametrize("name", [name for name in SCORERS if name in catalogue.class_entries("scorer")])
def test_the_node_of_a_scorers_class_builds_the_class_without_arguments(name):
    made = build(compose("config", overrides=[f"scorer={name}"]).scorer)
    assert made == type(made)() == SCORERS[name]
    assert made.uses_proxy == catalogue.settings("scorer", name).get("uses_proxy", False)


@pytest.mark.parametrize("name", [name for name in SAMPLERS if name in catalogue.class_entries("sampler")])
def test_the_node_of_a_samplers_class_builds_the_class_without_arguments(name):
    end = ["sampler.end=hardest"] if name == "topk_flexible" else []  # Only a run can resolve auto.
    made = build(compose("config", overrides=[f"sampler={name}", *end]).sampler)
    assert made == type(made)() == SAMPLERS[name]


@pytest.mark.parametrize("name", SCORERS)
def test_a_name_means_the_same_in_hydra_and_in_the_library(name):
    cfg = compose("config", overrides=[f"scorer={name}"])
    assert OmegaConf.to_container(cfg.scorer) == catalogue.settings("scorer", name)
    assert build(cfg.scorer) == SCORERS[name]


def test_scorers_that_need_a_file_are_not_in_the_librarys_list():
    assert set(catalogue.entries("scorers")) - set(SCORERS) == {"from_file", "deepcore"}
    assert set(catalogue.entries("samplers")) - set(SAMPLERS) == {"auto"}
    assert len(SCORERS) == len(list(SCORERS)) == 68
    with pytest.raises(KeyError):
        SCORERS["from_file"]


@pytest.mark.parametrize(("package", "base"), [(scorers, "Scorer"), (samplers, "Sampler")])
def test_the_table_of_a_package_lists_exactly_its_classes(package, base):
    root, there, prefix = getattr(package, base), {}, f"{package.__name__}."
    for module in pkgutil.walk_packages(package.__path__, prefix):  # This includes the modules in published/.
        found = vars(importlib.import_module(module.name))
        made_here = [name for name, kind in found.items() if is_made_in(kind, root, module.name)]
        there |= dict.fromkeys(made_here, module.name.removeprefix(prefix))
    named = {name: module for name, module in package.MODULES.items() if name not in ("class_budgets",)}
    assert named == {name: module for name, module in there.items() if name != "DynamicSampler"}
    assert dir(package) == sorted(package.MODULES) == package.__all__


def is_made_in(kind, root, module) -> bool:
    return inspect.isclass(kind) and issubclass(kind, root) and kind.__module__ == module


def test_an_unknown_name_of_a_package_is_an_attribute_error():
    with pytest.raises(AttributeError, match=r"module 'prunetune\.scorers' has no attribute 'DCL'"):
        scorers.DCL  # noqa: B018


@pytest.mark.parametrize("path", variants())
def test_a_variant_names_only_what_differs_from_the_class(path):
    group, content = path.parent.name, load(path)
    [base] = content.pop("defaults")
    assert content.pop("name") == path.stem
    above = catalogue.class_entries(group)[base].settings
    assert content, "a variant without a setting of its own is another name for the same"
    for key, value in content.items():
        if key == "uses_proxy":  # It follows from the features and is only for readers.
            assert (value, content["features"]) == (True, "finetuned")
        else:
            assert key in above
            assert value != above[key]
    assert path.read_text().startswith("# "), "the first line says what it is"
    assert catalogue.entries(f"{group}s")[path.stem].about == path.read_text().splitlines()[0].removeprefix("# ")


def test_entries_have_a_line_a_cost_and_a_source_and_can_be_searched():
    for kind in ("scorers", "samplers", "methods", "text_scorers", "text_methods"):
        for name, entry in catalogue.entries(kind).items():
            assert name == entry.name
            assert "\n" not in entry.about + entry.cost + entry.source
            assert entry.about
            assert (entry.cost and entry.source) or (kind, name) == ("samplers", "auto")
    assert all(entry.about for kind in ("backbones", "datasets") for entry in catalogue.entries(kind).values())
    assert list(catalogue.entries("scorers", "HERDING")) == [
        "herding",
        "herding_deepcore",
        "herding_released",
        "maxherding",
    ]
    assert list(catalogue.entries("methods", "2406.03057")) == ["bws"]
    assert catalogue.entries("datasets", "no such word") == {}


def test_an_unknown_list_or_name_is_answered_with_the_nearest_one():
    with pytest.raises(InputError, match=r"no list of 'scorer'\. Did you mean 'scorers'\? Known: scorers, "):
        catalogue.entries("scorer")
    with pytest.raises(InputError, match=r"no sampler 'flexrnd'\. Did you mean 'flexrand'\? Known: activeft, "):
        catalogue.settings("sampler", "flexrnd")


@pytest.mark.parametrize(("table", "group"), [(METHODS, "scorer"), (TEXT_METHODS, "text_scorer")])
def test_a_method_names_existing_parts_and_sets_existing_keys(table, group):
    parts = {"scorer": group, "sampler": "sampler"}
    for method in table.values():
        known = {
            "sampler": catalogue.settings("sampler", method.sampler),
            "scorer": catalogue.settings(group, method.scorer),
        }
        for key, value in method.settings.items():
            part, _, setting = key.partition(".")
            if key == "tag":
                continue
            assert part in parts
            assert setting == "uses_proxy" or known[part][setting] != value or method.sampler == "flexrand"
        assert method.about.endswith(".")
        assert list(table).count(method.name) == 1
    assert list(table) == sorted(table)


def test_the_tables_contain_every_earlier_method():
    assert (len(METHODS), len(TEXT_METHODS)) == (95, 16)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["scorer=dcl"], "there is no scorer 'dcl'. Did you mean 'dlc'? See `prunetune list scorers`."),
        (["sampler=flexrnd"], "there is no sampler 'flexrnd'. Did you mean 'flexrand'? Known: activeft, "),
        (["method=herdng"], "there is no method 'herdng'. Did you mean 'herding'? See `prunetune list methods`."),
        (["backbone=zzz"], "there is no backbone 'zzz'. Known: micro, "),
        (["hydra/launcher=slrm"], "there is no hydra/launcher 'slrm'. Did you mean 'slurm'? Known: basic, "),
        (["tag=a#b"], "needs quotes of its own: 'key=\"value\"'"),
        (["scorer.levles=3"], "There is no such option; --help lists them all."),
    ],
)
def test_an_error_of_hydra_gives_a_one_line_error_with_the_nearest_name(words, said):
    with pytest.raises(HydraException) as caught:
        compose("config", overrides=words)
    line = explain(caught.value)
    assert said in line
    assert "\n" not in line
    assert "search path" not in line


def test_a_root_configuration_that_is_not_there_is_named_too():
    with pytest.raises(HydraException) as caught:
        compose("gird")
    expected = "there is no root configuration 'gird'. Did you mean 'grid'? Known: config, grid, instruct"
    assert explain(caught.value) == expected


@pytest.mark.parametrize("words", [["scorer.levels=3"], ["sampler=flexrand", "sampler.gamma=0.3"], ["scorer=dlc_50"]])
def test_a_setting_of_the_catalogue_is_overridden_without_a_plus(words):
    cfg = compose("config", overrides=words)
    assert (cfg.scorer.levels, cfg.sampler.get("gamma")) in ((3, None), (5, 0.3), (50, None))


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """Return a configs folder of a user's own: a variant, and a method that takes it."""
    folder = tmp_path_factory.mktemp("own")
    for group, name, text in (
        ("scorer", "shallow", "# Mine.\ndefaults: [herding]\nname: shallow\ndepth: 0.5\nown_sampler: random\n"),
        ("method", "mine", "# @package _global_\ndefaults:\n  - override /scorer: shallow\nsampler: {name: topk}\n"),
        ("method", "herding", "# @package _global_\ndefaults:\n  - override /sampler: window\ntag: mine\n"),
    ):
        (folder / group).mkdir(exist_ok=True)
        (folder / group / f"{name}.yaml").write_text(text)
    return folder


def test_a_users_own_variant_and_method_take_part(own):
    shown = run_command("--config-dir", str(own), "scorer=shallow", "--cfg", "job")
    scorer = OmegaConf.create(shown.stdout).scorer
    assert (scorer.name, scorer.depth, scorer.own_sampler, scorer.variant) == ("shallow", 0.5, "random", "fixed")
    shown = run_command("--config-dir", str(own), "method=mine", "--cfg", "job")
    assert OmegaConf.create(shown.stdout).scorer.depth == 0.5


def test_a_users_own_method_cannot_have_the_name_of_another(own):
    outcome = run_command("--config-dir", str(own), "method=herding")
    assert outcome.stderr == (
        "error: the package has a method/herding of its own, and a file cannot have the same name; rename your file\n"
    )


def test_a_users_own_method_is_listed_and_suggested(own):
    assert ", mine, moderate, " in run_command("--config-dir", str(own), "--help").stdout
    outcome = run_command("--config-dir", str(own), "method=mne")
    assert "there is no method 'mne'. Did you mean 'mine'? See `prunetune list methods`." in outcome.stderr
    assert outcome.stderr.count("\n") == 1


def test_a_users_own_method_runs_in_a_grid(own):
    cfg = compose_cell("mine", (f"hydra.searchpath=[file://{own}]",))
    assert (cfg.scorer.name, cfg.scorer.depth) == ("shallow", 0.5)
    with pytest.raises(InputError, match=r"method mne cannot be composed: there is no method 'mne'\. Did you mean"):
        compose_cell("mne", (f"hydra.searchpath=[file://{own}]",))


def test_the_catalogue_is_read_without_torch():
    code = (
        "import sys; from prunetune.config import catalogue, named\n"
        "[catalogue.entries(kind) for kind in catalogue.KINDS]; list(named.SCORERS)\n"
        "assert not {'torch', 'transformers', 'timm'} & sys.modules.keys()\n"
        "from prunetune import DLC; assert 'torch' in sys.modules\n"
        "assert 'prunetune.scorers.herding' not in sys.modules and 'prunetune.samplers.base' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_importing_one_scorer_loads_few_modules_and_neither_hydra_nor_wandb():
    code = "import sys; from prunetune import DLC; print(*(m for m in sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert len([name for name in loaded if name.split(".")[0] == "prunetune"]) <= 25
    assert not {"hydra", "omegaconf", "wandb"} & set(loaded)


def test_no_default_of_a_class_is_written_a_second_time():
    """A YAML file of a class's own name would hide the class's defaults."""
    for group in catalogue.PACKAGES:
        names = {path.stem for path in (CONFIGS / group).glob("*.yaml")}
        assert names & set(catalogue.class_entries(group)) == set()
    assert not (CONFIGS / "method").exists()
    assert not (CONFIGS / "text_method").exists()
