"""Recording scores in a training loop, and InfoBatch and RS2 as samplers of a DataLoader."""

import io
import logging
import math
import multiprocessing
import traceback

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data.distributed import DistributedSampler

from prunetune import InfoBatchSampler, Recorder, RS2Sampler
from prunetune.base.errors import InputError
from prunetune.base.seeding import stream
from prunetune.data.pool import Pool
from prunetune.loop.statistics import RECORDED
from prunetune.runs.scores import compute_scores
from prunetune.scorers import (
    AUM,
    DLC,
    DUAL,
    EL2N,
    TDDS,
    DynUnc,
    Entropy,
    Forgetting,
    FromFile,
    LCOptimisation,
    LeastConfidence,
    Margin,
)
from prunetune.signals.proxy import RecordedProxy
from prunetune.signals.tensors import TensorSignals
from prunetune.training.sample_order import Slices, Walk

NUM, EPOCHS, CLASSES = 13, 17, 4
IDS = tuple(f"image {row:03d}" for row in range(NUM))
SCORERS = [
    *(Forgetting(), Forgetting("deepcore"), EL2N(repeats=1), EL2N(None, 1), EL2N(50, 1), AUM(), AUM("probabilities")),
    *(DynUnc(), DynUnc(2), DynUnc(40), DUAL(), DUAL(6, 3), DUAL(4, 9), LCOptimisation()),
    *(TDDS(), TDDS(8, 4, 0.5), TDDS(decay=0.0), TDDS(window=40), TDDS(epochs=3)),
    *(LeastConfidence(), LeastConfidence("deepcore"), LeastConfidence("deepcore", False), LeastConfidence("released")),
    *(Entropy(), Entropy("deepcore"), Entropy("released"), Margin(), Margin("released")),
]


def made_logits(num_epochs=EPOCHS):
    """Return [E, N, C] logits between certain and uncertain."""
    logits = torch.randn(num_epochs, NUM, CLASSES, generator=stream("loop", num_epochs))
    return logits * torch.logspace(-1, 1.3, NUM).unsqueeze(1)


def made_labels():
    return torch.arange(NUM) * 7 % CLASSES


def scorer_of(scorer, logits, labels):
    """Return the scores of a scorer whose proxy has recorded logits [E, n, C]."""
    count = len(labels)
    pool = Pool("made", labels, IDS[:count], ("train",) * count, tuple("abcd"))
    return compute_scores(
        scorer, TensorSignals(torch.zeros(count, 1), pool=pool, proxies=[RecordedProxy(list(logits))]), 0
    )


def recorded(recorder, logits, labels, epochs=None, batch_size=5):
    """Record epochs in a random order of the samples."""
    for epoch in range(len(logits)) if epochs is None else epochs:
        order = torch.randperm(NUM, generator=stream("order", epoch))
        for rows in order.split(batch_size):
            recorder.record([IDS[row] for row in rows.tolist()], logits[epoch][rows], labels[rows])
        recorder.end_epoch()
    return recorder


@pytest.mark.parametrize("scorer", SCORERS, ids=str)
def test_a_streamed_score_is_that_of_the_scorer_on_all_logits(scorer):
    logits, labels = made_logits(), made_labels()
    found = recorded(Recorder(IDS, CLASSES, [scorer]), logits, labels).scores(scorer.name)
    assert found.dtype == torch.float64
    assert torch.allclose(found, scorer_of(scorer, logits, labels), rtol=0, atol=1e-9)
    assert len(found.unique()) > 2


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_logits_of_any_float_type_are_read_as_float32(dtype):
    logits, labels = made_logits(9).to(dtype), made_labels()
    found = recorded(Recorder(IDS, scores=list(RECORDED)), logits, labels)
    for name, scorer in RECORDED.items():
        assert torch.allclose(found.scores(name), scorer_of(scorer, logits, labels), rtol=0, atol=1e-9), name


