"""prune() on folders, data sets and pools gives the same subsets as the command."""

import subprocess
import sys
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from PIL import Image

from made_data import make_image_folder
from prunetune import DLC, Backbone, FlexRand, Pool, api, prune
from prunetune.base.errors import InputError
from prunetune.base.store import Store
from prunetune.data.readers.textures import Textures
from prunetune.own.read import read
from prunetune.samplers import RS2, TopK
from prunetune.scorers import Scorer
from prunetune.signals.tensors import TensorSignals
from runs import MICRO, QUICK, read_rows, run_here

MICRO_NETWORK = Backbone(model="prunetune_micro", pretrained=False, input_size=16, mask_modules="conv2d")
TENSORS = Pool("made", torch.arange(6) % 2, tuple("abcdef"), ("train",) * 6, ("x", "y"))
PLAIN = {"backbone": MICRO_NETWORK, "precision": "fp32"}


@pytest.fixture(scope="module")
def textures():
    return Textures(num_pool=100, num_test=100, size=16).pool("train")


class Listed:
    """A data set as torchvision makes them: items (image, label), `targets` and `classes`."""

    def __init__(self, pool, as_image):
        self.pool, self.as_image = pool, as_image
        self.order = torch.randperm(len(pool), generator=torch.Generator().manual_seed(0)).tolist()
        self.targets = [int(pool.labels[i]) for i in self.order]
        self.classes = list(pool.classes)

    def __len__(self):
        return len(self.order)

    def __getitem__(self, index):
        image = self.pool.images.decode(self.order[index])
        if self.as_image:
            image = Image.fromarray(image.permute(1, 2, 0).numpy())
        return image, self.targets[index]


def test_a_folder_with_a_runs_hold_out_gives_the_subset_of_the_run(tmp_path):
    made = make_image_folder(tmp_path / "photos", {"bark": 12, "moss": 9, "sand": 5})
    run = run_here(
        tmp_path, "dataset=image_folder", f"dataset.root={made}", *MICRO, *QUICK, "ratio=0.4", "seed=3", "until=prune"
    )
    as_a_run = {"seed": 3, "rounding": "half_even", "hold_out": 0.2, "duplicates": "all"}
    subset = prune(made, 0.4, "dlc", "flexrand", MICRO_NETWORK, precision="fp32", **as_a_run)
    subset.to_csv(tmp_path / "ours.csv")
    ours, of_run = read_rows(tmp_path / "ours.csv"), read_rows(run / "subset.csv")
    # A run counts positions in its pool, and `prune` in the folder as the user knows it.
    assert [{**row, "position": ""} for row in ours] == [{**row, "position": ""} for row in of_run]
    everything = sorted(path.relative_to(made).as_posix() for path in made.rglob("*.jpg"))
    assert list(subset.sample_ids) == [everything[int(row["position"])] for row in ours]
    assert (subset.scores.dtype, len(subset.scores)) == (torch.float64, len(everything))
    assert int(subset.scores.isfinite().sum()) == len(subset.pool)
    assert prune(str(made), 0.4, "dlc", **as_a_run, **PLAIN).positions.tolist() == subset.positions.tolist()


@pytest.mark.parametrize(("scorer", "own"), [("moderate", "window"), ("dlc_released", "flexrand_released")])
def test_a_name_brings_its_published_selection_rule(textures, scorer, own):
    kept = prune(textures, 0.3, scorer, **PLAIN)
    assert kept.sample_ids == prune(textures, 0.3, scorer, own, **PLAIN).sample_ids
    assert kept.sample_ids != prune(textures, 0.3, scorer, "topk", **PLAIN).sample_ids


def test_numpy_numbers_give_the_same_draws_as_python_numbers(textures):
    plain = prune(textures, 0.2, "random", seed=1, **PLAIN)
    assert prune(textures, np.float64(0.2), "random", seed=np.int64(1), **PLAIN).sample_ids == plain.sample_ids


