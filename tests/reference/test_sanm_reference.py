"""SANM's masks, targets and reconstruction against loops over samples and pixels (METHODS 2.2).

The references follow arXiv 2302.06805, sections 3.2 to 3.4, in Python floats, and what the package
adds for tiny images and maps that say nothing of places. They take the same random numbers, asked
of `Draw` by purpose, and the two tolerances, and nothing else from the batched code.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from labelwise.augment.boxes import box_sides, place_boxes
from labelwise.augment.masking import (
    COARSE,
    EQUAL,
    FLAT,
    Masker,
    activation_map,
    extreme_cells,
    extreme_pixels,
    has_relief,
)
from labelwise.losses.masking import reconstruction_error, soften
from labelwise.rng import Draw

Grid = list[list[float]]
Size = tuple[int, int]
SIZES = [(8, 8), (8, 5), (1, 7), (6, 1), (1, 1), (12, 12), (97, 33)]
SHORT = settings(max_examples=200, deadline=None)


def draw(seed: int = 0) -> Draw:
    return Draw(seed=seed, epoch=2, phase="train", step=3)


def random_images(num: int, size: Size, channels: int = 3, seed: int = 0) -> Tensor:
    return torch.rand(num, channels, *size, generator=torch.Generator().manual_seed(seed))


def random_maps(num: int, grid: Size, seed: int = 1) -> Tensor:
    return torch.rand(num, *grid, generator=torch.Generator().manual_seed(seed))


# -- the slow side ----------------------------------------------------------------------------


def slow_activation(maps: Tensor) -> list[Grid]:
    """A = Σ_c f_c², place by place."""
    num, channels, height, width = maps.shape
    return [
        [
            [sum(float(maps[i, c, y, x]) ** 2 for c in range(channels)) for x in range(width)]
            for y in range(height)
        ]
        for i in range(num)
    ]


def source(place: int, cells: int, pixels: int) -> tuple[int, int, float]:
    """Two neighbouring cells of a pixel's centre and the share of the second."""
    centre = max(0.0, (place + 0.5) * cells / pixels - 0.5)
    first = min(math.floor(centre), cells - 1)
    return first, min(first + 1, cells - 1), centre - first


def slow_resize(grid: Grid, size: Size) -> Grid:
    """Bilinear, cell centres at half-integers (align_corners=False), edges repeated."""
    resized = []
    for y in range(size[0]):
        top, bottom, down = source(y, len(grid), size[0])
        row = []
        for x in range(size[1]):
            left, right, along = source(x, len(grid[0]), size[1])
            upper = (1 - along) * grid[top][left] + along * grid[top][right]
            lower = (1 - along) * grid[bottom][left] + along * grid[bottom][right]
            row.append((1 - down) * upper + down * lower)
        resized.append(row)
    return resized


def slow_extreme(grid: Grid, largest: bool) -> tuple[int, int]:
    """The first place, row by row, that no other exceeds by more than rounding."""
    values = [value for row in grid for value in row]
    for y, row in enumerate(grid):
        for x, value in enumerate(row):
            short = max(values) - value if largest else value - min(values)
            if short <= EQUAL * max(values):
                return y, x
    raise AssertionError("no place is the most extreme")


def slow_relief(grid: Grid) -> bool:
    """Whether the weakest place has a thousandth less than the strongest."""
    values = [value for row in grid for value in row]
    return max(values) - min(values) > FLAT * max(values)


def slow_names(boxes: str, num_views: int) -> list[str]:
    """Two copies beside several views, one of either kind beside a single one."""
    if boxes == "auto":
        boxes = "either" if num_views == 1 else "both"
    return ["hot", "cold"] if boxes == "both" else [boxes]


def slow_guided(place: str, grid: Size) -> bool:
    """Left alone, the map is followed where neither side has fewer than four cells."""
    if place == "auto":
        return grid[0] >= 4 and grid[1] >= 4
    return place == "guided"