def test_a_sample_that_is_missing_in_epochs_scores_as_in_a_training_of_its_own_epochs(caplog):
    logits, labels = made_logits(), made_labels()
    is_there = torch.rand(EPOCHS, NUM, generator=stream("there")) < 0.7
    recorder = Recorder(IDS, scores=list(RECORDED))
    for epoch in range(EPOCHS):
        rows = torch.nonzero(is_there[epoch]).flatten()
        recorder.record([IDS[row] for row in rows.tolist()], logits[epoch][rows], labels[rows])
        recorder.end_epoch()
    for row in range(NUM):
        own = logits[is_there[:, row], row].unsqueeze(1)
        for name, scorer in RECORDED.items():
            expected = scorer_of(scorer, own, labels[row : row + 1]).item()
            if name == "forgetting" and expected == len(own):
                expected = EPOCHS  # A sample that is never right scores more than any other, for all of them the same.
            assert recorder.scores(name)[row].item() == pytest.approx(expected, abs=1e-9), name
    absent = int((~is_there[0]).sum())
    first = IDS[int(torch.nonzero(~is_there[0])[0])]
    assert caplog.messages[0].startswith(f"epoch 1: {absent} of {NUM} ids were not recorded, first: {first!r}")
    assert len(caplog.messages) == int((~is_there).any(dim=1).sum())


def test_an_id_without_a_score_is_refused_by_name_or_nan():
    recorder, logits, labels = Recorder(IDS, scores=["aum", "dyn_unc", "tdds"]), made_logits(), made_labels()
    for epoch in range(2):
        recorder.record(IDS[: 9 + epoch], logits[epoch, : 9 + epoch], labels[: 9 + epoch])
        recorder.end_epoch()
    for name, least, count in (("aum", 1, 10), ("dyn_unc", 2, 9), ("tdds", 3, 0)):
        with pytest.raises(InputError, match=f"{name} .* in {least} or more .* {NUM - count} of .*'{IDS[count]}'"):
            recorder.scores(name)
        scores = recorder.scores(name, missing="nan")
        assert scores[:count].isfinite().all()
        assert scores[count:].isnan().all()
    assert Recorder(IDS).scores("forgetting", missing="nan").isnan().all()


def test_what_is_kept_does_not_grow_with_the_epochs():
    def numbers(recorder):
        return sum(
            tensor.nelement() for parts in recorder.state_dict()["statistics"].values() for tensor in parts.values()
        )

    logits, labels = made_logits(), made_labels()
    for scores, most in ((["tdds"], 11 + CLASSES), (list(RECORDED)[:-1], 40)):
        recorder = recorded(Recorder(IDS, scores=scores), logits, labels, epochs=[0])
        after_one = numbers(recorder)
        assert numbers(recorded(recorder, logits, labels, epochs=range(1, EPOCHS))) == after_one <= most * NUM


def test_a_resumed_training_has_the_scores_of_an_uninterrupted_one():
    logits, labels = made_logits(), made_labels()
    whole = recorded(Recorder(IDS, scores=list(RECORDED)), logits, labels)
    before = recorded(Recorder(IDS, scores=list(RECORDED)), logits, labels, range(12))
    before.record(IDS[:4], logits[12, :4], labels[:4])  # The training is interrupted within an epoch.
    after = reloaded(before, Recorder(IDS, scores=list(RECORDED)))
    state = before.state_dict()
    as_text = str(state)
    before.record(IDS[4:], logits[12, 4:], labels[4:])
    assert str(state) == as_text  # What happens later does not change a state.
    after.record(IDS[4:], logits[12, 4:], labels[4:])
    after.end_epoch()
    recorded(after, logits, labels, range(13, EPOCHS))
    for name in RECORDED:
        assert torch.allclose(after.scores(name), whole.scores(name), rtol=0, atol=1e-12), name


def test_an_interrupted_epoch_that_begins_again_counts_each_sample_once(caplog):
    logits, labels = made_logits(), made_labels()
    before = Recorder(IDS, scores=["aum"])
    before.record(IDS[:4], logits[0, :4], labels[:4])
    after = reloaded(before, Recorder(IDS, scores=["aum"]))
    for part in (slice(2, NUM), slice(0, 2)):  # The loop shows the whole epoch again, in another order.
        after.record(IDS[part], logits[0, part], labels[part])
    after.end_epoch()
    assert "epoch 1: samples that came twice and count once: 4" in caplog.text
    whole = recorded(Recorder(IDS, scores=["aum"]), logits, labels, range(1))
    assert torch.equal(after.scores("aum"), whole.scores("aum"))
    after.record(IDS[:1], logits[1, :1], labels[:1])
    with pytest.raises(InputError, match="came twice in epoch 2"):  # This epoch was not interrupted.
        after.record(IDS[:1], logits[1, :1], labels[:1])


