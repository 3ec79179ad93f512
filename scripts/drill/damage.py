"""Stored products that are damaged while headers and sizes stay as they were, or that belong to another entry."""

import random
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scripts.drill.cases import WRONG, Case, Miss, Place, Suite, decided, finished, named
from scripts.drill.faults import kill_when
from scripts.drill.processes import Ended, run
from scripts.drill.tiny_runs import TEXT, TEXTURES, in_folder, no_leftovers, photo_run, photos, same_files, same_results

PAGE = 4096  # Bytes.
TEXT_FILES = (".csv", ".json")
PROBE = ["proxy=linear_probe", "proxy.epochs=2"]
SEARCH = ["sampler=flexrand", "sampler.gamma=auto", "gamma_search.repeats=1"]
S2L = ["text_scorer=s2l", "text_scorer.clusters=3", "trajectory.checkpoints=2"]
Damage = Callable[[Path, Path], None]  # The file or folder to damage, and the same of another entry.


@dataclass(frozen=True)
class Stored:
    """A kind of stored product. recipe: the run that makes it. files: what an entry has beside key.json and meta.json.

    hides: kinds that are made from it. Without them the next run reads it.
    """

    recipe: str
    kind: str
    files: tuple[str, ...]
    hides: tuple[str, ...] = ()


STORED = (
    Stored("photos", "images", ("pixels.bin", "shapes.npy"), ("features", "scores", "views")),
    Stored("photos", "features", ("features.npy",), ("scores",)),
    Stored("photos", "scores", ("scores.csv", "losses.npy")),
    Stored("photos", "views", ("views.npy", "positions.npy")),
    Stored("search", "masked", ("masked.npy",), ("scores",)),
    Stored("probe", "proxies", ("weights.npy", "biases.npy"), ("scores",)),
    Stored("full", "proxies", ("logits_1.npy", "logits_2.npy", "features_2.npy", "model_2.safetensors"), ("scores",)),
    Stored("grand", "parts", ("values.npy",), ("scores",)),
    Stored("layers", "layers", ("layers.npy",), ("scores",)),
    Stored("text", "scores", ("scores.csv", "losses.npy")),
    Stored(
        *("text", "adapters", ("adapter_model.safetensors", "adapter_config.json", "history.json")),
        hides=("answers", "held_out"),
    ),
    Stored("text", "answers", ("evaluation.json",)),
    Stored("text", "held_out", ()),
    Stored("s2l", "trajectories", ("losses.npy",), ("scores",)),
    Stored("s2l", "scores", ("scores.csv", "trajectories.npy")),
)
DESCRIBING = ("key.json", "meta.json")
NO_PRODUCTS = ("README.md", "last_cleaned")  # The time of the last file tells when leftovers were looked for.
RECIPES = tuple(dict.fromkeys(stored.recipe for stored in STORED))


def command(recipe: str, shared: Path, other: bool = False) -> list[str]:
    """Return the command line of a run. other: of the same run on other images or with another language model."""
    if recipe == "photos":
        return photo_run(shared / ("other" if other else "photos"))
    if recipe in ("text", "s2l"):
        return ["instruct", *TEXT, *(S2L if recipe == "s2l" else []), f"llm.seed={int(other)}"]
    words = {
        "search": ["scorer=dlc", *SEARCH],
        "probe": ["scorer=el2n", *PROBE],
        "full": ["scorer=el2n", "scorer.repeats=1", "proxy.epochs=2", "proxy.milestones=[]"],
        "grand": ["scorer=grand", "scorer.repeats=1", *PROBE],
        "layers": ["scorer=lc_knn"],
    }
    return ["run", *TEXTURES, *words[recipe], f"dataset.seed={int(other)}"]


def suite(recipe: str) -> Suite:
    """Return the cases of one run and of its products."""

    def prepare(shared: Path) -> None:
        photos(shared / "photos")
        photos(shared / "other" / "photos", seed=1).rename(shared / "_")
        shutil.rmtree(shared / "other")
        (shared / "_").rename(shared / "other")
        for name, other in (("calm", False), ("twin", True)):
            finished(run([*command(recipe, shared, other), in_folder(shared / name)], shared))
        _check_complete(recipe, shared / "calm" / "store")

    cases = [case for stored in STORED if stored.recipe == recipe for case in _cases(stored)]
    if recipe in ("photos", "text"):
        cases += _run_cases(recipe)
    return Suite(f"damage of {recipe}", tuple(cases), prepare, needs_text=recipe in ("text", "s2l"))


