"""Evaluate a language model on multiple-choice questions with lm-evaluation-harness: MMLU, or tasks of a folder."""

import contextlib
import copy
import functools
import hashlib
import logging
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from prunetune.base import checks
from prunetune.base.errors import InputError, suggestion
from prunetune.base.progress import SECONDS_BETWEEN_LINES
from prunetune.base.seeding import seeded
from prunetune.data.readers.hugging_face import offline_if_unreachable
from prunetune.instruct.extra import needed

log = logging.getLogger(__name__)
GROUPS = ("humanities", "social_sciences", "stem", "other")  # Groups of MMLU. The harness puts anatomy into STEM.
SPLITS = ("test", "validation")
# The default seed of the harness, for tasks that draw their worked examples. MMLU uses the first ones of its dev split.
SHOT_SEED = 1234
METRIC = "acc"


@dataclass(frozen=True)
class EvaluationSettings:
    """How to evaluate a model.

    tasks: names of tasks or groups of the harness or of `tasks_folder`. num_fewshot: numbers of worked examples before
    each question; there is one evaluation for each number. tasks_folder: a folder of tasks in the YAML format of the
    harness; relative data_files are relative to this folder. batch_size: requests per forward pass, or "auto" (the
    harness finds the largest one that fits on the GPU). limit: use only the first questions of each task, for trials;
    None for all.
    """

    tasks: tuple[str, ...] = ("mmlu",)
    num_fewshot: tuple[int, ...] = (0, 5)
    tasks_folder: str | None = None
    batch_size: int | str = 8
    limit: int | None = None

    def __post_init__(self) -> None:
        for key, example in (("tasks", "[mmlu]"), ("num_fewshot", "[0, 5]")):
            values = getattr(self, key)
            is_list = isinstance(values, list | tuple) and all(isinstance(value, str | int) for value in values)
            if not is_list or not values or len(set(values)) < len(values):
                raise InputError(
                    f"evaluation.{key} must be a list of different values such as {example}, got {values!r}"
                )
            object.__setattr__(self, key, tuple(values))
        for shots in self.num_fewshot:
            checks.whole_number("evaluation.num_fewshot", shots, least=0)
        if self.batch_size != "auto":
            checks.whole_number("evaluation.batch_size", self.batch_size, otherwise=" or auto")
        checks.whole_number("evaluation.limit", self.limit, or_none=True)
        checks.fields("evaluation", self)
        if self.tasks_folder is not None and not Path(self.tasks_folder).is_dir():
            raise InputError(f"evaluation.tasks_folder must be a folder of task files, got {self.tasks_folder!r}")

    def with_shots(self, num_fewshot: int) -> "EvaluationSettings":
        """Return these settings with one number of worked examples."""
        return replace(self, num_fewshot=(num_fewshot,))

    def identity(self) -> dict[str, Any]:
        """Return all that the answers depend on as JSON: tasks, contents of their folder, shots, limit, version."""
        settings = asdict(self)
        for unimportant in ("batch_size", "tasks_folder"):
            del settings[unimportant]
        files = {} if self.tasks_folder is None else _contents(Path(self.tasks_folder))
        return {**settings, "files": files, "lm_eval": needed("lm_eval").__version__}


@dataclass(frozen=True)
class Evaluation:
    """The evaluation of a model with one number of worked examples. Accuracies are fractions.

    accuracy: over all questions. groups: accuracy of each group of tasks, over all its questions. The groups of MMLU
    are humanities, social_sciences, stem and other; a task without a group is a group by itself. per_task: accuracy of
    each task. num_questions, group_questions, task_questions: number of questions in all, per group and per task.
    num_cut: number of requests that were longer than the model's context, so that their beginning was cut off. seconds:
    the time of answering, without loading the tasks.
    """

    accuracy: float
    groups: dict[str, float]
    per_task: dict[str, float]
    num_questions: int
    group_questions: dict[str, int]
    task_questions: dict[str, int]
    num_fewshot: int
    num_cut: int
    seconds: float


def evaluate(
    model: nn.Module, tokenizer: Any, settings: EvaluationSettings, *, split: str = "test"
) -> list[Evaluation]:
    """Evaluate a model on multiple-choice questions, and return one evaluation per number of shots, in their order.

    The answer is the choice whose text has the highest summed log-probability after the question, the first one of
    equals. The log-softmax is computed in float32 even for a model in bfloat16. This is our choice: in bfloat16, as in
    the harness, many choices would be equal. The model stays on its device and is left in evaluation mode. No random
    state is changed.

    Source: lm-evaluation-harness 0.4.13, with its tasks and groups.

    Args:
        model: causal language model in memory, with or without an adapter.
        tokenizer: its tokenizer, which is not changed.
        settings: tasks, shots and batches.
        split: "test", which the harness evaluates, or "validation", for choosing between models.

    Raises:
        InputError: a task is unknown, its data are missing, or it lacks the split, enough examples or an accuracy.
    """
    if split not in SPLITS:
        raise InputError(f"split must be test or validation, got {split!r}")
    with _quiet() as listener:
        tasks = _loaded(settings)
        for task in tasks["tasks"].values():
            _point(task, split)
            _check_task(task, settings)
        harness = _harness(model, tokenizer, settings)
        return [_ask(harness, tasks, settings, shots, listener) for shots in settings.num_fewshot]


