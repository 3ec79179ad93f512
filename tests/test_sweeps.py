"""The header of a sweep is right, and the status of a sweep agrees with the files on disk."""

import copy
import functools
import json
import re
import shutil
import subprocess
import sys

import pytest
import yaml
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from prunetune.base.errors import InputError
from prunetune.config import sweeps
from prunetune.config.cells import parse_grid, read_entry
from prunetune.instruct.identity import text_recorded
from prunetune.instruct.methods import TEXT_METHODS
from prunetune.instruct.names import text_run_folder
from prunetune.instruct.parse import parse_text_run
from prunetune.instruct.sweeps import TEXT_RUNS
from prunetune.runs import failures, image_run, records, status
from runs import ONE_THREAD, ROOT, SMALL, grid_here, prunetune_here, read_result, run_commands

SWEEPS = sorted(path.stem for path in (ROOT / "configs" / "sweep").glob("*.yaml"))
TEXTS = ["instruction", "instruction_base", "v1_llm", "v1_llm_full"]
GRIDS = [name for name in SWEEPS if name not in TEXTS]
PAPER = [name for name in GRIDS if not name.startswith("demo")]


@pytest.fixture(autouse=True)
def _hydra():
    with initialize_config_dir(config_dir=str(ROOT / "configs"), version_base="1.3"):
        yield


composed_once = functools.cache(functools.partial(sweeps.compose_sweep, kinds=[TEXT_RUNS]))
jobs = functools.partial(sweeps.jobs, kinds=[TEXT_RUNS])
root_of = functools.partial(sweeps.root_of, kinds=[TEXT_RUNS])


def compose_sweep(name, overrides=()):
    """Return a composed sweep, the same object for the same words: tests read it and do not change it."""
    return composed_once(name, tuple(overrides))


def header(name):
    lines = (ROOT / "configs" / "sweep" / f"{name}.yaml").read_text().splitlines()
    return "\n".join(line for line in lines if line.startswith("#"))


def counts(name, *overrides):
    found = jobs(compose_sweep(name, overrides))
    return len(found), sum(job.num_runs for job in found)


def parameters(name):
    return dict(compose_sweep(name).hydra.sweeper.params)


def test_every_promised_preset_exists():
    wanted = {"main", "weakly", "transfer", "ablation_path", "ablation_masking", "ablation_sampler", "ablation_gamma"}
    wanted |= {"time", "v1_depths", "v1_paradigms", "v1_rank", "cifar10", "demo", *TEXTS}
    assert wanted <= set(SWEEPS)


@pytest.mark.parametrize("name", SWEEPS)
def test_a_sweep_has_as_many_jobs_and_runs_as_its_header_says(name):
    num_jobs, runs = map(int, re.search(r"Jobs: (\d+)\. Runs: (\d+)\. GPU hours: \d+", header(name)).groups())
    assert counts(name) == (num_jobs, runs)


@pytest.mark.parametrize("name", SWEEPS)
def test_the_cheap_variant_of_a_header_has_as_many_jobs_and_probes_as_it_says(name):
    cheap = re.search(r"Cheap: (sweep=\S+.*)\n#   is (\d+) jobs? of (\d+) probes", header(name))
    if cheap is None:
        assert name.startswith("demo") or name in ("v1_rank", *TEXTS)
        return
    first, *words = cheap.group(1).replace("'", "").split()
    jobs, each = int(cheap.group(2)), int(cheap.group(3))
    assert first == f"sweep={name}"
    assert words[0] == "finetune=linear_probe"
    assert counts(name, *words) == (jobs, jobs * each)


@pytest.mark.parametrize("name", SWEEPS)
def test_a_header_names_its_command_and_its_product(name):
    text = header(name)
    root = "instruct" if name in TEXTS else "grid"
    assert root_of(name) == root
    assert f"python run.py --config-name {root} sweep={name}" in text
    assert "# Product: " in text
    assert "estimate, unmeasured" in text or "GPU hours: 0." in text


