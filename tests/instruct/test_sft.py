"""Fine-tuning against a plain reference: losses, gradients, rates, repetition, processes, real data."""

import json
import math
import multiprocessing
import os
import traceback
import warnings
from pathlib import Path

import accelerate
import pytest
import torch

import tiny
from prunetune.base.errors import InputError
from prunetune.base.seeding import stream
from prunetune.instruct.model.batches import collate
from prunetune.instruct.model.processes import Processes
from prunetune.instruct.tuning.adapter import adapter_state, attach, trainable
from prunetune.instruct.tuning.sft import SftJob, fine_tune, held_out_loss, summed_loss
from prunetune.instruct.tuning.sft_checkpoint import Checkpoint
from prunetune.instruct.tuning.sft_settings import SftSettings

SGD = SftSettings(
    "x", epochs=2, batch_size=4, learning_rate=0.05, warmup_steps=2, weight_decay=0.1, lora_r=4, lora_dropout=0.0
)
ALONE = Processes(0, 1, "cpu")
CHANGES = {"sgd": {}, "adamw": {"optimizer": "adamw", "learning_rate": 3e-3}}


def changed(**changes):
    return SftSettings(**{**vars(SGD), **changes})


def train(settings=SGD, subset=range(10), seed=0, case=("llama", False), **arguments):
    model = arguments.pop("model", None) or tiny.model(*case)
    job = SftJob(tiny.reader(tiny.Loaded(model), tiny.encoded()), torch.tensor(list(subset)), settings, seed)
    return fine_tune(model, job, **{"dtype": "fp32", "processes": ALONE, **arguments})


def same(first, second):
    first, second = adapter_state(first), adapter_state(second)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def close(first, second, tolerance=1e-5):
    return all(torch.allclose(first[name], second[name], atol=tolerance) for name in first)


def sample_loss(model, row, loss_on="response"):
    """Return the summed loss of one sample and its number of tokens, computed token by token."""
    encoded = tiny.encoded()
    ids = encoded.ids[row].long()
    predicted = model(input_ids=ids[None]).logits[0].log_softmax(-1)
    wanted = [j for j in range(1, len(ids)) if loss_on == "all" or encoded.responses[row][j]]
    return -sum(predicted[j - 1, ids[j]] for j in wanted), len(wanted)


def reference(settings, subset, case=("llama", False), seed=0):
    """Train sample by sample without padding and micro-batches. The optimisers are written out."""
    model = attach(tiny.model(*case), settings, seed).train()
    parameters, memory = list(trainable(model).values()), {}
    num_batches = math.ceil(len(subset) / settings.batch_size)
    total_steps, losses = settings.epochs * num_batches, []
    for step in range(total_steps):
        epoch, index = divmod(step, num_batches)
        order = torch.randperm(len(subset), generator=stream("sft", "order", seed, epoch))
        rows = [subset[i] for i in order.tolist()][index * settings.batch_size : (index + 1) * settings.batch_size]
        parts = [sample_loss(model, row, settings.loss_on) for row in rows]
        loss = sum(part[0] for part in parts) / sum(part[1] for part in parts)
        gradients = torch.autograd.grad(loss, parameters)
        norm = math.sqrt(sum(gradient.square().sum().item() for gradient in gradients))
        scale = min(1.0, settings.clip_norm / norm) if settings.clip_norm else 1.0
        with torch.no_grad():
            for i, (parameter, gradient) in enumerate(zip(parameters, gradients, strict=True)):
                update(settings, parameter, gradient * scale, memory, i, step, settings.rate(step, total_steps))
        losses.append(loss.item())
    return model, losses