def test_a_state_of_other_ids_scores_or_classes_is_refused():
    state = recorded(Recorder(IDS, scores=["aum"]), made_logits(1), made_labels()).state_dict()
    with pytest.raises(InputError, match="other ids"):
        Recorder(NUM, scores=["aum"]).load_state_dict(state)
    with pytest.raises(InputError, match="other scores"):
        Recorder(IDS, scores=[AUM("probabilities")]).load_state_dict(state)
    with pytest.raises(InputError, match="has 4 classes, and this Recorder 5"):
        Recorder(IDS, 5, scores=["aum"]).load_state_dict(state)


LOGITS = torch.randn(3, 4, generator=stream("three"))
BAD_BATCHES = [
    (["a", "b", "a"], LOGITS, [0, 1, 0], r"id 'a' came twice in epoch 2; .*end_epoch\(\)"),
    (["a", "b", "x"], LOGITS, [0, 1, 2], r"does not know 1 of 3 ids of the batch, first: 'x'"),
    (["a", 1, True], LOGITS, [0, 1, 2], r"does not know 2 of 3 ids of the batch, first: 1"),
    ("abc", LOGITS, [0, 1, 2], "ids must be a list"),
    (["a", "b", "d"], LOGITS, [0, 1, 2], r"labels of 1 of 3 samples changed, first: id 'd' had label 3 and now has 2"),
    (["a", "b", "c"], LOGITS[:, :3], [0, 1, 2], "logits must have 4 columns, .* got 3"),
    (["a", "b", "c"], LOGITS[0], [0, 1, 2], r"logits must be a float tensor \[samples, classes\], got \(4,\)"),
    (["a", "b", "c"], LOGITS.tolist(), [0, 1, 2], "logits must be a float tensor .*got list"),
    (["a", "b", "c"], LOGITS, [0, 1, 4], r"labels must be in 0..3, .*got 4"),
    (["a", "b", "c"], LOGITS, torch.eye(4)[:3], r"labels must be whole numbers.*mixup"),
    (["a", "b", "c"], LOGITS, ["x", "y", "z"], "labels must be whole numbers"),
    (["a", "b"], LOGITS, [0, 1, 2], "got 2 ids, 3 rows of logits and 3 labels"),
    (["a", "b", "c"], LOGITS.where(LOGITS != LOGITS[1, 2], math.nan), [0, 1, 2], "1 of 3 samples are NaN.*'b'"),
    (["a", "b", "c"], LOGITS.where(LOGITS != LOGITS[2, 0], -math.inf), [0, 1, 2], "NaN or infinite, first: id 'c'"),
]


@pytest.mark.parametrize(("ids", "logits", "labels", "message"), BAD_BATCHES)
def test_a_batch_that_is_refused_changes_nothing(ids, logits, labels, message):
    recorder = Recorder(["a", "b", "c", "d"], scores=list(RECORDED))
    recorder.record(["d"], torch.tensor([[0.0, 1, 2, 3]]), [3])
    recorder.end_epoch()
    before = recorder.state_dict()
    with pytest.raises(InputError, match=message):
        recorder.record(ids, logits, labels)
    after = recorder.state_dict()
    assert str(after) == str(before)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0,), "must be a whole number of at least 1"),
        (("abc",), "ids must be a list"),
        (([],), "ids is empty"),
        ((["a", "b", "a"],), "1 are repetitions, first: 'a'"),
        (([1.5],), "an id must be a text or a whole number, got 1.5"),
        ((3, 1), "num_classes must be a whole number of at least 2"),
        ((3, None, ["el2m"]), "Did you mean 'el2n'"),
        ((3, None, ["el2n", EL2N(9, 1)]), "el2n is named twice"),
        ((3, None, [EL2N()]), "EL2N needs repeats=1, got 3"),
        ((3, None, [DLC()]), "dlc reads more of a network; record one of forgetting"),
        ((3, None, []), "scores is empty"),
    ],
)
def test_a_recorder_that_cannot_be_made_says_why(arguments, message):
    with pytest.raises(InputError, match=message):
        Recorder(*arguments)