@pytest.mark.parametrize("name", GRIDS)
def test_a_sweep_is_a_multirun_and_its_methods_are_one_list(name):
    cfg = compose_sweep(name)
    assert cfg.hydra.mode.name == "MULTIRUN"
    content = yaml.safe_load((ROOT / "configs" / "sweep" / f"{name}.yaml").read_text())
    # The methods are listed as YAML reads them.
    listed = list(OmegaConf.create(content["hydra"]["sweeper"]["params"]["methods"]))
    assert all(list(job.methods) == listed for job in jobs(cfg))  # The methods are the same as Hydra reads them.


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_sweeps_are_in_fp32_with_imagenets_statistics_and_a_full_recipe(name):
    cfg = compose_sweep(name)
    assert (cfg.precision, cfg.backbone.normalization) == ("fp32", "imagenet")
    assert cfg.finetune.name == {"v1_rank": "linear_probe"}.get(name, "full_v1" if name.startswith("v1") else "full")
    assert compose_sweep(name, ["finetune=linear_probe"]).finetune.name == "linear_probe"


@functools.cache
def first_cells(name):
    """Return the cells of a sweep's first job, composed once, with one ratio and one seed.

    The paper's sweeps get the same data set, network, ratio and seed, so that their cells can be compared.
    """
    job = jobs(compose_sweep(name))[0]
    words = [word for word in job.overrides if word.split("=")[0] not in ("ratios", "seeds")]
    words += ["ratios=[0.1]", "seeds=[0]"]
    if name in PAPER:
        words = [word for word in words if word.split("=")[0] not in ("dataset", "backbone")]
        # The fine-tuned networks of transfer are larger than the scoring one.
        words += ["dataset=dtd", "backbone=resnet50" if name == "transfer" else "backbone=resnet18"]
    return parse_grid(sweeps.compose("grid", overrides=words), words).cells


@pytest.mark.parametrize("name", GRIDS)
def test_every_cell_of_a_sweep_can_be_run_and_no_two_share_a_folder(name):
    cells = first_cells(name)
    assert len({cell.out_dir for cell in cells}) == len(cells) == len(jobs(compose_sweep(name))[0].methods)
    for cell in cells:
        image_run.check(cell.run)


def test_runs_that_two_sweeps_share_are_the_same_runs():
    seen = {}
    for name in PAPER:
        for cell in first_cells(name):
            assert seen.setdefault(cell.out_dir, cell.run.record) == cell.run.record, (name, cell.out_dir)
    assert len(seen) > 60


def test_the_main_comparison_is_the_papers():
    params = parameters("main")
    assert params["dataset"] == "cxrb10,deepweeds,dtd,fgvcaircraft,sketch"
    assert params["backbone"] == "resnet18,resnet50,vit_small,vit_base"
    job = jobs(compose_sweep("main"))[0]
    assert len(job.methods) == 11
    assert job.seeds == (0, 1, 2)
    ratios = {job.ratios for job in jobs(compose_sweep("main"))}
    assert ratios == {(k / 10,) for k in range(1, 10)}
    assert parameters("time") == params
    weakly = {**parameters("weakly"), "backbone": "_weakly,".join(params["backbone"].split(",")) + "_weakly"}
    assert weakly == parameters("weakly")


def test_gammas_go_from_005_to_095_with_their_tags():
    [job, *_] = jobs(compose_sweep("ablation_gamma"))
    swept = [read_entry(entry)[1] for entry in job.methods if " " in entry]
    gammas = [float(words[0].removeprefix("sampler.gamma=")) for words in swept]
    assert gammas == pytest.approx([k / 20 for k in range(1, 20)])
    assert [words[1] for words in swept] == [f"tag=g{gamma:g}" for gamma in gammas]


def test_path_sizes_step_by_one_over_their_number():
    [job, *_] = jobs(compose_sweep("ablation_path"))
    for entry in job.methods[1:]:
        levels, step, tag = (word.split("=")[1] for word in read_entry(entry)[1])
        assert tag == f"T{levels}"
        assert float(step) == pytest.approx(1 / int(levels))
    assert [entry.split("=")[-1] for entry in job.methods[1:]] == ["T1", "T3", "T5", "T10", "T20", "T30", "T40", "T50"]


