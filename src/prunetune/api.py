"""The library's main functions: `prune` prunes your own data in one call, `advise` says how much to keep."""

import dataclasses
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from prunetune.base import checks
from prunetune.base.disk import explained
from prunetune.base.errors import InputError
from prunetune.base.publish import scratch_folder
from prunetune.base.store import Store
from prunetune.cluster.engine import Cluster, RayEngine, chosen_engine
from prunetune.config.catalogue import unknown
from prunetune.config.named import SAMPLERS, SCORERS, own_sampler
from prunetune.networks.backbone import Backbone
from prunetune.networks.named import as_backbone
from prunetune.own import keep as amounts
from prunetune.own.advice import Advice, advise_data
from prunetune.own.choose import DEFAULT_METHOD, NOT_HERE, Plan, choose, with_rounding
from prunetune.own.data import OwnData
from prunetune.own.keep import Keep
from prunetune.own.read import ReadOptions, read, read_embeddings, read_labelled
from prunetune.own.subset import Subset
from prunetune.samplers import Sampler
from prunetune.samplers.budgets import ROUNDINGS
from prunetune.scorers import Scorer
from prunetune.signals.proxy import FULL_PROXY, LINEAR_PROBE, ProxyRecipe

__all__ = ["SAMPLERS", "SCORERS", "Advice", "Subset", "advise", "make_plan", "prune"]
DUPLICATES, SUSPECTS, ON_ERROR = ("one", "all"), ("keep", "drop"), ("stop", "skip")


def prune(
    data: Any = None,
    keep: float | int | str | None = None,
    scorer: str | Scorer = DEFAULT_METHOD,
    sampler: str | Sampler = "auto",
    backbone: str | Backbone | nn.Module = "resnet18",
    seed: int = 0,
    *,
    ratio: float | None = None,
    per_class: int | None = None,
    embeddings: Any = None,
    labels: Any = None,
    ids: Any = None,
    read_as: ReadOptions | None = None,
    hold_out: float | None = None,
    rounding: str | None = None,
    duplicates: str | None = None,
    suspects: str = "keep",
    on_error: str = "stop",
    proxy: str | ProxyRecipe = "full",
    store: str | Path | None = None,
    device: str = "auto",
    precision: str = "auto",
    batch_size: int = 64,
    engine: str | RayEngine = "local",
) -> Subset:
    """Choose which samples of your own data are kept.

    Nothing is trained unless the scorer needs it. There is no test set: every sample is a candidate.

    Args:
        data: a folder, a table, a map-style dataset, a list of (path, label), arrays (images, labels), a pandas frame,
            a Hugging Face dataset, or a Pool. docs/own_data.md lists all forms.
        keep: how much is kept. A number with a decimal point, or a text with %, is the fraction of each class, in
            (0, 1]. A whole number is the number that is kept in all.
        scorer: a name of `list(prunetune.api.SCORERS)` or a Scorer.
        sampler: a name (auto: the scorer's own; flexrand, topk, random, ccs ...) or a Sampler.
        backbone: resnet18, resnet50, vit_small, vit_base (each also _weakly), micro, a timm model name, a Backbone, or
            a torch module that maps normalised images [B, 3, S, S] to features [B, D].
        seed: the seed of all random draws.
        ratio: another name of `keep`, for a fraction.
        per_class: how many samples each class keeps, instead of `keep`.
        embeddings: [N, D] numbers, one row for each sample, instead of `data`. No network runs then.
        labels: [N] texts or whole numbers, the labels of the rows of `embeddings`, or of arrays or a list of images
            given as `data`. Without them, the rows of embeddings have no labels.
        ids: [N] different texts, the names of the rows of `embeddings`; by default the row numbers.
        read_as: how `data` are read: which split, which columns, what is done with wrong files.
        hold_out: the fraction of each class of a folder that is set aside before pruning, as a run does with
            dataset=image_folder. By default nothing is.
        rounding: how a fraction of a class becomes a number: largest_remainder meets the total, half_even rounds each
            class by itself, as a run does. By default largest_remainder, and for a Sampler object its own.
        duplicates: one keeps at most one of a group of duplicates; all treats each as a sample of its own. By default
            one, and all with engine="ray", which does not look for duplicates.
        suspects: keep treats samples whose label is probably wrong as all others; drop leaves them out, and as many
            samples are kept as without it. The engine ray only keeps.
        on_error: stop refuses data with images that cannot be read; skip leaves those images out.
        proxy: how to train the proxy network that EL2N, forgetting and others read: full (fine-tune the backbone on all
            samples, slow without a GPU), linear_probe (takes seconds), or a ProxyRecipe.
        store: the folder in which features and scores are kept for the next call. By default they are not kept.
        device: auto, cpu, cuda or mps.
        precision: the precision of the forward passes: auto (bf16 if the hardware supports it and the backbone has no
            batch normalisation), fp32 or bf16.
        batch_size: images per forward pass. Scores depend on it only by rounding.
        engine: local works in this process; ray reads, scores and selects on the workers of a Ray cluster, or of this
            machine (docs/clusters.md says what it runs); a RayEngine has its settings. With ray, `store` must be on a
            disk that all machines share.

    Raises:
        InputError: an argument is not allowed, a sample cannot be read, or weights cannot be loaded.
    """
    amount = amounts.understood(keep, ratio, per_class)
    checks.choice("on_error", on_error, ON_ERROR)
    options = dataclasses.replace(read_as or ReadOptions(), on_error=on_error, hold_out=hold_out)
    on_ray = chosen_engine(engine)
    treated = duplicates or ("one" if on_ray is None else "all")
    plan = make_plan(
        scorer, sampler, backbone, seed, proxy=proxy, rounding=rounding, duplicates=treated, suspects=suspects
    )
    plan = dataclasses.replace(plan, device=device, precision=precision, batch_size=batch_size)
    if on_ray is not None:
        with _store(store) as kept:
            return _on_ray((data, embeddings, labels, ids), amount, plan, Cluster(kept, on_ray), options)
    own = _read(data, embeddings, labels, ids, options)
    with _store(store) as kept:
        return choose(own, amount, plan, kept, options).subset