def test_ids_may_be_a_number_and_come_as_lists_arrays_and_tensors():
    recorder, labels = Recorder(6, scores="aum"), [0, 1, 2, 3, 0, 1]
    logits = torch.randn(6, 4, generator=stream("six"), requires_grad=True)
    recorder.record(torch.tensor([5, 0], dtype=torch.int32), logits[[5, 0]], torch.tensor([1, 0], dtype=torch.uint8))
    recorder.record(np.array([2, 3]), logits[2:4], np.array([2, 3]))
    recorder.record([torch.tensor(4), np.int64(1)], logits[[4, 1]], [0, 1])
    recorder.record([], logits[:0], [])
    pool_order = scorer_of(AUM(), logits.detach().unsqueeze(0), torch.tensor(labels))
    assert torch.allclose(recorder.scores("aum"), pool_order, rtol=0, atol=1e-12)
    with pytest.raises(InputError, match="not 'tdds'; make it with"):
        recorder.scores("tdds")
    with pytest.raises(InputError, match="does not know 1 of 1 ids of the batch, first: 6"):
        recorder.record([6], logits[:1], [0])


def test_a_file_of_scores_is_read_back_to_the_last_digit(tmp_path):
    labels = made_labels()
    recorder = recorded(Recorder(IDS, scores=["dual"]), made_logits(), labels)
    recorder.to_csv(tmp_path / "new" / "dual.csv", "dual")
    pool = Pool("made", labels, IDS, ("train",) * NUM, tuple("abcd"))
    scores = FromFile(str(tmp_path / "new" / "dual.csv")).score(pool, None, stream())
    assert torch.equal(scores, recorder.scores("dual"))
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        recorder.to_csv(tmp_path / "file" / "dual.csv", "dual")


def test_an_id_that_was_never_recorded_has_an_empty_score_in_the_file(tmp_path):
    recorder = Recorder(["a", "b,c"], scores=["aum"])
    recorder.record(["a"], torch.tensor([[1.5, 0]]), [0])
    with pytest.raises(InputError, match="first: 'b,c'"):
        recorder.to_csv(tmp_path / "aum.csv", "aum")
    recorder.to_csv(tmp_path / "aum.csv", "aum", missing="nan")
    assert (tmp_path / "aum.csv").read_text().splitlines() == ["sample_id,score", "a,-1.5", '"b,c",']


def test_rs2_shows_the_slices_of_a_run_and_each_sample_once_before_any_comes_again():
    sampler, walk = RS2Sampler(23, 0.3, seed=3), Walk(Slices(23, 7), stream("rs2_sampler", 3))
    loader = DataLoader(TensorDataset(torch.arange(23)), batch_size=4, sampler=sampler)
    uses = torch.zeros(23)
    for _ in range(9):
        assert len(loader) == 2
        shown = torch.cat([rows for [rows] in loader])
        assert shown.tolist() == [row for rows, _ in walk.epoch() for row in rows.tolist()]
        uses[shown] += 1
        assert uses.max() - uses.min() <= 1
    assert list(RS2Sampler(23, 0.3, seed=4)) != list(RS2Sampler(23, 0.3, seed=3))
    assert [len(RS2Sampler(5, ratio)) for ratio in (0.01, 0.5, 1)] == [1, 2, 5]


def test_infobatch_leaves_out_half_of_the_easy_samples_and_doubles_the_others():
    losses, sampler = torch.tensor([0.1, 0.2, 0.3, 0.4, 9, 8, 7, 6]), InfoBatchSampler(8, num_epochs=8, seed=1)
    dropped = set()
    for epoch in range(8):
        is_whole = epoch in (0, 7)  # No loss is known at first, and an eighth of the epochs at the end is whole.
        expected = 8 if is_whole else 6
        assert len(sampler) == expected
        shown = list(sampler)
        assert len(shown) == len(set(shown)) == expected
        assert set(shown) >= {4, 5, 6, 7}
        weights = sampler.weights(torch.tensor(shown))
        assert weights.tolist() == [1 if is_whole or row > 3 else 2 for row in shown]
        assert weights.sum() == 8
        dropped |= set(range(8)) - set(shown)
        if not is_whole:
            with pytest.raises(InputError, match="is not shown in this epoch"):
                sampler.weights([min(set(range(8)) - set(shown))])
        for rows in torch.tensor(shown).split(3):
            sampler.update(rows, losses[rows].half().requires_grad_())
    assert len(dropped) > 2