def slow_ratio(masker: Masker, clean: Sequence[float], where: Draw) -> list[float]:
    """r = s · (U(basic - spread, basic + spread) + gain · (1 - w)), held in [0, 1]."""
    unit = where.uniform("ratio", len(clean)).tolist()
    ratios = []
    for w, u in zip(clean, unit, strict=True):
        low, high = masker.basic - masker.spread, masker.basic + masker.spread
        ratio = low + (high - low) * u
        if masker.ratio == "fixed":
            ratio = masker.basic
        if masker.ratio == "adaptive":
            ratio += masker.gain * (1 - w)
        ratios.append(min(1.0, max(0.0, masker.scale * ratio)))
    return ratios


def slow_sides(ratio: float, aspect: float, size: Size) -> tuple[int, int]:
    """Half of r·H·W with height / width = aspect; at least a pixel, never all of the image."""
    if ratio <= 0:
        return 0, 0
    area = ratio / 2 * size[0] * size[1]
    tall, wide = math.sqrt(area * aspect), math.sqrt(area / aspect)
    if tall > size[0]:  # what does not fit goes the other way
        tall, wide = size[0], area / size[0]
    elif wide > size[1]:
        tall, wide = area / size[1], size[1]
    height = min(size[0], max(1, round(tall)))
    width = min(size[1], max(1, round(wide)))
    if (height, width) == size:
        if height > 1:
            height -= 1
        else:
            width -= 1
    return height, width


def slow_start(pixel: int, side: int, length: int, anchor: str) -> int:
    """First row or column: the pixel in the middle or in the corner, moved inside."""
    start = pixel - side // 2 if anchor == "centre" else pixel
    return max(0, min(start, length - side))


def slow_masks(
    masker: Masker,
    images: Tensor,
    activation: Tensor,
    ratio: Sequence[float],
    where: Draw,
    num_views: int,
) -> list[Tensor]:
    """The masked copies, pixel by pixel."""
    num, channels, *sides = images.shape
    size = (sides[0], sides[1])
    coin = where.uniform("either", num, 1)
    copies = []
    for name in slow_names(masker.boxes, num_views):
        aspect = where.uniform(
            f"{name}/aspect", num, low=1 / masker.elongation, high=masker.elongation
        )
        place = where.uniform(f"{name}/place", num, 2)
        fill = where.uniform(f"{name}/fill", num, channels)
        copy = images.clone()
        for i in range(num):
            hot = float(coin[i]) < 0.5 if name == "either" else name == "hot"
            height, width = slow_sides(ratio[i], float(aspect[i]), size)
            grid = activation[i].double().tolist()
            cells = (len(grid), len(grid[0]))
            if not slow_guided(masker.place, cells) or not slow_relief(grid):
                pixel = [int(float(place[i, axis]) * size[axis]) for axis in (0, 1)]
            elif masker.spot == "cell":
                cell = slow_extreme(grid, hot)
                pixel = [
                    int((cell[axis] + float(place[i, axis])) * size[axis] / cells[axis])
                    for axis in (0, 1)
                ]
            else:
                pixel = list(slow_extreme(slow_resize(grid, size), hot))
            top = slow_start(pixel[0], height, size[0], masker.anchor)
            left = slow_start(pixel[1], width, size[1], masker.anchor)
            for y in range(top, top + height):
                for x in range(left, left + width):
                    for c in range(channels):
                        copy[i, c, y, x] = fill[i, c] if masker.fill == "random" else 0.0
        copies.append(copy)
    return copies


def slow_soften(target: Sequence[float], ratio: float) -> list[float]:
    """The top class pays r, at most what it has; every other class gains its share."""
    top = max(range(len(target)), key=lambda c: (target[c], -c))
    paid = min(ratio, target[top])
    return [t - paid if c == top else t + paid / (len(target) - 1) for c, t in enumerate(target)]


# -- activation map and extreme places --------------------------------------------------------


def test_activation_is_the_sum_of_squares_over_channels() -> None:
    maps = torch.randn(3, 5, 4, 6, generator=torch.Generator().manual_seed(0))
    ours = activation_map(maps)
    assert ours.shape == (3, 4, 6)
    assert torch.allclose(ours, torch.tensor(slow_activation(maps)), rtol=1e-5)
    half = activation_map(maps.bfloat16())
    assert half.dtype == torch.float32
    assert torch.allclose(half, activation_map(maps.bfloat16().float()))