def advise(
    data: Any = None,
    backbone: str | Backbone | nn.Module = "resnet18",
    seed: int = 0,
    *,
    embeddings: Any = None,
    labels: Any = None,
    ids: Any = None,
    read_as: ReadOptions | None = None,
    on_error: str = "stop",
    store: str | Path | None = None,
    device: str = "auto",
    precision: str = "auto",
    batch_size: int = 64,
) -> Advice:
    """Estimate how much of your own data to keep, and whether the method matters.

    One pass gives features. Then samples are held out again and again, the others are pruned to several fractions, and
    linear probes on them are judged by those that were held out.

    Args:
        data: as for `prune`. It must have labels, at least two classes and five samples of each.
        backbone: as for `prune`.
        seed: of splits, draws and heads.
        embeddings: as for `prune`.
        labels: as for `prune`.
        ids: as for `prune`.
        read_as: as for `prune`.
        on_error: as for `prune`.
        store: as for `prune`.
        device: as for `prune`.
        precision: as for `prune`.
        batch_size: as for `prune`.

    Returns:
        Sentences, the learning curve behind them and its power law; `print` shows all.

    Raises:
        InputError: the data are too small for an estimate, or cannot be read.
    """
    checks.choice("on_error", on_error, ON_ERROR)
    options = dataclasses.replace(read_as or ReadOptions(), on_error=on_error)
    plan = make_plan(DEFAULT_METHOD, "auto", backbone, seed)
    plan = dataclasses.replace(plan, device=device, precision=precision, batch_size=batch_size)
    own = _read(data, embeddings, labels, ids, options)
    with _store(store) as kept:
        return advise_data(own, plan, kept, options)


