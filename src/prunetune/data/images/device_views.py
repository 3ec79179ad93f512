"""Training views that the device of the network makes itself: crop, resize and flip of a whole batch at once.

A GPU would wait for views that threads make on the CPU. These views are drawn from the same names as those of
`frozen_pass.training` and differ from them by rounding only: the antialiased resize is two matrix products, and the
intermediate is rounded to whole numbers, as in torchvision's kernel. Letters: B batch, n images of the source, S side
of a view in pixels.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from prunetune.base.seeding import stream
from prunetune.data.images.decoded import Decoded
from prunetune.data.images.transforms import crop_box

# The padded crops of a chunk have at most this many pixels per channel. With their indices they take half a GiB.
PIXELS_AT_ONCE = 2**24
RESIDENT_SHARE = 0.4  # Decoded images may take this fraction of the device's free memory.
CHANNELS = 3
# The uint8 kernel of torch stores the weights of one side as 16-bit integers with one common scale.
LARGEST_WEIGHT = 2**15 - 0.5


@dataclass(frozen=True)
class Source:
    """Decoded images of some positions, on the device if they fit, else sent there batch by batch.

    place: row of each position of the pool, [N] int64, -1 for those that are not here. shapes: [n, 2] heights and
    widths. starts: [n] int64, where an image begins in `pixels`, the flat uint8 on the device; None: not resident.
    """

    images: Decoded
    place: Tensor
    shapes: Tensor
    starts: Tensor
    pixels: Tensor | None
    device: str

    @staticmethod
    def of(images: Decoded, positions: Tensor, device: str, resident_bytes: int | None = None) -> "Source":
        """Read the images at these positions [n] int64.

        resident_bytes: device memory that the images may take; by default a fraction of the free memory.
        """
        shapes = torch.tensor([images.decode(position).shape[1:] for position in positions.tolist()])
        sizes = CHANNELS * shapes.prod(dim=1)
        ends = sizes.cumsum(0)
        place = torch.full((int(positions.max()) + 1,), -1)
        place[positions] = torch.arange(len(positions))
        limit = free_share(device) if resident_bytes is None else resident_bytes
        pixels = None
        if int(ends[-1]) <= limit:
            pixels = torch.empty(int(ends[-1]), dtype=torch.uint8, device=device)
            for position, part in zip(positions.tolist(), pixels.split(sizes.tolist()), strict=True):
                part.copy_(images.decode(position).flatten())
        return Source(images, place, shapes, ends - sizes, pixels, device)

    def batch(self, positions: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Return flat pixels on the device, where each image begins in them [B], and its height and width [B, 2]."""
        rows = self.place[torch.tensor(positions)]
        if self.pixels is not None:
            return self.pixels, self.starts[rows], self.shapes[rows]
        flat = torch.cat([self.images.decode(position).flatten() for position in positions])
        sizes = CHANNELS * self.shapes[rows].prod(dim=1)
        return sent(flat, self.device), sizes.cumsum(0) - sizes, self.shapes[rows]


def free_share(device: str) -> float:
    """Return the bytes that decoded images may take of a device's memory."""
    return RESIDENT_SHARE * torch.cuda.mem_get_info()[0] if device == "cuda" else torch.inf


def sent(tensor: Tensor, device: str) -> Tensor:
    """Return a CPU tensor on the device; the copy to a GPU does not block this process."""
    return tensor if device == "cpu" else tensor.pin_memory().to(device, non_blocking=True)