@pytest.mark.parametrize(
    ("grid", "size"),
    [((4, 4), (8, 8)), ((2, 4), (16, 8)), ((1, 1), (4, 8)), ((8, 8), (8, 8)), ((8, 4), (2, 4))],
)
def test_extreme_pixels_and_first_of_equals_exactly(grid: Size, size: Size) -> None:
    """Whole numbers have many equals."""
    generator = torch.Generator().manual_seed(2)
    activation = torch.randint(0, 4, (40, *grid), generator=generator).float()  # many equals
    hot, cold = extreme_pixels(activation, size)
    for i in range(40):
        resized = slow_resize(activation[i].tolist(), size)
        assert tuple(hot[i].tolist()) == slow_extreme(resized, True)
        assert tuple(cold[i].tolist()) == slow_extreme(resized, False)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("grid", [(1, 1), (4, 4), (3, 7), (8, 5)])
def test_extreme_pixels_of_any_size(grid: Size, size: Size) -> None:
    """The rim of a resized map is flat: of its pixels the first one, however the sums round."""
    num = 2 if size == (97, 33) else 6
    activation = random_maps(num, grid)
    hot, cold = extreme_pixels(activation, size)
    assert hot.dtype == cold.dtype == torch.int64
    for i in range(num):
        resized = slow_resize(activation[i].tolist(), size)
        assert tuple(hot[i].tolist()) == slow_extreme(resized, True)
        assert tuple(cold[i].tolist()) == slow_extreme(resized, False)


def test_extreme_cells_by_hand() -> None:
    activation = torch.tensor([[[1.0, 5.0, 0.0], [5.0, 2.0, 0.0]], [[3.0, 3.0, 3.0]] * 2])
    hot, cold = extreme_cells(activation)
    assert hot.tolist() == [[0, 1], [0, 0]]
    assert cold.tolist() == [[0, 2], [0, 0]]


@pytest.mark.parametrize("unit", [1e-20, 1.0, 1e20])
def test_extremes_are_equal_up_to_rounding_and_no_further(unit: float) -> None:
    """Relative to the largest, in whatever unit the features are."""
    rounding, more = 1 + 0.1 * EQUAL, 1 + 10 * EQUAL
    activation = unit * torch.tensor([[[2.0, 2.0 * rounding, 1.0, 1.0 / rounding]]])
    hot, cold = extreme_cells(activation)
    assert (int(hot[0, 1]), int(cold[0, 1])) == (0, 2)
    activation = unit * torch.tensor([[[2.0, 2.0 * more, 1.0, 1.0 / more]]])
    hot, cold = extreme_cells(activation)
    assert (int(hot[0, 1]), int(cold[0, 1])) == (1, 3)


def test_relief() -> None:
    """A spread of a thousandth of the largest does not stand out; nothing in an empty map does."""
    low = 1 - FLAT * torch.tensor([0.0, 0.5, 0.9, 1.1, 2.0, 1000.0])
    maps = 7 * torch.ones(6, 3, 5)
    maps[:, 1, 2] *= low
    maps = torch.cat([maps, torch.zeros(1, 3, 5)])
    assert has_relief(maps).tolist() == [False] * 3 + [True] * 3 + [False]
    assert [slow_relief(one.tolist()) for one in maps] == has_relief(maps).tolist()


# -- what is left to the masker ---------------------------------------------------------------


def test_left_alone_it_makes_as_many_copies_as_there_are_views() -> None:
    for boxes in ("auto", "both", "either", "hot", "cold"):
        for num_views in (1, 2, 4):
            found = Masker(boxes=boxes).names(num_views)  # type: ignore[arg-type]
            assert list(found) == slow_names(boxes, num_views)
            copies = Masker(boxes=boxes, cover=False)(  # type: ignore[arg-type]
                random_images(2, (4, 4)), None, torch.zeros(2), draw(), num_views
            )
            assert len(copies) == len(found)