def _check_complete(recipe: str, store: Path) -> None:
    """Refuse a product that this module does not know, so that none is forgotten."""
    known = {file for stored in STORED for file in stored.files} | {*DESCRIBING, *NO_PRODUCTS}
    found = {path.name for path in store.rglob("*") if path.is_file()}
    if found - known:
        raise RuntimeError(f"the run {recipe} stores files that the drill does not know: {sorted(found - known)}")


def _cases(stored: Stored) -> list[Case]:
    def case(file: str, damage: str) -> Case:
        about = f"{stored.kind} of {stored.recipe}, {file or 'the entry'}, {damage}"
        return Case(f"stored product, {damage}", about, lambda place: _check(place, stored, file, DAMAGES[damage]))

    damages = ("one bit flipped", "one page zeroed", "body replaced")
    cases = [case(file, damage) for damage in damages for file in (*stored.files, *DESCRIBING)]
    return [*cases, case("", "exchanged")]


def _check(place: Place, stored: Stored, file: str, damage: Damage) -> None:
    """Damage one file of an entry, or the entry, and give the command that reads it."""
    calm, words = place.shared / "calm", command(stored.recipe, place.shared)
    shutil.copytree(calm, place.results)
    for kind in ("runs", *(f"store/{hidden}" for hidden in stored.hides)):
        shutil.rmtree(place.results / kind, ignore_errors=True)
    entry, twin = _entry(place.results, stored.kind), _entry(place.shared / "twin", stored.kind)
    damage(entry / file, twin / file)
    ended = run([*words, in_folder(place.results)], place.folder)
    if decided(ended):
        same_results(calm, place.results, ended)
        _made_again(calm / entry.relative_to(place.results), entry, ended)
    named(ended, entry.name)
    no_leftovers(place.results, ended)


def _entry(results: Path, kind: str) -> Path:
    """Return the largest entry of a kind: that of the pool, not that of the test images."""
    entries = sorted(key.parent for key in (results / "store" / kind).rglob("key.json"))
    return max(entries, key=lambda entry: sum(path.stat().st_size for path in entry.iterdir()))


def _made_again(calm: Path, entry: Path, ended: Ended) -> None:
    for file in calm.iterdir():
        if file.suffix != ".json":  # Some of them hold seconds.
            same_files(file, entry / file.name, ended)


def flip_bit(file: Path, other: Path) -> None:
    """Flip one bit behind the header. In text it is the last bit of a digit, which stays a digit."""
    content = bytearray(file.read_bytes())
    if file.suffix in TEXT_FILES:
        digits = _digits(bytes(content))
        content[random.Random(file.name).choice(digits)] ^= 1
    else:
        start = _header(file, bytes(content))
        content[random.Random(file.name).randrange(start, len(content))] ^= 1 << 4
    _write(file, bytes(content))


def zero_page(file: Path, other: Path) -> None:
    """Zero a page behind the header, or everything behind it in a smaller file."""
    content = file.read_bytes()
    start = _header(file, content)
    aligned = -(-start // PAGE) * PAGE
    start = aligned if aligned + PAGE <= len(content) and any(content[aligned : aligned + PAGE]) else start
    end = min(start + PAGE, len(content))
    _write(file, content[:start] + bytes(end - start) + content[end:])


def replace_body(file: Path, other: Path) -> None:
    """Put other numbers in the place of all numbers behind the header."""
    content = file.read_bytes()
    if file.suffix in TEXT_FILES:
        digits, changed = set(_digits(content)), bytearray(content)
        for place in digits:
            changed[place] = ord("9") + ord("0") - content[place]
        _write(file, bytes(changed))
    else:
        start = _header(file, content)
        size = np.load(file, mmap_mode="r").dtype.itemsize if file.suffix == ".npy" else 1
        _write(file, content[:start] + np.frombuffer(content[start:], f"V{size}")[::-1].tobytes())


def exchange(entry: Path, other: Path) -> None:
    """Put another entry of the same kind in the place of an entry."""
    shutil.rmtree(entry)
    shutil.copytree(other, entry)


def delete(file: Path, other: Path) -> None:
    """Delete a file."""
    file.unlink()


def cut(file: Path, other: Path) -> None:
    """Keep the first half of a file."""
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])


DAMAGES: dict[str, Damage] = {
    "one bit flipped": flip_bit,
    "one page zeroed": zero_page,
    "body replaced": replace_body,
    "exchanged": exchange,
    "deleted": delete,
    "cut in half": cut,
}


