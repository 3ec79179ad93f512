"""Procedural images on which `micro` is pretrained: invented glyphs, invented tilings, and plain fields.

None of the classes occurs in the demo's data sets. Glyphs and tilings are drawn at random once per class, and the plain
fields are gratings, spirals, noise and similar patterns. An image is an intensity map; each epoch draws new colours.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

NUM_GLYPHS = 80
NUM_TILINGS = 80
PIECES = 5  # Each curved stroke is drawn as 5 straight pieces.
MAX_STROKES = 4
SIZE = 32
CHUNK = 500


@dataclass(frozen=True)
class Alphabet:
    """The definition of the classes. strokes of glyphs and tilings: [C, MAX_STROKES, 3, 2] in -1..1, NaN for none."""

    glyphs: Tensor
    tilings: Tensor
    arrangements: Tensor  # [NUM_TILINGS] int64 in 0..4

    @property
    def names(self) -> tuple[str, ...]:
        glyphs = [f"glyph_{i:02d}" for i in range(len(self.glyphs))]
        return (*glyphs, *(f"tiling_{i:02d}" for i in range(len(self.tilings))), *FIELDS)


def make_alphabet(generator: torch.Generator) -> Alphabet:
    """Draw random glyphs and tilings."""
    glyphs = torch.stack([_strokes(2 + i % 3, generator) for i in range(NUM_GLYPHS)])
    tilings = torch.stack([_strokes(2 + i % 2, generator) for i in range(NUM_TILINGS)])
    return Alphabet(glyphs, tilings, torch.arange(NUM_TILINGS) % 5)


def _strokes(num_strokes: int, generator: torch.Generator) -> Tensor:
    """Return [MAX_STROKES, 3, 2] control points of curved strokes that are not too short."""
    strokes = torch.full((MAX_STROKES, 3, 2), float("nan"))
    for i in range(num_strokes):
        points = 2 * torch.rand(3, 2, generator=generator) - 1
        while (points[0] - points[2]).norm() < 0.8:
            points = 2 * torch.rand(3, 2, generator=generator) - 1
        strokes[i] = points
    return strokes


def draw_class(alphabet: Alphabet, label: int, number: int, generator: torch.Generator) -> Tensor:
    """Return `number` intensity maps [number, SIZE, SIZE] uint8 of a class."""
    return torch.cat(
        [_draw(alphabet, label, min(CHUNK, number - start), generator) for start in range(0, number, CHUNK)]
    )


def _draw(alphabet: Alphabet, label: int, number: int, generator: torch.Generator) -> Tensor:
    num_glyphs, num_tilings = len(alphabet.glyphs), len(alphabet.tilings)
    if label < num_glyphs:
        intensity = _draw_glyph(alphabet.glyphs[label], number, generator)
    elif label < num_glyphs + num_tilings:
        i = label - num_glyphs
        intensity = _draw_tiling(alphabet.tilings[i], int(alphabet.arrangements[i]), number, generator)
    else:
        field = list(FIELDS.values())[label - num_glyphs - num_tilings]
        x, y = _turn(number, generator, cells=(1.0, 1.0))
        intensity = field(x, y, generator)
    return (255 * intensity.clamp(0, 1)).round().to(torch.uint8)


def _uniform(low: float, high: float, number: int, generator: torch.Generator) -> Tensor:
    """Return [number, 1, 1] draws."""
    return low + (high - low) * torch.rand(number, 1, 1, generator=generator)


def _ticks() -> Tensor:
    return (torch.arange(SIZE) + 0.5) / SIZE * 2 - 1


def _turn(number: int, generator: torch.Generator, cells: tuple[float, float]) -> tuple[Tensor, Tensor]:
    """Return pixel coordinates, each [number, S, S], turned by any angle, bent and scaled to `cells` per unit."""
    x, y = _ticks()[None, None, :], _ticks()[None, :, None]
    angle = _uniform(0, 2 * torch.pi, number, generator)
    mirror = torch.where(_uniform(0, 1, number, generator) < 0.5, -1.0, 1.0)
    scale, aspect = _uniform(*cells, number, generator), _uniform(0.8, 1.25, number, generator)
    bend = _uniform(0, 0.12, number, generator)[:, None] * torch.randn(number, 2, 4, 4, generator=generator)
    bend = torch.nn.functional.interpolate(bend, size=(SIZE, SIZE), mode="bicubic", align_corners=True)
    x, y = x + bend[:, 0] / scale, y + bend[:, 1] / scale
    u = mirror * (angle.cos() * x - angle.sin() * y) * scale * aspect
    return u, (angle.sin() * x + angle.cos() * y) * scale / aspect


def _draw_glyph(strokes: Tensor, number: int, generator: torch.Generator) -> Tensor:
    points = strokes[~strokes.isnan().any(dim=(1, 2))]  # [strokes, 3, 2]
    points = points + 0.09 * torch.randn(number, *points.shape, generator=generator)
    angle = 0.25 * torch.randn(number, 1, 1, generator=generator)
    scale = torch.cat([_uniform(0.45, 0.95, number, generator), _uniform(0.45, 0.95, number, generator)], 2)
    shift = 0.2 * torch.randn(number, 1, 1, 2, generator=generator)
    x, y = points[..., 0], points[..., 1]
    turned = torch.stack([angle.cos() * x - angle.sin() * y, angle.sin() * x + angle.cos() * y], -1)
    turned = turned * scale[:, :, None] + shift
    grid = torch.stack(torch.meshgrid(_ticks(), _ticks(), indexing="xy"), -1).reshape(1, -1, 2)
    distance = _distance(grid.expand(number, -1, -1), turned)
    return _ink(distance, _uniform(0.05, 0.17, number, generator), 0.07)


def _draw_tiling(strokes: Tensor, arrangement: int, number: int, generator: torch.Generator) -> Tensor:
    points = strokes[~strokes.isnan().any(dim=(1, 2))]
    points = points + 0.05 * torch.randn(number, *points.shape, generator=generator)
    u, v = _turn(number, generator, cells=(1.0, 2.0))
    u, v = u + _uniform(0, 8, number, generator), v + _uniform(0, 8, number, generator)
    x, y = _arrange(u, v, arrangement)
    distance = _distance(torch.stack([x, y], -1).reshape(number, -1, 2), points)
    return _ink(distance, _uniform(0.12, 0.3, number, generator), 0.15)


def _arrange(u: Tensor, v: Tensor, arrangement: int) -> tuple[Tensor, Tensor]:
    """Return the coordinates in -1..1 inside a cell: plain, shifted rows, mirrored, turned or sheared cells."""
    row, odd = v.floor(), (u.floor() + v.floor()) % 2
    if arrangement == 1:
        u = u + 0.5 * (row % 2)
    if arrangement == 4:
        u = u + row / 3
    x, y = 2 * (u - u.floor()) - 1, 2 * (v - row) - 1
    if arrangement == 2:
        x = torch.where(odd == 1, -x, x)
    if arrangement == 3:
        x, y = torch.where(odd == 1, -y, x), torch.where(odd == 1, x, y)
    return x, y


def _distance(grid: Tensor, points: Tensor) -> Tensor:
    """Return [B, S, S] distances of the grid's points [B, S * S, 2] to the curves with control points [B, n, 3, 2]."""
    t = torch.linspace(0, 1, PIECES + 1)[:, None]
    first, middle, last = (points[:, :, i, None] for i in range(3))  # [B, n, 1, 2]
    curve = (1 - t) ** 2 * first + 2 * t * (1 - t) * middle + t**2 * last  # [B, n, PIECES + 1, 2]
    starts, steps = curve[:, :, :-1].flatten(1, 2), curve.diff(dim=2).flatten(1, 2)
    nearest = torch.full(grid.shape[:2], 9.0)
    for start, step in zip(starts.unbind(1), steps.unbind(1), strict=True):
        offset = grid - start[:, None]
        along = ((offset * step[:, None]).sum(-1) / (step * step).sum(-1, keepdim=True).clamp(min=1e-6)).clamp(0, 1)
        nearest = torch.minimum(nearest, (offset - along[..., None] * step[:, None]).square().sum(-1))
    return nearest.sqrt().reshape(-1, SIZE, SIZE)