def test_images_and_tensors_give_the_same_positions_of_the_data_sets_own_order(textures):
    images, tensors = Listed(textures, as_image=True), Listed(textures, as_image=False)
    subset = prune(images, 0.3, sampler="topk", **PLAIN)
    assert prune(tensors, 0.3, sampler="topk", **PLAIN).positions.tolist() == subset.positions.tolist()
    hardest = prune(textures, 0.3, sampler="topk", **PLAIN)
    assert {images.order[i] for i in subset.positions.tolist()} == set(hardest.positions.tolist())
    kept = subset.as_torch(images)
    assert len(kept) == len(subset.positions)
    assert kept[0][1] == images.targets[int(subset.positions[0])]
    assert subset.pool.classes == textures.classes


def test_labels_are_read_from_the_items_where_there_are_no_targets(textures):
    class Plain(Listed):
        def __init__(self, pool):
            super().__init__(pool, as_image=False)
            self.labels = self.targets
            del self.targets, self.classes

        def __getitem__(self, index):
            return self.pool.images.decode(self.order[index]), self.labels[index]

    pool = read(Plain(textures)).pool
    assert pool.class_counts.tolist() == textures.class_counts.tolist()
    assert pool.classes == tuple("0123456789")


class Shifted(Listed):
    """A data set whose `target_transform` makes other labels of its targets, as torchvision's data sets do."""

    def __init__(self, pool):
        super().__init__(pool, as_image=False)
        self.target_transform = lambda target: 9 - target

    def __getitem__(self, index):
        image, target = super().__getitem__(index)
        return image, self.target_transform(target)


class Forwarding:
    """A wrapper that keeps some items and forwards everything else to the data set, its targets too."""

    def __init__(self, dataset, positions):
        self.dataset, self.positions = dataset, positions

    def __len__(self):
        return len(self.positions)

    def __getitem__(self, index):
        return self.dataset[self.positions[index]]

    def __getattr__(self, name):
        return getattr(self.dataset, name)


def test_targets_pass_the_data_sets_target_transform(textures):
    plain, shifted = read(Listed(textures, as_image=False)).pool, read(Shifted(textures)).pool
    assert shifted.labels.tolist() == [9 - label for label in plain.labels.tolist()]
    assert shifted.fingerprint != plain.fingerprint  # Every image is read and its label compared.


def test_targets_that_are_not_those_of_the_items_are_refused(textures):
    dataset = Listed(textures, as_image=False)
    with pytest.raises(InputError, match=r"the dataset has 40 items, and its targets are 100; update targets"):
        read(Forwarding(dataset, range(40)))
    with pytest.raises(InputError, match=r"^item 0 of the dataset has the label \d, and its targets say \d; update"):
        prune(Forwarding(dataset, dataset.order[::-1]), 0.2, **PLAIN)
    stale = Listed(textures, as_image=False)
    stale.targets = [label if position != 50 else (label + 1) % 10 for position, label in enumerate(stale.targets)]
    stale.__class__ = type("Stale", (Listed,), {"__getitem__": lambda self, index: dataset[index]})
    with pytest.raises(InputError, match="^item 50 of the dataset has the label"):
        prune(stale, 0.2, **PLAIN)
    stale.targets = None
    assert read(stale).pool.labels.tolist() == dataset.targets


def test_a_subset_fits_only_a_data_set_of_its_pools_length(textures):
    with pytest.raises(InputError, match="should have the 100 items, has 3"):
        prune(textures, 0.2, "random", **PLAIN).as_torch([1, 2, 3])


def test_the_store_is_kept_between_calls_if_a_folder_is_given(tmp_path, textures, monkeypatch):
    first = prune(textures, 0.2, store=tmp_path / "store", **PLAIN)
    assert len(list((tmp_path / "store" / "scores").iterdir())) == 1
    monkeypatch.setattr("prunetune.signals.network.embed", None)
    again = prune(textures, 0.3, store=tmp_path / "store", **PLAIN)
    assert torch.equal(again.scores, first.scores)


