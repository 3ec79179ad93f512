"""The pages of docs/ and the README: their commands run, their links resolve, and what repeats the code is up to date.

Python blocks run in this process, one namespace for each page; shell blocks run in a subprocess, one folder for each
page. Both find a small folder `my_photos`. The packaged network stands in for resnet18, whose weights are a download;
where torchvision's own resnet18 is trained, it has random weights and small images.
"""

import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from prunetune.config.catalogue import entries
from runs import ROOT
from scripts.assets import doc_pages, run_diagram

DOCS, RESULTS = ROOT / "docs", ROOT / "results"
PAGES = {path.relative_to(ROOT).as_posix(): path for path in [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]}
BLOCK = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INSTEAD = {
    "backbone=resnet18": "backbone=micro",
    'backbone="resnet18"': 'backbone="micro"',
    "--backbone resnet18": "--backbone micro",
    'weights="DEFAULT"': "weights=None",
    "RandomResizedCrop(224)": "RandomResizedCrop(64)",
    "input_size=(3, 224, 224)": "input_size=(3, 64, 64)",
}
NOT_RUN = {  # Maps the page and the first line of a block to the reason why it is not run here.
    "README.md: pip install -c constraints.txt -e .       # for instruction data: -e '.[instruct]'": "needs an index",
    "README.md: prunetune prepare dtd                             # download, check and arrange one of the paper's "
    "five sets": "a download",
    "docs/recipes.md: import fiftyone as fo": "starts a database server",
    "docs/quickstart.md: git clone <address of this repository> prunetune": "needs a package index",
    "docs/text.md: pip install -c constraints.txt -e '.[instruct]'": "needs a package index",
    "docs/text.md: prunetune prune-text my.jsonl --model <folder or hub name> --scorer dlc --keep 0.1 "
    "--out kept": "needs a language model",
    "docs/text.md: prunetune instruct corpus=local corpus.path=my_corpus.jsonl llm=local "
    "llm.model=<folder or hub name> \\": "needs a language model",
    "docs/reproduce.md: prunetune prepare dtd": "downloads data sets",
    "docs/reproduce.md: prunetune grid sweep=main hydra/launcher=slurm 'ratios=[0.1]' until=score": "needs Slurm",
    "docs/reproduce.md: prunetune grid sweep=main finetune=linear_probe proxy=linear_probe \\": "needs its data",
    "docs/reproduce.md: make tables figures": "makes a virtual environment",
    "docs/clusters.md: prunetune grid sweep=main hydra/launcher=slurm \\": "needs Slurm",
    "docs/clusters.md: pip install -e '.[cluster]'": "needs a package index and object storage",
    "docs/clusters.md: sbatch --nodes=4 --gpus-per-node=8 --cpus-per-task=64 --mem=200G scripts/slurm/ray.sbatch \\": (
        "needs Slurm; tests/slurm runs the script"
    ),
    "docs/clusters.md: prunetune prune /data/photos --keep 0.1 --engine ray --gpus-per-actor 1 "
    "--store /data/store --out pruned": "needs Ray and GPUs",
    "docs/clusters.md: prunetune prune-text shards/ --model <folder or hub name> --scorer dlc --keep 0.1 "
    "--engine ray --out kept": "needs Ray and a language model",
    "docs/clusters.md: prunetune run dataset=dtd backbone=resnet18 scorer=dlc ratio=0.1 engine=ray": "needs Ray",
}


def first_line(page, code):
    return f"{page}: {code.partition(chr(10))[0]}"


def blocks(page, language):
    """Return the code blocks of a page in one language, without those of NOT_RUN."""
    found = [code for name, code in BLOCK.findall(PAGES[page].read_text()) if name == language]
    return [code for code in found if first_line(page, code) not in NOT_RUN]


def pages_with(language):
    return [page for page in PAGES if blocks(page, language)]