def test_the_command_line_wins_over_a_preset():
    [job] = jobs(compose_sweep("main", ["dataset=dtd", "backbone=resnet18", "ratios=[1]", "seeds=[7]"]))
    assert (job.ratios, job.seeds, job.num_runs) == ((1.0,), (7,), 11)


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("mian", [], r"sweep mian cannot be composed: there is no sweep 'mian'\. Did you mean 'main'\?"),
        ("main", ["finetune.epoch=3"], "sweep main cannot be composed: .*epoch"),
        ("main", ["ratio=0.3"], "a grid takes ratios="),
        ("main", ["methods=['dlc seed=3']"], "a method of a grid cannot set seed"),
    ],
)
def test_an_invalid_request_for_a_status_gives_a_one_line_error(name, overrides, message):
    with pytest.raises(InputError, match=message) as caught:
        list(map(status.state, sweeps.planned(jobs(compose_sweep(name, overrides)))))
    assert "\n" not in str(caught.value)


TINY = [*SMALL, "methods=[random,'dlc sampler.gamma=0.25 tag=g0.25']", "ratios=[0.2],[0.3]", "seeds=[0,1]"]


def states_of(results, *overrides):
    cfg = compose_sweep("demo", [*TINY, *overrides, f"results_dir={results}"])
    return list(map(status.state, sweeps.planned(jobs(cfg))))


def count(cells):
    return {state: sum(cell.state == state for cell in cells) for state in status.STATES}


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """Run the tiny sweep, two jobs of four runs, as a command, and return its results folder."""
    results = tmp_path_factory.mktemp("sweep") / "results"
    [outcome] = run_commands(
        results.parent, [{"arguments": ["--config-name", "grid", "sweep=demo", *TINY, f"results_dir={results}"]}]
    )
    assert outcome.returncode == 0, outcome.stderr
    return results


@pytest.fixture
def results(swept, tmp_path):
    """Return a copy of the finished sweep's results, to be damaged."""
    shutil.copytree(swept, tmp_path / "results")
    return tmp_path / "results"


def test_a_finished_sweep_is_done_and_its_cells_are_where_status_looks(swept):
    cells = states_of(swept)
    assert count(cells) == {"done": 8, "failed": 0, "missing": 0, "unreadable": 0}
    assert {cell.out_dir for cell in cells} == {path.parent for path in (swept / "runs").rglob("result.json")}
    assert {cell.dataset for cell in cells} == {"textures"}


def test_nothing_is_done_of_a_sweep_that_has_not_been_started(tmp_path):
    assert count(states_of(tmp_path / "nowhere")) == {"done": 0, "failed": 0, "missing": 8, "unreadable": 0}


def test_a_killed_run_is_missing_and_a_damaged_result_is_unreadable_and_named(results):
    cells = states_of(results)
    shutil.rmtree(cells[0].out_dir)
    (cells[1].out_dir / "result.json").unlink()  # This run was killed before it was finished.
    damaged = cells[2].out_dir / "result.json"
    damaged.write_text(damaged.read_text()[:100])
    now = states_of(results)
    assert [cell.state for cell in now[:3]] == ["missing", "missing", "unreadable"]
    assert now[2].reason == f"{damaged} is damaged"
    assert count(now)["done"] == 5


def test_a_run_of_another_configuration_counts_as_failed_with_the_difference(results):
    cells = states_of(results, "finetune.epochs=9")
    assert count(cells)["failed"] == 8
    assert "finetune.epochs: 3 there, 9 now" in cells[0].reason


def test_a_jobs_error_is_that_of_its_unfinished_cells_and_a_cells_own_comes_first(results):
    cells = states_of(results)
    [first, second] = sorted({cell.out_dir.parent.parent.name for cell in cells})
    assert (first, second) == ("ratio_0.2", "ratio_0.3")
    here = [cell.out_dir for cell in cells if "ratio_0.3" in cell.out_dir.parts]
    for out_dir in here[:2]:
        (out_dir / "result.json").unlink()
    failures.note(here[0], RuntimeError("its own"))
    [job] = [path.parent.parent for path in (results / "grids").rglob("overrides.yaml") if "0.3]" in path.read_text()]
    failures.note(job, RuntimeError("of the\njob"))
    reasons = [cell.reason for cell in states_of(results) if cell.state == "failed"]
    assert [reason.partition(" (")[0] for reason in reasons] == ["RuntimeError: its own", "RuntimeError: of the job"]


