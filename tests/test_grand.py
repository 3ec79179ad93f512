"""GraNd: of all parameters against one backward pass per image, of the last layer in closed form, and the variants."""

import pytest
import torch
from torch import Tensor, nn

from prunetune.base.errors import InputError
from prunetune.base.seeding import stream
from prunetune.config.named import SCORERS
from prunetune.data.pool import Pool
from prunetune.scorers import grand as grand_module
from prunetune.scorers.grand import Grand, gradient_norms, last_layer_norms, per_image_norms
from prunetune.signals.proxy import RecordedProxy
from prunetune.signals.tensors import TensorSignals

COUNT = 11


class Tiny(nn.Module):
    """A `Network` with a convolution, a norm with running statistics and dropout, for 6 x 6 images."""

    num_features = 4
    input_size = 6

    def __init__(self) -> None:
        super().__init__()
        layers = [nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        self.model = nn.Sequential(*layers, nn.Dropout(0.5))

    def normalise(self, images: Tensor) -> Tensor:
        return (images.float() - 120) / 60

    def forward(self, images: Tensor) -> Tensor:
        return self.model(self.normalise(images))


class ChannelsLast(nn.Module):
    """A step that torch.func.vmap does not support."""

    def forward(self, images: Tensor) -> Tensor:
        return images.contiguous(memory_format=torch.channels_last)


class WithImages(TensorSignals):
    """Signals of tensors that also have images."""

    pictures: Tensor

    def images(self, positions: Tensor | None = None):
        return iter(self.pictures.split(4))


def tiny_model(seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = nn.Sequential(Tiny(), nn.Linear(4, 3))
    model[0].model[1].running_mean.uniform_(-1, 1, generator=stream("mean", seed))
    return model.eval()


def pictures() -> tuple[Tensor, Tensor]:
    generator = stream("pictures")
    images = torch.randint(0, 256, (COUNT, 3, 6, 6), generator=generator, dtype=torch.uint8)
    return images, torch.randint(0, 3, (COUNT,), generator=generator)


def norms_one_by_one(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    norms = []
    for image, label in zip(images.split(1), labels.split(1), strict=True):
        model.zero_grad()
        nn.functional.cross_entropy(model(image), label).backward()
        norms.append(torch.cat([p.grad.flatten() for p in model.parameters()]).double().norm())
    return torch.stack(norms)


def recorded(num_epochs: int = 6, kept: tuple[int, ...] = (5, 6), seed: int = 0) -> RecordedProxy:
    generator = stream("recorded", seed)
    logits = [3 * torch.randn(COUNT, 3, generator=generator) for _ in range(num_epochs)]
    features = {epoch: torch.randn(COUNT, 4, generator=generator) for epoch in kept}
    return RecordedProxy(logits, features)


def made_pool() -> Pool:
    return Pool("made", pictures()[1], tuple("abcdefghijk"), ("train",) * COUNT, ("x", "y", "z"))


def score(scorer: Grand, *proxies: RecordedProxy) -> Tensor:
    pool = made_pool()
    signals = TensorSignals(torch.zeros(COUNT, 1), pool=pool, proxies=proxies)
    return scorer.score(pool, signals, torch.Generator())


def closed_form(proxy: RecordedProxy, epoch: int) -> Tensor:
    """Return the GraNd score of the last layer in closed form: el2n sqrt(1 + ||h||^2)."""
    el2n = (proxy.logits(epoch).double().softmax(1) - nn.functional.one_hot(pictures()[1], 3)).norm(dim=1)
    return el2n * (1 + proxy.features(epoch).double().square().sum(1)).sqrt()


def test_the_golden_value_of_the_last_layer():
    hidden = torch.tensor([[1.0, 2.0]])
    logits = hidden @ torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 1.0]]).T
    proxy = RecordedProxy([logits], {1: hidden})
    assert last_layer_norms(proxy, torch.tensor([0]), 1).tolist() == pytest.approx([2.446875], abs=1e-6)


def test_grand_last_is_el2n_times_the_length_of_the_feature_with_one():
    proxies = [recorded(seed=seed) for seed in range(3)]
    expected = torch.stack([closed_form(proxy, 5) for proxy in proxies]).mean(0)
    assert torch.allclose(score(Grand(parameters="last"), *proxies), expected)


def test_an_epoch_after_the_last_means_the_last_of_the_proxy():
    long, short = recorded(6), recorded(3, kept=(3,))
    last = Grand(parameters="last", repeats=1)
    assert torch.allclose(score(last, long), closed_form(long, 5))
    assert torch.allclose(score(last, short), closed_form(short, 3))
    assert torch.allclose(score(Grand(parameters="last", epoch=None, repeats=1), long), closed_form(long, 6))