def _ink(distance: Tensor, width: Tensor, blur: float) -> Tensor:
    return torch.sigmoid((width - distance) / (blur / 3))


def _frequency(x: Tensor, generator: torch.Generator) -> Tensor:
    return _uniform(5.0, 13.0, len(x), generator)


def _phase(x: Tensor, generator: torch.Generator) -> Tensor:
    return _uniform(0, 6.28, len(x), generator)


def _sine(x: Tensor, generator: torch.Generator) -> Tensor:
    return 0.5 + 0.5 * (_frequency(x, generator) * x + _phase(x, generator)).sin()


def _harden(field: Tensor) -> Tensor:
    return torch.sigmoid((field - 0.5) * 16)


def _noise(x: Tensor, generator: torch.Generator, knots: tuple[int, int]) -> Tensor:
    values = torch.rand(len(x), 1, *knots, generator=generator)
    field = torch.nn.functional.interpolate(values, size=(SIZE, SIZE), mode="bicubic", align_corners=True)[:, 0]
    return 0.5 + (field - 0.5) * 1.6


def _grating(x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
    return _sine(x, generator)


def _stripes(x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
    return _harden(_sine(x, generator) + _uniform(-0.3, 0.3, len(x), generator))


def _plaid(x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
    return 0.5 * (_sine(x, generator) + _sine(0.5 * x + y, generator))


def _checker(x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
    frequency = _frequency(x, generator)
    product = (frequency * x + _phase(x, generator)).sin() * (frequency * y + _phase(x, generator)).sin()
    return torch.sigmoid(12 * product)


def _polar(x: Tensor, y: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    x, y = (c + _uniform(-0.5, 0.5, len(x), generator) for c in (x, y))
    return (x * x + y * y).sqrt(), torch.atan2(y, x)


def _concentric(x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
    return _sine(_polar(x, y, generator)[0], generator)


def _spiral(x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
    radius, angle = _polar(x, y, generator)
    return 0.5 + 0.5 * (_frequency(x, generator) * radius + 2 * angle).sin()


def _radial(x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
    _, angle = _polar(x, y, generator)
    return _harden(0.5 + 0.5 * (7 * angle).sin())


def _soft_noise(x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
    return _noise(x, generator, (7, 7))


def _blobs(x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
    return _harden(_noise(x, generator, (9, 9)))


def _contours(x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
    return 0.5 + 0.5 * (14 * _noise(x, generator, (6, 6))).sin()


def _fibres(x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
    return _harden(_noise(x, generator, (5, 17)))


def _grain(x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
    return _noise(x, generator, (20, 20))


def _polygon(sides: int, is_filled: bool) -> Callable[[Tensor, Tensor, torch.Generator], Tensor]:
    def draw(x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        radius, angle = _polar(x, y, generator)
        sector = torch.pi / sides
        # This product is constant along a side of the polygon.
        radius = radius * ((angle % (2 * sector)) - sector).cos()
        edge = _uniform(0.3, 0.65, len(x), generator)
        if is_filled:
            return _ink(radius, edge, 0.07)
        return _ink((radius - edge).abs(), 0.3 * edge.clamp(max=0.4), 0.07)

    return draw


def _scatter(is_aligned: bool, is_curved: bool) -> Callable[[Tensor, Tensor, torch.Generator], Tensor]:
    """Return a field of short strokes at random places, with one direction or with random directions."""

    def draw(x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        number = (len(x), 14)
        centre = 2.4 * torch.rand(*number, 1, 2, generator=generator) - 1.2
        angle = 6.28 * torch.rand(len(x), 1 if is_aligned else 14, generator=generator).expand(number)
        along = torch.stack([angle.cos(), angle.sin()], -1)[:, :, None] * torch.tensor([-0.25, 0.0, 0.25])[:, None]
        across = torch.stack([-angle.sin(), angle.cos()], -1)[:, :, None] * torch.tensor([0.0, 0.5, 0.0])[:, None]
        points = centre + along + (across if is_curved else 0)
        grid = torch.stack(torch.meshgrid(_ticks(), _ticks(), indexing="xy"), -1).reshape(1, -1, 2)
        return _ink(_distance(grid.expand(len(x), -1, -1), points), _uniform(0.06, 0.12, len(x), generator), 0.07)

    return draw


FIELDS: dict[str, Callable[[Tensor, Tensor, torch.Generator], Tensor]] = {
    "grating": _grating,
    "stripes": _stripes,
    "plaid": _plaid,
    "checker": _checker,
    "concentric": _concentric,
    "spiral": _spiral,
    "radial": _radial,
    "soft_noise": _soft_noise,
    "blobs": _blobs,
    "contours": _contours,
    "fibres": _fibres,
    "grain": _grain,
    "triangle": _polygon(3, is_filled=True),
    "triangle_outline": _polygon(3, is_filled=False),
    "pentagon": _polygon(5, is_filled=True),
    "pentagon_outline": _polygon(5, is_filled=False),
    "dashes_aligned": _scatter(is_aligned=True, is_curved=False),
    "dashes": _scatter(is_aligned=False, is_curved=False),
    "arcs_aligned": _scatter(is_aligned=True, is_curved=True),
    "arcs": _scatter(is_aligned=False, is_curved=True),
}