def check_tasks(settings: EvaluationSettings, *, split: str = "test") -> None:
    """Refuse tasks that `evaluate` would refuse, and download their data, before hours of fine-tuning.

    Raises:
        InputError: for the same reasons as `evaluate`.
    """
    with _quiet():
        for task in _loaded(settings)["tasks"].values():
            _point(task, split)
            _check_task(task, settings)


def _ask(
    harness: Any, tasks: dict[str, Any], settings: EvaluationSettings, num_fewshot: int, listener: "_Listener"
) -> Evaluation:
    start, listener.num_cut = time.perf_counter(), 0
    for task in tasks["tasks"].values():
        task.set_config(key="num_fewshot", value=num_fewshot)
        task.set_fewshot_seed(seed=SHOT_SEED)
    with seeded("mmlu"):
        found = needed("lm_eval.evaluator").evaluate(
            lm=harness, task_dict=tasks, limit=settings.limit, bootstrap_iters=0, log_samples=False
        )
    if listener.num_cut:
        log.warning(
            "%d requests with %d worked examples were longer than the model's context of %d tokens and lost their "
            "beginning",
            listener.num_cut,
            num_fewshot,
            harness.max_length,
        )
    return _summary(found["results"], tasks, num_fewshot, listener.num_cut, time.perf_counter() - start)


def _summary(
    results: dict[str, Any], tasks: dict[str, Any], num_fewshot: int, num_cut: int, seconds: float
) -> Evaluation:
    per_task = {name: _accuracy(name, results[name]) for name in tasks["tasks"]}
    sizes = {name: results[name]["sample_len"] for name in tasks["tasks"]}
    members = _members(tasks)

    def mean(names: Iterable[str]) -> float:
        names = list(names)
        return sum(per_task[name] * sizes[name] for name in names) / sum(sizes[name] for name in names)

    return Evaluation(
        accuracy=mean(per_task),
        groups={group: mean(names) for group, names in members.items()},
        per_task=per_task,
        num_questions=sum(sizes.values()),
        group_questions={group: sum(sizes[name] for name in names) for group, names in members.items()},
        task_questions=sizes,
        num_fewshot=num_fewshot,
        num_cut=num_cut,
        seconds=seconds,
    )


def _accuracy(name: str, result: dict[str, Any]) -> float:
    for key in sorted(result):  # A key such as "acc,none" has the metric and the filter.
        if key.split(",")[0] == METRIC:
            return float(result[key])
    metrics = sorted({key.split(",")[0] for key in result if "," in key and "stderr" not in key})
    raise InputError(
        f"the task {name} reports {', '.join(metrics) or 'nothing'} and no {METRIC}; ask multiple-choice tasks"
    )


def _members(tasks: dict[str, Any]) -> dict[str, list[str]]:
    """Return the tasks of each group that directly contains tasks. The name of the parent group is left out."""
    children = tasks["group_map"]
    parents = {child: group for group, names in children.items() for child in names}
    members: dict[str, list[str]] = {}
    for name in tasks["tasks"]:
        group = parents.get(name)
        label = name if group is None else group.removeprefix(f"{parents.get(group, 'mmlu')}_")
        members.setdefault(label, []).append(name)
    return members


def _loaded(settings: EvaluationSettings) -> dict[str, Any]:
    """Return the harness's tasks, groups and their members."""
    folder = None if settings.tasks_folder is None else Path(settings.tasks_folder).resolve()
    manager = _manager(folder, everything=False)
    if not _has_all(manager, settings.tasks):
        manager = _manager(folder, everything=True)
    for name in settings.tasks:
        if name not in manager.all_tasks:
            own = " Pass evaluation.tasks_folder=<folder> for a task of yours."
            if folder is not None:
                own = f" A file of {folder} that is not a valid task in YAML is ignored."
            hint = suggestion(name, manager.all_tasks) or own
            raise InputError(f"lm-evaluation-harness knows no task {name!r}.{hint}")
    return _load(manager, settings, folder)


def _has_all(manager: Any, names: Iterable[str]) -> bool:
    """Return whether an index has these tasks, and the members of those that are groups."""
    rest = list(names)
    while rest:
        entry = manager.task_index.get(rest.pop())
        if entry is None:
            return False
        members = (entry.cfg or {}).get("task")
        rest += [name for name in members if isinstance(name, str)] if isinstance(members, list) else []
    return True


def _manager(folder: Path | None, everything: bool) -> Any:
    """Return an index of tasks: those of MMLU and of the folder, or all of the harness, which takes 15 seconds."""
    library = needed("lm_eval.tasks")
    digest = "" if folder is None else str(sorted(_contents(folder).items()))
    return _indexed(library, None if folder is None else str(folder), digest, everything)


