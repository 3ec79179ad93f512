"""The command: last line, exit codes, one line for bad input, help without torch, the headline command, sweeps."""

import inspect
import pickle
import re
import subprocess
import sys

import pytest
import timm
import torch

from made_data import cut_in_half, make_dtd, make_image_folder
from prunetune import hydra_entry
from prunetune.commands import listing, prepare
from prunetune.config import catalogue
from prunetune.data.prepare import cxrb10, deepweeds
from runs import (
    DIVERGING,
    MICRO,
    QUICK,
    ROOT,
    SMALL,
    lasting,
    prunetune_here,
    read_result,
    read_rows,
    run_command,
    run_commands,
)

DTD_CLASSES = [f"texture_{number:02d}" for number in range(47)]
BAD_INPUT = {  # Maps the name of a case to the arguments and to the expected error line.
    "a ratio above one": ([*SMALL, "ratio=10"], "error: ratio is the fraction kept and must be in (0, 1], got 10"),
    "missing data": (["dataset=dtd", "scorer=dlc"], "error: dtd is not in data/dtd; run `prunetune prepare dtd`"),
    "a gamma above one": ([*SMALL, "sampler=flexrand", "sampler.gamma=3"], "error: sampler.gamma is the easy fraction"),
    "a misspelt key": (
        [*SMALL, "finetune.epoch=3"],
        "There is no such option; --help lists them all.",
    ),
    "an option that was removed": (
        [*SMALL, "scorer.scope=layerwise"],
        "error: the option scorer.scope was removed, and every run now takes its value global; leave the option out",
    ),
    "an option that was removed, in a method": (
        ["--config-name", "grid", *SMALL, "methods=['dlc scorer.scope=global']", "ratios=[0.2]", "seeds=[0]"],
        "cannot be composed: the option scorer.scope was removed",
    ),
    "an option that was removed, with a typed group": (
        [*SMALL, "gamma_search.split=official_val"],
        "error: the option gamma_search.split was removed",
    ),
    "a misspelt key of a group": ([*SMALL, "scorer.levles=3"], "Key 'levles' is not in struct"),
    "a key that no run reads": (
        [*SMALL, "+gamma=0.4"],
        "there is no option gamma; the configuration has",
    ),
    "such a key of a group": (
        [*SMALL, "+finetune.epoch=3"],
        "there is no option finetune.epoch; finetune has",
    ),
    "such a key of a text run": (
        ["--config-name", "instruct", "corpus=embedded", "llm=tiny", "+sft.epoch=1"],
        "error: there is no option sft.epoch; sft has name",
    ),
    "such a key of a method": (
        ["--config-name", "grid", *SMALL, "methods=['random +keep=0.5']", "ratios=[0.2]", "seeds=[0]"],
        "error: there is no option keep",
    ),
    "a value that needs quotes": ([*SMALL, "tag=a#b"], "needs quotes of its own: 'key=\"value\"'"),
    "a misspelt group": (["dataset=dtdd"], "error: there is no dataset 'dtdd'. Did you mean 'dtd'? Known: cifar10, "),
    "a word for a number": (
        [*SMALL, "ratio=some"],
        "a number of images of each class such as 4_per_class, got 'some'",
    ),
    "words for statistics": (
        [*SMALL, "backbone.mean=[a,b,c]"],
        "backbone.mean must be three numbers in [0, 1], got ['a'",
    ),
    "a word for a size": (
        [*SMALL, "backbone.input_size=big"],
        "backbone.input_size is in pixels and must be a whole",
    ),
    "a backbone without a name": ([*SMALL, "backbone=timm"], "error: Backbone needs a model; pass backbone.model="),
    "an unknown step": ([*SMALL, "until=scores"], "error: until must be one of score, prune, finetune"),
    "a method that is not there": (
        ["--config-name", "grid", *SMALL, "methods=[dlcc]"],
        "error: method dlcc cannot be composed: there is no method 'dlcc'. Did you mean 'dlc'? See `prunetune list ",
    ),
    "a tag that is too long": (
        [*SMALL, f"tag={'x' * 300}"],
        "cannot be used (File name too long); shorten the name or pass results_dir=<folder>",
    ),
    "a folder of the run that cannot be": (
        [*SMALL, "hydra.run.dir=/proc/x"],
        "error: /proc/x cannot be used (No such file or directory); check the path or pass another hydra.run.dir",
    ),
    "a folder of a sweep that cannot be": (
        ["--multirun", *SMALL, "seed=0,1", "hydra.sweep.dir=/proc/x"],
        "error: /proc/x cannot be used (No such file or directory); check the path or pass another hydra.sweep.dir",
    ),
    "a missing checkpoint": ([*SMALL, "backbone.checkpoint=nowhere.pth"], "nowhere.pth is not a file"),
    "a loss that is no number": (
        [*SMALL, "scorer=random", *DIVERGING],
        "error: the training loss is",
    ),
}