def offline(code):
    for shown, instead in INSTEAD.items():
        code = code.replace(shown, instead)
    return code


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Return a folder with my_photos (3 classes of 15 images) and their scores, after making it the working folder."""
    noise = np.random.default_rng(0)
    for label, name in enumerate(("cat", "dog", "owl")):
        (tmp_path / "my_photos" / name).mkdir(parents=True)
        for number in range(15):
            pixels = noise.integers(0, 120, (40, 40, 3), dtype=np.uint8)
            pixels[:: label + 2] += 100
            Image.fromarray(pixels).save(tmp_path / "my_photos" / name / f"{number:02d}.png")
    rows = [path.relative_to(tmp_path / "my_photos").as_posix() for path in sorted(tmp_path.rglob("*.png"))]
    lines = ["sample_id,score", *(f"{name},{number}" for number, name in enumerate(rows))]
    (tmp_path / "scores.csv").write_text("\n".join(lines) + "\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_blocks_that_are_not_run_exist():
    found = {first_line(page, code) for page, path in PAGES.items() for _, code in BLOCK.findall(path.read_text())}
    assert NOT_RUN.keys() - found == set()


# The Trainers of other packages advise on speed and Slurm, and Lightning calls what torch will remove.
@pytest.mark.filterwarnings(
    "ignore:'pin_memory' argument is set",
    "ignore:.*does not have many workers",
    "ignore:The `srun` command",
    "ignore:`isinstance.treespec, LeafSpec.` is deprecated",
)
@pytest.mark.parametrize("page", pages_with("python"))
def test_the_python_of_a_page_runs(page, folder, monkeypatch):
    module = ModuleType("page")  # Dataclasses look up the module of their class.
    monkeypatch.setitem(sys.modules, "page", module)
    for code in blocks(page, "python"):
        exec(compile(offline(code), page, "exec"), module.__dict__)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore:`isinstance.treespec, LeafSpec.` is deprecated")
def test_a_lightning_training_that_was_saved_with_the_last_batch_of_an_epoch_goes_on_recording(folder, monkeypatch):
    page = ModuleType("page")
    monkeypatch.setitem(sys.modules, "page", page)
    codes = blocks("docs/own_loop.md", "python")
    for code in (codes[0], next(code for code in codes if "class RecordScores" in code)):
        exec(compile(offline(code), "page", "exec"), page.__dict__)
    saving = page.pl.callbacks.ModelCheckpoint(folder / "saved", every_n_train_steps=3)  # An epoch has three batches.
    settings = {"accelerator": "cpu", "logger": False}
    first, again = page.Recorder(45), page.Recorder(45)
    trainer = page.pl.Trainer(max_steps=6, callbacks=[page.RecordScores(first), saving], **settings)
    trainer.fit(page.Classifier(), page.loader)
    longer = page.pl.Trainer(max_epochs=3, callbacks=[page.RecordScores(again)], enable_checkpointing=False, **settings)
    longer.fit(page.Classifier(), page.loader, ckpt_path=saving.best_model_path)
    assert (first.epoch, again.epoch) == (2, 3)
    assert again.scores("aum").isfinite().all()
    assert again.state_dict()["counts"].tolist() == [3] * 45


@pytest.mark.slow
@pytest.mark.parametrize("page", pages_with("sh"))
def test_the_commands_of_a_page_run(page, folder, tmp_path_factory):
    programs = tmp_path_factory.mktemp("programs")
    for name, words in {"prunetune": "-m prunetune", "python": ""}.items():
        (programs / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {words} "$@"\n')
        (programs / name).chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{programs}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT / "src"),
        "HF_HUB_OFFLINE": "1",
        "WANDB_MODE": "disabled",
    }
    for code in blocks(page, "sh"):
        command = ["bash", "-euo", "pipefail", "-c", offline(code)]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{code}\n{done.stdout}\n{done.stderr}"


@pytest.mark.parametrize("page", PAGES)
def test_the_links_of_a_page_name_files_that_exist(page):
    text = BLOCK.sub("", PAGES[page].read_text())
    links = [link for link in re.findall(r"\]\(([^)#\s]+)", text) if not re.match(r"[a-z]+:", link)]
    assert [link for link in links if not (PAGES[page].parent / link).exists()] == []


def test_the_notebook_is_committed_without_outputs_and_run_by_make_test():
    [notebook] = ROOT.glob("docs/*.ipynb")
    cells = json.loads(notebook.read_text())["cells"]
    kept = [(cell["outputs"], cell["execution_count"]) for cell in cells if cell["cell_type"] == "code"]
    assert kept == [([], None)] * len(kept)
    links = re.findall(r"\]\(([^)#\s]+)", "".join(text for cell in cells for text in cell["source"]))
    assert links
    assert [link for link in links if not (DOCS / link).exists()] == []
    assert f"--nbmake tests docs/{notebook.name}" in (ROOT / "Makefile").read_text()


@pytest.mark.parametrize("page", PAGES)
def test_a_page_names_only_make_targets_that_exist(page):
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z][a-z-]*):", makefile, re.MULTILINE))
    targets |= {f"table-{name}" for name in re.search(r"^TABLES := (.*)$", makefile, re.MULTILINE).group(1).split()}
    named = re.findall(r"`make ([a-z0-9-]+)", PAGES[page].read_text())
    assert set(named) - targets == set()


@pytest.mark.parametrize("name", doc_pages.pages())
def test_a_page_that_repeats_the_code_is_up_to_date(name):
    assert (DOCS / name).read_text() == doc_pages.pages()[name](), "run: python -m scripts.assets.doc_pages"


def test_the_diagram_is_up_to_date():
    assert run_diagram.OUT.read_text() == run_diagram.diagram(), "run: python -m scripts.assets.run_diagram"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("scorers.md", "scorers"),
        ("text_scorers.md", "text_scorers"),
        ("samplers.md", "samplers"),
        ("methods.md", "methods"),
        ("methods.md", "text_methods"),
    ],
)
def test_a_page_names_every_choice(name, kind):
    text = (DOCS / name).read_text()
    assert [choice for choice in entries(kind) if f"`{choice}`" not in text] == []


def test_every_formula_belongs_to_a_class_of_the_catalogue():
    kinds = ("scorers", "text_scorers", "samplers")
    targets = {entry.settings.get("_target_") for kind in kinds for entry in entries(kind).values()}
    assert doc_pages.formulas().keys() - targets == set()


def test_every_difference_in_which_method_when_is_in_a_committed_table():
    text = (DOCS / "which_method.md").read_text()
    assert "±" not in text
    tables = (RESULTS / "tables" / "baselines.md", RESULTS / "study" / "robustness.md")
    measured = "".join(path.read_text() for path in (DOCS / "study.md", RESULTS / "LOG.md", *tables))
    known = {_numbers(found) for found in re.findall(INTERVAL, measured.replace(" points [", " ["))}
    known |= {(-mean, -high, -low) for mean, low, high in known}  # Herding above DLC is DLC below herding.
    gains = pd.read_csv(RESULTS / "bench" / "selection.csv")[["gain", "gain_within"]].dropna().itertuples(index=False)
    known |= {tuple(round(number, 1) for number in (gain, gain - half, gain + half)) for gain, half in gains}
    shown = [_numbers(found) for found in re.findall(INTERVAL, text)]
    assert len(shown) > 15
    assert set(shown) - known == set()


INTERVAL = r"([+-]?\d*\.\d) \[(-?\d*\.\d), (-?\d*\.\d)\]"


def _numbers(words: tuple[str, ...]) -> tuple[float, ...]:
    return tuple(float(word) + 0.0 for word in words)


def test_every_cited_page_and_heading_exists():
    notes = set(re.findall(r"^#+ (.*)$", (DOCS / "method_notes.md").read_text(), re.MULTILINE))
    cited = []
    for folder in ("src", "configs", "scripts", "tests"):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in (".py", ".yaml") and path != Path(__file__):
                text = " ".join(path.read_text().replace("#", " ").split())
                assert not re.search(r"(?<![\w/])method\.md", text), f"{path} cites a page that is not here"
                cited += [(path.name, rest) for rest in text.split("docs/method_notes.md, ")[1:]]
    assert len(cited) > 10
    assert [(name, rest[:40]) for name, rest in cited if not rest.startswith(tuple(notes))] == []


class Requests(HTMLParser):
    """Collects the addresses that a browser loads together with a page."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        if tag == "link" and values.get("rel") not in ("canonical", "prev", "next", "alternate"):
            self.found.append(values.get("href"))
        elif tag in ("script", "img", "iframe", "source", "video", "audio", "embed"):
            self.found.append(values.get("src"))


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Return the folder of the built pages. The build is strict, so it fails on a broken link or an unknown name."""
    pytest.importorskip("material", reason="needs the extra docs: make docs runs this test")
    pytest.importorskip("mkdocstrings", reason="needs the extra docs: make docs runs this test")
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(out)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


def test_every_page_is_built(site):
    assert {path.stem for path in site.glob("*.html")} >= {path.stem for path in DOCS.glob("*.md")}


def test_no_built_page_fetches_anything_from_elsewhere(site):
    elsewhere = re.compile(r"\s*(?:https?:)?//", re.IGNORECASE)
    for path in site.rglob("*.html"):
        parser = Requests()
        parser.feed(path.read_text())
        assert [value for value in parser.found if value and elsewhere.match(value)] == [], path.name
        assert 'class="mermaid"' not in path.read_text(), "the theme would fetch mermaid; commit a drawing instead"
    for path in site.rglob("*.css"):
        found = re.findall(r"""(?:url\(|@import )\s*['"]?([^'")\s]+)""", path.read_text())
        assert [value for value in found if elsewhere.match(value)] == [], path.name


def test_every_entry_of_the_log_has_a_verdict_and_a_line_in_the_index():
    text = (ROOT / "results" / "LOG.md").read_text()
    headings = [heading for heading in re.findall(r"^## (.*)$", text, re.MULTILINE) if heading != "Index"]
    assert len(headings) >= 12
    for heading in headings:
        anchor = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")  # GitHub makes its anchors in the same way.
        assert f"(#{anchor})" in text, heading
        assert re.search(rf"^## {re.escape(heading)}\n\n\*\*Verdict: [^*]+\*\*\n", text, re.MULTILINE), heading


MEASURED = {  # Maps a row of the README's table to the row of docs/study.md.
    "method=herding": "herding",
    "method=facility_location": "facility location",
    "method=typiclust": "TypiClust",
    "method=dlc": "DLC + FlexRand",
    "method=el2n proxy=linear_probe": "EL2N (hardest images)",
}


@pytest.mark.parametrize(("named", "row"), MEASURED.items())
def test_the_numbers_of_the_readme_are_the_measured_ones(named, row):
    shown = re.search(rf"`{named}` \| (.*) \|$", PAGES["README.md"].read_text(), re.MULTILINE)[1].split(" | ")
    section = (DOCS / "study.md").read_text().split("## Every method against random")[1]
    heads = re.search(r"^\| method \| (.*) \|$", section, re.MULTILINE)[1].split(" | ")
    cells = re.search(rf"^\| {re.escape(row)} \| (.*) \|$", section, re.MULTILINE)[1].replace("*", "").split(" | ")
    assert shown == [cells[heads.index(budget)] for budget in ("5 %", "10 %", "50 %")]