def test_nothing_is_left_without_a_store(textures, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    prune(textures, 0.2, "random", **PLAIN)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ratio": 20}, "ratio as a fraction must be above 0 % and at most 100 %, got 20"),
        ({"scorer": "dcl"}, r"no scorer 'dcl'.*Did you mean 'dlc'"),
        ({"sampler": "flexrnd"}, r"no sampler 'flexrnd'.*Did you mean 'flexrand'"),
        ({"backbone": "resnet81"}, "timm has no model 'resnet81'"),
        ({"device": "gpu"}, "device must be auto, cpu, cuda or mps, got 'gpu'"),
        ({"precision": "half"}, "precision must be auto, fp32 or bf16"),
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1, got 0"),
        ({"seed": None}, "seed must be a whole number, got None"),
        ({"scorer": DLC}, "scorer must be a name or a Scorer object"),
        ({"sampler": 3}, "sampler must be a name or a Sampler object, got 3"),
        ({"sampler": RS2()}, "RS2 can be used in a run only"),
        ({"backbone": None}, "backbone must be a name or a Backbone, got None"),
        ({"scorer": "none", "sampler": "topk"}, "scorer none gives every image the same score"),
        ({"data": TENSORS}, "the pool has no images; give its features as embeddings"),
        ({"data": 7}, "data must be a folder, a table, a list of"),
        ({"data": "nowhere"}, "nowhere"),
        ({"data": [(torch.zeros(3, 4, 4), 0), (torch.zeros(3, 4, 4), 1)]}, "should be a PIL image.*is torch.float32"),
        ({"data": [("text", 0), ("text", 1)]}, "no such file"),
        ({"data": [(None, "cat"), (None, "dog")]}, "should be a PIL image.*is NoneType"),
        ({"data": [(np.zeros((8, 8, 3), np.uint8), -1)] * 2}, "has the label -1"),
        ({"data": []}, "the list is empty"),
        ({"keep": 0.2}, "exactly one of keep, ratio, per_class"),
        ({"embeddings": np.ones((4, 2))}, "either data or embeddings"),
        ({"ids": ["a"]}, "ids belong to embeddings"),
        ({"on_error": "go"}, "on_error must be one of stop, skip, got 'go'"),
        ({"duplicates": "two"}, "duplicates must be one of one, all, got 'two'"),
    ],
)
def test_bad_arguments_give_a_one_line_error(textures, arguments, message):
    with pytest.raises(InputError, match=message) as caught:
        prune(**{"data": textures, "ratio": 0.2, **PLAIN, **arguments})
    assert "\n" not in str(caught.value)


class Photos:
    """A data set of six grey images of 8 or 16 bits. One of them may be damaged."""

    targets = (0, 1) * 3

    def __init__(self, dtype: type, damaged: int | None = None) -> None:
        self.dtype, self.damaged = dtype, damaged

    def __len__(self) -> int:
        return 6

    def __getitem__(self, item: int) -> tuple[Image.Image, int]:
        if item == self.damaged:
            raise OSError("image file is truncated")
        grey = np.random.default_rng(item).integers(0, 256, (24, 24))
        return Image.fromarray((grey * 257 if self.dtype is np.uint16 else grey).astype(self.dtype)), self.targets[item]


def test_an_image_of_a_data_set_that_cannot_be_read_is_named():
    with pytest.raises(InputError, match=r"1 of 6 images cannot be read: .*4.* \(image file is truncated\)"):
        prune(Photos(np.uint8, damaged=4), 0.4, **{**PLAIN, "scorer": "dlc"})


def test_images_of_16_bits_from_a_data_set_are_scaled_and_not_clipped():
    wide, narrow = (read(Photos(dtype)).pool.images for dtype in (np.uint16, np.uint8))
    assert all(torch.equal(wide.decode(item), narrow.decode(item)) for item in range(6))