@pytest.fixture(scope="module")
def headline(tmp_path_factory):
    """Run the headline command on made data in DTD's layout, with local weights, from a folder of its own."""
    folder = tmp_path_factory.mktemp("headline")
    make_dtd(folder / "data" / "dtd", DTD_CLASSES, {"train": 1, "val": 1, "test": 1})
    torch.save(timm.create_model("resnet18", num_classes=1000).state_dict(), folder / "weights.pth")
    small = ["dataset.check_counts=false", "backbone.input_size=64", "finetune.epochs=2", "finetune.views=1"]
    outcome = run_command(
        "dataset=dtd",
        "scorer=dlc",
        "ratio=0.1",
        "backbone.checkpoint=weights.pth",
        *small,
        "wandb=disabled",
        cwd=folder,
    )
    assert outcome.returncode == 0, outcome.stderr
    return folder, outcome


def test_the_headline_command_ends_with_the_runs_folder(headline):
    folder, outcome = headline
    place = "results/runs/dtd/resnet18/linear_probe/dlc-flexrand/ratio_0.1/seed_0/default"
    assert outcome.stdout.splitlines()[-1] == f"run: {folder / place}"
    result = read_result(folder / place)
    assert (result["num_pool"], result["num_kept"], result["num_test"]) == (94, 47, 47)
    assert result["config"]["backbone"]["model"] == "resnet18.tv_in1k"
    assert len(read_rows(folder / place / "subset.csv")) == 47


def test_the_headline_command_says_what_it_does_a_line_per_step(headline):
    _, outcome = headline
    assert outcome.stdout.count("\n") == 1
    for step in ("scored 94 images with dlc in", "kept 47 of 94, 1 per class", "accuracy"):
        assert step in outcome.stderr
    assert "Traceback" not in outcome.stderr


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """Run every bad input, and some good ones, and return their outcomes by name."""
    folder = tmp_path_factory.mktemp("commands")
    results = f"results_dir={folder / 'results'}"
    photos = make_image_folder(folder / "photos", {"bark": 4, "moss": 4})
    cut_in_half(photos / "bark" / "image_0001.jpg")
    (photos / "moss" / "image_0002.jpg").write_text("text")
    plan = {name: [*arguments, results] for name, (arguments, _) in BAD_INPUT.items()}
    (folder / "file").write_text("in the way")
    plan["unreadable images"] = ["dataset=image_folder", f"dataset.root={photos}", *MICRO, *QUICK, results]
    plan["a results folder that cannot be"] = [*SMALL, f"results_dir={folder / 'file' / 'results'}"]
    plan["results below /proc"] = [*SMALL, "results_dir=/proc/x"]
    good = [*SMALL, "scorer=random", "ratio=0.2"]
    plan["a run"] = plan["the run again"] = [*good, results]
    plan["the run changed"] = [*good, "finetune.epochs=4", results]
    plan["the first steps of a run"] = [*good, "seed=11", "until=prune", results]
    plan["a sweep"] = ["--multirun", *good, "seed=1,2", results]
    plan["a sweep with a bad job"] = ["--multirun", *good, "ratio=0.4,7,0.3", results]
    plan["a grid"] = ["--config-name", "grid", *SMALL, "methods=[random]", "ratios=[0.2]", "seeds=[0,2]", results]
    plan["the shipped weights"] = ["experiment=demo", *QUICK, "dataset.num_pool=100", "dataset.num_test=100", results]
    runs = folder / "results" / "runs" / "textures" / "micro" / "linear_probe"
    jobs = {name: {"arguments": arguments} for name, arguments in plan.items()}
    seeds = runs / "random-random" / "ratio_0.2"
    closed = {"modes": dict.fromkeys(map(str, [seeds, seeds / "seed_0/default", seeds / "seed_11/default"]), 0o555)}
    jobs["a finished run, read-only"] = {**jobs["a run"], **closed}
    jobs["a new run beside it"] = {"arguments": [*good, "seed=9", results], **closed}
    jobs["an unfinished run, read-only"] = {"arguments": [*good, "seed=11", results], **closed}
    done = run_commands(folder, list(jobs.values()))
    return dict(zip(jobs, done, strict=True)), runs


