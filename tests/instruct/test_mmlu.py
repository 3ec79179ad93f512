"""Evaluation through lm-evaluation-harness, against sums of log-probabilities by hand."""

import copy
import json
import logging
import shutil
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import datasets
import pytest
import torch
import yaml

import tiny
from prunetune.base.errors import InputError
from prunetune.instruct.tuning import mmlu
from prunetune.instruct.tuning.adapter import attach
from prunetune.instruct.tuning.mmlu import EvaluationSettings, evaluate
from prunetune.instruct.tuning.sft_settings import SftSettings

TASKS = Path(__file__).parent / "tasks"
EVERYDAY = EvaluationSettings(tasks=("everyday",), num_fewshot=(0, 2), tasks_folder=str(TASKS))
SUBJECTS = ("numbers", "animals", "colours")
GROUPS = {"school": ("numbers",), "world": ("animals", "colours")}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets"))


def ask(settings=EVERYDAY, split="test", model=None, tokenizer=None):
    return evaluate(model or tiny.model(), tokenizer or tiny.tokenizer(), settings, split=split)


def rows(subject, split):
    return [json.loads(line) for line in (TASKS / subject / f"{split}.jsonl").read_text().splitlines()]


def question(row):
    choices = "\n".join(f"{letter}. {choice}" for letter, choice in zip("ABCD", row["choices"], strict=True))
    return f"{row['question']}\n{choices}\nAnswer:"


def prompt(subject, row, num_fewshot):
    examples = [f"{question(one)} {'ABCD'[one['answer']]}\n\n" for one in rows(subject, "dev")[:num_fewshot]]
    return f"Choose the right answer about {subject}.\n\n" + "".join(examples) + question(row)


def by_hand(model, tokenizer, subject, split, num_fewshot):
    """Return how many questions are answered rightly by the summed log-probability of " A" to " D"."""
    right = 0
    for row in rows(subject, split):
        context, sums = prompt(subject, row, num_fewshot), []
        for letter in "ABCD":
            before, ids = tokenizer(context)["input_ids"], tokenizer(f"{context} {letter}")["input_ids"]
            assert ids[: len(before)] == before
            with torch.inference_mode():
                found = model(input_ids=torch.tensor([ids])).logits[0].float().log_softmax(-1)
            sums.append(sum(found[j - 1, ids[j]].item() for j in range(len(before), len(ids))))
        right += sums.index(max(sums)) == row["answer"]
    return right


@pytest.mark.parametrize("split", ["test", "validation"])
def test_answers_equal_sums_of_log_probabilities_by_hand(split):
    model, tokenizer = tiny.model(seed=3), tiny.tokenizer()
    model.config.max_position_embeddings = 2048
    for evaluation in ask(split=split, model=model):
        expected = {subject: by_hand(model, tokenizer, subject, split, evaluation.num_fewshot) for subject in SUBJECTS}
        sizes = {subject: len(rows(subject, split)) for subject in SUBJECTS}
        assert evaluation.per_task == pytest.approx(
            {f"everyday_{subject}": expected[subject] / sizes[subject] for subject in SUBJECTS}
        )
        assert evaluation.task_questions == {f"everyday_{subject}": sizes[subject] for subject in SUBJECTS}
        for group, members in GROUPS.items():
            questions = sum(sizes[subject] for subject in members)
            assert evaluation.groups[group] == pytest.approx(sum(expected[one] for one in members) / questions)
            assert evaluation.group_questions[group] == questions
        assert evaluation.num_questions == sum(sizes.values())
        assert evaluation.accuracy == pytest.approx(sum(expected.values()) / sum(sizes.values()))
        assert evaluation.num_cut == 0


def test_an_evaluation_for_each_number_of_shots_in_their_order():
    found = ask(EvaluationSettings(("everyday",), (2, 0), str(TASKS)))
    assert [one.num_fewshot for one in found] == [2, 0]
    alone = [ask(EVERYDAY.with_shots(shots))[0] for shots in (2, 0)]
    assert [one.per_task for one in found] == [one.per_task for one in alone]
    json.dumps(asdict(found[0]))


