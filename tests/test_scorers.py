"""The contract of scorers over every YAML and two kinds of network, and scores that come from a file."""

from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from hydra.utils import get_class
from safetensors.torch import save_file

from made_checkout import write_checkout
from prunetune.base.errors import InputError
from prunetune.base.store import Store
from prunetune.config import catalogue
from prunetune.config.build import build
from prunetune.data.pool import Pool
from prunetune.networks.backbone import Backbone
from prunetune.runs.scores import check_fit, compute_scores, stored_scores
from prunetune.samplers import FlexRand, RandomSampler, TopK, TypiClust
from prunetune.scorers import DLC, FromFile, Herding, NoScore, Random, Scorer
from prunetune.signals.network import Embedding, NetworkSignals
from prunetune.signals.tensors import TensorSignals
from prunetune.testing import check_scorer, made_pool

SETTINGS = {name: entry.settings for name, entry in catalogue.entries("scorers").items()}
# The default tier of tests takes fewer masked networks, trained proxies or drawn planes of these scorers. The slow tier
# takes all.
PATH, PROXIES, PLANES = {"levels": 6}, {"repeats": 2}, {"repeats": 500}
LONG = {
    **dict.fromkeys(("dlc_50", "dlc_linear_50", "dlc_released"), PATH),
    **dict.fromkeys(("el2n", "el2n_deepcore", "grand", "grand_deepcore", "grand_last"), PROXIES),
    "zcore": PLANES,
}
# Each of these reads something else of the proxy: its predictions, the gradients of its weights, the gradients of the
# image, its features with masked weights. The other scorers of a proxy read one of these.
PROXY_READERS = ("el2n", "grand", "deepfool", "dlc_finetuned")
MICRO = Backbone(model="prunetune_micro", mask_modules="conv2d")
POOL = Pool("made", torch.tensor([0, 1, 0]), ("a.png", "b.png", "c.png"), ("train",) * 3, ("x", "y"))


@pytest.fixture(scope="module")
def networks(tmp_path_factory) -> dict[str, Backbone]:
    """Return a convolutional and a token network.

    The weights of the last norm of the token network are changed. With random weights this norm is the identity, so the
    mean over channels, which is the only input of the released pooling, would be zero for every image.
    """
    vit = Backbone(
        model="test_vit.r160_in1k",
        mask_modules="linear",
        pretrained=False,
        model_args={"img_size": 32},
        input_size=32,
    )
    weights = vit.load().model.state_dict()
    weights["norm.weight"] = 1 + torch.linspace(-0.5, 0.5, 64)
    file = tmp_path_factory.mktemp("weights") / "test_vit.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, file)
    return {"micro": MICRO, "test_vit": replace(vit, checkpoint=str(file))}


def made_scores(folder: Path) -> Path:
    """Write scores of `made_pool` as another tool would, in another order than that of the pool."""
    ids = sorted(made_pool().sample_ids, key=lambda sample_id: sample_id[::-1])
    path = folder / "other_tool.csv"
    path.write_text("sample_id,score\n" + "".join(f"{sample_id},{i**2 / 7}\n" for i, sample_id in enumerate(ids)))
    return path


def write(folder: Path, text: str | bytes) -> str:
    path = folder / "scores.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def read(path: str, pool: Pool = POOL) -> list[float]:
    return FromFile(path).score(pool, TensorSignals(torch.zeros(len(pool), 1)), torch.Generator()).tolist()


def scorer_of(name: str, folder: Path, **shortened) -> Scorer:
    group = {**SETTINGS[name], **shortened}
    if name == "from_file":
        group["path"] = str(made_scores(folder))
    if name == "deepcore":
        group |= {"path": str(write_checkout(folder / "DeepCore")), "fraction": 0.5, "epochs": 1, "batch_size": 8}
    return build(group)


def of_both_networks() -> list:
    """Return pytest parameters: every scorer with both networks.

    The convolutional network takes longer. The slow tier alone checks it with variants of a class, which share code,
    and with scorers of a proxy other than PROXY_READERS.
    """
    first = {settings["_target_"]: name for name, settings in reversed(SETTINGS.items())}
    later = {name for name, settings in SETTINGS.items() if first[settings["_target_"]] != name}
    later |= {name for name, settings in SETTINGS.items() if get_class(settings["_target_"]).reads_proxy}
    later -= set(PROXY_READERS)
    return [
        pytest.param(name, network, marks=pytest.mark.slow if network == "micro" and name in later else ())
        for name in SETTINGS
        for network in ("micro", "test_vit")
    ]


@pytest.mark.parametrize(("name", "network"), of_both_networks())
def test_every_scorer_keeps_the_contract_on_a_convolutional_and_on_a_token_network(name, network, networks, tmp_path):
    check_scorer(scorer_of(name, tmp_path, **LONG.get(name, {})), networks[network])