def is_one_error_line(outcome):
    lines = outcome.stderr.splitlines()
    return outcome.returncode == 1 and outcome.stdout == "" and len(lines) == 1 and lines[0].startswith("error: ")


@pytest.mark.parametrize("name", list(BAD_INPUT))
def test_bad_input_gives_a_one_line_error_and_an_exit_code(outcomes, name):
    outcome = outcomes[0][name]
    assert BAD_INPUT[name][1] in outcome.stderr
    assert "Traceback" not in outcome.stderr
    if name != "a loss that is no number":  # In this case the run has already reported its steps.
        assert is_one_error_line(outcome), outcome.stderr
    assert outcome.returncode == 1


@pytest.mark.parametrize("name", ["a results folder that cannot be", "results below /proc"])
def test_a_results_folder_that_cannot_be_made_gives_a_one_line_error(outcomes, name):
    outcome = outcomes[0][name]
    assert is_one_error_line(outcome), outcome.stderr
    assert "pass results_dir=<folder>" in outcome.stderr


def test_a_finished_run_in_a_read_only_folder_is_finished_and_nothing_is_written(outcomes):
    done, runs = outcomes
    outcome, run = done["a finished run, read-only"], runs / "random-random/ratio_0.2/seed_0/default"
    assert outcome.returncode == 0, outcome.stderr
    assert outcome.stdout == f"run: {run}\n"
    [line] = outcome.stderr.splitlines()
    assert "finished before" in line
    assert "finished before" not in (run / "run.log").read_text()


@pytest.mark.parametrize("name", ["a new run beside it", "an unfinished run, read-only"])
def test_a_run_that_cannot_write_is_one_line_before_anything_is_computed(outcomes, name):
    outcome = outcomes[0][name]
    if "cannot be given up" in outcome.stderr:
        pytest.skip("this process cannot give up root's right to write everywhere")
    assert is_one_error_line(outcome), outcome.stderr
    assert "(Permission denied" in outcome.stderr
    assert "; change its permissions or pass results_dir=<folder>" in outcome.stderr


def test_unreadable_images_are_named_and_counted(outcomes):
    outcome = outcomes[0]["unreadable images"]
    assert outcome.returncode == 1
    assert "Traceback" not in outcome.stderr
    line = outcome.stderr.splitlines()[-1]
    assert line.startswith("error: ")
    assert "images cannot be read, first: " in line


def test_a_run_prints_its_folder_and_so_does_the_same_run_again(outcomes):
    done, runs = outcomes
    expected = f"run: {runs / 'random-random/ratio_0.2/seed_0/default'}\n"
    assert [done["a run"].returncode, done["the run again"].returncode] == [0, 0]
    assert done["a run"].stdout == done["the run again"].stdout == expected
    assert "finished before" in done["the run again"].stderr


def test_a_changed_run_is_refused_with_the_fix(outcomes):
    outcome = outcomes[0]["the run changed"]
    assert is_one_error_line(outcome), outcome.stderr
    assert "finetune.epochs: 3 there, 4 now" in outcome.stderr
    assert "tag=<name>" in outcome.stderr