def test_grand_of_all_parameters_is_one_backward_pass_per_image():
    model, (images, labels) = tiny_model(), pictures()
    expected = norms_one_by_one(model, images, labels)
    found = gradient_norms(model, iter(images.split(4)), labels)
    assert found.dtype == torch.float64
    assert torch.allclose(found, expected, rtol=1e-5)


def test_all_parameters_have_a_longer_gradient_than_the_last_layer():
    model, (images, labels) = tiny_model(), pictures()
    with torch.no_grad():
        hidden = model[0](images)
        proxy = RecordedProxy([model[1](hidden)], {1: hidden})
    last = last_layer_norms(proxy, labels, 1)
    whole = gradient_norms(model, iter([images]), labels)
    assert bool((whole > last).all())
    model[0].requires_grad_(False)
    head = [p.grad.flatten() for p in model[1].parameters() if p.grad is not None]
    assert not head, "scoring leaves no gradients behind"


def test_a_network_that_vmap_does_not_support_is_differentiated_image_by_image(monkeypatch):
    model, (images, labels) = tiny_model(), pictures()
    classify, inputs = nn.Sequential(model[0].model, model[1]), model[0].normalise(images)
    at_once = per_image_norms(classify, inputs, labels)
    awkward = nn.Sequential(ChannelsLast(), classify)
    with pytest.raises(RuntimeError):
        torch.func.vmap(ChannelsLast())(inputs)
    assert torch.allclose(per_image_norms(awkward, inputs, labels), at_once, rtol=1e-5)


def test_grand_depends_on_neither_the_batches_nor_the_images_taken_at_once(monkeypatch):
    model, (images, labels) = tiny_model(), pictures()
    expected = gradient_norms(model, iter(images.split(4)), labels)
    assert torch.allclose(gradient_norms(model, iter([images]), labels), expected, rtol=1e-5)
    monkeypatch.setattr(grand_module, "NUMBERS_AT_ONCE", 300)  # Two images are processed at a time.
    assert torch.allclose(gradient_norms(model, iter([images]), labels), expected, rtol=1e-5)
    proxy = recorded()
    # Twelve images are processed at a time.
    assert torch.allclose(last_layer_norms(proxy, labels, 5), closed_form(proxy, 5))
    monkeypatch.setattr(grand_module, "NUMBERS_AT_ONCE", 50)
    # Two images are processed at a time.
    assert torch.allclose(last_layer_norms(proxy, labels, 5), closed_form(proxy, 5))


def test_grand_is_the_mean_of_the_proxies_at_the_epoch():
    (images, labels), pool, asked = pictures(), made_pool(), []

    def proxy_of(seed: int) -> RecordedProxy:
        def load_model(epoch: int) -> nn.Module:
            asked.append((seed, epoch))
            return tiny_model(seed)

        proxy = recorded(seed=seed)
        proxy.load_model = load_model
        return proxy

    signals = WithImages(torch.zeros(COUNT, 1), None, pool, [proxy_of(0), proxy_of(1)])
    signals.pictures = images
    found = Grand(repeats=2).score(pool, signals, torch.Generator())
    expected = sum(norms_one_by_one(tiny_model(seed), images, labels) for seed in (0, 1)) / 2
    assert asked == [(0, 5), (1, 5)]
    assert torch.allclose(found, expected, rtol=1e-5)


def test_grand_deepcore_inflates_a_short_last_batch_in_pool_order():
    proxy = recorded()
    whole = closed_form(proxy, 6)
    scorer = Grand("deepcore", "last", None, 1, batch_size=4)
    assert torch.allclose(score(scorer, proxy), whole / torch.tensor([4] * 8 + [3] * 3))
    one_batch = Grand("deepcore", "last", None, 1)
    assert torch.allclose(score(one_batch, proxy), whole / COUNT)


def test_the_yaml_files_hold_the_numbers_of_their_sources():
    assert {name: SCORERS[name] for name in SCORERS if name.startswith("grand")} == {
        "grand": Grand("fixed", "all", 5, 3),
        "grand_last": Grand("fixed", "last", 5, 3),
        "grand_released": Grand("released", "all", 50, 1),
        "grand_deepcore": Grand("deepcore", "last", None, 10, 256),
    }


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Grand("original"), "variant must be one of"),
        (lambda: Grand(parameters="first"), "parameters must be one of"),
        (lambda: Grand(epoch=0), "epoch must be a whole number of at least 1"),
        (lambda: Grand(repeats=1.5), r"repeats must be a whole number of at least 1, got 1\.5"),
        (lambda: Grand("deepcore", "last", batch_size=0), "batch_size must be a whole number of at least 1"),
        (lambda: Grand("deepcore"), "scorer.parameters=last"),
    ],
)
def test_bad_hyperparameters_are_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_more_repeats_than_proxies_are_refused():
    with pytest.raises(InputError, match="reads 2 proxies, got 1"):
        score(Grand(parameters="last"), recorded())
