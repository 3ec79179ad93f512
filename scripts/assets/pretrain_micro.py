"""Pretrain the embedded backbone `micro` on procedural images, on CPU, and write its weights and their provenance.

    python -m scripts.assets.pretrain_micro [--out FOLDER] [--epochs N] [--per-class N] [--threads N]

Supervised classification of invented glyphs, invented tilings and plain fields (`pretraining_images.py`), with label
smoothing and heavy augmentation: colours, polarity, contrast, blur, noise, and a second image laid over the first.
The last epoch's weights are kept: no weights are selected on the demo's data sets.
"""

import argparse
import hashlib
import logging
from pathlib import Path

import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from prunetune.base.progress import track
from prunetune.base.publish import write_json
from prunetune.base.seeding import seeded, stream
from prunetune.networks import micro
from scripts.assets.pretraining_images import Alphabet, draw_class, make_alphabet

log = logging.getLogger("pretrain_micro")
SEED = 0
BATCH = 128
LEARNING_RATE = 4e-3  # The peak of the one-cycle learning rate of AdamW.
WEIGHT_DECAY = 0.05
LABEL_SMOOTHING = 0.1
NUM_HELD_OUT = 50  # Images of each class that are not trained on.


def draw_all(alphabet: Alphabet, number: int, part: str) -> tuple[Tensor, Tensor]:
    """Return intensity maps [C * number, 32, 32] uint8 and labels [C * number] int64."""
    labels = range(len(alphabet.names))
    maps = [
        draw_class(alphabet, label, number, stream("micro", SEED, part, label))
        for label in track(labels, f"draw {part} images", len(labels))
    ]
    return torch.cat(maps), torch.arange(len(labels)).repeat_interleave(number)


def colour(maps: Tensor, others: Tensor, generator: torch.Generator) -> Tensor:
    """Turn intensity maps [B, 32, 32] uint8 into normalised images [B, 3, 32, 32]; `others` are laid over them."""
    number = len(maps)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(number, *shape, generator=generator)

    over = uniform(-0.35, 0.4, 1, 1).clamp(min=0)
    intensity = _blur_some((1 - over) * maps / 255 + over * others / 255, generator)[:, None]  # [B, 1, 32, 32]
    polarity = torch.where(uniform(0, 1, 1, 1, 1) < 0.5, -1.0, 1.0)
    contrast = polarity * uniform(0.1, 0.5, 1, 1, 1)
    tints = uniform(0, 0.25, 1, 1, 1, 1) * uniform(-1, 1, 2, 3, 1, 1)
    grey = uniform(0.35, 0.65, 1, 1, 1)
    line, ground = grey + contrast + tints[:, 0], grey - contrast + tints[:, 1]  # [B, 3, 1, 1]
    noise = torch.rand(number, 1, 32, 32, generator=generator) - 0.5
    images = ground + intensity * (line - ground) + uniform(0, 0.25, 1, 1, 1) * noise
    mean, std = (torch.tensor(micro.PRETRAINED_CFG[key])[:, None, None] for key in ("mean", "std"))
    return (images.clamp(0, 1) - mean) / std


def _blur_some(maps: Tensor, generator: torch.Generator) -> Tensor:
    """Reduce a third of the maps [B, 32, 32] to 8 to 16 pixels a side and enlarge them again."""
    chosen = torch.rand(len(maps), generator=generator) < 1 / 3
    side = int(torch.randint(8, 17, (), generator=generator))
    small = functional.interpolate(maps[chosen][:, None], size=(side, side), mode="area")
    maps[chosen] = functional.interpolate(small, size=(32, 32), mode="bilinear")[:, 0]
    return maps


def train(model: nn.Module, maps: Tensor, labels: Tensor, epochs: int, generator: torch.Generator) -> None:
    """Train the network in place on maps [N, 32, 32] uint8 with labels [N]."""
    num_steps = len(maps) // BATCH
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    learning_rates = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=epochs * num_steps)
    model.train()
    for epoch in range(1, epochs + 1):
        order = torch.randperm(len(maps), generator=generator)[: num_steps * BATCH].reshape(num_steps, BATCH)
        total = 0.0
        for rows in track(order, f"epoch {epoch} of {epochs}", num_steps):
            images = colour(maps[rows], maps[rows.roll(1)], generator).contiguous(memory_format=torch.channels_last)
            with torch.autocast("cpu", torch.bfloat16):
                logits = model(images)
            loss = functional.cross_entropy(logits.float(), labels[rows], label_smoothing=LABEL_SMOOTHING)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            learning_rates.step()
            total += loss.item()
        log.info("epoch %d of %d: loss %.3f", epoch, epochs, total / num_steps)


@torch.no_grad()
def evaluate(model: nn.Module, maps: Tensor, labels: Tensor, generator: torch.Generator) -> float:
    """Return the accuracy on augmented held-out images."""
    model.eval()
    order = torch.randperm(len(maps), generator=generator)
    rights = sum(
        int((model(colour(maps[rows], maps[rows.roll(1)], generator)).argmax(1) == labels[rows]).sum())
        for rows in order.split(500)
    )
    return rights / len(maps)


def write(model: nn.Module, folder: Path, provenance: dict[str, object]) -> None:
    """Write micro.safetensors (without the pretraining head) and micro.json."""
    model.reset_classifier(0)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / micro.WEIGHTS.name
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    content = {"file": path.name, "sha256": digest, "num_parameters": num_parameters, **provenance}
    write_json(folder / micro.PROVENANCE.name, content)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--out", type=Path, default=micro.WEIGHTS.parent, help="folder for the weights and their provenance"
    )
    parser.add_argument("--epochs", type=int, default=9, help="training epochs")
    parser.add_argument("--per-class", type=int, default=350, help="training images of each class")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(options.threads)
    alphabet = make_alphabet(stream("micro", SEED, "alphabet"))
    maps, labels = draw_all(alphabet, options.per_class, "train")
    with seeded("micro", SEED, "train") as generator:
        model = timm.create_model("prunetune_micro", num_classes=len(alphabet.names))
        train(model.to(memory_format=torch.channels_last), maps, labels, options.epochs, generator)
    accuracy = evaluate(model, *draw_all(alphabet, NUM_HELD_OUT, "held out"), stream("micro", SEED, "evaluate"))
    log.info("accuracy on held-out images of the %d pretraining classes: %.4f", len(alphabet.names), accuracy)
    provenance = {
        "model": "prunetune_micro",
        "script": "scripts/assets/pretrain_micro.py",
        "arguments": {"epochs": options.epochs, "per_class": options.per_class, "threads": options.threads},
        "seed": SEED,
        "data": f"{len(maps)} procedural images of {len(alphabet.names)} classes, scripts/assets/pretraining_images.py",
        "objective": f"cross-entropy, label smoothing {LABEL_SMOOTHING}, bf16 forward passes, last epoch",
        "classes": list(alphabet.names),
        "held_out_accuracy": round(accuracy, 4),
        "held_out_images": NUM_HELD_OUT * len(alphabet.names),
        "versions": {"torch": torch.__version__.split("+")[0], "timm": timm.__version__},
        "license": "MIT, as the package",
    }
    write(model, options.out, provenance)


if __name__ == "__main__":
    main()