def test_the_status_command_counts_and_lists(results):
    cells = states_of(results)
    damaged = cells[2].out_dir / "result.json"
    damaged.write_text("{")
    shutil.rmtree(cells[0].out_dir)
    command = [sys.executable, "-m", "prunetune", "status", "demo", *TINY, "--results", str(results)]
    done = subprocess.run(command, capture_output=True, text=True, cwd="/", env=ONE_THREAD, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == "demo: 2 jobs, 8 runs"
    assert lines[1].split() == ["done", "failed", "missing", "unreadable"]
    assert lines[2].split() == ["textures", "6", "0", "1", "1"]
    assert lines[3].split() == ["all", "6", "0", "1", "1"]
    assert lines[4:] == [f"unreadable: {damaged.parent}: {damaged} is damaged"]


def test_an_unknown_sweep_gives_a_one_line_error_and_an_exit_code():
    GlobalHydra.instance().clear()
    done = prunetune_here("status", "mian")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert done.stderr.startswith("error: sweep mian cannot be composed")


def test_a_sweep_given_again_runs_only_what_is_missing_failed_or_unreadable(results):
    cells = states_of(results)
    lost, broken, tried = cells[0].out_dir, cells[2].out_dir, cells[5].out_dir
    shutil.rmtree(lost)
    (broken / "result.json").write_text("")
    (tried / "result.json").unlink()
    failures.note(tried, RuntimeError("out of luck"))
    kept = [cell.out_dir / "result.json" for cell in cells if cell.out_dir not in (lost, broken, tried)]
    stamps = [path.stat().st_mtime_ns for path in kept]
    [outcome] = run_commands(
        results.parent, [{"arguments": ["--config-name", "grid", "sweep=demo", *TINY, f"results_dir={results}"]}]
    )
    assert outcome.returncode == 0, outcome.stderr
    assert f"{broken / 'result.json'} is damaged and is made again" in outcome.stderr
    assert count(states_of(results))["done"] == 8
    assert [path.stat().st_mtime_ns for path in kept] == stamps
    assert not (tried / "failed.json").exists()


def test_a_failing_job_leaves_its_error_and_the_other_jobs_go_on(tmp_path):
    results = tmp_path / "results"
    words = [*SMALL, "methods=[random]", "ratios=[0.2],[7.0],[0.3]", "seeds=[0]", f"results_dir={results}"]
    [outcome] = run_commands(tmp_path, [{"arguments": ["--config-name", "grid", "sweep=demo", *words]}])
    assert outcome.returncode == 1
    assert outcome.stderr.splitlines()[-1].startswith("error: ratio is the fraction kept")
    cells = list(map(status.state, sweeps.planned(jobs(compose_sweep("demo", words)))))
    assert [cell.state for cell in cells] == ["done", "failed", "done"]
    assert cells[1].reason.startswith("InputError: ratio is the fraction kept and must be in (0, 1], got 7.0 (20")


def test_a_failure_is_forgotten_when_the_run_starts_again(tmp_path):
    failures.note(tmp_path, RuntimeError("old"))
    with failures.noted(tmp_path):
        assert failures.read(tmp_path) is None
    with pytest.raises(KeyError), failures.noted(tmp_path):
        raise KeyError("new")
    assert failures.read(tmp_path).error == "KeyError: 'new'"
    assert "Traceback" in "".join(json.loads((tmp_path / failures.NAME).read_text())["traceback"])


def test_an_interruption_is_not_a_failure(tmp_path):
    with pytest.raises(KeyboardInterrupt), failures.noted(tmp_path):
        raise KeyboardInterrupt
    assert failures.read(tmp_path) is None


def test_the_error_of_a_refused_run_is_not_put_beside_the_result_of_another(tmp_path):
    (tmp_path / "result.json").write_text("{}")
    failures.note(tmp_path, InputError("holds the result of another configuration"))
    assert failures.read(tmp_path) is None


def test_a_damaged_failure_note_counts_as_a_failure_without_reason(tmp_path):
    (tmp_path / failures.NAME).write_text('{"error"')
    assert failures.read(tmp_path).error == "failed.json is damaged"


def test_a_grid_that_was_run_otherwise_counts_as_the_sweep(tmp_path):
    GlobalHydra.instance().clear()
    grid_here(tmp_path, *SMALL, "sweep=demo", "methods=[random]", "ratios=[0.2,0.3]", "seeds=[0,1]")
    with initialize_config_dir(config_dir=str(ROOT / "configs"), version_base="1.3"):
        found = count(states_of(tmp_path))
    assert (found["done"], found["missing"]) == (4, 4)
    [some, *_] = (tmp_path / "runs").rglob("result.json")
    assert records.read_result(some.parent) == read_result(some.parent)


@functools.cache
def text_runs(name, *overrides):
    """Return the configuration of every run of a sweep of text runs.

    Composing takes a while, so runs that differ in ratio and seed only are composed once.
    """
    compose_text = functools.cache(lambda words: sweeps.compose("instruct", list(words)))
    runs = []
    for job in jobs(compose_sweep(name, overrides)):
        shared = tuple(word for word in job.overrides if word.split("=")[0] not in sweeps.RATIO_AND_SEED)
        runs.append(copy.deepcopy(compose_text(shared)))
        runs[-1].ratio, runs[-1].seed = job.ratio, job.seed
    return runs


def test_the_root_of_a_preset_that_is_not_there_is_that_of_grids():
    assert root_of("mian") == "grid"


def test_the_instruction_sweep_is_the_published_table_with_both_gammas():
    cfg = compose_sweep("instruction")
    assert cfg.hydra.mode.name == "MULTIRUN"
    runs = text_runs("instruction")
    assert {(run.llm.name, run.corpus.name) for run in runs} == {
        (llm, corpus)
        for llm in ("mistral_7b", "llama3_8b", "gemma2_9b")
        for corpus in ("alpaca_cleaned", "dolly_hhrlhf")
    }
    rows = {(run.text_scorer.name, run.sampler.name, run.sampler.get("gamma"), run.tag) for run in runs}
    dlc = [("dlc", "flexrand", gamma, f"g{gamma:g}") for gamma in (0.25, 0.75)]
    assert rows == {("random", "random", None, "default"), *dlc}
    assert {run.seed for run in runs} == {0, 1, 2}
    assert {(run.ratio, run.sft.name, run.sft.epochs) for run in runs} == {(0.5, "paper", 3)}
    assert all((run.evaluation.tasks, run.evaluation.num_fewshot) == (["mmlu"], [0, 5]) for run in runs)


def test_the_base_models_are_untuned():
    assert {(run.llm.name, run.sft.epochs, run.ratio) for run in text_runs("instruction_base")} == {
        (llm, 0, 1.0) for llm in ("mistral_7b", "llama3_8b", "gemma2_9b")
    }


def test_v1s_table_is_a_tenth_and_the_whole_of_one_corpus():
    tenth, whole = text_runs("v1_llm"), text_runs("v1_llm_full")
    rows = {(run.text_scorer.name, run.sampler.name, run.ratio) for run in (*tenth, *whole) if run.ratio < 1}
    assert rows == {
        (*pair, 0.1) for pair in (("random", "random"), ("lc_dropout", "topk"), ("lc_dropout", "topk_easiest"))
    }
    for run in (*tenth, *whole):
        assert (run.llm.name, run.corpus.name, run.sft.name) == ("qwen_1_8b", "ultrachat", "paper_v1")
        assert run.held_out == 0.01
    assert {run.ratio for run in whole} == {1.0}


@pytest.mark.parametrize("name", TEXTS)
def test_every_run_of_a_sweep_of_text_can_be_run_and_no_two_share_a_folder(name):
    runs = text_runs(name)
    assert len({text_run_folder(run) for run in runs}) == len(runs)
    for run in runs:
        parse_text_run(run)


def test_every_text_method_is_a_scorer_with_a_sampler():
    for name in TEXT_METHODS:
        [run] = text_runs("instruction", "llm=tiny", "corpus=embedded", f"text_method={name}", "seed=0")
        assert name.startswith(run.text_scorer.name)
        assert run.sampler.name != "auto"
        assert OmegaConf.select(run, "sampler.gamma") in (None, 0.25, 0.75, "auto")


TEXT = ["llm=tiny", "corpus=embedded", "text_method=random,longest", "seed=0,1", "sft=released"]


def text_states(results, *overrides):
    cfg = compose_sweep("instruction", [*TEXT, *overrides, f"results_dir={results}"])
    return list(map(status.state, sweeps.planned(jobs(cfg))))


def finish(cell, cfg):
    """Leave the result that this configuration would leave."""
    cell.out_dir.mkdir(parents=True)
    for name in ("subset.csv", "history.csv"):
        (cell.out_dir / name).write_text("")
    (cell.out_dir / "result.json").write_text(json.dumps({"kind": "text", "config": text_recorded(cfg)}))


def test_a_sweep_of_text_runs_is_counted_run_by_run(tmp_path):
    cells = text_states(tmp_path)
    assert count(cells) == {"done": 0, "failed": 0, "missing": 4, "unreadable": 0}
    folder = tmp_path / "runs" / "embedded" / "tiny" / "released" / "longest-topk" / "ratio_0.5" / "seed_1" / "default"
    assert cells[3].out_dir == folder
    runs = text_runs("instruction", *TEXT, f"results_dir={tmp_path}")
    finish(cells[0], runs[0])
    finish(cells[1], runs[0])  # This cell has the result of the other seed.
    failures.note(cells[2].out_dir, RuntimeError("no memory"))
    cells[3].out_dir.mkdir(parents=True)
    (cells[3].out_dir / "result.json").write_text("{")
    now = text_states(tmp_path)
    assert [cell.state for cell in now] == ["done", "failed", "failed", "unreadable"]
    assert "seed: 0 there, 1 now" in now[1].reason
    assert now[2].reason.startswith("RuntimeError: no memory (")
    assert {cell.dataset for cell in now} == {"embedded"}


def test_the_command_line_wins_over_a_preset_of_text(tmp_path):
    [job] = jobs(
        compose_sweep("instruction", ["llm=tiny", "corpus=embedded", "text_method=dlc", "seed=7", "ratio=0.3"])
    )
    assert (job.ratio, job.seed, job.num_runs) == (0.3, 7, 1)
    [cell] = text_states(tmp_path, "text_method=dlc", "seed=3", "ratio=1")
    assert cell.out_dir.parts[-4:] == ("dlc-flexrand", "ratio_1.0", "seed_3", "default")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["sft.epoch=3"], "sweep instruction cannot be composed: .*epoch"),
        (["text_method=lnogest"], "sweep instruction cannot be composed: .*lnogest"),
        (["text_method=random,lnogest"], "a job of instruct cannot be composed: .*lnogest"),
        (["methods=[dlc]"], "sweep instruction cannot be composed: .*methods"),
    ],
)
def test_an_invalid_request_for_a_status_of_text_runs_gives_a_one_line_error(overrides, message):
    with pytest.raises(InputError, match=message):
        list(map(status.state, sweeps.planned(jobs(compose_sweep("instruction", overrides)))))


def test_the_status_command_counts_text_runs(tmp_path, capsys):
    GlobalHydra.instance().clear()
    status.show("instruction", [*TEXT, f"results_dir={tmp_path}"], [TEXT_RUNS])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "instruction: 4 jobs, 4 runs"
    assert lines[2].split() == ["embedded", "0", "0", "4", "0"]
    assert len(lines) == 4
    status.show("instruction", [*TEXT, "until=score", f"results_dir={tmp_path}"], [TEXT_RUNS])
    assert "with until=score no run is finished" in capsys.readouterr().out
