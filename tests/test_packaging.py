"""Packaging: dependencies, pinned versions, files in the wheel, and make targets."""

import ast
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from prunetune.report.paper_tables import TABLES
from runs import ONE_THREAD, ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
REQUIRED = [Requirement(line) for line in PROJECT["dependencies"]]
OWN_DATA = [Requirement(line) for extra in ("data", "heif") for line in PROJECT["optional-dependencies"][extra]]
INSTRUCT = [Requirement(line) for line in PROJECT["optional-dependencies"]["instruct"]]
EXTRAS = [Requirement(line) for lines in PROJECT["optional-dependencies"].values() for line in lines]
DATA_FILES = (
    "py.typed",
    "networks/weights/micro.safetensors",
    "networks/weights/micro.json",
    "data/prepare/sources.csv",
    "data/prepare/checksums.json",
    "report/published/datasets.csv",
    "configs/config.yaml",
    "configs/hydra/launcher/slurm.yaml",
)


def imports_of(*folders, without=()):
    """Return the top-level modules that the files import, but for the standard library and our own."""
    found = set()
    own = {"prunetune", "scripts"}
    for folder in folders:
        files = [ROOT / folder] if folder.endswith(".py") else sorted((ROOT / folder).rglob("*.py"))
        files = [path for path in files if not set(without) & set(path.parts)]
        own |= {path.stem for path in files if "src" not in folder}
        for path in files:
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Import):
                    found |= {alias.name.partition(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and node.level == 0:
                    found.add(node.module.partition(".")[0])
                elif is_needed(node):  # The module belongs to an extra and is imported only when it is used.
                    found.add(node.args[0].value.partition(".")[0])
    return found - own - set(sys.stdlib_module_names)


def is_needed(node):
    """Whether this is a call of a function `needed`, which imports a library of an extra, that names its module."""
    return (
        isinstance(node, ast.Call)
        and getattr(node.func, "id", "") == "needed"
        and isinstance(node.args[0], ast.Constant)
        and node.args[0].value != "no_such_library"
    )


def undeclared(modules, requirements):
    declared = {canonicalize_name(requirement.name) for requirement in requirements}
    homes = packages_distributions()
    return {module for module in modules if not {canonicalize_name(name) for name in homes.get(module, [])} & declared}


def test_every_import_of_the_package_its_scripts_and_the_command_is_declared():
    of_text = ["instruct", "text_scoring.py", "text_encoding.py", "text_scores.py", "make_corpus.py"]
    modules = imports_of("src", "scripts", "run.py", without=of_text)
    assert {"torch", "timm", "hydra", "safetensors"} <= modules
    # Only tests call the function of `prunetune.testing` that imports pytest, so pytest is installed.
    # One survey compares with cleanlab where that is installed. The report of the study has an extra of its own.
    # Addresses of object storage need the extra cluster, and its benchmark the extra cluster-tests.
    modules -= {"pytest", "cleanlab", "statsmodels", "fsspec", "psutil"}
    extra = {"pyarrow", "datasets", "webdataset", "pillow_heif", "huggingface_hub"}
    assert undeclared(modules - extra, REQUIRED) == set()
    assert extra <= modules
    # The library datasets itself depends on huggingface_hub.
    assert undeclared(extra - {"huggingface_hub"}, OWN_DATA) == set()


def test_what_the_extras_of_own_data_install_is_installed_for_the_tests_too():
    dev = {canonicalize_name(Requirement(line).name) for line in PROJECT["optional-dependencies"]["dev"]}
    assert {canonicalize_name(requirement.name) for requirement in OWN_DATA} - dev == set()


def test_a_library_of_an_extra_is_imported_only_when_it_is_used():
    extra = {"pyarrow", "datasets", "webdataset", "pillow_heif", "polars", "huggingface_hub"}
    code = f"import sys, prunetune.own.read, prunetune.data.readers; print(*{extra!r} & sys.modules.keys())"
    outcome = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert outcome.stdout.split() == []


def test_only_the_folder_of_text_runs_imports_its_extra():
    modules = imports_of("src/prunetune/instruct")
    assert {"transformers", "peft", "datasets", "accelerate", "lm_eval"} <= modules
    assert undeclared(modules, [*REQUIRED, *INSTRUCT]) == set()


def test_every_import_of_the_tests_is_declared_too():
    of_clusters = {"ray", "moto", "s3fs", "psutil"}  # Only make test-cluster installs them.
    assert of_clusters <= {canonicalize_name(requirement.name) for requirement in EXTRAS}
    assert undeclared(imports_of("tests") - {"_pytest"} - of_clusters, [*REQUIRED, *EXTRAS]) == set()


def test_every_declared_dependency_is_imported_or_a_tool():
    tools = {
        "pytest-timeout",
        "pytest-xdist",
        "import-linter",
        "ruff",
        "pre-commit",
        "hypothesis",
        "pyyaml",
        "jinja2",
        "mkdocs-material",
        "mkdocstrings",
        "apricot-select",
        "submodlib-py",
        "lightning",
        "nbmake",
        "cleanlab",
        "mypy",
        "playwright",
        "ray",
        "s3fs",
        "gcsfs",
        "moto",
        "psutil",
    }  # Pandas writes LaTeX with jinja2. Tests compare with two where they are installed, a page of docs imports one.
    homes = packages_distributions()
    modules = imports_of("src", "scripts", "run.py", "tests")
    used = {canonicalize_name(name) for module in modules for name in homes.get(module, [])}
    assert {canonicalize_name(r.name) for r in [*REQUIRED, *EXTRAS]} - used - tools == set()


def pins():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return {
        canonicalize_name(name): version
        for name, _, version in (line.partition("==") for line in lines if line and not line.startswith("#"))
    }


def test_the_pins_meet_every_declared_range():
    pinned = pins()
    assert all(pinned.values())
    for requirement in [*REQUIRED, *EXTRAS]:
        name = canonicalize_name(requirement.name)
        assert name in pinned
        assert requirement.specifier.contains(pinned[name]), f"{name} {pinned[name]} is not {requirement.specifier}"


def test_the_pins_contain_no_path_and_no_local_build():
    text = (ROOT / "constraints.txt").read_text()
    assert "://" not in text
    assert "--" not in text
    assert " @ " not in text
    assert not [version for version in pins().values() if "+" in version]  # A version such as 2.0+cpu is a local build.


def test_environment_yml_adds_no_second_list():
    text = (ROOT / "environment.yml").read_text()
    listed = re.findall(r"^\s*-\s*([A-Za-z0-9_.-]+)", text, re.MULTILINE)
    declared = {canonicalize_name(requirement.name) for requirement in REQUIRED}
    assert {canonicalize_name(name) for name in listed} & declared == set()
    python = re.search(r"- python=([0-9.]+)", text).group(1)
    assert SpecifierSet(PROJECT["requires-python"]).contains(python)
    assert "-c constraints.txt" in text
    assert re.search(r"-e \.(\[|\s|$)", text)


SETUPTOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
# A build reads these files and folders.
PARTS = ("src", "configs", "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in")
SMALL_DEMO = (
    *("grid", "experiment=demo", "methods=[random]", "ratios=[0.2]", "seeds=[0]", "dataset.num_pool=100"),
    *("dataset.num_test=100", "finetune.epochs=2", "finetune.views=1", "wandb=disabled"),
)


def files_of(folder):
    """Return the files below a folder of sources, without what Python and pip leave there."""
    found = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    return [path for path in found if not any(part.endswith(".egg-info") for part in path.parts)]


def test_the_list_of_packages_is_that_of_the_folders():
    src = ROOT / "src"
    folders = {path.parent for path in src.rglob("*.py")}
    packages = {".".join(folder.relative_to(src).parts) for folder in folders}
    assert set(SETUPTOOLS["packages"]) == packages | {"prunetune.configs"}
    assert {folder for folder in folders if not (folder / "__init__.py").is_file()} == set()
    assert (ROOT / SETUPTOOLS["package-dir"]["prunetune.configs"] / "__init__.py").read_text() == ""


@pytest.mark.parametrize("package", ["prunetune", "prunetune.configs"])
def test_every_file_of_the_package_that_is_no_code_is_package_data(package):
    folder = ROOT / "configs" if package == "prunetune.configs" else ROOT / "src" / "prunetune"
    included = {path for pattern in SETUPTOOLS["package-data"][package] for path in folder.glob(pattern)}
    others = {path for path in files_of(folder) if path.suffix != ".py"}
    assert others
    assert others - included == set()


def built(kind, source, out):
    """Build a wheel or an sdist of a folder by the backend that pyproject.toml names; return the file."""
    pytest.importorskip("setuptools", minversion="77", reason="building needs setuptools 77 or newer")
    build = f"import sys; from setuptools import build_meta; build_meta.build_{kind}(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, str(out)], cwd=source, check=True, capture_output=True)
    [file] = out.glob("*.whl" if kind == "wheel" else "*.tar.gz")
    return file


def copied(folder):
    """Copy what a build reads into a folder, since a build writes beside it."""
    ignored = shutil.ignore_patterns("*.egg-info", "__pycache__")
    for name in PARTS:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=ignored)
        else:
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Build the wheel of the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    return built("wheel", copied(folder / "project"), folder)


def test_the_wheel_holds_the_code_and_every_file_beside_it(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = {path.relative_to(ROOT / "src").as_posix() for path in files_of(ROOT / "src")}
    expected |= {f"prunetune/{path.relative_to(ROOT).as_posix()}" for path in files_of(ROOT / "configs")}
    assert expected - names == set()
    assert {f"prunetune/{name}" for name in DATA_FILES} - names == set()
    assert not [name for name in names if not name.startswith("prunetune")]


def installed(folder, what):
    """Install into a fresh environment that sees the libraries of this one and nothing else; return its programs.

    A .pth file names the folders of the libraries, so that they are not installed again. Editable installations of
    this environment are not found, since Python does not read .pth files in folders that a .pth file names.
    """
    pytest.importorskip("pip", reason="installing needs pip")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    programs = folder / "bin"
    where = [str(programs / "python"), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    site = Path(subprocess.run(where, capture_output=True, text=True, check=True).stdout.strip())
    (site / "libraries.pth").write_text("".join(f"{place}\n" for place in library_folders()))
    pip = [sys.executable, "-m", "pip", "--python", str(programs / "python"), "install", "--quiet", "--no-deps"]
    subprocess.run([*pip, "--no-index", "--no-build-isolation", *what], check=True, capture_output=True)
    return programs


def library_folders():
    """Return the folders of this environment's libraries."""
    return [place for place in sys.path if Path(place).name in ("site-packages", "dist-packages")]


def given(programs, folder, *words):
    """Run a command line of an installed `prunetune` in a folder."""
    environment = {name: value for name, value in ONE_THREAD.items() if name != "PYTHONPATH"}
    command = [str(programs / "prunetune"), *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def check_an_installation(programs, folder, origin):
    """Run the demo, a list, a help text, the tables and a mistaken command in an empty folder."""
    folder.mkdir()
    ask = "import prunetune, prunetune.configs; print(prunetune.__file__, *prunetune.configs.__path__)"
    python = [str(programs / "python"), "-P", "-c", ask]
    environment = {name: value for name, value in ONE_THREAD.items() if name != "PYTHONPATH"}
    done = subprocess.run(python, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    assert all(Path(place).is_relative_to(origin) for place in done.stdout.split()), done.stdout
    demo = given(programs, folder, *SMALL_DEMO)
    assert demo.returncode == 0, demo.stderr
    assert demo.stdout.splitlines()[-1].startswith(f"run: {folder / 'results' / 'grids'}")
    assert len(list(folder.glob("results/runs/textures/micro/*/random-random/*/seed_0/default/result.json"))) == 1
    assert "herding" in given(programs, folder, "list", "scorers").stdout
    assert "--keep-archives" in given(programs, folder, "prepare", "dtd", "--help").stdout
    tables = given(programs, folder, "tables", "--allow-dirty")
    assert (tables.returncode, tables.stderr) == (0, "")
    mistake = given(programs, folder, "run", "ratio=10")
    assert (mistake.returncode, mistake.stdout) == (1, "")
    assert mistake.stderr == "error: ratio is the fraction kept and must be in (0, 1], got 10.0\n"
    assert [path.name for path in folder.iterdir()] == ["results"]


def test_an_installed_wheel_works_from_an_empty_folder(wheel, tmp_path):
    programs = installed(tmp_path / "venv", [str(wheel)])
    check_an_installation(programs, tmp_path / "empty", tmp_path / "venv")


@pytest.mark.slow
def test_a_wheel_built_from_the_sdist_works_from_an_empty_folder(wheel, tmp_path):
    sdist = built("sdist", copied(tmp_path / "project"), tmp_path)
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path / "sdist", filter="data")
    [source] = (tmp_path / "sdist").iterdir()
    again = built("wheel", source, tmp_path)
    assert sorted(zipfile.ZipFile(again).namelist()) == sorted(zipfile.ZipFile(wheel).namelist())
    programs = installed(tmp_path / "venv", [str(again)])
    check_an_installation(programs, tmp_path / "empty", tmp_path / "venv")


@pytest.mark.slow
def test_an_editable_installation_works_from_an_empty_folder(tmp_path):
    project = copied(tmp_path / "project")
    programs = installed(tmp_path / "venv", ["--editable", str(project)])
    check_an_installation(programs, tmp_path / "empty", project)


def make_targets():
    text = (ROOT / "Makefile").read_text()
    return set(re.findall(r"^([a-z][a-z-]*):", text, re.MULTILINE)), text


def test_every_make_target_has_a_line_in_make_help():
    targets, text = make_targets()
    assert {"help", "run", "test", "test-slow", "test-data", "test-gpu", "lint", "report"} <= targets
    helped = set(re.findall(r"^([a-z][a-z-]*):[^\n]*## \S", text, re.MULTILINE))
    assert targets - helped == set()
    phony = re.search(r"^\.PHONY: (.*)$", text, re.MULTILINE).group(1).split()
    assert set(phony) == targets


def test_make_help_lists_every_target():
    if shutil.which("make") is None:
        pytest.skip("needs make")
    shown = subprocess.run(
        ["make", "--no-print-directory", "help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert {line.split()[1] for line in shown.splitlines()} == make_targets()[0]


def test_the_readme_mentions_only_targets_that_exist():
    text = (ROOT / "README.md").read_text()
    code = " ".join(re.findall(r"`[^`]*`|^    .*$", text, re.MULTILINE))
    mentioned = set(re.findall(r"\bmake ([a-z][a-z0-9-]*)", code))
    targets, makefile = make_targets()
    tables = {f"table-{name}" for name in re.search(r"^TABLES := (.*)$", makefile, re.MULTILINE).group(1).split()}
    assert mentioned - targets - tables == set()


def test_every_table_of_the_paper_has_a_target():
    tables = re.search(r"^TABLES := (.*)$", make_targets()[1], re.MULTILINE).group(1).split()
    assert {name.replace("-", "_") for name in tables} == TABLES.keys() - {"ranking"}


def test_continuous_integration_runs_make_test():
    assert "make test" in (ROOT / ".ci" / "run").read_text()
