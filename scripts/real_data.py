"""The overrides that name the real images and weights for the scripts, and the folder of the repository."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def datasets(data: Path) -> dict[str, list[str]]:
    """Return the overrides that name each data set."""
    dtd10, caltech101 = data / "data" / "dtd10", data / "data" / "caltech101"
    lists = [f"dataset.{part}_list={caltech101}/{part}.txt" for part in ("train", "test")]
    return {
        "dtd10": ["dataset=dtd", "dataset.name=dtd10", "dataset.check_counts=false", f"dataset.root={dtd10}"],
        "caltech101": [
            "dataset=image_folder",
            "dataset.name=caltech101",
            f"dataset.root={caltech101}/101_ObjectCategories",
            *lists,
        ],
    }


def backbones(data: Path) -> dict[str, list[str]]:
    """Return the overrides that name each backbone, with the pixel statistics of its training."""
    weights = data / "weights"
    return {
        "vit_tiny": [
            "backbone=timm",
            "backbone.name=vit_tiny",
            "backbone.model=vit_tiny_patch16_224",
            f"backbone.checkpoint={weights}/vit_tiny_patch16_224_augreg_in1k.pth",
            "backbone.mask_modules=linear",
        ],
        "mobilenetv2": [
            "backbone=timm",
            "backbone.name=mobilenetv2",
            "backbone.model=mobilenetv2_100",
            f"backbone.checkpoint={weights}/mobilenetv2_100_tfhub_dequant_in1k.pth",
            "backbone.model_args={pad_type:same,bn_eps:0.001}",
            "backbone.mean=[0.5,0.5,0.5]",
            "backbone.std=[0.5,0.5,0.5]",
            "backbone.mask_modules=conv2d",
        ],
    }


def check_folder(data: Path) -> None:
    """Exit with an error if the folder does not have the expected subfolders."""
    if not (data / "data").is_dir() or not (data / "weights").is_dir():
        sys.exit(f"error: {data} must be a folder with data/ and weights/; pass --data=<folder>")