def test_groups_are_weighted_by_their_questions_as_the_harness_does(monkeypatch):
    import lm_eval.evaluator

    seen, original = [], lm_eval.evaluator.evaluate

    def recording(**arguments):
        seen.append(original(**arguments))
        return seen[-1]

    monkeypatch.setattr(lm_eval.evaluator, "evaluate", recording)
    evaluation = ask()[0]
    harness = seen[0]["results"]
    assert evaluation.groups["world"] == pytest.approx(harness["everyday_world"]["acc,none"])
    assert evaluation.accuracy == pytest.approx(harness["everyday"]["acc,none"])
    assert evaluation.accuracy != pytest.approx(sum(evaluation.per_task.values()) / 3)


def test_a_task_outside_any_group_is_a_group_of_its_own():
    [evaluation] = ask(EvaluationSettings(("everyday_colours",), (0,), str(TASKS)))
    assert evaluation.groups == {"everyday_colours": evaluation.accuracy}
    assert evaluation.num_questions == 4


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_batches_do_not_matter(batch_size):
    settings = EvaluationSettings(("everyday",), (0,), str(TASKS), batch_size=batch_size)
    assert ask(settings)[0].per_task == ask(EVERYDAY.with_shots(0))[0].per_task
    assert settings.identity() == EVERYDAY.with_shots(0).identity()


def test_a_limit_takes_the_first_questions_of_each_task():
    [evaluation] = ask(EvaluationSettings(("everyday",), (0,), str(TASKS), limit=3))
    assert set(evaluation.task_questions.values()) == {3}


def test_a_model_with_an_adapter_and_a_tokenizer_without_padding_are_left_as_they_were():
    model = attach(tiny.model(), SftSettings("x"), seed=0)
    tokenizer = tiny.tokenizer(pad=False)
    state = torch.get_rng_state()
    found = ask(model=model, tokenizer=tokenizer)
    # A new adapter changes nothing before it is trained.
    assert [one.per_task for one in found] == [one.per_task for one in ask()]
    assert tokenizer.pad_token is None
    assert torch.equal(torch.get_rng_state(), state)


def test_questions_longer_than_the_context_are_counted_and_reported(caplog):
    model = tiny.model()
    model.config.max_position_embeddings = 100
    zero, two = ask(model=model)
    assert two.num_cut > zero.num_cut
    assert "with 2 worked examples were longer than the model's context of 100 tokens" in caplog.text


def test_the_harness_is_quiet(capfd, caplog):
    logger = logging.getLogger("lm_eval")
    before = logger.handlers[:], logger.propagate, logger.level
    with caplog.at_level(logging.INFO):
        ask()
    assert capfd.readouterr() == ("", "")
    assert not caplog.records
    assert (logger.handlers, logger.propagate, logger.level) == before


def test_progress_is_reported_from_time_to_time(caplog, monkeypatch):
    monkeypatch.setattr(mmlu, "SECONDS_BETWEEN_LINES", -1)
    with caplog.at_level(logging.INFO):
        ask(EVERYDAY.with_shots(0))
    assert "answering: 1 of 100 requests" in caplog.text  # There are 25 questions with four choices each.


# ---- MMLU itself: the harness's own tasks and groups on made questions in the layout of cais/mmlu


def made_mmlu(path, name=None, **_):
    """Return made questions for a subject; how many depends on its name, so that the groups' sizes differ."""
    assert path == "cais/mmlu"

    def split(kind, count):
        words = [f"{name} {kind} {i}" for i in range(count)]
        return datasets.Dataset.from_dict(
            {
                "question": [f"Which is {word}?" for word in words],
                "subject": [name] * count,
                "choices": [["one", "two", "three", "four"]] * count,
                "answer": [i % 4 for i in range(count)],
            }
        )

    sizes = {"test": 1 + len(name) % 3, "validation": 1, "dev": 5, "auxiliary_train": 1}
    return datasets.DatasetDict({kind: split(kind, count) for kind, count in sizes.items()})