@pytest.mark.slow
@pytest.mark.parametrize("network", ["micro", "test_vit"])
@pytest.mark.parametrize("name", LONG)
def test_every_long_scorer_keeps_the_contract_at_full_length(name, network, networks, tmp_path):
    check_scorer(scorer_of(name, tmp_path), networks[network])


def test_the_long_scorers_are_those_of_many_networks_proxies_or_planes():
    of_path = {name for name, settings in SETTINGS.items() if settings.get("levels", 0) > PATH["levels"]}
    repeated = {name for name, settings in SETTINGS.items() if (settings.get("repeats") or 1) > PROXIES["repeats"]}
    assert set(LONG) == of_path | repeated


@dataclass(frozen=True)
class Broken(Scorer):
    """A scorer that breaks one rule of the contract, named by `fault`."""

    fault: str = ""

    name = "broken"
    higher_means = "harder"
    version = 1

    def score(self, pool, signals, generator):
        network = signals.embedding.network
        scores = signals.features().double().norm(dim=1)
        if self.fault == "not told apart":
            return torch.zeros(len(pool), dtype=torch.float64)
        if self.fault == "draws":
            return scores + torch.rand(len(pool), generator=torch.Generator().manual_seed(torch.seed() % 2**31))
        if self.fault == "touches the network":
            network.model.stem[0].weight.data[0] += 1
        if self.fault == "reads the batch size":
            return scores * signals.embedding.batch_size
        if self.fault == "scores another way round":
            return torch.cat([scores, scores])
        return scores


def test_the_contract_notices_a_scorer_that_breaks_it():
    check_scorer(Broken())
    with pytest.raises(AssertionError, match="tell images apart"):
        check_scorer(Broken("not told apart"))
    with pytest.raises(AssertionError, match="the same seed"):
        check_scorer(Broken("draws"))
    with pytest.raises(AssertionError, match="unchanged"):
        check_scorer(Broken("touches the network"))
    with pytest.raises(AssertionError, match="batch size"):
        check_scorer(Broken("reads the batch size"))
    with pytest.raises(TypeError, match=r"must return \[N\] float64"):
        check_scorer(Broken("scores another way round"))


@pytest.mark.parametrize("target", sorted({settings["_target_"] for settings in SETTINGS.values()}))
def test_every_scorer_says_its_source_cost_and_direction(target):
    kind = get_class(target)
    wanted = ["Source:", "Cost:"] if kind.higher_means == "nothing" else ["Source:", "Cost:", "Direction:"]
    assert [word for word in wanted if f"\n    {word} " not in kind.__doc__] == []


def test_random_scores_nothing_and_its_own_sampler_draws():
    scores = Random().score(POOL, TensorSignals(torch.zeros(3, 1)), torch.Generator())
    assert scores.tolist() == [0, 0, 0]
    assert (Random.higher_means, Random.own_sampler) == ("nothing", "random")


def test_a_score_that_is_not_finite_stops_the_run():
    class Overflowing(Broken):
        def score(self, pool, signals, generator):
            return signals.features()[:, 0].square().double()  # The square is computed in float32 and overflows.

    features = torch.tensor([[0.0], [1], [1e30]])
    with pytest.raises(InputError, match="1 of 3 scores of broken are not finite"):
        compute_scores(Overflowing(), TensorSignals(features, pool=POOL), 0)


def test_stored_scores_are_read_and_not_computed_again(tmp_path):
    class Counting(Broken):
        calls = 0

        def score(self, pool, signals, generator):
            Counting.calls += 1
            return super().score(pool, signals, generator)

    network = MICRO.load()
    first, second = (
        stored_scores(Counting(), NetworkSignals(made_pool(), Embedding(network, Store(tmp_path))), 0) for _ in range(2)
    )
    assert torch.equal(first.values, second.values)
    assert first.folder == second.folder
    assert Counting.calls == 1


def test_scores_of_another_version_scorer_or_seed_have_another_place(tmp_path):
    class Newer(DLC):
        version = 2

    def place(scorer: Scorer, seed: int = 0) -> Path:
        return stored_scores(scorer, NetworkSignals(made_pool(), Embedding(network, Store(tmp_path))), seed).folder

    network = MICRO.load()
    plain, random = DLC(levels=1), DLC(levels=1, masking="random")
    assert place(plain) == place(plain, seed=1)  # This scorer does not use the seed.
    folders = [place(plain), place(Newer(levels=1)), place(DLC(levels=2)), place(random), place(random, seed=1)]
    assert len(set(folders)) == 5


def test_a_file_of_scores_is_read_by_id_whatever_its_order_and_other_columns(tmp_path):
    text = "label,score,sample_id,note\n0,3.5,c.png,\n1,-2,b.png,x\n0,1e-3,a.png,\n9,nan,elsewhere.png,\n"
    assert read(write(tmp_path, text)) == [0.001, -2, 3.5]
    assert read(write(tmp_path, "sample_id,score\r\nb.png,2\r\nc.png,3\r\na.png,1\r\n")) == [1, 2, 3]