def test_left_alone_it_follows_a_fine_map_only() -> None:
    assert COARSE == 4
    for place in ("auto", "guided", "random"):
        for grid in [(1, 1), (3, 3), (3, 9), (9, 3), (4, 4), (4, 7), (16, 16)]:
            masker = Masker(place=place)  # type: ignore[arg-type]
            assert masker.guides(grid) == slow_guided(place, grid)
            assert not Masker(place=place, cover=False).guides(grid)  # type: ignore[arg-type]


def test_defaults_leave_it_to_the_masker() -> None:
    usual = Masker()
    assert (usual.place, usual.boxes, usual.spot, usual.scale) == ("auto", "auto", "pixel", 1.0)


# -- ratio ------------------------------------------------------------------------------------


@pytest.mark.parametrize("ratio", ["adaptive", "random", "fixed"])
@pytest.mark.parametrize(("basic", "spread", "gain"), [(0.045, 0.025, 0.03), (0.1, 0.4, 0.9)])
@pytest.mark.parametrize("scale", [1.0, 4.0, 32.0])
def test_ratio(ratio: Any, basic: float, spread: float, gain: float, scale: float) -> None:
    masker = Masker(ratio=ratio, basic=basic, spread=spread, gain=gain, scale=scale)
    clean = torch.linspace(0, 1, 50)
    ours = masker.ratios(clean, draw())
    wanted = torch.tensor(slow_ratio(masker, clean.tolist(), draw()))
    assert torch.allclose(ours, wanted, atol=1e-6)


@pytest.mark.parametrize("ratio", ["adaptive", "random", "fixed"])
def test_scale_is_a_factor_on_the_same_draw(ratio: Any) -> None:
    clean = torch.linspace(0, 1, 40)
    once, thrice = (Masker(ratio=ratio, scale=s).ratios(clean, draw()) for s in (1.0, 3.0))
    assert float(once.max()) < 0.11
    assert torch.allclose(thrice, 3 * once, atol=1e-6)
    assert bool((Masker(ratio=ratio, scale=1e3).ratios(clean, draw()) == 1).all())


def test_ratio_of_the_authors_lies_in_their_range() -> None:
    """U(0.02, 0.07) + 0.03 · (1 - w)."""
    masker = Masker(basic=0.045, spread=0.025, gain=0.03)
    for w in (0.0, 0.4, 1.0):
        drawn = masker.ratios(torch.full((4000,), w), draw()) - 0.03 * (1 - w)
        assert 0.02 - 1e-6 <= float(drawn.min()) < 0.0203
        assert 0.0697 < float(drawn.max()) <= 0.07 + 1e-6
        assert float(drawn.mean()) == pytest.approx(0.045, abs=1e-3)


# -- boxes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
def test_box_sides_and_places(size: Size) -> None:
    generator = torch.Generator().manual_seed(3)
    ratio = torch.rand(200, generator=generator)
    ratio[:20] = 0.0
    aspect = 0.8 + 0.45 * torch.rand(200, generator=generator)
    rows, columns = box_sides(ratio / 2, aspect, size)
    pixels = torch.stack([torch.randint(0, n, (200,), generator=generator) for n in size], dim=1)
    for anchor in ("centre", "corner"):
        boxes = place_boxes(pixels, rows, columns, size, anchor)  # type: ignore[arg-type]
        covered = boxes.inside(size)
        for i in range(200):
            height, width = slow_sides(float(ratio[i]), float(aspect[i]), size)
            assert (int(rows[i]), int(columns[i])) == (height, width)
            top = slow_start(int(pixels[i, 0]), height, size[0], anchor)
            left = slow_start(int(pixels[i, 1]), width, size[1], anchor)
            wanted = torch.zeros(size, dtype=torch.bool)
            wanted[top : top + height, left : left + width] = True
            assert torch.equal(covered[i], wanted)


def test_centre_lies_in_the_middle_and_corner_in_the_corner() -> None:
    """Away from the rim nothing is moved."""
    pixels, three = torch.tensor([[10, 12]]), torch.tensor([3])
    five = torch.tensor([5])
    centre = place_boxes(pixels, three, five, (32, 32), "centre")
    assert (int(centre.top), int(centre.left)) == (9, 10)
    corner = place_boxes(pixels, three, five, (32, 32), "corner")
    assert (int(corner.top), int(corner.left)) == (10, 12)