def update(settings, parameter, gradient, memory, i, step, rate):
    if settings.optimizer == "sgd":
        gradient = gradient + settings.weight_decay * parameter
        memory[i] = gradient if i not in memory else settings.momentum * memory[i] + gradient
        parameter -= rate * memory[i]
        return
    mean, square = memory.get(i, (torch.zeros_like(gradient), torch.zeros_like(gradient)))
    mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient.square()
    memory[i] = mean, square
    parameter *= 1 - rate * settings.weight_decay
    corrected = (square / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8
    parameter -= rate * (mean / (1 - 0.9 ** (step + 1))) / corrected


@pytest.mark.parametrize("optimizer", CHANGES)
@pytest.mark.parametrize(("architecture", "tied"), tiny.CASES)
def test_training_equals_a_plain_reference(architecture, tied, optimizer):
    settings, case = changed(**CHANGES[optimizer], micro_batch_tokens=90), (architecture, tied)
    subset = [0, 2, 3, 5, 6, 7, 8, 9, 11]  # The third batch of an epoch has a single sample.
    model, result = train(settings, subset, case=case)
    expected, losses = reference(settings, subset, case)
    assert [row["train_loss"] for row in result.history] == pytest.approx(losses, abs=1e-4)
    assert close(adapter_state(model), adapter_state(expected), 1e-4)
    start = adapter_state(attach(tiny.model(*case), settings, 0))
    assert all(not torch.allclose(start[name], tensor) for name, tensor in adapter_state(model).items())


@pytest.mark.parametrize("changes", [{"loss_on": "all"}, {"clip_norm": 0.0, "learning_rate": 0.01}])
def test_the_other_settings_equal_the_reference_too(changes):
    settings = changed(**changes)
    model, result = train(settings)
    expected, losses = reference(settings, list(range(10)))
    assert [row["train_loss"] for row in result.history] == pytest.approx(losses, abs=1e-4)
    assert close(adapter_state(model), adapter_state(expected), 1e-4)


@pytest.mark.parametrize("micro_batch_tokens", [1, 60, 150])
def test_micro_batches_change_nothing(micro_batch_tokens):
    whole, _ = train(changed(micro_batch_tokens=100_000))
    cut, _ = train(changed(micro_batch_tokens=micro_batch_tokens))
    assert close(adapter_state(whole), adapter_state(cut))


@pytest.mark.parametrize("loss_on", ["response", "all"])
def test_the_loss_of_a_batch_counts_the_wanted_tokens_only(loss_on):
    model, encoded = tiny.model(), tiny.encoded()
    rows = torch.tensor([1, 4, 7])
    expected = sum(sample_loss(model, row, loss_on)[0] for row in rows.tolist())
    assert summed_loss(model, collate(encoded, rows, 0), loss_on).item() == pytest.approx(expected.item(), abs=1e-2)
    other_padding = summed_loss(model, collate(encoded, rows, 77), loss_on)
    assert torch.equal(other_padding, summed_loss(model, collate(encoded, rows, 0), loss_on))


def test_held_out_loss_is_a_mean_over_tokens():
    model, encoded = tiny.model(), tiny.encoded()
    parts = [sample_loss(model, row) for row in range(len(encoded))]
    expected = sum(part[0] for part in parts).item() / sum(part[1] for part in parts)
    for max_tokens in (1, 200, 10_000):
        assert held_out_loss(model, encoded, 0, max_tokens, "cpu") == pytest.approx(expected, abs=1e-5)


def test_the_history_has_a_row_for_each_step():
    _, result = train()
    assert [row["step"] for row in result.history] == [1, 2, 3, 4, 5, 6]
    assert [row["epoch"] for row in result.history] == [1, 1, 1, 2, 2, 2]
    assert [row["learning_rate"] for row in result.history] == [SGD.rate(step, 6) for step in range(6)]
    assert (result.steps, result.num_trainable) == (6, 2 * 4 * ((32 + 32) + (32 + 16)))
    assert result.seconds > 0
    tokens = 2 * sum(len(tiny.encoded().ids[row]) for row in range(10))
    assert result.tokens_per_second == pytest.approx(tokens / result.seconds)
    json.dumps(vars(result))


def test_the_first_loss_is_that_of_the_base_model():
    _, result = train(changed(batch_size=12), range(12))
    expected = held_out_loss(tiny.model(), tiny.encoded(), 0, 1000, "cpu")
    assert result.history[0]["train_loss"] == pytest.approx(expected, abs=1e-5)


def test_training_lowers_the_loss():
    model, result = train(changed(**CHANGES["adamw"], epochs=20), range(12))
    before = held_out_loss(tiny.model(), tiny.encoded(), 0, 1000, "cpu")
    assert held_out_loss(model, tiny.encoded(), 0, 1000, "cpu") < before - 0.2
    assert result.history[-1]["train_loss"] < result.history[0]["train_loss"] - 0.2


def test_training_repeats_exactly_whatever_was_drawn_before():
    settings = changed(lora_dropout=0.3)
    torch.manual_seed(1)
    first, result = train(settings)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    again, result_again = train(settings, reversed(range(10)))
    assert torch.equal(torch.get_rng_state(), state)
    assert same(first, again)
    assert result.history == result_again.history


@pytest.mark.parametrize("changes", [{"seed": 1}, {"subset": range(1, 11)}, {"settings": changed(lora_dropout=0.3)}])
def test_seed_subset_and_dropout_matter(changes):
    assert not same(train()[0], train(**changes)[0])


def test_the_base_weights_stay_as_they_are():
    model, before = tiny.model(), tiny.model().state_dict()
    train(model=model)
    after = {name.replace("base_layer.", ""): tensor for name, tensor in model.state_dict().items()}
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_gradient_checkpointing_changes_nothing():
    model = tiny.model()
    with warnings.catch_warnings(action="ignore"):  # The name of this method differs between versions of transformers.
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    assert same(train(model=model)[0], train()[0])


def test_bfloat16_is_near_float32():
    _, exact = train()
    model, result = train(dtype="bf16", model=tiny.model().to(torch.bfloat16))
    losses = [row["train_loss"] for row in result.history]
    assert losses == pytest.approx([row["train_loss"] for row in exact.history], rel=0.03)
    assert {tensor.dtype for tensor in trainable(model).values()} == {torch.float32}


def test_an_observer_sees_every_step_and_disturbs_nothing():
    seen = []

    def observe(step, model):
        seen.append((step, adapter_state(model)))
        model.eval()
        torch.rand(5)

    settings = changed(lora_dropout=0.3)
    model, _ = train(settings, observe=observe)
    assert [step for step, _ in seen] == [0, 1, 2, 3, 4, 5, 6]
    assert all(torch.equal(tensor, adapter_state(model)[name]) for name, tensor in seen[-1][1].items())
    assert same(model, train(settings)[0])


def test_with_zero_epochs_the_base_model_is_unchanged():
    base, steps = tiny.model(), []
    model, result = train(changed(epochs=0), model=base, observe=lambda step, _: steps.append(step))
    assert model is base
    assert (result.history, result.steps, result.num_trainable, steps) == ([], 0, 0, [0])


def test_a_short_training_says_that_its_rate_stays_low(caplog):
    train(changed(warmup_steps=100))
    assert "after 6 steps, within its 100 warm-up steps" in caplog.text


def test_an_empty_subset_gives_a_one_line_error():
    with pytest.raises(InputError, match="needs at least one sample"):
        train(subset=[])


def test_a_loss_that_is_not_finite_stops_the_training():
    model = tiny.model()
    with torch.no_grad():
        model.lm_head.weight[7] = float("nan")
    with pytest.raises(InputError, match="the training loss is nan in step 1; lower sft.learning_rate"):
        train(model=model)


def test_too_little_memory_gives_a_one_line_error(monkeypatch):
    model = tiny.model()

    def full(*args, **kwargs):
        raise torch.OutOfMemoryError("no")

    monkeypatch.setattr(type(model), "forward", full)
    with pytest.raises(InputError, match="too little memory for a micro-batch .* lower sft.micro_batch_tokens"):
        train(model=model)


@pytest.mark.parametrize("count", [1, 4])
def test_processes_share_the_samples_of_a_step(count):
    rows = torch.arange(count)
    shares = [rows[list(Processes(rank, 2, "cpu").share(count))].tolist() for rank in (0, 1)]
    assert sorted(sum(shares, [])) == rows.tolist()


@pytest.mark.slow  # The test needs two further processes, which may be too slow on a busy machine.
def test_two_processes_equal_one(tmp_path):
    """The processes use gloo on the CPU. The last batch of an epoch has one sample, and the second process has none."""
    context = multiprocessing.get_context("fork")  # A new interpreter would import transformers for half a minute.
    started = [context.Process(target=_one_of_two, args=(rank, tmp_path), daemon=True) for rank in (0, 1)]
    for process in started:
        process.start()
    for process in started:
        process.join(120)
    faults = "\n".join(file.read_text() for file in sorted(tmp_path.glob("fault-*.txt")))
    assert [process.exitcode for process in started] == [0, 0], faults
    model, result = train(subset=range(9))
    for rank in (0, 1):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert found["size"] == 2
        assert close(found["adapter"], adapter_state(model))
        assert found["losses"] == pytest.approx([row["train_loss"] for row in result.history], abs=1e-5)
    assert (tmp_path / "checkpoint" / "sft-checkpoint.pt").is_file()


def _one_of_two(rank, folder):
    ranked = {"WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "RANK": rank, "LOCAL_RANK": rank, "GLOO_SOCKET_IFNAME": "lo"}
    ranked["OMP_NUM_THREADS"] = 1  # Accelerate warns if this variable is not set.
    os.environ.update({key: str(value) for key, value in ranked.items()})
    try:
        # The processes meet in a file, since on a busy machine a free port may be taken a moment later.
        torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
        accelerate.PartialState._reset_state()
        processes = Processes.current("cpu")
        model, result = train(subset=range(9), checkpoint=Checkpoint(folder / "checkpoint", {}), processes=processes)
        losses = [row["train_loss"] for row in result.history]
        found = {"adapter": adapter_state(model), "losses": losses, "size": processes.size}
        torch.save(found, folder / f"{rank}.pt")
        processes.wait()
        torch.distributed.destroy_process_group()
    except BaseException:
        # Pytest does not see the output of a forked process.
        (folder / f"fault-{rank}.txt").write_text(traceback.format_exc())
        raise


@pytest.mark.data
@pytest.mark.slow
def test_the_released_recipe_lowers_the_held_out_loss_of_a_real_model(real_data):
    """The bound is loose and only detects a broken training: the model was trained on children's stories."""
    import yaml

    from prunetune.instruct.corpus.corpora import LocalCorpus
    from prunetune.instruct.corpus.encoding import encode, padding_id
    from prunetune.instruct.model.language_model import LanguageModel
    from prunetune.instruct.model.reader import Reader

    path = real_data / "data" / "instruct" / "alpagasus" / "dolly_3k.json"
    llm = LanguageModel(model=str(real_data / "weights" / "stories260K-hf"))
    tokenizer = llm.tokenizer()
    encoded = encode(LocalCorpus(path=str(path), template="released", max_length=512, limit=1400), tokenizer)
    preset = Path(__file__).parents[2] / "configs" / "sft" / "released.yaml"
    settings = SftSettings(**yaml.safe_load(preset.read_text()))
    rows = torch.arange(len(encoded))
    subset, held_out = rows[rows % 5 > 0], encoded.take(rows[rows % 5 == 0])
    pad_id = padding_id(tokenizer)
    before = held_out_loss(llm.load("cpu", "fp32"), held_out, pad_id, 4096, "cpu")
    job = SftJob(Reader(llm, tokenizer, encoded), subset, settings, seed=0)
    start = adapter_state(attach(llm.load("cpu", "fp32"), settings, 0))
    model, result = fine_tune(llm.load("cpu", "fp32"), job, "fp32", ALONE)
    after = held_out_loss(model, held_out, pad_id, 4096, "cpu")
    print(f"held-out loss {before:.3f} -> {after:.3f}; {result.tokens_per_second:.0f} tokens/s, {result.seconds:.0f} s")
    assert after <= 0.9 * before
    assert all(bool((start[name] != tensor).all()) for name, tensor in adapter_state(model).items())