def test_a_sweep_leaves_a_finished_run_for_every_job(outcomes):
    done, runs = outcomes
    assert done["a sweep"].returncode == 0
    for seed in (1, 2):
        assert read_result(runs / f"random-random/ratio_0.2/seed_{seed}/default")["seed"] == seed


def test_a_failing_job_does_not_stop_the_others_and_is_reported_at_the_end(outcomes):
    done, runs = outcomes
    outcome = done["a sweep with a bad job"]
    assert outcome.returncode == 1
    assert outcome.stderr.splitlines()[-1] == "error: ratio is the fraction kept and must be in (0, 1], got 7.0"
    assert "Traceback" not in outcome.stderr
    for ratio in (0.4, 0.3):
        assert read_result(runs / f"random-random/ratio_{ratio}/seed_0/default")["ratio"] == ratio


def test_a_grid_skips_the_cell_that_ran_alone(outcomes):
    outcome = outcomes[0]["a grid"]
    assert outcome.returncode == 0, outcome.stderr
    assert "2 runs, 2 finished before" in outcome.stderr  # The words scorer=random and method=random name the same run.
    assert outcome.stdout.splitlines()[-1].startswith("run: ")


def test_the_demo_runs_with_the_shipped_weights(outcomes):
    outcome = outcomes[0]["the shipped weights"]
    assert outcome.returncode == 0, outcome.stderr
    assert outcome.stdout.splitlines()[-1].endswith("dlc-flexrand/ratio_0.1/seed_0/default")


@pytest.mark.parametrize("arguments", [["--help"], ["--cfg", "job"], ["--config-name", "grid", "--cfg", "job"]])
def test_help_and_the_configuration_are_printed_without_torch(arguments):
    outcome = subprocess.run(
        [sys.executable, "-X", "importtime", str(ROOT / "run.py"), *arguments],
        capture_output=True,
        text=True,
        check=True,
        cwd="/",
    )
    imported = {
        line.rpartition("|")[2].strip() for line in outcome.stderr.splitlines() if line.startswith("import time")
    }
    assert "prunetune.config" in imported
    assert {"torch", "timm", "torchvision", "sklearn", "wandb"} & imported == set()
    assert "ratio: 0.1" in outcome.stdout or "ratios:" in outcome.stdout


OTHER_FOLDERS = ("hydra", "__pycache__")  # These folders of configs are no config groups of this package.


def test_help_lists_every_option_of_every_group():
    shown = run_command("--help").stdout
    folders = {
        path.name: path for path in (ROOT / "configs").iterdir() if path.is_dir() and path.name not in OTHER_FOLDERS
    }
    options = {group: [path.stem for path in folder.glob("*.yaml")] for group, folder in folders.items()}
    options |= {group: list(catalogue.entries(kind)) for kind, group in catalogue.KINDS.items()}
    for group, names in options.items():
        assert f"{group}: {', '.join(sorted(names))}" in shown
    assert "prunetune run dataset=dtd scorer=dlc ratio=0.1" in shown
    assert "python run.py dataset=dtd scorer=dlc ratio=0.1" in shown


RANDOM = ["scorer=random", "ratio=0.2"]
QUOTED = "methods=['random sampler.budgets=equal tag=equal',\"random tag='a tag'\"]"
GRID = [*SMALL, "ratios=[0.2]", "seeds=[0]"]
COMMAND_LINES = {  # The words after `run.py`, and the same words after `prunetune`.
    "the help of image runs": (["--help"], ["run", "--help"]),
    "the configuration of a text run": (["--config-name", "instruct", "--cfg", "job"], ["instruct", "--cfg", "job"]),
    "a part of the configuration": (["--cfg", "job", "-p", "scorer"], ["run", "--cfg", "job", "-p", "scorer"]),
    "an option that Hydra has not": (["--bogus"], ["run", "--bogus"]),
    "a run": ([*SMALL, *RANDOM], ["run", *SMALL, *RANDOM]),
    "the run again": ([*SMALL, *RANDOM], ["run", *SMALL, *RANDOM]),
    "a run behind two dashes": (["--", *SMALL, *RANDOM, "seed=7"], ["run", "--", *SMALL, *RANDOM, "seed=7"]),
    "a sweep with a bad job": (["-m", *SMALL, *RANDOM, "ratio=0.3,7"], ["run", "-m", *SMALL, *RANDOM, "ratio=0.3,7"]),
    "a grid with quotes": (["--config-name", "grid", *GRID, QUOTED], ["grid", *GRID, QUOTED]),
    "a folder of one's own": (
        ["--config-dir", "own", *SMALL, "scorer=mine", "ratio=0.2"],
        ["run", "--config-dir", "own", *SMALL, "scorer=mine", "ratio=0.2"],
    ),
    "a bad value": ([*SMALL, "ratio=10"], ["run", *SMALL, "ratio=10"]),
    "a value that needs quotes": ([*SMALL, "tag=a#b"], ["run", *SMALL, "tag=a#b"]),
    "a key that no text run has": (
        ["--config-name", "instruct", "corpus=embedded", "llm=tiny", "+sft.epoch=1"],
        ["instruct", "corpus=embedded", "llm=tiny", "+sft.epoch=1"],
    ),
}
NO_RUN = ("--help", "--cfg", "--bogus")