def test_the_boxes_cover_half_of_the_ratio_each() -> None:
    """On large images rounding hardly counts."""
    ratio = torch.full((500,), 0.06)
    aspect = 0.8 + 0.45 * torch.rand(500, generator=torch.Generator().manual_seed(4))
    rows, columns = box_sides(ratio / 2, aspect, (224, 224))
    area = (rows * columns).double() / 224**2
    assert float(area.mean()) == pytest.approx(0.03, rel=0.01)
    assert float((rows / columns - aspect).abs().max()) < 0.06


# -- whole copies -----------------------------------------------------------------------------

VARIANTS: list[dict[str, Any]] = [
    {},
    {"place": "guided", "boxes": "both"},
    {"place": "guided", "boxes": "both", "anchor": "corner"},
    {"place": "guided", "boxes": "both", "spot": "cell"},
    {"place": "auto", "boxes": "auto", "spot": "cell"},
    {"boxes": "both", "fill": "black"},
    {"place": "guided", "boxes": "either", "spot": "cell"},
    {"place": "guided", "boxes": "either", "spot": "pixel"},
    {"place": "auto", "boxes": "hot", "scale": 2.5},
    {"place": "guided", "boxes": "cold", "anchor": "corner"},
    {"place": "random", "boxes": "both"},
    {"place": "random", "boxes": "either", "elongation": 3.0},
]


def with_flat_rows(activation: Tensor) -> Tensor:
    """The first map all alike, the second nearly, the third a little less so, the fourth empty."""
    for row, step in enumerate((0.0, 0.5 * FLAT, 2 * FLAT)):
        activation[row] = 1.0
        activation[row, -1, 0] = 1 - step
    activation[3] = 0.0
    return activation


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
@pytest.mark.parametrize("num_views", [1, 2])
@pytest.mark.parametrize(("grid", "size"), [((4, 4), (8, 8)), ((2, 2), (8, 8)), ((5, 4), (20, 8))])
def test_copies_are_those_of_the_loops(
    variant: dict[str, Any], num_views: int, grid: Size, size: Size
) -> None:
    masker = Masker(basic=0.2, spread=0.15, gain=0.3, **variant)
    images, clean = random_images(12, size), torch.linspace(0, 1, 12)
    generator = torch.Generator().manual_seed(5)
    activation = with_flat_rows(torch.randint(0, 100, (12, *grid), generator=generator).float())
    where = draw().within("sanm/all")
    ratio = masker.ratios(clean, where)
    given = activation if masker.guides(grid) else None
    copies = masker(images, given, ratio, where, num_views)
    slow = slow_masks(masker, images, activation, ratio.tolist(), where, num_views)
    assert len(copies) == len(slow)
    for ours, wanted in zip(copies, slow, strict=True):
        assert torch.equal(ours.images, wanted)
        changed = (ours.images != images).any(1)
        assert not bool((changed & ~ours.boxes.inside(size)).any())


def test_either_takes_both_kinds() -> None:
    """About half of the images get the hot box, the others the cold one."""
    masker = Masker(boxes="either", spot="pixel")
    activation = torch.ones(400, 4, 4)
    activation[:, 0, 0], activation[:, 3, 3] = 2.0, 0.0
    (copy,) = masker(random_images(400, (16, 16)), activation, torch.full((400,), 0.05), draw())
    share = float((copy.boxes.top < 8).float().mean())
    assert 0.4 < share < 0.6


def test_hot_and_cold_do_not_share_random_numbers() -> None:
    hot, cold = Masker(boxes="both")(
        random_images(50, (9, 9)), None, torch.full((50,), 0.3), draw()
    )
    assert not torch.equal(hot.boxes.top, cold.boxes.top)
    assert not torch.equal(hot.boxes.height, cold.boxes.height)