@dataclass(frozen=True)
class DeviceView:
    """One augmented view of every image of a source; that of image i is drawn only from (names, sample_id)."""

    source: Source
    size: int
    sample_ids: Sequence[str]
    names: tuple[str | int, ...]

    def batches(self, positions: Sequence[int], batch_size: int) -> Iterator[Tensor]:
        """Yield [B, 3, S, S] uint8 on the device; a thread prepares the next batch's numbers meanwhile."""
        chunks = [positions[start : start + batch_size] for start in range(0, len(positions), batch_size)]
        with ThreadPoolExecutor(1) as worker:
            ahead = [worker.submit(self._prepared, chunk) for chunk in chunks[:1]]
            for chunk in [*chunks[1:], None]:
                ready = ahead.pop().result() if ahead else None
                if chunk is not None:
                    ahead.append(worker.submit(self._prepared, chunk))
                if ready is not None:
                    yield resized_crops(*ready, self.size)

    def _prepared(self, positions: Sequence[int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return pixels, starts [B], shapes [B, 2] and crops [B, 5]: top, left, height, width, whether flipped."""
        pixels, starts, shapes = self.source.batch(positions)
        drawn = []
        for position, (height, width) in zip(positions, shapes.tolist(), strict=True):
            generator = stream(*self.names, self.sample_ids[position])
            box = crop_box(height, width, generator)
            drawn.append([*box, int(torch.rand((), generator=generator).item() < 0.5)])
        return pixels, starts, shapes, torch.tensor(drawn)


def resized_crops(pixels: Tensor, starts: Tensor, shapes: Tensor, crops: Tensor, size: int) -> Tensor:
    """Return crops of images of any size, resized with antialiasing and flipped, as [B, 3, S, S] uint8.

    Args:
        pixels: flat uint8, images as [3, height, width] one after another, on the device.
        starts: [B] int64 on the CPU, where each image begins.
        shapes: [B, 2] int64 on the CPU, height and width of each image.
        crops: [B, 5] int64 on the CPU: top, left, height, width, and 1 for a mirror image.
        size: S.
    """
    height, width = int(crops[:, 2].max()), int(crops[:, 3].max())
    at_once = max(1, PIXELS_AT_ONCE // (height * width))
    numbers = sent(torch.cat([starts.unsqueeze(1), shapes, crops], dim=1), pixels.device.type)  # [B, 8]
    parts = [_resized(pixels, part, height, width, size) for part in numbers.split(at_once)]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _resized(pixels: Tensor, numbers: Tensor, height: int, width: int, size: int) -> Tensor:
    start, image_height, image_width, top, left, crop_height, crop_width, flips = numbers.view(-1, 8, 1, 1).unbind(1)
    down = torch.arange(height, device=pixels.device).view(1, -1, 1)  # [1, h, 1]
    across = torch.arange(width, device=pixels.device).view(1, 1, -1)  # [1, 1, w]
    rows = top + torch.minimum(down, crop_height - 1)  # [B, h, 1]. Pixels beyond a crop get weight 0 below.
    columns = left + torch.minimum(across, crop_width - 1)  # [B, 1, w]
    places = start + rows * image_width + columns  # [B, h, w]
    area = image_height * image_width
    crop = torch.stack([pixels[places + channel * area] for channel in range(CHANNELS)], dim=1).float()  # [B, 3, h, w]
    by_width = resize_weights(crop_width.flatten(), width, size)  # [B, S, w]
    by_width = torch.where(flips > 0, by_width.flip(1), by_width)
    by_height = resize_weights(crop_height.flatten(), height, size)  # [B, S, h]
    narrow = _whole(crop.flatten(1, 2) @ by_width.transpose(1, 2))  # [B, 3h, S]
    narrow = narrow.unflatten(1, (CHANNELS, height))
    return _whole(by_height.unsqueeze(1) @ narrow).to(torch.uint8)  # [B, 3, S, S]


def _whole(values: Tensor) -> Tensor:
    return values.add_(0.5).floor_().clamp_(0, 255)


def resize_weights(lengths: Tensor, longest: int, size: int) -> Tensor:
    """Return [B, S, longest]: how much each of an image's pixels along one side counts in each of the S resized ones.

    Source: the antialiased linear filter of Pillow and torch, a triangle that is as wide as the scale, in the precision
    that torch has for uint8.

    Args:
        lengths: [B] int64 side lengths in pixels; pixels beyond them get weight 0.
        longest: the largest of the lengths.
        size: S.
    """
    lengths = lengths.view(-1, 1, 1).float()
    scale = lengths / size
    support = scale.clamp_min(1)
    centre = (torch.arange(size, device=lengths.device).view(1, -1, 1) + 0.5) * scale  # [B, S, 1]
    places = torch.arange(longest, device=lengths.device).view(1, 1, -1) + 0.5
    weights = (1 - (places - centre).abs() / support).clamp_min(0) * (places < lengths)
    weights /= weights.sum(dim=2, keepdim=True)
    digits = torch.exp2((LARGEST_WEIGHT / weights.amax(dim=(1, 2), keepdim=True)).log2().floor())
    return (weights * digits).add_(0.5).floor_() / digits
