"""What a network sees of an image: one evaluation view, or seeded training views.

Source: docs/method_notes.md, Views.
"""

import math

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional

CROP_SHARE = 0.875  # The side of the evaluation view is this fraction of the resized short side.
AREA = (0.08, 1.0)  # A training crop covers a share of the image's area in this range.
ASPECT = (3 / 4, 4 / 3)
ATTEMPTS = 10
# A side longer than this many short sides is cut before the resize, since no view shows its ends.
LONGEST = 8
VERSION = 1  # This number must be raised when the pixels of a view change.


def evaluation_view(image: Tensor, size: int) -> Tensor:
    """Return the centre of an image [3, h, w] uint8 as [3, size, size] uint8: resize to size / 0.875, crop."""
    short = min(image.shape[1:])
    if max(image.shape[1:]) > LONGEST * short:
        # An image of 1 x 30000 pixels, for example, is too large to be enlarged as a whole.
        image = functional.center_crop(image, [min(side, LONGEST * short) for side in image.shape[1:]])
    resized = functional.resize(image, [round(size / CROP_SHARE)], antialias=True)
    return functional.center_crop(resized, [size, size])


def training_view(image: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Return a random resized crop of an image [3, h, w] uint8, flipped half of the time, as [3, size, size] uint8."""
    top, left, height, width = crop_box(image.shape[1], image.shape[2], generator)
    view = functional.resized_crop(image, top, left, height, width, [size, size], antialias=True)
    flips = torch.rand((), generator=generator).item() < 0.5
    return functional.horizontal_flip(view) if flips else view


def crop_box(height: int, width: int, generator: torch.Generator) -> tuple[int, int, int, int]:
    """Return top, left, height, width of a crop of 8-100 % of the area and aspect 3/4 to 4/3.

    Source: Szegedy et al. 2015, with torchvision's numbers: ten attempts, then the largest centred crop of a
    permitted aspect. Written here because torchvision draws from the global generator.
    """
    for _ in range(ATTEMPTS):
        draws = torch.rand(4, generator=generator, dtype=torch.float64).tolist()
        area = height * width * (AREA[0] + draws[0] * (AREA[1] - AREA[0]))
        aspect = math.exp(math.log(ASPECT[0]) + draws[1] * (math.log(ASPECT[1]) - math.log(ASPECT[0])))
        crop_width, crop_height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            top, left = int(draws[2] * (height - crop_height + 1)), int(draws[3] * (width - crop_width + 1))
            return top, left, crop_height, crop_width
    crop_height, crop_width = min(height, round(width / ASPECT[0])), min(width, round(height * ASPECT[1]))
    return (height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width