def test_a_file_saved_by_a_spreadsheet_may_begin_with_a_byte_order_mark(tmp_path):
    assert read(write(tmp_path, b"\xef\xbb\xbfsample_id,score\na.png,1\nb.png,2\nc.png,3\n")) == [1, 2, 3]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sample_id,score\na.png,1\nb.png,2\n", r"no score for 1 of 3 samples, first: c\.png"),
        ("sample_id,score\na.png,1\nb.png,2\na.png,1\nc.png,3\n", r"'a\.png' occurs twice"),
        ("sample_id,score\na.png,1\nb.png,nan\nc.png,inf\n", "2 scores that are not finite"),
        ("sample_id,score\na.png,1\nb.png,\nc.png,3\n", "1 scores that are not finite"),
        ("sample_id,score\na.png,1\nb.png\nc.png,3\n", r"row 2 \(b\.png\) has 1 fields and the header 2"),
        ("sample_id,score\na.png,1\nb.png,hard\nc.png,3\n", "row 2 has no number as its score, but 'hard'"),
        ("id,value\na.png,1\n", "needs the columns sample_id and score, has id, value"),
        ("", "needs the columns sample_id and score, has none"),
        (b"\x89PNG\r\n\x1a\n\x00\x00\xff\xfe", "is not a readable csv file|needs the columns"),
        # Decimal commas and separators between digits.
        ("sample_id,score\na.png,0,731\nb.png,0,5\nc.png,1\n", r"row 1 \(a\.png,0,731\) has 3 fields.*as in 0\.731"),
        ("sample_id,score\na.png,1,500\n", r"row 1 \(a\.png,1,500\) has 3 fields and the header 2; a comma inside a"),
        ('sample_id,score\na.png,"0,731"\n', r"row 1 has the score '0,731', with a decimal comma or separators"),
        ('sample_id,score\na.png,"1,500"\n', "row 1 has the score '1,500', with a decimal comma or separators"),
        ("sample_id,score\na.png,1.234.567\n", "row 1 has the score '1.234.567', with a decimal comma or"),
        ("sample_id,score\na.png,1_500\n", "row 1 has the score '1_500', with a decimal comma or separators"),
        ("sample_id,score\na.png,1 500\n", "row 1 has the score '1 500', with a decimal comma or separators"),
        ("sample_id,score\na.png,1'500\n", 'row 1 has the score "1\'500", with a decimal comma or separators'),
        ("sample_id;score\na.png;0,731\n", "has semicolons between its columns; write commas .* as in 0.731"),
        ("sample_id\tscore\na.png\t0.731\n", "has tabs between its columns; write commas"),
        ("sample_id,score,\na.png,0,731\n", r"row 1 \(a\.png,0,731\) has a value in a column without a name"),
        # Columns.
        ("sample_id,score,score\na.png,1,2\nb.png,1,2\nc.png,1,2\n", "has 2 columns called score"),
        ("sample_id,score,Score\na.png,1,2\n", "has 2 columns called score"),
        ("sample_id,sample_id,score\na.png,b.png,2\n", "has 2 columns called sample_id"),
        ("sample_id,score\na.png,1,\n", "has 3 fields and the header 2"),
        ("sample_id,score\na,b.png,1\n", "write ids with commas in double quotes"),
        # Ids and numbers.
        ("sample_id,score\n,1\n", "row 1 has no text or whole number as its sample_id, but ''"),
        ("sample_id,score\na.png,73%\n", "row 1 has no number as its score, but '73%'"),
        ("sample_id,score\na.png,0x10\n", "row 1 has no number as its score, but '0x10'"),
        ("sample_id,score\na.png,true\n", "row 1 has no number as its score, but 'true'"),
        (f"sample_id,score\na.png,1\nb.png,1\nc.png,{'9' * 400}\n", "1 scores that are not finite, first: that of c"),
        ('sample_id,score\n"a.png"x,1\n', "is not a readable csv file"),
        # Row numbers.
        ("sample_id,score\n1,1\n2,2\n3,3\n", "has 3 row numbers from 1 to 3 .* the pool has the positions 0 to 2"),
        ("sample_id,score\n0,1\n1,2\n", "has 2 row numbers from 0 to 1 as sample_ids"),
        ("sample_id,score\n0,1\n00,2\n1,2\n2,2\n", "two sample_ids are the same row number"),
    ],
)
def test_a_file_that_does_not_score_the_pool_is_refused_in_one_line(tmp_path, text, message):
    with pytest.raises(InputError, match=message) as caught:
        read(write(tmp_path, text))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "scores"),
    [
        ("sample_id,score\na.png, 0.5\nb.png,-1e3\nc.png,.5\n", [0.5, -1000, 0.5]),
        ("position,sample_id,label,score\n0,a.png,0,1.\n1,b.png,1,2\n2,c.png,0,+3\n", [1, 2, 3]),
        (",sample_id,score\n0,a.png,1\n1,b.png,2\n2,c.png,3\n", [1, 2, 3]),  # pandas writes its index like this.
        ('score,sample_id,"a, note"\n1,a.png,"0,731"\n2,b.png,\n3,c.png,x\n', [1, 2, 3]),
    ],
)
def test_further_columns_and_all_forms_of_a_number_are_read(tmp_path, text, scores):
    assert read(write(tmp_path, text)) == scores


