"""Which weights of a network are masked, and that the masked ones are those that its layers use."""

import pytest
import timm
import torch
from timm.layers import ScaledStdConv2dSame, StdConv2d
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from prunetune.base.errors import InputError
from prunetune.base.store import Store
from prunetune.data.readers import Textures
from prunetune.networks.backbone import Backbone
from prunetune.networks.maskable import enough_maskable, maskable
from prunetune.networks.masking import MaskPath, masked_networks
from prunetune.runs.records import read_result
from prunetune.runs.scores import ImageSource, stored_scores
from prunetune.scorers import DLC, EL2N
from prunetune.signals.contract import FeatureKind
from prunetune.signals.network import Embedding, NetworkSignals
from runs import SMALL, run_here


class Standardised(nn.Module):
    """A convolution with a standardised kernel that derives from no layer of torch."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 4, 3, 3))

    def forward(self, x):
        mean, std = (f(self.weight, dim=(1, 2, 3), keepdim=True) for f in (torch.mean, torch.std))
        return F.conv2d(x, (self.weight - mean) / std)


class Doubled(nn.Linear):
    """A linear layer that calls its product by keywords."""

    def forward(self, x):
        return F.linear(x, bias=self.bias, weight=2 * self.weight)


class Spy(TorchFunctionMode):
    """Keeps the last weight that a convolution or a linear layer has used."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in (F.conv2d, F.linear):
            self.weight = (args[1] if len(args) > 1 else kwargs["weight"]).detach().clone()
        return func(*args, **(kwargs or {}))


IMAGE, VECTOR = torch.ones(2, 4, 5, 5), torch.ones(2, 8)
COMPUTED = {
    "weight-standardised": (lambda: StdConv2d(4, 6, 3), IMAGE),
    "scaled and padded": (lambda: ScaledStdConv2dSame(4, 6, 3), IMAGE),
    "grouped": (lambda: StdConv2d(4, 6, 3, groups=2, dilation=2, padding=2), IMAGE),
    "of nobody's class": (Standardised, IMAGE),
    "weight norm": (lambda: nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 6, 3)), IMAGE),
    "weight norm of old": (lambda: nn.utils.weight_norm(nn.Linear(8, 7)), VECTOR),
    "by keywords": (lambda: Doubled(8, 7), VECTOR),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("name", COMPUTED)
def test_a_layer_that_computes_its_weight_uses_a_masked_one(name):
    torch.manual_seed(0)
    make, inputs = COMPUTED[name]
    model = nn.Sequential(make()).eval()
    with torch.no_grad(), Spy() as spy:
        before = model(inputs)
        plain = spy.weight
        used = []
        with masked_networks(model, MaskPath()) as levels:
            for _ in levels:
                model(inputs)
                used.append(spy.weight)
        assert torch.equal(model(inputs), before)  # The layer computes its own weight again.
    assert [int((weight == 0).sum()) for weight in used] == MaskPath().counts(plain.numel())
    for weight in used:
        kept, masked = plain[weight != 0].abs(), plain[weight == 0].abs()
        assert torch.equal(weight[weight != 0], plain[weight != 0])
        assert not masked.numel() or masked.max() <= kept.min()  # The smallest weights that are used are masked.
    assert not maskable(model, "all").is_plain


class Mixed(nn.Module):
    """Layers of many kinds; `never` lists the parameters that no mask may touch."""

    never = ("patch_embed.proj.weight", "pos_embed", "scale", "norm.weight", "tokens.weight", "shift.weight")

    def __init__(self):
        super().__init__()
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv2d(3, 8, 4)
        self.patch_embed.backbone = nn.Sequential(nn.Conv2d(3, 8, 3))
        self.pos_embed = nn.Parameter(torch.randn(1, 9, 8))
        self.scale = nn.Parameter(torch.randn(4, 8))
        self.norm = nn.LayerNorm([4, 8])
        self.tokens = nn.Embedding(9, 8)
        self.experts = nn.Parameter(torch.randn(3, 8, 8))
        self.rnn = nn.LSTM(8, 8, bidirectional=True)
        self.attention = nn.MultiheadAttention(8, 2)
        self.mix = nn.Conv1d(8, 8, 1)
        self.grow = nn.ConvTranspose2d(8, 8, 2)
        self.shift = nn.Conv1d(1, 1, 3)  # Three numbers, as in an ECA layer.
        self.routed = timm.layers.CondConv2d(4, 4, 3, num_experts=3)