@pytest.fixture
def mmlu_data(monkeypatch):
    monkeypatch.setattr(datasets, "load_dataset", made_mmlu)


def test_mmlu_has_its_four_groups(mmlu_data):
    [evaluation] = ask(EvaluationSettings(num_fewshot=(0,)))
    assert set(evaluation.groups) == set(mmlu.GROUPS)
    subjects = Counter(_group_of(name) for name in evaluation.per_task)
    published = {
        "humanities": 13,
        "social_sciences": 12,
        "stem": 19,
        "other": 13,
    }  # The numbers are in docs/method_notes.md, Instruction data.
    assert subjects == published
    assert _group_of("mmlu_anatomy") == "stem"
    for group in mmlu.GROUPS:
        sizes = {name: evaluation.task_questions[name] for name in evaluation.per_task if _group_of(name) == group}
        right = sum(evaluation.per_task[name] * size for name, size in sizes.items())
        assert evaluation.group_questions[group] == sum(sizes.values())
        assert evaluation.groups[group] == pytest.approx(right / sum(sizes.values()))
    assert evaluation.num_questions == sum(evaluation.group_questions.values())


def _group_of(task):
    import lm_eval.tasks

    config = Path(lm_eval.tasks.__file__).parent / "mmlu" / "default" / f"{task}.yaml"
    return yaml.safe_load(config.read_text())["tag"].removeprefix("mmlu_").removesuffix("_tasks")


def test_mmlu_reads_the_first_of_dev_as_examples(mmlu_data, monkeypatch):
    import lm_eval.evaluator

    seen, original = [], lm_eval.evaluator.evaluate

    def recording(**arguments):
        found = original(**arguments)
        seen.extend(arguments["task_dict"]["tasks"]["mmlu_virology"].instances)
        return found

    monkeypatch.setattr(lm_eval.evaluator, "evaluate", recording)
    ask(EvaluationSettings(num_fewshot=(5,), tasks=("mmlu_other",)))
    context, answer = seen[0].args
    assert context.startswith("The following are multiple choice questions (with answers) about virology.")
    assert [f"virology dev {i}?" in context for i in range(5)] == [True] * 5
    assert context.endswith("Which is virology test 0?\nA. one\nB. two\nC. three\nD. four\nAnswer:")
    assert answer == " A"


def test_mmlus_validation_questions_can_be_asked(mmlu_data):
    [evaluation] = ask(EvaluationSettings(num_fewshot=(0,), tasks=("mmlu_stem",)), split="validation")
    assert evaluation.num_questions == 19
    assert evaluation.groups == {"stem": evaluation.accuracy}


def test_mmlu_that_is_not_in_the_cache_gives_a_one_line_error():
    with pytest.raises(InputError, match="the data of mmlu could not be loaded .*Hugging Face cache") as caught:
        ask(EvaluationSettings())
    assert "\n" not in str(caught.value)


# ---- what is refused


def copied(tmp_path, **changes):
    """Return settings for a copy of the tasks in which one has other keys."""
    folder = tmp_path / "tasks"
    shutil.copytree(TASKS, folder)
    path = folder / "everyday_numbers.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **changes}))
    return EvaluationSettings(("everyday_numbers",), (0, 2), str(folder))


def test_an_unknown_task_gives_a_one_line_error_with_a_guess(monkeypatch):
    original = mmlu._manager  # Indexing all tasks of the harness would take a quarter of a minute.
    monkeypatch.setattr(mmlu, "_manager", lambda folder, everything: original(folder, everything=False))
    with pytest.raises(InputError, match="knows no task 'everyday_colors'. Did you mean 'everyday_colours'"):
        ask(EvaluationSettings(("everyday_colors",), (0,), str(TASKS)))


@pytest.mark.slow
def test_all_tasks_of_the_harness_are_known():
    with pytest.raises(InputError, match="knows no task 'arc_eazy'. Did you mean 'arc_easy'"):
        ask(EvaluationSettings(("arc_eazy",), (0,)))
    assert mmlu._has_all(mmlu._manager(None, everything=True), ["arc_easy", "ai2_arc", "mmlu"])