@pytest.mark.parametrize(
    ("features", "masked", "message"),
    [
        (torch.full((6, 4), float("nan")), None, "features must be finite, 6 of 6 rows are not"),
        (torch.ones(5, 4), None, r"features must be \[6, D\], one row for each image, got \[5, 4\]"),
        (torch.ones(6), None, r"features must be \[6, D\].*got \[6\]"),
        (torch.ones(6, 4), [torch.ones(6, 3)], r"masked must be \[6, 4\].*got \[6, 3\]"),
        (torch.ones(6, 4), [torch.full((6, 4), float("inf"))], "masked must be finite"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(features, masked, message):
    with pytest.raises(InputError, match=message):
        TensorSignals(features, masked, TENSORS)


def test_arrays_are_accepted_like_tensors():
    assert TensorSignals(np.ones((6, 4)), pool=TENSORS).features().dtype == torch.float32


def test_a_pick_order_is_not_read_as_hardness(textures, monkeypatch):
    monkeypatch.setattr(DLC, "higher_means", "picked earlier")
    with pytest.raises(InputError, match="order of picks, not the hardness.*topk"):
        prune(textures, 0.2, "dlc", **PLAIN)


def test_samplers_and_scorers_work_on_tensors_alone():
    generator = torch.Generator().manual_seed(0)
    labels = torch.tensor([0] * 20 + [1] * 7)
    features = torch.randn(27, 4, generator=generator)
    masked = [features, features * 0.8, features * 0.5]
    pool = Pool("mine", labels, tuple(f"{i:02d}" for i in range(27)), ("train",) * 27, ("a", "b"))
    scores = DLC(levels=3).score(pool, TensorSignals(features=features, masked=masked), generator)
    assert scores.shape == (27,)
    assert scores.isfinite().all()
    positions = FlexRand(gamma=0.3).select(scores, labels, ratio=0.2, generator=generator)
    assert torch.bincount(labels[positions]).tolist() == [4, 1]
    assert TopK().select(scores, labels, ratio=1, generator=generator).tolist() == list(range(27))
    with pytest.raises(InputError, match="features of 5 masked networks, got 3"):
        DLC().score(pool, TensorSignals(features=features, masked=masked), generator)


def test_the_result_does_not_depend_on_the_batch_size(textures):
    small = prune(textures, 0.3, batch_size=7, **PLAIN)
    large = prune(textures, 0.3, batch_size=100, **PLAIN)
    assert torch.allclose(small.scores, large.scores, atol=1e-6)


def test_importing_the_package_loads_no_torch():
    code = "import sys, prunetune; print('torch' in sys.modules); prunetune.prune; print('torch' in sys.modules)"
    outcome = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert outcome.stdout.split() == ["False", "True"]


def test_importing_the_api_loads_no_library_that_few_methods_need():
    code = "import sys, prunetune.api; print(*{'sklearn', 'scipy', 'pandas', 'matplotlib'} & sys.modules.keys())"
    outcome = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert outcome.stdout.split() == []


def test_an_unknown_name_of_the_package_is_an_attribute_error():
    import prunetune

    with pytest.raises(AttributeError, match="has no attribute 'prunes'"):
        prunetune.prunes  # noqa: B018


def test_without_a_folder_the_store_is_temporary():
    with api._store(None) as store:
        assert isinstance(store, Store)
        assert store.root.is_dir()
    assert not store.root.exists()


@dataclass(frozen=True)
class HalfWeightless(Scorer):
    """Picks images in the order of the pool, and gives every second pick the weight 0."""

    name = "half_weightless"
    higher_means = "picked earlier"
    version = 1

    def score(self, pool, signals, generator):
        return -torch.arange(len(pool), dtype=torch.float64)

    def weights(self, pool, signals, subset):
        return (torch.arange(len(subset)) % 2).double()


@dataclass(frozen=True)
class RowScorer(HalfWeightless):
    """Makes the same picks and gives no weights."""

    def weights(self, pool, signals, subset):
        return None


def test_images_of_weight_zero_are_not_kept(textures):
    picked = prune(textures, 0.3, RowScorer(), **PLAIN)
    kept = prune(textures, 0.3, HalfWeightless(), **PLAIN)
    assert kept.positions.tolist() == picked.positions.tolist()[1::2]
    assert kept.weights.tolist() == [1.0] * len(kept.positions)