def make_plan(
    scorer: str | Scorer,
    sampler: str | Sampler,
    backbone: str | Backbone | nn.Module,
    seed: int,
    *,
    proxy: str | ProxyRecipe = "full",
    rounding: str | None = None,
    duplicates: str = "one",
    suspects: str = "keep",
) -> Plan:
    """Return the method and its settings, looked up by name.

    Raises:
        InputError: a name is not known, or a value is not allowed.
    """
    seed = checks.plain(seed)  # NumPy numbers must give the same seeds as Python numbers.
    checks.whole_number("seed", seed, least=None)
    checks.choice("rounding", rounding or ROUNDINGS[0], ROUNDINGS)
    checks.choice("duplicates", duplicates, DUPLICATES)
    checks.choice("suspects", suspects, SUSPECTS)
    asked, scorer = scorer, _named(scorer, SCORERS, "scorer", Scorer)
    is_named = not isinstance(sampler, Sampler)
    sampler = _named(own_sampler(asked) if sampler == "auto" else sampler, SAMPLERS, "sampler", Sampler, NOT_HERE)
    if getattr(sampler, "name", None) in NOT_HERE:
        raise InputError(f"{type(sampler).__name__} can be used in a run only, not here; pass another sampler")
    if is_named or rounding is not None:
        sampler = with_rounding(sampler, rounding or "largest_remainder")
    return Plan(
        scorer=scorer,
        sampler=sampler,
        backbone=backbone if isinstance(backbone, nn.Module) else as_backbone(backbone),
        proxy=_named(proxy, {"full": FULL_PROXY, "linear_probe": LINEAR_PROBE}, "proxy", ProxyRecipe),
        seed=seed,
        rounding=getattr(sampler, "rounding", "largest_remainder"),
        duplicates=duplicates,
        suspects=suspects,
    )


def _read(data: Any, embeddings: Any, labels: Any, ids: Any, options: ReadOptions) -> OwnData:
    if (data is None) == (embeddings is None):
        raise InputError("pass either data or embeddings=[N, D]; exactly one of them is needed")
    if embeddings is not None:
        return read_embeddings(embeddings, labels, ids, options)
    if ids is not None:
        raise InputError("ids belong to embeddings; data bring their own")
    return read(data, options) if labels is None else read_labelled(data, labels, options)


def _on_ray(given: tuple[Any, ...], keep: Keep, plan: Plan, cluster: Cluster, options: ReadOptions) -> Subset:
    """Prune with engine="ray"; given: data, embeddings, labels and ids."""
    from prunetune.cluster.command import prune as prune_on_ray

    data, embeddings, labels, ids = given
    if (data is None) == (embeddings is None):
        raise InputError("pass either data or embeddings; exactly one of them is needed")
    if labels is not None or ids is not None:
        raise InputError('with engine="ray", labels are in the shards, lists or folders; leave labels and ids out')
    return prune_on_ray(data, embeddings, keep, plan, cluster, options)


def _named(choice: Any, known: Mapping[str, Any], what: str, kind: type, without: Collection[str] = ()) -> Any:
    if isinstance(choice, kind):
        return choice
    if not isinstance(choice, str):
        raise InputError(f"{what} must be a name or a {kind.__name__} object, got {choice!r}")
    names = [name for name in known if name not in without]
    if choice not in names:
        raise InputError(unknown(what, choice, names))
    return known[choice]


@contextmanager
def _store(folder: str | Path | None) -> Iterator[Store]:
    if folder is not None:
        yield Store(Path(folder), fix="pass store=<another folder>")
        return
    fix = "pass store=<folder>"
    with ExitStack() as stack:
        with explained("a temporary folder", fix):
            temporary = stack.enter_context(scratch_folder())
        yield Store(temporary, fix)