@pytest.mark.parametrize("boxes", ["hot", "cold", "either"])
def test_flat_maps_and_no_maps_give_places_all_over(boxes: Any) -> None:
    """Every pixel has the same chance, and the other maps of the batch are followed."""
    images, ratio = random_images(800, (4, 4), 1), torch.full((800,), 1e-4)  # boxes of a pixel
    activation = torch.full((800, 4, 4), 3.0)
    activation[700:, 1, 2], activation[700:, 3, 1] = 4.0, 2.0
    masker = Masker(boxes=boxes, spot="pixel")
    (flat,) = masker(images, activation, ratio, draw())
    (blind,) = masker(images, None, ratio, draw())
    places = 4 * flat.boxes.top + flat.boxes.left
    assert torch.equal(places[:700], (4 * blind.boxes.top + blind.boxes.left)[:700])
    counts = torch.bincount(places[:700], minlength=16)
    assert int(counts.min()) > 700 / 16 - 30
    assert int(counts.max()) < 700 / 16 + 30
    assert set(places[700:].tolist()) == {"hot": {6}, "cold": {13}, "either": {6, 13}}[boxes]


def test_a_cell_spreads_and_a_pixel_does_not() -> None:
    """Any pixel of the extreme cell, or the one that the resized map has."""
    ratio, images = torch.full((300,), 1e-4), random_images(300, (12, 12), 1)  # boxes of a pixel
    activation = torch.zeros(300, 3, 3)
    activation[:, 1, 1] = 1.0

    def rows(spot: Any) -> set[int]:
        (copy,) = Masker(boxes="hot", spot=spot)(images, activation, ratio, draw())
        assert bool((copy.boxes.height == 1).all())
        return set(copy.boxes.top.tolist())

    assert rows("cell") == {4, 5, 6, 7}
    assert rows("pixel") == {5}


def test_nothing_is_covered_without_a_cover() -> None:
    images = random_images(4, (8, 8))
    masker = Masker(cover=False, boxes="both")
    copies = masker(images, None, torch.full((4,), 0.5), draw())
    assert len(copies) == 2
    for copy in copies:
        assert torch.equal(copy.images, images)
        assert not bool(copy.boxes.inside((8, 8)).any())


def test_memory_format_and_dtype_stay() -> None:
    images = random_images(4, (8, 8)).to(memory_format=torch.channels_last)
    ratio = torch.full((4,), 0.1)
    for kind in (torch.float32, torch.bfloat16):
        for hot in Masker(boxes="both")(images.to(kind), random_maps(4, (4, 4)), ratio, draw()):
            assert hot.images.dtype == kind
            assert hot.images.is_contiguous(memory_format=torch.channels_last)


@SHORT
@given(
    height=st.sampled_from([1, 2, 3, 7, 8, 28, 33, 97]),
    width=st.sampled_from([1, 2, 3, 5, 8, 28, 33, 97]),
    ratio=st.sampled_from([0.0, 0.045, 1.0]) | st.floats(1e-30, 1),
    variant=st.sampled_from(VARIANTS),
    grid=st.sampled_from([None, (1, 1), (1, 4), (4, 4), (7, 7)]),
    num_views=st.sampled_from([1, 2]),
    seed=st.integers(0, 2**20),
)
def test_every_box_is_some_part_of_its_image(
    height: int,
    width: int,
    ratio: float,
    variant: dict[str, Any],
    grid: Size | None,
    num_views: int,
    seed: int,
) -> None:
    """Inside, never the whole image, and a pixel at least where anything is to be masked.

    Of an image of one pixel nothing can be covered without covering all of it.
    """
    size, num = (height, width), 3
    activation = None if grid is None else random_maps(num, grid, seed)
    if activation is not None:
        activation[0] = 1.0  # flat
    wanted = torch.full((num,), ratio)
    images = random_images(num, size, 2, seed)
    for copy in Masker(**variant)(images, activation, wanted, draw(seed), num_views):
        boxes = copy.boxes
        assert bool((boxes.top >= 0).all() and (boxes.left >= 0).all())
        assert bool((boxes.top + boxes.height <= height).all())
        assert bool((boxes.left + boxes.width <= width).all())
        covered = boxes.inside(size).sum((1, 2))
        assert torch.equal(covered, boxes.height * boxes.width)
        assert bool((covered < height * width).all())
        assert bool(((covered > 0) == (float(wanted[0]) > 0 and height * width > 1)).all())
        outside = ~boxes.inside(size).unsqueeze(1).expand_as(images)
        assert torch.equal(copy.images[outside], images[outside])
        assert bool(((copy.images >= 0) & (copy.images <= 1)).all())