def test_row_numbers_are_positions_in_the_pool_and_a_warning_says_so(tmp_path, caplog):
    assert read(write(tmp_path, "sample_id,score\n2,30\n0,10\n1,20\n")) == [10, 20, 30]
    assert "positions in the pool, which is sorted by sample_id: 0 is a.png, 2 is c.png" in caplog.text
    numbered = Pool("made", torch.tensor([0, 0]), ("000007", "000012"), ("train",) * 2, ("x",))
    caplog.clear()
    assert read(write(tmp_path, "sample_id,score\n12,5\n7,4\n3,1\n"), numbered) == [4, 5]
    assert read(write(tmp_path, "sample_id,score\n000012,5\n000007,4\n"), numbered) == [4, 5]
    assert not caplog.text


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"sample_id": "a.png", "score": 1, "score": 2}', "has 2 columns called score in line 1"),
        ('{"sample_id": "a.png", "score": true}', "row 1 has no number as its score, but True"),
        ('{"sample_id": "a.png", "score": "0,731"}', "with a decimal comma or separators between digits"),
        ('{"sample_id": "a.png", "score": [1]}', "row 1 has no number as its score"),
        ('{"sample_id": null, "score": 1}', "row 1 has no text or whole number as its sample_id, but None"),
        ('{"sample_id": 1.0, "score": 1}', "row 1 has no text or whole number as its sample_id, but 1.0"),
        ('["sample_id", "score"]', "needs the columns sample_id and score, has none in line 1"),
        ("[" * 100_000, "is not a readable jsonl file"),
    ],
)
def test_an_object_of_a_jsonl_file_is_as_strict_as_a_row(tmp_path, line, message):
    (tmp_path / "scores.jsonl").write_text(line)
    with pytest.raises(InputError, match=message):
        read(str(tmp_path / "scores.jsonl"))


def test_scores_that_were_misread_before_are_not_taken_from_the_store(tmp_path):
    scorer = FromFile(write(tmp_path, "sample_id,score\na.png,0,731\n"))
    with pytest.raises(InputError, match="has 3 fields and the header 2"):
        scorer.key()


@pytest.mark.parametrize("path", ["", "no/such/scores.csv", "."])
def test_a_path_that_is_no_file_is_refused_before_anything_is_computed(path):
    with pytest.raises(InputError, match=r"scorer\.path must be a csv, jsonl or parquet file"):
        FromFile(path)


def test_the_key_of_a_file_depends_on_its_content_and_not_on_its_place(tmp_path):
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    one, same = (
        FromFile(write(tmp_path / "a", "sample_id,score\n")),
        FromFile(write(tmp_path / "b", "sample_id,score\n")),
    )
    assert one.key() == same.key()
    write(tmp_path / "b", "sample_id,score\na,1\n")
    assert one.key() != same.key()


def test_a_pick_order_that_is_too_short_or_made_for_another_ratio_is_refused():
    with pytest.raises(InputError, match=r"orders scorer\.depth=0\.1 of each class, ratio 0\.5 keeps more"):
        check_fit(Herding(depth=0.1), TopK(), 0.5)
    check_fit(Herding(depth=0.1), TopK(), 0.1)
    with pytest.raises(InputError, match=r"needs scorer\.depth=1, got 0\.1"):
        check_fit(Herding(depth=0.1), TopK(budgets="equal"), 0.1)
    with pytest.raises(InputError, match="herding gives an order of picks"):
        check_fit(Herding(), FlexRand(), 0.1)
    with pytest.raises(InputError, match=r"fewer than sampler\.min_per_class=3; pass scorer\.depth=1"):
        check_fit(Herding(depth=0.1), TopK(min_per_class=3), 0.1)


def test_a_sampler_that_reads_scores_is_refused_with_the_scorer_none():
    for sampler in (TopK(), FlexRand()):
        with pytest.raises(InputError, match="scorer none gives every image the same score"):
            check_fit(NoScore(), sampler, 0.1)
    check_fit(NoScore(), TypiClust(), 0.1)
    check_fit(NoScore(), RandomSampler(), 0.1)
