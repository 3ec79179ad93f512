"""Try one small network of every family of timm, with random weights: `python -m scripts.survey.backbones`.

Each network gives features, DLC and lc_knn scores of a few images, and is trained for one epoch. The table is
results/backbones.csv, which docs/backbones.md shows.
"""

import argparse
import multiprocessing
import os
import re
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import pandas as pd
import timm
import torch
from torch.overrides import TorchFunctionMode

from prunetune.base.errors import InputError
from prunetune.base.store import Store
from prunetune.data.pool import Pool
from prunetune.data.readers import Textures
from prunetune.networks.backbone import Backbone, Network
from prunetune.networks.maskable import PRODUCTS, maskable
from prunetune.networks.masking import MaskPath, masked_networks
from prunetune.runs.scores import stored_scores
from prunetune.scorers import DLC, LCKnn
from prunetune.signals.network import Embedding, NetworkSignals
from prunetune.signals.proxy import ProxyRecipe
from prunetune.training.recipe import Recipe

TABLE = Path(__file__).parents[2] / "results" / "backbones.csv"
COLUMNS = (
    *("family", "model", "model_args", "million_parameters", "input_size", "features"),
    *("maskable", "masked", "dlc", "lc_knn", "training"),
)
TRIED = ["dlc", "lc_knn", "training"]
WORKS = "yes"
SIDES = (64, 96, 112, 128, None)  # Pixels, tried in this order; None is the size of the pretrained network.
# Of thirteen images, the last one is alone after a batch of twelve.
ONE_EPOCH = Recipe("full", trained="all", epochs=1, batch_size=12, learning_rate=1e-4, views=0)
# A larger network is made with two blocks, if its family has a depth to set: the kinds of layers are the same.
LARGE = 60_000_000
SHALLOW = {"depth": 2}
LEVELS = 3
TASKS_PER_PROCESS = 40  # A process that has made many networks holds memory that it no longer needs.


def families() -> dict[str, list[str]]:
    """Return the names of timm's models by family: the module and the first word of the name."""
    found: dict[str, list[str]] = {}
    for module in timm.list_modules():
        for name in timm.list_models(module=module):
            if not name.startswith("prunetune_"):
                found.setdefault(f"{module}/{re.match('[a-z]+', name).group()}", []).append(name)
    return found


def smallest(names: Sequence[str]) -> str:
    """Return the model with the fewest parameters."""
    return min(names, key=num_parameters)