def _digits(content: bytes) -> list[int]:
    """Return the places of the digits of fractions, since other digits can belong to names; all digits if none."""
    text = content.decode("latin-1")
    places = [place for found in re.finditer(r"(?<=\d\.)\d+", text) for place in range(*found.span())]
    return places or [found.start() for found in re.finditer(r"\d", text)]


def _header(file: Path, content: bytes) -> int:
    """Return the number of bytes before the values of a file."""
    if file.suffix == ".npy":
        return 10 + int.from_bytes(content[8:10], "little")
    if file.suffix == ".safetensors":
        return 8 + int.from_bytes(content[:8], "little")
    return content.index(b"\n") + 1 if file.suffix == ".csv" else 0


def _write(file: Path, content: bytes) -> None:
    if content == file.read_bytes():
        raise RuntimeError(f"the drill did not change {file.name}")
    file.write_bytes(content)


RUN_FILES = {"photos": ("subset.csv", "predictions.csv", "history.csv"), "text": ("subset.csv", "history.csv")}
FINISHED = "file of a finished run"


def _run_cases(recipe: str) -> list[Case]:
    damages = ("one bit flipped", "body replaced", "cut in half", "deleted")
    files = [(file, damage) for file in RUN_FILES[recipe] for damage in damages]
    files += [("result.json", damage) for damage in ("cut in half", "deleted", "one page zeroed")]
    return [
        Case(
            FINISHED,
            f"{file} of {recipe}, {damage}",
            lambda place, file=file, damage=damage: _check_run(place, recipe, file, DAMAGES[damage]),
        )
        for file, damage in files
    ]


def _check_run(place: Place, recipe: str, file: str, damage: Damage) -> None:
    """Damage a file of a finished run, and give its command again."""
    calm, words = place.shared / "calm", command(recipe, place.shared)
    shutil.copytree(calm, place.results)
    [damaged] = (place.results / "runs").rglob(file)
    damage(damaged, damaged)
    ended = run([*words, in_folder(place.results)], place.folder)
    if decided(ended):
        same_results(calm, place.results, ended)
    if (file, damage) != ("result.json", delete):  # Without it the run is not finished, and nothing is damaged.
        _mentioned(ended, file)
    no_leftovers(place.results, ended)


def _mentioned(ended: Ended, name: str) -> None:
    if not any(name in line and "finished before" not in line for line in ended.text.splitlines()):
        raise Miss(WRONG, f"said nothing about {name}", ended.words)


UNFINISHED = "unfinished work of a text run"
WORK = {  # Maps the files of unfinished work to the change of a file at which the run is killed.
    "sft-checkpoint.pt": (TEXT, "os.rename", "sft-checkpoint.pt", 3),
    "batch-000000.npz": ([*TEXT, "max_tokens=2000"], "open", "scores.csv", 1),
}


def unfinished() -> Suite:
    """Return the cases of damaged unfinished work of text runs."""

    def prepare(shared: Path) -> None:
        for file, (words, event, name, times) in WORK.items():
            for root, seed in (("calm", 0), ("half", 0), ("twin", 1)):
                results = shared / file / root
                stop = None if root == "calm" else kill_when(results, event, name, times)
                run(["instruct", *words, f"llm.seed={seed}", in_folder(results)], shared, stop)

    cases = [
        Case(UNFINISHED, f"{file}, {damage}", lambda place, file=file, damage=damage: _check_work(place, file, damage))
        for file in WORK
        for damage in ("one bit flipped", "one page zeroed", "body replaced", "exchanged", "cut in half")
    ]
    return Suite("unfinished work", tuple(cases), prepare, needs_text=True)


def _check_work(place: Place, file: str, damage: str) -> None:
    """Damage a file of unfinished work, and go on."""
    shared = place.shared / file
    shutil.copytree(shared / "half", place.results)
    [mine, theirs] = (sorted((root / "store").rglob(file))[0] for root in (place.results, shared / "twin"))
    if damage == "exchanged":
        shutil.copyfile(theirs, mine)
    else:
        DAMAGES[damage](mine, theirs)
    ended = run(["instruct", *WORK[file][0], "llm.seed=0", in_folder(place.results)], place.folder)
    if decided(ended):
        same_results(shared / "calm", place.results, ended)
    _mentioned(ended, file)


SUITES = (*map(suite, RECIPES), unfinished())
