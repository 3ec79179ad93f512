"""The smallest runs of images, grids and text, and the comparison of their results."""

import csv
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from scripts.drill.cases import WRONG, Miss
from scripts.drill.processes import Ended

ROOT = Path(__file__).resolve().parents[2]
QUICK = ["finetune.epochs=3", "finetune.views=1", "backbone.input_size=16"]
TEXTURES = ["experiment=demo", "dataset.num_pool=120", "dataset.num_test=100", "dataset.size=16", *QUICK]
GRID = [*TEXTURES, "methods=[herding,dlc]", "ratios=[0.1,0.3]", "seeds=[0]"]
TEXT = ["corpus=embedded", "corpus.limit=32", "llm=tiny", "llm.layers=1", "llm.width=16", "device=cpu", "held_out=0.25"]
TEXT += ["sft=released", "sft.batch_size=4", "sft.warmup_steps=1", "sft.checkpoint_every=1"]
TEXT += [f"evaluation.tasks_folder={ROOT / 'tests' / 'instruct' / 'tasks'}", "evaluation.tasks=[everyday_animals]"]
TEXT += ["evaluation.num_fewshot=[0]", "evaluation.limit=2"]
CLASSES = ("bark", "moss", "sand")
PER_CLASS = 10


def photos(folder: Path, seed: int = 0) -> Path:
    """Write small images in a folder for each class, and return the folder. Other seeds give other pixels."""
    draws = np.random.default_rng(seed)
    for label, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for number in range(PER_CLASS):
            pixels = draws.integers(0, 120, (24, 20, 3)) + 45 * label
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{number:02d}.png")
    return folder


def photo_run(root: Path) -> list[str]:
    """Return the command line of a run on a folder of images."""
    return ["run", "experiment=demo", "dataset=image_folder", f"dataset.root={root}", "ratio=0.3", *QUICK]


def in_folder(results: Path) -> str:
    """Return the override that puts the results there."""
    return f"results_dir={results}"


def run_folders(results: Path) -> list[Path]:
    """Return the folders of all finished runs."""
    return sorted(file.parent for file in (results / "runs").rglob("result.json"))


def same_results(calm: Path, results: Path, ended: Ended) -> None:
    """Refuse results that differ from those of an undisturbed run.

    Args:
        calm: the results folder of the undisturbed run.
        results: the results folder to compare.
        ended: the last command that wrote it, for the message.
    """
    theirs, ours = ([folder.relative_to(root) for folder in run_folders(root)] for root in (calm, results))
    if theirs != ours:
        raise Miss(WRONG, f"{len(ours)} finished runs instead of {len(theirs)}", ended.words)
    for folder in theirs:
        if difference := _difference(calm, results, folder):
            raise Miss(WRONG, f"{difference} differs from an undisturbed run", ended.words)


def same_files(calm: Path, other: Path, ended: Ended) -> None:
    """Refuse a file that differs from the file of an undisturbed run."""
    if not other.is_file() or calm.read_bytes() != other.read_bytes():
        raise Miss(WRONG, f"{other.name} differs from an undisturbed run", ended.words)


def same_choice(calm: Path, results: Path, ended: Ended) -> None:
    """Refuse a run that kept other samples or trained otherwise than the run on a plain input. Its files have paths."""
    [theirs], [ours] = run_folders(calm), run_folders(results)
    for name in ("subset.csv", "predictions.csv", "history.csv"):
        if (theirs / name).read_bytes() != (ours / name).read_bytes():
            raise Miss(WRONG, f"{name} differs from that of the plain input", ended.words)


def no_leftovers(folder: Path, ended: Ended) -> None:
    """Refuse temporary files that nobody removes."""
    left = list(_hidden(folder))
    if left:
        raise Miss(WRONG, f"{len(left)} temporary files are left, such as {left[0].relative_to(folder)}", ended.words)


def sane(results: Path, ended: Ended) -> None:
    """Refuse results with numbers that are not finite, or fractions outside 0 to 1."""
    for folder in run_folders(results):
        result = json.loads((folder / "result.json").read_text())
        if not 0 <= result["accuracy"] <= 1 or not all(map(math.isfinite, _numbers(result))):
            raise Miss(WRONG, f"{folder.name}/result.json has a number that is not finite", ended.words)
        with (folder / "history.csv").open(newline="") as file:
            losses = [float(row["train_loss"]) for row in csv.DictReader(file)]
        if not all(map(math.isfinite, losses)):
            raise Miss(WRONG, "history.csv has a loss that is not finite", ended.words)


def _difference(calm: Path, results: Path, folder: Path) -> str | None:
    from prunetune.instruct.text_run import VOLATILE  # These are the volatile keys of image runs and further ones.

    theirs, ours = (json.loads((root / folder / "result.json").read_text()) for root in (calm, results))
    for key in sorted((theirs.keys() | ours.keys()) - VOLATILE):
        if theirs.get(key) != ours.get(key):
            return f"{key} of result.json"
    for file in (folder / "subset.csv", folder / "predictions.csv", Path(theirs["scores_path"])):
        contents = [(root / file).read_bytes() if (root / file).is_file() else None for root in (calm, results)]
        if contents[0] != contents[1]:
            return file.name
    histories = [_rows(root / folder / "history.csv") for root in (calm, results)]
    return None if _are_close(*histories) else "history.csv"


def _rows(file: Path) -> list[list[str]]:
    if not file.is_file():
        return []
    with file.open(newline="") as opened:
        return list(csv.reader(opened))


def _are_close(theirs: list[list[str]], ours: list[list[str]]) -> bool:
    """Whether two tables agree. Probes that are trained together round other digits than one that is trained alone."""
    if [len(row) for row in theirs] != [len(row) for row in ours]:
        return False
    cells = [(a, b) for rows in zip(theirs, ours, strict=True) for a, b in zip(*rows, strict=True) if a != b]
    try:
        return all(math.isclose(float(a), float(b), rel_tol=1e-5) for a, b in cells)
    except ValueError:
        return False


def _hidden(folder: Path) -> Iterator[Path]:
    for place, folders, files in os.walk(folder):
        if ".hydra" in folders:
            folders.remove(".hydra")
        yield from (Path(place, name) for name in (*folders, *files) if name.startswith("."))


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _numbers(item)
    elif isinstance(value, float):
        yield value