@pytest.mark.parametrize("make", [lambda **of: RS2Sampler(11, 0.4, **of), lambda **of: InfoBatchSampler(11, 9, **of)])
def test_processes_share_an_epoch_and_show_equally_many(make):
    whole, shares = make(), [make(num_replicas=3, rank=rank) for rank in range(3)]
    for _ in range(6):
        order, parts = list(whole), [list(share) for share in shares]
        assert len({len(part) for part in parts}) == 1
        together = [row for rows in zip(*parts, strict=True) for row in rows]
        assert together == [*order, *order[: -len(order) % 3]]
        if isinstance(whole, InfoBatchSampler):
            for sampler in (whole, *shares):
                sampler.update(torch.arange(11), torch.arange(11.0))
        assert {len(share) for share in shares} == {math.ceil(len(whole) / 3)}


def show(sampler):
    """Return the samples of an epoch, for InfoBatch with their weights, and hand losses back."""
    shown = list(sampler)
    if isinstance(sampler, InfoBatchSampler):
        sampler.update(torch.arange(11), torch.arange(11.0).roll(sum(shown[:3])))
        shown = list(zip(shown, sampler.weights(shown).tolist(), strict=True))
    return shown


def reloaded(made, new):
    """Load the state of a sampler or Recorder into a new one, by way of a file."""
    file = io.BytesIO()
    torch.save(made.state_dict(), file)
    file.seek(0)
    new.load_state_dict(torch.load(file, weights_only=True))
    return new


@pytest.mark.parametrize("make", [lambda: RS2Sampler(11, 0.4), lambda: InfoBatchSampler(11, 9)])
def test_a_resumed_sampler_goes_on_and_within_an_epoch_it_begins_the_epoch_again(make):
    whole, sampler = make(), make()
    expected = [show(whole) for _ in range(9)]
    assert len({str(epoch) for epoch in expected}) == 9
    assert [show(sampler) for _ in range(3)] == expected[:3]
    between = reloaded(sampler, make())
    assert len(between) == len(expected[3])
    assert [show(between) for _ in range(6)] == expected[3:]
    epoch = iter(sampler)
    next(epoch)
    within = reloaded(sampler, make())
    assert len(within) == len(sampler) == len(expected[3])
    assert [show(within) for _ in range(6)] == expected[3:]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RS2Sampler(11, 0), r"ratio is the fraction .* in \(0, 1\], got 0"),
        (lambda: RS2Sampler(0, 0.5), "num_samples must be a whole number of at least 1"),
        (lambda: RS2Sampler(11, 0.5, num_replicas=2, rank=2), r"rank must be a whole number in 0..1, got 2"),
        (lambda: InfoBatchSampler(11, 0), "num_epochs"),
        (lambda: InfoBatchSampler(11, 5, dropped=1), "dropped must be in"),
        (lambda: InfoBatchSampler(11, 5, whole_end=2), "whole_end must be in"),
        (lambda: InfoBatchSampler(11, 5).weights([0]), "sample 0 is not shown in this epoch"),
        (lambda: InfoBatchSampler(11, 5).update([0, 11], torch.ones(2)), r"whole numbers in 0..10"),
        (lambda: InfoBatchSampler(11, 5).update([0, 1], torch.ones(())), "one number for each of 2 indices"),
        (lambda: InfoBatchSampler(11, 5).update([3, 1], torch.tensor([1, math.nan])), "loss of sample 1 is NaN"),
        (lambda: RS2Sampler(11, 0.4, 5).load_state_dict(RS2Sampler(11, 0.4).state_dict()), "seed=0, and .* seed=5"),
        (lambda: RS2Sampler(11, 0.4).load_state_dict(InfoBatchSampler(11, 9).state_dict()), "sampler=InfoBatch"),
    ],
)
def test_what_a_sampler_cannot_do_is_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_two_processes_record_as_one(tmp_path):
    """The processes use gloo. A DistributedSampler repeats one of the 13 samples in each epoch."""
    context = multiprocessing.get_context("fork")  # A new interpreter would import torch again.
    started = [context.Process(target=_one_of_two, args=(rank, tmp_path), daemon=True) for rank in (0, 1)]
    for process in started:
        process.start()
    for process in started:
        process.join(120)
    faults = "\n".join(file.read_text() for file in sorted(tmp_path.glob("fault-*.txt")))
    assert [process.exitcode for process in started] == [0, 0], faults
    alone = recorded(Recorder(IDS, scores=list(RECORDED)), made_logits(), made_labels())
    for rank in (0, 1):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for name in RECORDED:
            assert torch.allclose(found["scores"][name], alone.scores(name), rtol=0, atol=1e-12), name
        said = [f"epoch {epoch}: samples that came twice and count once: 1" for epoch in range(1, EPOCHS + 1)]
        assert found["messages"] == (said if rank == 0 else [])
        assert found["errors"] == [
            "process 1: the Recorder does not know 1 of 1 ids of the batch, first: 'x'; it was made with 13 ids, "
            "first: 'image 000'; make it with the ids of all samples",
            "id 'image 000' came twice in epoch 18; record each sample once in an epoch, and call end_epoch() after "
            "each",
        ]
    shares = [torch.load(tmp_path / f"{rank}.pt", weights_only=True)["shown"] for rank in (0, 1)]
    sampler = InfoBatchSampler(13, 9)
    for epoch in range(2):  # Six of the 13 losses are below the mean, so that the second epoch leaves out three.
        order = list(sampler)
        sampler.update(order, torch.tensor(order).float())
        together = [row for rows in zip(shares[0][epoch], shares[1][epoch], strict=True) for row in rows]
        assert together == [*order, *order[: len(order) % 2]]
    assert len(order) == 10