def num_parameters(name: str) -> int:
    """Return the number of parameters of a model, which is given no memory."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in timm.create_model(name, num_classes=0).parameters())


def some_images() -> Pool:
    """Return thirteen small images of all ten classes."""
    return Textures(num_pool=100, size=64).pool("train").take(range(0, 97, 8))


def try_model(model: str) -> dict[str, str]:
    """Return a row of the table, without the family."""
    warnings.simplefilter("ignore")  # timm warns of names that it will drop.
    row = dict.fromkeys(COLUMNS[1:], "")
    row["model"] = model
    try:
        network = _load(model)
    except InputError as error:
        return {**row, "features": f"refused: {error}"}
    row["model_args"] = ", ".join(f"{key}={value}" for key, value in (network.origin.model_args or {}).items())
    row["input_size"], row["features"] = str(network.input_size), str(network.num_features)
    row["million_parameters"] = f"{sum(parameter.numel() for parameter in network.parameters()) / 1e6:.1f}"
    _open_branches(network)
    row["maskable"] = f"{maskable(network.model, network.mask_modules).share:.3f}"
    with tempfile.TemporaryDirectory() as folder:
        embedding = Embedding(network, Store(Path(folder)), batch_size=13)
        signals = NetworkSignals(some_images(), embedding, ProxyRecipe(ONE_EPOCH))
        row["dlc"] = _outcome(lambda: row.update(masked=f"{_share_masked(signals):.3f}"))
        row["lc_knn"] = _outcome(lambda: stored_scores(LCKnn(neighbours=3), signals, 0))
        row["training"] = _outcome(lambda: _check_training(signals))
    return row


def _load(model: str) -> Network:
    """Return the network for the smallest images that it takes, with two blocks if it is large and has a depth."""
    shapes = [SHALLOW, None] if num_parameters(model) > LARGE else [None]
    for arguments, side in product(shapes, SIDES[:-1]):
        try:
            return Backbone(model=model, pretrained=False, input_size=side, model_args=arguments).load()
        except InputError:
            continue
    return Backbone(model=model, pretrained=False).load()


def _open_branches(network: Network) -> None:
    """Set the gains that begin at zero to one. Without training their branches have no effect, nor has masking them."""
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if not parameter.any() and not name.endswith("bias"):
                parameter.fill_(1)


def _share_masked(signals: NetworkSignals) -> float:
    """Compute DLC, and return the share of zeros among the weights that layers use at its last level, which masks 36 %.

    Masks that change no feature are refused. The scores do not tell, since features of random weights can be so small
    that no loss depends on them.
    """
    stored_scores(DLC(levels=LEVELS), signals, 0)
    network, images = signals.network, torch.cat(list(signals.images()))
    path, features = MaskPath(levels=LEVELS, modules=signals.mask_modules), []
    with torch.no_grad(), masked_networks(network.model, path) as levels:
        for _ in levels:
            with UsedWeights() as used:
                features.append(network(images))
    if any(torch.equal(before, after) for before, after in pairwise(features)):
        raise ValueError("two masked networks give the same features")
    return used.num_zero / used.num_all


class UsedWeights(TorchFunctionMode):
    """Counts the weights, and the zeros among them, that convolutions and linear layers multiply with in this block."""

    def __init__(self) -> None:
        super().__init__()
        self.num_zero = self.num_all = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in PRODUCTS:
            weight = args[1] if len(args) > 1 else kwargs["weight"]
            self.num_zero += int((weight == 0).sum())
            self.num_all += weight.numel()
        return func(*args, **(kwargs or {}))


def _check_training(signals: NetworkSignals) -> None:
    """Train for one epoch, write and read the network, and refuse one that the epoch has not changed.

    A loss that is not finite is an error of the training itself.
    """
    before, after = signals.network.state_dict(), signals.proxy().model(1)[0].state_dict()
    if all(torch.equal(before[name], after[name]) for name in before):
        raise ValueError("the epoch has changed no weight")


def _outcome(attempt: Callable[[], object]) -> str:
    """Return "yes", or in one line why the attempt did not work."""
    try:
        attempt()
    except InputError as error:
        return f"refused: {error}"
    except Exception as error:
        return f"failed: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return WORKS


def try_models(models: Iterable[str]) -> Iterator[tuple[dict[str, str], float]]:
    """Yield a row and its seconds for each model. They are made in another process, which a fault of torch may kill."""
    workers, done = None, 0
    for model in models:
        if workers is None or done % TASKS_PER_PROCESS == 0:
            if workers is not None:
                workers.shutdown()
            workers = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
        start, done = time.perf_counter(), done + 1
        try:
            row = workers.submit(try_model, model).result()
        except BrokenProcessPool:
            row, workers = {"model": model, "training": "failed: the process was killed"}, None
        yield row, time.perf_counter() - start
    if workers is not None:
        workers.shutdown()


def known() -> dict[str, str]:
    """Return the model of each family in the committed table."""
    if not TABLE.is_file():
        return {}
    return pd.read_csv(TABLE, dtype=str).set_index("family")["model"].to_dict()


def chosen(known: dict[str, str]) -> tuple[dict[str, str], list[str]]:
    """Return the model to try of each family of the installed timm, and a line on each family that is not known."""
    found = sorted(families().items())
    models = {family: known[family] if known.get(family) in names else smallest(names) for family, names in found}
    return models, [f"new family: {family} ({len(names)} models)" for family, names in found if family not in known]


def survey(models: dict[str, str]) -> pd.DataFrame:
    """Return the table of these models, by family."""
    rows = []
    for family, (row, seconds) in zip(models, try_models(models.values()), strict=True):
        rows.append({"family": family, **row})
        outcome = [row.get(column, "") for column in COLUMNS[5:]]
        print(
            f"{len(rows):3d} of {len(models)}  {family}  {row['model']}  {' | '.join(outcome)}  {seconds:.0f} s",
            flush=True,
        )
    return pd.DataFrame(rows, columns=COLUMNS, dtype=str).fillna("")


def main() -> None:
    """Write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=TABLE)
    parser.add_argument("--only", nargs="*", help="families, such as byobnet/repvgg; by default all")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    models, new = chosen(known())
    for line in new:
        print(line)
    if options.only:
        if unknown := set(options.only) - models.keys():
            parser.error(f"timm {timm.__version__} has no family {', '.join(sorted(unknown))}")
        models = {family: models[family] for family in options.only}
    table = survey(models)
    table.to_csv(options.out, index=False, lineterminator="\n")
    print(f"wrote {options.out}: {len(table)} families")


if __name__ == "__main__":
    main()