@pytest.fixture(scope="module")
def twins(tmp_path_factory):
    """Run every command line by `python run.py` and by `prunetune`; return both outcomes and both results folders."""
    folder = tmp_path_factory.mktemp("twins")
    places = [folder / "by_file", folder / "by_command"]
    (folder / "own" / "scorer").mkdir(parents=True)
    mine = "_target_: prunetune.scorers.Random\nname: mine\nown_sampler: random\n"
    (folder / "own" / "scorer" / "mine.yaml").write_text(mine)
    jobs = []
    for lines in COMMAND_LINES.values():
        for words, place in zip(lines, places, strict=True):
            results = [] if set(words) & set(NO_RUN) else [f"results_dir={place}"]
            jobs.append({"arguments": [*words, *results], "as_command": place == places[1]})
    done = run_commands(folder, jobs)
    return dict(zip(COMMAND_LINES, zip(done[::2], done[1::2], strict=True), strict=True)), places


def told(text, place):
    """Return the printed text without paths, times and the name of the program."""
    text = text.replace(str(place), "<results>").replace("prunetune run", "run.py")
    text = re.sub(r"(\d{4}-\d\d-\d\d )?\d\d:\d\d:\d\d(,\d+)?|\d+(\.\d+)? s\b", "<time>", text)
    return " ".join(text.split())


@pytest.mark.parametrize("name", list(COMMAND_LINES))
def test_the_command_says_and_returns_what_run_py_does(twins, name):
    done, places = twins
    by_file, by_command = done[name]
    assert by_file.returncode == by_command.returncode
    assert told(by_file.stdout, places[0]) == told(by_command.stdout, places[1])
    assert told(by_file.stderr, places[0]) == told(by_command.stderr, places[1])
    assert by_file.stdout + by_file.stderr


def test_the_command_leaves_the_folders_that_run_py_does(twins):
    _, (by_file, by_command) = twins
    files = sorted(path.relative_to(by_file) for path in by_file.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(by_command) for path in by_command.rglob("*") if path.is_file())
    results = [path for path in files if path.name == "result.json"]
    assert len(results) == 6
    # The cells of the grid have no log of their own.
    alone = [path for path in results if path.parent.name == "default"]
    assert {path.with_name("run.log") for path in alone} <= set(files)
    for path in results:
        assert lasting(read_result((by_file / path).parent)) == lasting(read_result((by_command / path).parent))
    for path in files:
        if path.name in ("subset.csv", "scores.csv", "predictions.csv", "overrides.yaml"):
            there = (by_file / path).read_text().replace(str(by_file), str(by_command))
            assert there == (by_command / path).read_text(), path


def test_a_job_is_sent_by_the_name_of_its_function():
    assert pickle.loads(pickle.dumps(hydra_entry.run_job)) is hydra_entry.run_job