def _one_of_two(rank, folder):
    try:
        messages = []
        handler = logging.Handler(logging.INFO)
        handler.emit = lambda record: messages.append(record.getMessage())
        logging.getLogger("prunetune.loop").addHandler(handler)
        logging.getLogger("prunetune.loop").setLevel(logging.INFO)
        torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
        found = {"messages": messages, **_recorded_in_one_of_two(rank), "shown": _shown_in_one_of_two(rank)}
        torch.save(found, folder / f"{rank}.pt")
        torch.distributed.destroy_process_group()
    except BaseException:
        # Pytest does not see the output of a forked process.
        (folder / f"fault-{rank}.txt").write_text(traceback.format_exc())
        raise


def _recorded_in_one_of_two(rank):
    logits, labels, errors = made_logits(), made_labels(), []
    recorder, order = Recorder(IDS, scores=list(RECORDED)), DistributedSampler(range(NUM))
    for epoch in range(EPOCHS):
        order.set_epoch(epoch)
        for rows in torch.tensor(list(order)).split(3):
            recorder.record([IDS[row] for row in rows.tolist()], logits[epoch][rows], labels[rows])
        recorder.end_epoch()
    scores = {name: recorder.scores(name) for name in RECORDED}
    batches = [
        ([IDS[0]], logits[0, :1], labels[:1]) if rank == 0 else (["x"], logits[0, :1], labels[:1]),
        ([IDS[0]], logits[0, :1], labels[:1]) if rank == 0 else ([], logits[0, :0], []),
        ([IDS[0]], logits[0, :1], labels[:1]) if rank == 0 else ([], logits[0, :0], []),
    ]
    for batch in batches:
        try:
            recorder.record(*batch)
        except InputError as error:
            errors.append(str(error))
    return {"scores": scores, "errors": errors}


def _shown_in_one_of_two(rank):
    sampler, shown = InfoBatchSampler(13, 9), []
    for _ in range(2):
        shown.append(list(sampler))
        sampler.update(shown[-1], torch.tensor(shown[-1]).float())
    return shown
