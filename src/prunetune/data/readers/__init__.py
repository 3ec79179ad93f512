"""The data sets: each class reads one layout into pools (`prunetune.data.pool`)."""

from prunetune.data.pool import Dataset, Pool
from prunetune.data.readers.cifar10 import CIFAR10
from prunetune.data.readers.digits import Digits
from prunetune.data.readers.dtd import DTD
from prunetune.data.readers.fgvcaircraft import FGVCAircraft
from prunetune.data.readers.hf_images import HFImages
from prunetune.data.readers.image_folder import ImageFolder
from prunetune.data.readers.split_folders import SplitFolders
from prunetune.data.readers.textures import Textures

__all__ = [
    "CIFAR10",
    "DTD",
    "Dataset",
    "Digits",
    "FGVCAircraft",
    "HFImages",
    "ImageFolder",
    "Pool",
    "SplitFolders",
    "Textures",
]