@functools.lru_cache(maxsize=8)
def _indexed(library: Any, folder: str | None, digest: str, everything: bool) -> Any:
    own = [] if folder is None else [folder]
    mmlu = str(Path(library.__file__).parent / "mmlu" / "default")
    paths = own if everything else [mmlu, *own]
    return library.TaskManager(include_path=paths or None, include_defaults=everything)


def _load(manager: Any, settings: EvaluationSettings, folder: Path | None) -> dict[str, Any]:
    try:
        with contextlib.chdir(folder or "."), offline_if_unreachable(needed("datasets")):
            return manager.load(list(settings.tasks))  # Relative data_files are relative to the folder.
    except Exception as error:  # Five libraries can fail here, and their errors share no base class.
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise InputError(
            f"the data of {', '.join(settings.tasks)} could not be loaded ({reason}); run once with a network so "
            "that it is in the Hugging Face cache (HF_HOME), name tasks of your own: "
            "evaluation.tasks=[<task>] evaluation.tasks_folder=<folder>, or stop before the evaluation: until=prune"
        ) from error


def _check_task(task: Any, settings: EvaluationSettings) -> None:
    name, most = task.config.task, max(settings.num_fewshot)
    if task.OUTPUT_TYPE != "multiple_choice":
        raise InputError(f"the task {name} is of type {task.OUTPUT_TYPE}; ask multiple-choice tasks")
    if most and task.config.num_fewshot == 0:  # The harness would silently use no examples.
        raise InputError(f"the task {name} allows no worked examples; pass evaluation.num_fewshot=[0]")
    is_shared = task.fewshot_cfg.split == task.config.test_split  # A question cannot be its own example.
    available = len(task.sampler.df) - is_shared if hasattr(task, "sampler") else 0
    if most > available:
        raise InputError(f"the task {name} has {available} worked examples, evaluation.num_fewshot asks for {most}")


def _point(task: Any, split: str) -> None:
    """Make a task use the questions of a split."""
    if split == "test":
        return
    wanted = task.config.validation_split or "validation"  # MMLU has this split, but its YAML does not name it.
    if task.config.test_split in (None, wanted) or wanted not in task.dataset:
        raise InputError(
            f"the task {task.config.task} has no validation questions apart from those it is judged on (splits: "
            f"{', '.join(sorted(task.dataset))}); name validation_split in its YAML, or pass a number as sampler.gamma"
        )
    # Set it as test_split: only there does the harness prevent a question from being its own example.
    task.config.test_split = wanted


def _harness(model: nn.Module, tokenizer: Any, settings: EvaluationSettings) -> Any:
    """Return the model wrapped for the harness."""
    model_class = needed("lm_eval.models.huggingface").HFLM
    tokenizer = copy.deepcopy(tokenizer)  # The harness adds a padding token if there is none.
    return model_class(pretrained=model, tokenizer=tokenizer, batch_size=settings.batch_size, softmax_dtype="float32")


@contextlib.contextmanager
def _quiet() -> Iterator["_Listener"]:
    """Silence the harness. Its warnings go to a listener, and its progress bars become lines of our log."""
    bars = [needed(name) for name in ("lm_eval.api.task", "lm_eval.api.model", "lm_eval.models.huggingface")]
    datasets, harness_log, listener = needed("datasets"), logging.getLogger("lm_eval"), _Listener()
    before = [module.tqdm for module in bars], harness_log.propagate, harness_log.level
    had_bars = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    harness_log.addHandler(listener)
    harness_log.propagate = False
    harness_log.setLevel(logging.WARNING)
    for module in bars:
        module.tqdm = _Lines
    try:
        yield listener
    finally:
        for module, bar in zip(bars, before[0], strict=True):
            module.tqdm = bar
        harness_log.propagate = before[1]
        harness_log.setLevel(before[2])
        harness_log.removeHandler(listener)
        if had_bars:
            datasets.enable_progress_bars()


class _Listener(logging.Handler):
    """Counts the requests that were too long for the model. Other messages of the harness go to the debug log."""

    def __init__(self) -> None:
        super().__init__()
        self.num_cut = 0

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if message.startswith("Combined length of context"):
            self.num_cut += 1
        else:
            log.debug("lm-evaluation-harness: %s", message)


class _Lines:
    """A replacement of tqdm that logs a line from time to time instead of drawing a bar."""

    def __init__(self, items: Iterable[Any] = (), total: int | None = None, **_: Any) -> None:
        self.items, self.total, self.done, self.last = items, total, 0, time.monotonic()

    def __iter__(self) -> Iterator[Any]:
        return iter(self.items)

    def update(self, count: int = 1) -> None:
        self.done += count
        if time.monotonic() - self.last > SECONDS_BETWEEN_LINES:
            self.last = time.monotonic()
            log.info("answering: %d of %s requests", self.done, self.total)

    def close(self) -> None:
        """Do nothing, since nothing is open."""


def _contents(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file below a folder of tasks, by its relative path."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