def test_of_several_processes_the_first_alone_prints_the_folder(tmp_path):
    words = ["run", *SMALL, *RANDOM, "until=prune", f"results_dir={tmp_path / 'results'}"]
    jobs = [{"arguments": words, "as_command": True, "environment": {"RANK": rank}} for rank in ("1", "0")]
    done = run_commands(tmp_path, jobs)
    assert [(each.returncode, each.stdout.count("\n")) for each in done] == [(0, 0), (0, 1)]


@pytest.mark.parametrize(
    ("words", "code", "line"),
    [
        (["lits"], 2, "No such command 'lits'. Did you mean 'list'?"),
        (["prepare", "dtdd"], 2, "No such command 'dtdd'. Did you mean 'dtd'?"),
        (["list", "scorer"], 2, "Invalid value"),
        (["list", "scorers", "--search", "zzz"], 1, "error: none of the scorers mentions 'zzz'"),
        (
            ["prepare", "dtd", "--archive", "nowhere.tar.gz"],
            1,
            "error: expected the archive dtd-r1.0.1.tar.gz at nowhere",
        ),
        (["wandb-report", "--wandb", "onlin"], 1, "error: results has neither tables/*.csv nor figures/*.png"),
    ],
)
def test_a_mistake_is_reported_on_standard_error_without_a_traceback(tmp_path, monkeypatch, words, code, line):
    monkeypatch.chdir(tmp_path)
    done = prunetune_here(*words)
    assert (done.returncode, done.stdout) == (code, "")
    assert line in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert code == 2 or done.stderr.count("\n") == 1


def test_every_command_is_in_the_help_and_explains_itself():
    shown = prunetune_here("--help").stdout
    for name in (*("run", "grid", "instruct", "prepare", "status", "collect", "report", "tables", "figures"),):
        assert re.search(rf"^. {name} +\w", shown, re.MULTILINE), name
    for name in ("status", "collect", "report", "tables", "figures", "analyse", "wandb-report", "list", "version"):
        done = prunetune_here(name, "--help")
        assert done.returncode == 0
        assert f"prunetune {name}" in done.stdout


@pytest.mark.parametrize("kind", list(listing.Kind))
def test_the_list_has_every_name_with_its_line(kind):
    done = prunetune_here("list", kind)
    assert done.returncode == 0
    lines = [line.split() for line in done.stdout.splitlines() if re.match(r"  [a-z]", line)]
    assert lines[0][:2] == ["name", "about"]
    assert [line[0] for line in lines[1:]] == list(catalogue.entries(kind))
    assert all(len(line) > 1 for line in lines)


def test_everything_that_the_catalogue_has_can_be_listed():
    assert set(listing.Kind) == set(catalogue.KINDS)


def test_the_list_is_searched_by_a_word():
    lines = prunetune_here("list", "scorers", "--search", "HERDING").stdout
    assert {line.split()[0] for line in lines.splitlines() if re.match(r"  [a-z]", line)} >= {"name", "herding"}
    assert "el2n" not in lines


@pytest.mark.parametrize("words", [["--help"], ["prepare", "cxrb10", "--help"], ["list", "scorers"], ["version"]])
def test_the_command_starts_without_the_heavy_libraries(words):
    outcome = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "prunetune", *words],
        capture_output=True,
        text=True,
        check=True,
        cwd="/",
    )
    imported = {
        line.rpartition("|")[2].strip() for line in outcome.stderr.splitlines() if line.startswith("import time")
    }
    assert "prunetune.cli" in imported
    assert {"torch", "timm", "torchvision", "sklearn", "wandb", "pandas", "matplotlib"} & imported == set()


def test_an_option_of_several_words_takes_the_files_of_a_shell_pattern():
    words = ["--labels", "a.csv", "b.csv", "--root", "here", "--labels", "c.csv"]
    expected = ["--labels", "a.csv", "--labels", "b.csv", "--root", "here", "--labels", "c.csv"]
    assert prepare.repeated(words, {"--labels", "--archive"}) == expected


def test_the_defaults_of_prepare_equal_those_of_the_functions_that_it_calls():
    for name, module in (("cxrb10", cxrb10), ("deepweeds", deepweeds)):
        assert inspect.signature(getattr(prepare, name)).parameters["per_class"].default == module.PER_CLASS
