"""A tiny stand-in for a checkout of DeepCore: the same modules and class names, none of its code."""

from pathlib import Path

FILES = {
    "deepcore/__init__.py": "",
    "deepcore/nets/__init__.py": "from . import nets_utils\n",
    "deepcore/nets/nets_utils.py": """
from torch import nn


class EmbeddingRecorder(nn.Module):
    def __init__(self, record_embedding=False):
        super().__init__()
        self.record_embedding = record_embedding

    def forward(self, x):
        self.embedding = x
        return x
""",
    "deepcore/methods/__init__.py": """
from .coresetmethod import *
from .earlytrain import *
from .kcentergreedy import *
""",
    "deepcore/methods/coresetmethod.py": '''
class CoresetMethod:
    def __init__(self, dst_train, args, fraction=0.5, random_seed=None, **options):
        self.data, self.args, self.fraction, self.random_seed = dst_train, args, fraction, random_seed
        self.options = options

    def budget(self, label):
        members = [i for i, target in enumerate(self.data.targets.tolist()) if target == label]
        return members, round(self.fraction * len(members))


class Uniform(CoresetMethod):
    """The first images of each class; prints, as the other program does."""

    def select(self):
        print("| Selecting")
        kept = [members[:count] for members, count in map(self.budget, range(len(self.data.classes)))]
        return {"indices": sum(kept, [])}


class Full(Uniform):
    """One image less than the budget of class 0."""

    def select(self):
        return {"indices": super().select()["indices"][1:]}


class Glister(CoresetMethod):
    def select(self):
        raise ValueError("Illegal budget for optimizer.")
''',
    "deepcore/methods/earlytrain.py": '''
import torch

from .. import nets
from .coresetmethod import CoresetMethod

SEEN = []


class EarlyTrain(CoresetMethod):
    """Trains for some epochs and keeps the images of each class whose embedding is longest."""

    def __init__(self, dst_train, args, fraction=0.5, random_seed=None, epochs=200, specific_model=None, **options):
        super().__init__(dst_train, args, fraction, random_seed, **options)
        self.epochs, self.specific_model = epochs, specific_model

    def select(self):
        torch.manual_seed(self.random_seed)
        make = nets.__dict__[self.specific_model]
        model = make(self.args.channel, self.args.num_classes, pretrained=False, im_size=self.args.im_size)
        steps = self.train(model)
        embeddings = self.embed(model.eval())
        SEEN.append({"args": self.args, "steps": steps, "embeddings": embeddings, "options": self.options})
        lengths, kept = embeddings.norm(dim=1), []
        for members, count in map(self.budget, range(self.args.num_classes)):
            kept += [members[i] for i in lengths[members].argsort(descending=True, stable=True)[:count]]
        return {"indices": kept}

    def train(self, model):
        optimiser = torch.optim.SGD(model.parameters(), lr=self.args.selection_lr)
        steps = 0
        for _ in range(self.epochs):
            for images, targets in torch.utils.data.DataLoader(self.data, self.args.selection_batch, pin_memory=True):
                optimiser.zero_grad()
                torch.nn.functional.cross_entropy(model.train()(images), targets).backward()
                optimiser.step()
                steps += 1
        return steps

    def embed(self, model):
        model.no_grad = True
        batches = torch.utils.data.DataLoader(torch.utils.data.Subset(self.data, range(len(self.data))), 5)
        rows = [(model(images), model.embedding_recorder.embedding)[1] for images, _ in batches]
        assert model.get_last_layer().in_features == rows[0].shape[1]
        return torch.cat(rows)


class Herding(EarlyTrain):
    pass


class GraNd(EarlyTrain):
    pass


class Submodular(EarlyTrain):
    pass
''',
    "deepcore/methods/kcentergreedy.py": '''
import numpy as np

from .coresetmethod import Uniform


class kCenterGreedy(Uniform):
    """Asks for a function that NumPy has no more."""

    def select(self):
        kept = np.array(super().select()["indices"])
        return {"indices": kept[np.in1d(kept, kept)]}
''',
}


def write_checkout(folder: Path) -> Path:
    """Write the stand-in into a folder and return the folder."""
    for name, text in FILES.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return folder
