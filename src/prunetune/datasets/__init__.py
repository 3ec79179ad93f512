"""The data sets: each class reads one layout into pools (`prunetune.datasets.base`)."""

from prunetune.datasets.base import Dataset, Pool
from prunetune.datasets.cifar10 import CIFAR10
from prunetune.datasets.digits import Digits
from prunetune.datasets.dtd import DTD
from prunetune.datasets.fgvcaircraft import FGVCAircraft
from prunetune.datasets.image_folder import ImageFolder
from prunetune.datasets.split_folders import SplitFolders
from prunetune.datasets.textures import Textures

__all__ = [
    "CIFAR10",
    "DTD",
    "Dataset",
    "Digits",
    "FGVCAircraft",
    "ImageFolder",
    "Pool",
    "SplitFolders",
    "Textures",
]