def test_a_folder_may_name_tasks_of_the_harness_beside_its_own(mmlu_data, tmp_path):
    (tmp_path / "mine.yaml").write_text("group: mine\ntask:\n  - mmlu_anatomy\n  - mmlu_virology\n")
    (tmp_path / "other.yaml").write_text("group: other\ntask:\n  - mine\n  - arc_easy\n")
    [evaluation] = ask(EvaluationSettings(("mine",), (0,), str(tmp_path)))
    assert set(evaluation.per_task) == {"mmlu_anatomy", "mmlu_virology"}
    manager = mmlu._manager(tmp_path, everything=False)
    assert mmlu._has_all(manager, ["mine", "mmlu"])
    assert not mmlu._has_all(manager, ["other"])  # The answer False makes the caller look up all tasks of the harness.


def test_files_that_are_not_there_give_a_one_line_error(tmp_path):
    settings = copied(tmp_path, dataset_kwargs={"data_files": {"test": "nowhere.jsonl"}})
    with pytest.raises(InputError, match="the data of everyday_numbers could not be loaded"):
        ask(settings)


@pytest.mark.parametrize(
    ("changes", "split", "message"),
    [
        ({"validation_split": "later"}, "validation", "no validation questions apart .*dev, test, validation"),
        ({"test_split": None}, "validation", "no validation questions apart from those it is judged on"),
        ({"num_fewshot": 0}, "test", r"allows no worked examples; pass evaluation.num_fewshot=\[0\]"),
        ({"output_type": "loglikelihood"}, "test", "is of type loglikelihood; ask multiple-choice tasks"),
    ],
)
def test_a_task_that_cannot_be_asked_gives_a_one_line_error(tmp_path, changes, split, message):
    with pytest.raises(InputError, match=message):
        ask(copied(tmp_path, **changes), split)


def test_too_many_examples_give_a_one_line_error():
    with pytest.raises(InputError, match="everyday_animals has 3 worked examples, evaluation.num_fewshot asks for 5"):
        ask(EvaluationSettings(("everyday",), (0, 5), str(TASKS)))


def test_a_question_is_never_its_own_example(tmp_path):
    settings = copied(tmp_path, fewshot_split="validation")
    ask(settings, "validation")
    with pytest.raises(InputError, match="has 4 worked examples"):
        ask(EvaluationSettings(settings.tasks, (5,), settings.tasks_folder), "validation")


def test_a_wrong_split_gives_a_one_line_error():
    with pytest.raises(InputError, match="split must be test or validation, got 'dev'"):
        ask(split="dev")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tasks": ()}, "evaluation.tasks must be a list of different values"),
        ({"tasks": "mmlu"}, "evaluation.tasks must be a list of different values"),
        ({"num_fewshot": 5}, "evaluation.num_fewshot must be a list of different values"),
        ({"num_fewshot": (5, 5)}, "evaluation.num_fewshot must be a list of different values"),
        ({"num_fewshot": (-1,)}, "evaluation.num_fewshot must be a whole number of at least 0, got -1"),
        ({"batch_size": 0}, "evaluation.batch_size must be a whole number of at least 1 or auto, got 0"),
        ({"limit": 0}, "evaluation.limit must be a whole number of at least 1 or null, got 0"),
        ({"tasks_folder": "/nowhere"}, "evaluation.tasks_folder must be a folder of task files"),
    ],
)
def test_a_wrong_setting_gives_a_one_line_error(changes, message):
    with pytest.raises(InputError, match=message):
        EvaluationSettings(**changes)


def test_the_identity_depends_on_everything_that_changes_answers(tmp_path):
    first = copied(tmp_path)
    before = copy.deepcopy(first.identity())
    json.dumps(before)
    assert before["lm_eval"] == "0.4.13"
    with (Path(first.tasks_folder) / "numbers" / "test.jsonl").open("a") as file:
        file.write(json.dumps({"question": "What is 1 + 1?", "choices": ["1", "2", "3", "4"], "answer": 1}) + "\n")
    assert first.identity() != before
    assert first.with_shots(0).identity() != first.identity()