def test_ratio_zero_changes_no_pixel_and_no_target() -> None:
    masker = Masker(basic=0, spread=0, gain=0, scale=4)
    images, clean = random_images(9, (8, 8)), torch.linspace(0, 1, 9)
    ratio = masker.ratios(clean, draw())
    assert not bool(ratio.any())
    for copy in masker(images, random_maps(9, (4, 4)), ratio, draw()):
        assert torch.equal(copy.images, images)
    targets = torch.rand(9, 5, generator=torch.Generator().manual_seed(0)).softmax(1)
    assert torch.equal(soften(targets, ratio), targets)


# -- targets ----------------------------------------------------------------------------------


def targets_of(num: int, classes: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (4 * torch.randn(num, classes, generator=generator, dtype=torch.float64)).softmax(1)


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_soft_targets_are_those_of_the_loops(classes: int) -> None:
    targets = targets_of(60, classes)
    targets[0] = 1 / classes  # uniform
    targets[1] = torch.eye(classes, dtype=torch.float64)[classes - 1]  # certain
    ratio = torch.linspace(0, 1, 60, dtype=torch.float64)[torch.randperm(60)]
    ours = soften(targets, ratio)
    for i in range(60):
        wanted = slow_soften(targets[i].tolist(), float(ratio[i]))
        assert ours[i].tolist() == pytest.approx(wanted, abs=1e-12)


def test_soft_targets_by_hand() -> None:
    certain = torch.tensor([[0.0, 1.0, 0.0, 0.0, 0.0]])
    assert soften(certain, torch.tensor([0.08]))[0].tolist() == pytest.approx(
        [0.02, 0.92, 0.02, 0.02, 0.02]
    )
    two = torch.tensor([[0.3, 0.7]])
    assert soften(two, torch.tensor([0.2]))[0].tolist() == pytest.approx([0.5, 0.5])
    uniform = torch.full((1, 4), 0.25)
    assert soften(uniform, torch.tensor([0.03]))[0].tolist() == pytest.approx(
        [0.22, 0.26, 0.26, 0.26]
    )
    assert soften(uniform, torch.tensor([0.9]))[0].tolist() == pytest.approx(
        [0, 1 / 3, 1 / 3, 1 / 3]
    )


@SHORT
@given(classes=st.integers(2, 30), ratio=st.floats(0, 1), seed=st.integers(0, 2**20))
def test_soft_targets_stay_distributions(classes: int, ratio: float, seed: int) -> None:
    targets = targets_of(4, classes, seed).float()
    targets[0] = 1 / classes
    targets[1] = F.one_hot(torch.tensor(seed % classes), classes).float()
    ours = soften(targets, torch.full((4,), ratio))
    assert bool((ours >= 0).all())
    assert torch.allclose(ours.sum(1), torch.ones(4), atol=1e-5)
    top = targets.argmax(1, keepdim=True)
    paid = (targets - ours).gather(1, top)[:, 0]
    assert torch.allclose(paid, torch.full((4,), ratio).minimum(targets.amax(1)), atol=1e-6)


# -- reconstruction ---------------------------------------------------------------------------


def test_reconstruction_error_is_the_mean_square_of_each_image() -> None:
    rebuilt, images = random_images(4, (5, 3), seed=6) * 2 - 1, random_images(4, (5, 3), seed=7)
    ours = reconstruction_error(rebuilt, images)
    for i in range(4):
        squares = [
            (float(rebuilt[i, c, y, x]) - float(images[i, c, y, x])) ** 2
            for c in range(3)
            for y in range(5)
            for x in range(3)
        ]
        assert float(ours[i]) == pytest.approx(sum(squares) / 45, rel=1e-6)
    half = reconstruction_error(rebuilt.bfloat16(), images)
    assert half.dtype == torch.float32