def test_every_matrix_is_masked_and_nothing_else():
    model = Mixed().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    with masked_networks(model, MaskPath()) as levels:
        list(levels)
        changed = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    expected = {name for name in before if not name.endswith("bias") and "bias" not in name} - set(Mixed.never)
    assert changed == expected
    assert {
        "rnn.weight_hh_l0_reverse",
        "experts",
        "attention.in_proj_weight",
        "patch_embed.backbone.0.weight",
    } < changed


def test_the_share_counts_all_parameters_but_the_patch_embedding_positions_and_tokens():
    model = Mixed().eval()
    left_out = ("patch_embed.proj", "pos_embed", "tokens")
    total = sum(p.numel() for name, p in model.named_parameters() if not name.startswith(left_out))
    found = maskable(model, "all")
    assert found.share == pytest.approx(sum(weight.tensor.numel() for weight in found.weights.values()) / total)
    assert found.others[0] in ("scale", "norm.weight", "norm.bias")
    assert maskable(model, "linear").share < 0.2


@pytest.mark.parametrize(
    ("model", "share", "is_plain"),
    [
        ("efficientnet_cc_b0_4e", 0.99, False),
        ("sequencer2d_s", 0.99, False),
        ("efficientvim_m1", 0.99, False),
        ("vit_tiny_r_s16_p8_224", 0.99, False),
        ("lowformer_b0", 0.99, False),
        ("test_nfnet", 0.98, False),
        ("convnext_atto", 0.99, True),
        ("mobilenetv2_100", 0.98, True),
        ("vit_tiny_patch16_224", 0.99, True),
    ],
)
def test_at_least_nine_tenths_of_the_families_that_had_less_can_be_masked(model, share, is_plain):
    with torch.device("meta"):
        found = enough_maskable(timm.create_model(model, num_classes=0).eval(), "all", model)
    assert found.share > share
    assert found.is_plain == is_plain


class Hidden(nn.Linear):
    """A linear layer that does not show which weight it uses."""

    def forward(self, x):
        return x @ self.weight.tanh().T


def test_a_network_of_which_less_can_be_masked_is_refused_by_name_before_any_pass():
    model = nn.Sequential(nn.Linear(8, 8), Hidden(8, 8))
    with pytest.raises(InputError, match=r"^44% of the parameters of mine are weights .*: 1.weight.*another backbone"):
        enough_maskable(model, "all", "mine")
    both = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Linear(8, 8))
    with pytest.raises(InputError, match=r"^22% of the parameters of both are linear .*pass scorer.mask_modules"):
        enough_maskable(both, "linear", "both")


def source_of(model, tmp_path, **options):
    network = Backbone(model=model, pretrained=False, input_size=32, **options).load()
    pool = Textures(num_pool=100).pool("train")
    return ImageSource(NetworkSignals(pool, Embedding(network, Store(tmp_path))))


def test_keys_change_only_for_scorers_that_mask_and_networks_whose_masks_changed(tmp_path):
    networks = {"nfnet": source_of("test_nfnet", tmp_path), "resnet": source_of("test_resnet", tmp_path)}
    scorers = {"dlc": DLC(), "unmasked": DLC(levels=1), "el2n": EL2N()}
    keys = {(one, other): networks[one].key(scorers[other], None) for one in networks for other in scorers}
    assert [name for name, key in keys.items() if "masked_weights" in key] == [("nfnet", "dlc")]
    places = {name: source.signals._masked_key(MaskPath(), 0, FeatureKind()) for name, source in networks.items()}
    assert [name for name, key in places.items() if "masked_weights" in key] == ["nfnet"]


def test_a_run_on_a_network_that_cannot_be_masked_ends_before_images_are_decoded(tmp_path):
    source = source_of("test_resnet", tmp_path)
    model = source.signals.network.model
    model.extra = Hidden(1000, 1000)
    with pytest.raises(InputError, match=r"parameters of test_resnet are weights.*extra\.weight"):
        stored_scores(DLC(), source, 0)
    assert not list(tmp_path.iterdir())
    assert not stored_scores(DLC(levels=1), source, 0).values.isnan().any()  # Nothing is masked.


def test_the_share_is_logged_and_recorded(tmp_path, caplog):
    caplog.set_level("INFO")
    result = read_result(run_here(tmp_path, *SMALL, "ratio=0.3"))
    share = maskable(Backbone(model="prunetune_micro").load().model, "conv2d").share
    assert result["maskable_share"] == share
    assert f"dlc can mask {100 * share:.1f} % of the parameters of prunetune_micro" in caplog.text
    assert read_result(run_here(tmp_path, *SMALL, "scorer=random", "ratio=0.3"))["maskable_share"] is None
