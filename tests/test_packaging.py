"""What is installed is what is needed: dependencies, pins, files in the wheel, make targets."""

import ast
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import packages_distributions

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from prunetune.report.paper_tables import TABLES
from runs import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
REQUIRED = [Requirement(line) for line in PROJECT["dependencies"]]
INSTRUCT = [Requirement(line) for line in PROJECT["optional-dependencies"]["instruct"]]
EXTRAS = [Requirement(line) for lines in PROJECT["optional-dependencies"].values() for line in lines]
DATA_FILES = (
    "networks/weights/micro.safetensors",
    "networks/weights/micro.json",
    "data/prepare/sources.csv",
    "data/prepare/checksums.json",
)


def imports_of(*folders, without=()):
    """Return the top-level modules that the files import, but for the standard library and our own."""
    found = set()
    own = {"prunetune"}
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
                elif is_needed(node):  # a module of an extra, imported when it is used
                    found.add(node.args[0].value.partition(".")[0])
    return found - own - set(sys.stdlib_module_names)


def is_needed(node):
    """Whether this is a call of `prunetune.instruct.extra.needed` that names its module."""
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
    modules = imports_of("src", "scripts", "run.py", without=["instruct", "bench_text_scoring.py"])
    assert {"torch", "timm", "hydra", "safetensors"} <= modules
    assert undeclared(modules, REQUIRED) == set()


def test_only_the_folder_of_text_runs_imports_its_extra():
    modules = imports_of("src/prunetune/instruct")
    assert {"transformers", "peft", "datasets", "accelerate", "lm_eval"} <= modules
    assert undeclared(modules, [*REQUIRED, *INSTRUCT]) == set()


def test_every_import_of_the_tests_is_declared_too():
    scripts = {path.stem for path in (ROOT / "scripts").glob("*.py")}
    assert undeclared(imports_of("tests") - {"_pytest"} - scripts, [*REQUIRED, *EXTRAS]) == set()


def test_every_declared_dependency_is_imported_or_a_tool():
    tools = {
        "pytest-timeout",
        "import-linter",
        "ruff",
        "pre-commit",
        "hypothesis",
        "pyyaml",
        "jinja2",
        "mkdocs-material",
        "mkdocstrings",
    }  # pandas writes LaTeX with it
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


def test_the_pins_name_no_place_and_no_build():
    text = (ROOT / "constraints.txt").read_text()
    assert "://" not in text
    assert "--" not in text
    assert " @ " not in text
    assert not [version for version in pins().values() if "+" in version]  # a local build such as 2.0+cpu


def test_environment_yml_adds_no_second_list():
    text = (ROOT / "environment.yml").read_text()
    listed = re.findall(r"^\s*-\s*([A-Za-z0-9_.-]+)", text, re.MULTILINE)
    declared = {canonicalize_name(requirement.name) for requirement in REQUIRED}
    assert {canonicalize_name(name) for name in listed} & declared == set()
    python = re.search(r"- python=([0-9.]+)", text).group(1)
    assert SpecifierSet(PROJECT["requires-python"]).contains(python)
    assert "-c constraints.txt" in text
    assert re.search(r"-e \.(\[|\s|$)", text)


def test_the_wheel_holds_the_code_the_weights_and_the_preparation_data(tmp_path):
    pytest.importorskip("setuptools", minversion="77", reason="building the wheel needs setuptools 77 or newer")
    copy = tmp_path / "project"
    shutil.copytree(ROOT / "src", copy / "src", ignore=shutil.ignore_patterns("*.egg-info", "__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy / name)
    build = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, str(tmp_path)], cwd=copy, check=True, capture_output=True)
    [wheel] = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    code = {path.relative_to(ROOT / "src").as_posix() for path in (ROOT / "src").rglob("*.py")}
    assert code - names == set()
    assert {f"prunetune/{name}" for name in DATA_FILES} - names == set()


def test_every_file_of_the_package_that_is_no_code_is_package_data():
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["prunetune"]
    package = ROOT / "src" / "prunetune"
    included = {path for pattern in patterns for path in package.glob(pattern)}
    others = {path for path in package.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}
    assert others - included == set()
    for name in DATA_FILES:
        assert package / name in included


def test_every_folder_of_code_is_a_package():
    folders = {path.parent for path in (ROOT / "src" / "prunetune").rglob("*.py")}
    assert {folder for folder in folders if not (folder / "__init__.py").is_file()} == set()


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


def test_make_help_lists_them():
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
