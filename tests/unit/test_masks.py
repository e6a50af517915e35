"""The pictures of where a network looks and what is covered, as arrays of a run."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import labelwise
from labelwise.audit import masks
from labelwise.audit.masks import SIDE, choose_pairs, focus, mask_arrays, places_of
from labelwise.augment.masking import Masker, activation_map, extreme_pixels
from labelwise.data.dataset import Dataset
from labelwise.data.store import Store
from labelwise.methods.ce import CrossEntropy
from labelwise.methods.sanm import SANM
from labelwise.models.network import Network
from labelwise.noise.planting import Planted
from labelwise.training.chain import Chain
from labelwise.training.method import Method
from support import ExtraView, smooth_network, tiny_embeddings, tiny_images

CPU = torch.device("cpu")
GUIDED = Masker(place="guided", boxes="both")


def images(shape: tuple[int, int, int], num: int = 40) -> Dataset:
    """Noise of any shape with labels in three classes."""
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (num, *shape), generator=generator, dtype=torch.uint8)
    data = tiny_images(num)
    return replace(data, inputs=pixels)


def arrays_of(
    data: Dataset, masker: Masker | None = None, method: Method | None = None, **options: object
) -> dict[str, np.ndarray]:
    """Those of a network as initialised; quality grows with the row number."""
    network = smooth_network(data, heads=None if method is None else method.heads)
    quality = torch.linspace(0, 1, len(data))
    store = Store.of(data, CPU)
    worst = torch.argsort(quality)[:20]
    return mask_arrays(masker or GUIDED, network, store, quality, worst, **options)  # type: ignore[arg-type]


# -- pairs -------------------------------------------------------------------------------------


def test_a_doubtful_sample_stands_beside_the_surest_one_of_its_given_label() -> None:
    labels = torch.tensor([0, 1, 0, 2, 0, 1, 0, 1])
    quality = torch.tensor([0.1, 0.2, 0.05, 0.0, 0.95, 0.91, 0.99, 0.89])
    worst = torch.argsort(quality)
    pairs = choose_pairs(worst, quality, labels, torch.zeros(8, dtype=torch.bool), count=4)
    # row 2 is more doubtful than row 0, so it gets the surer one of both; class 2 has no other
    assert pairs.tolist() == [[3, -1], [2, 6], [0, 4], [1, 5]]


def test_no_sample_is_shown_twice_and_left_out_ones_never() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 3, (60,), generator=generator)
    quality = torch.rand(60, generator=generator)
    left_out = torch.zeros(60, dtype=torch.bool)
    left_out[torch.argsort(quality)[[0, 2, -1]]] = True
    pairs = choose_pairs(torch.argsort(quality), quality, labels, left_out)
    shown = pairs[pairs >= 0].tolist()
    assert len(pairs) == masks.PAIRS
    assert len(set(shown)) == len(shown)
    assert not set(shown) & set(left_out.nonzero().flatten().tolist())
    kept = torch.argsort(quality)[~left_out[torch.argsort(quality)]]
    assert pairs[:, 0].tolist() == kept[: masks.PAIRS].tolist()
    for row, partner in pairs.tolist():
        if partner >= 0:
            assert labels[row] == labels[partner]
            assert quality[partner] >= masks.SURE


def test_where_all_are_sure_no_sample_is_its_own_partner() -> None:
    quality = torch.full((4,), 0.97)
    worst = torch.arange(4)
    nobody = torch.zeros(4, dtype=torch.bool)
    same = torch.zeros(4, dtype=torch.int64)
    assert choose_pairs(worst, quality, same, nobody, count=1).tolist() == [[0, 1]]
    assert choose_pairs(worst, quality, same, nobody).tolist() == [[k, -1] for k in range(4)]
    assert choose_pairs(worst, quality, same, ~nobody).shape == (0, 2)


# -- focus -------------------------------------------------------------------------------------


def test_focus_is_what_lies_in_the_strongest_quarter() -> None:
    even, single = torch.ones(1, 4, 4), torch.zeros(1, 4, 4)
    single[0, 2, 1] = 7.0
    assert focus(torch.cat([even, single])).tolist() == pytest.approx([0.25, 1.0])
    generator = torch.Generator().manual_seed(0)
    for size in ((2, 2), (4, 4), (3, 3), (5, 7)):
        maps = torch.rand(6, *size, generator=generator)
        count = int(np.ceil(size[0] * size[1] / 4))
        expected = [sum(sorted(one.flatten().tolist())[-count:]) / one.sum().item() for one in maps]
        assert focus(maps).tolist() == pytest.approx(expected)
    assert focus(torch.zeros(1, 2, 2)).isnan().all()


# -- arrays ------------------------------------------------------------------------------------


def test_shapes_and_what_is_shown() -> None:
    data = tiny_images(48)
    method = SANM(CrossEntropy())
    found = arrays_of(data, GUIDED, method)
    pairs = len(found["masks_rows"])
    assert pairs == 8
    assert found["masks_kinds"].tolist() == ["image", "hot", "cold", "rebuilt"]
    assert found["masks_pictures"].shape == (pairs, 2, 4, 1, 8, 8)
    assert found["masks_pictures"].dtype == np.uint8
    assert found["masks_maps"].shape == (pairs, 2, 8, 8)
    assert found["masks_maps"].dtype == np.uint8
    assert found["masks_boxes"].shape == (pairs, 2, 2, 4)
    assert found["masks_grid"].tolist() == [4, 4]
    assert str(found["masks_ratio"]) == "adaptive"
    assert str(found["masks_places"]) == "guided"
    assert len(found["masks_focus"]) == len(found["masks_focus_rows"]) == 48
    for pair, rows in enumerate(found["masks_rows"]):
        for side, row in enumerate(rows):
            if row >= 0:
                assert (found["masks_pictures"][pair, side, 0] == data.inputs[row].numpy()).all()
                assert data.labels[row] == data.labels[rows[0]]


def test_boxes_cover_the_extremes_of_the_networks_map_and_nothing_else() -> None:
    data = images((3, 32, 32))
    found = arrays_of(data, replace(GUIDED, basic=0.1, spread=0.0))
    network: Network = smooth_network(data)
    for pair, (row, _) in enumerate(found["masks_rows"]):
        pictures = found["masks_pictures"][pair, 0].astype(int)
        with torch.no_grad():
            inputs = data.inputs[row][None].float() / 255
            maps = activation_map(network.eval()(inputs, heads=("feature_map",))["feature_map"])
        for copy, pixel in enumerate(extreme_pixels(maps, (32, 32))):
            top, left, height, width = (
                (32 * found["masks_boxes"][pair, 0, copy]).round().astype(int)
            )
            inside = np.zeros((32, 32), dtype=bool)
            inside[top : top + height, left : left + width] = True
            changed = (pictures[copy + 1] != pictures[0]).any(0)
            assert not changed[~inside].any()
            assert changed[inside].mean() > 0.9
            down, across = pixel[0].tolist()
            assert top <= down < top + height
            assert left <= across < left + width
        heat = found["masks_maps"][pair, 0]
        assert heat.max() == 255
        wide = torch.nn.functional.interpolate(maps[None], (32, 32), mode="bilinear")[0, 0]
        assert np.corrcoef(heat.flatten(), wide.flatten().numpy())[0, 1] > 0.999


def test_more_is_covered_of_doubtful_samples() -> None:
    masker = Masker(boxes="both", basic=0.025, spread=0.0, gain=0.1, scale=2.0)
    found = arrays_of(images((1, 32, 32)), masker)
    area = found["masks_boxes"][..., 2:].prod(-1).sum(-1)
    both = found["masks_rows"][:, 1] >= 0
    assert both.any()
    assert (area[both, 0] > 2 * area[both, 1]).all()
    assert area[both, 1] == pytest.approx(0.05 * np.ones(both.sum()), abs=0.02)


def test_deterministic_by_seed() -> None:
    data = tiny_images(48)
    one, again, other = (arrays_of(data, seed=seed) for seed in (3, 3, 4))
    assert one.keys() == again.keys()
    for name in one:
        assert (one[name] == again[name]).all(), name
    assert (one["masks_pictures"] != other["masks_pictures"]).any()
    assert (one["masks_focus"] == other["masks_focus"]).all()


def test_reconstruction_undoes_the_normalisation() -> None:
    data = images((3, 8, 8))

    class Mean(torch.nn.Module):
        """Rebuilds the mean, which is 0 in normalised units."""

        def forward(self, features: Tensor) -> Tensor:
            return features.new_zeros(len(features), 3, 8, 8)

    network = smooth_network(data)
    network.heads["reconstruction"] = Mean()
    quality = torch.linspace(0, 1, len(data))
    found = mask_arrays(Masker(), network, Store.of(data, CPU), quality, torch.arange(4))
    assert found["masks_kinds"][-1] == "rebuilt"
    expected = (255 * network.mean).round().reshape(1, 1, 3, 1, 1).numpy()
    assert (found["masks_pictures"][:, :, -1] == expected).all()


@pytest.mark.parametrize(
    ("masker", "kinds"),
    [
        (Masker(boxes="hot"), ["image", "hot"]),
        (Masker(boxes="cold"), ["image", "cold"]),
        (Masker(boxes="either"), ["image", "hot", "cold"]),
        (Masker(boxes="auto"), ["image", "hot", "cold"]),
        (Masker(place="random", boxes="both"), ["image", "random", "random"]),
        (Masker(place="random", boxes="hot"), ["image", "random"]),
        (Masker(cover=False), ["image"]),
    ],
)
def test_other_settings_and_no_reconstruction_head(masker: Masker, kinds: list[str]) -> None:
    """Where training draws one of both boxes, both are shown."""
    found = arrays_of(tiny_images(48), masker)
    assert found["masks_kinds"].tolist() == kinds
    assert found["masks_pictures"].shape[2] == len(kinds)
    assert found["masks_boxes"].shape == (8, 2, len(kinds) - 1, 4)
    assert (found["masks_boxes"][..., 2:] > 0).all()


# -- how places are found ----------------------------------------------------------------------


def test_how_places_are_found() -> None:
    fine, coarse = torch.rand(5, 4, 4) + 0.1, torch.rand(5, 3, 8) + 0.1
    flat = torch.full((5, 4, 4), 3.0)
    auto, guided, blind = (Masker(place=place) for place in ("auto", "guided", "random"))  # type: ignore[arg-type]
    assert [places_of(auto, maps) for maps in (fine, coarse, flat)] == ["guided", "coarse", "flat"]
    assert [places_of(guided, maps) for maps in (fine, coarse)] == ["guided"] * 2
    assert [places_of(blind, maps) for maps in (fine, coarse, flat)] == ["random"] * 3
    assert places_of(auto, torch.cat([flat, fine[:1]])) == "guided"
    assert places_of(Masker(cover=False), coarse) == "random"


@pytest.mark.parametrize("boxes", ["auto", "cold"])
def test_of_a_coarse_map_the_boxes_are_anywhere_and_the_map_is_shown(boxes: str) -> None:
    """The places are those that training would draw, whatever the map says."""
    data = images((1, 4, 4))  # two cells a side
    masker = Masker(place="auto", boxes=boxes)  # type: ignore[arg-type]
    found = arrays_of(data, masker)
    assert found["masks_grid"].tolist() == [2, 2]
    assert str(found["masks_places"]) == "coarse"
    assert set(found["masks_kinds"].tolist()) == {"image", "random"}
    blind = arrays_of(data, replace(masker, place="random"))
    assert str(blind["masks_places"]) == "random"
    for name in ("masks_pictures", "masks_boxes", "masks_maps"):
        assert (found[name] == blind[name]).all()
    assert found["masks_maps"].min() < 255
    guided = arrays_of(data, replace(masker, place="guided"))
    assert (guided["masks_boxes"] != found["masks_boxes"]).any()


def test_of_a_flat_map_the_boxes_are_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    data = tiny_images(48)
    monkeypatch.setattr(masks, "activation_map", lambda maps: torch.ones_like(maps[:, 0]))
    found = arrays_of(data, Masker(place="guided", boxes="both"))
    assert str(found["masks_places"]) == "flat"
    assert found["masks_kinds"].tolist() == ["image", "random", "random"]
    blind = arrays_of(data, Masker(place="random", boxes="both"))
    assert (found["masks_pictures"] == blind["masks_pictures"]).all()


@pytest.mark.parametrize(
    ("shape", "kept"),
    [
        ((3, 200, 150), (3, 96, 72)),
        ((1, 96, 96), (1, 96, 96)),
        ((5, 20, 97), (3, 20, 96)),
        ((2, 8, 10), (1, 8, 10)),
    ],
)
def test_large_images_are_reduced(shape: tuple[int, int, int], kept: tuple[int, ...]) -> None:
    found = arrays_of(images(shape, 30))
    assert found["masks_pictures"].shape[3:] == kept
    assert found["masks_maps"].shape[2:] == kept[1:]
    assert max(kept[1:]) <= SIDE


def test_size_in_the_file() -> None:
    """The copies are almost free, whatever the images are: they repeat what stands before them."""
    found = arrays_of(images((3, 128, 128)))
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **found)  # type: ignore[arg-type]
    assert buffer.tell() < 500_000  # noise: the worst case


def test_planted_samples_are_neither_shown_nor_measured() -> None:
    planted = Planted(torch.tensor([0, 3, 47]), torch.tensor([1, 1, 1]))
    found = arrays_of(tiny_images(48), planted=planted)
    assert not set(planted.rows.tolist()) & set(found["masks_rows"].flatten().tolist())
    assert found["masks_focus_rows"].tolist() == sorted(set(range(48)) - {0, 3, 47})


def test_only_some_samples_are_measured_of_many(monkeypatch: pytest.MonkeyPatch) -> None:
    data = tiny_images(48)
    whole = arrays_of(data)
    monkeypatch.setattr(masks, "MEASURED", 10)
    monkeypatch.setattr(masks, "BLOCK", 4)
    found = arrays_of(data)
    rows = found["masks_focus_rows"]
    assert len(rows) == len(set(rows.tolist())) == 10
    assert (np.diff(rows) > 0).all()
    assert found["masks_focus"] == pytest.approx(whole["masks_focus"][rows], rel=1e-5)


def test_nothing_without_masks_or_images_or_samples() -> None:
    data = tiny_images(24)
    quality, worst = torch.rand(24), torch.arange(5)
    store, network = Store.of(data, CPU), smooth_network(data)
    assert mask_arrays(None, network, store, quality, worst) == {}
    assert mask_arrays(Masker(), network, store, quality, worst[:0]) == {}
    embeddings = Store.of(tiny_embeddings(24), CPU)
    assert mask_arrays(Masker(), network, embeddings, quality, worst) == {}


def test_a_map_of_one_cell_has_no_focus() -> None:
    data = images((1, 2, 2))
    found = arrays_of(data)
    assert found["masks_grid"].tolist() == [1, 1]
    assert "masks_focus" not in found
    assert (found["masks_maps"] == 255).all()


def test_networks_stay_in_their_mode() -> None:
    data = tiny_images(24)
    network = smooth_network(data).train()
    mask_arrays(Masker(), network, Store.of(data, CPU), torch.rand(24), torch.arange(5))
    assert network.training


# -- which methods show masks ------------------------------------------------------------------


def test_methods_say_whether_they_mask() -> None:
    assert CrossEntropy().shows_masks() is None
    method = SANM(CrossEntropy(), basic_ratio=0.07, boxes="hot")
    assert method.shows_masks() == method.masker
    assert method.masker.basic == 0.07
    assert ExtraView(method).shows_masks() == method.masker
    assert ExtraView(CrossEntropy()).shows_masks() is None
    assert Chain(CrossEntropy(), method).shows_masks() == method.masker
    assert Chain(method, CrossEntropy()).shows_masks() is None


@pytest.mark.parametrize("method", ["sanm+ce", "ce"])
def test_a_finished_run_has_them(tmp_path: Path, method: str) -> None:
    options = {"noise": "symmetric:0.4", "limit": 200, "epochs": 1, "plant": 0, "threads": 1}
    own = {"sanm.place": "guided", "sanm.reference_side": 24} if method == "sanm+ce" else {}
    run = labelwise.fit("digits", method=method, out=str(tmp_path / "run"), settings=own, **options)
    with np.load(tmp_path / "run" / "evidence.npz") as file:
        names = {name for name in file.files if name.startswith("masks_")}
        if method == "ce":
            assert not names
            return
        assert file["masks_kinds"].tolist() == ["image", "hot", "cold", "rebuilt"]
        quality = run.labels["label_quality"].to_numpy()
        assert (quality[file["masks_rows"][:, 0]] <= np.sort(quality)[30]).all()
        assert 0.25 <= file["masks_focus"].min() <= file["masks_focus"].max() <= 1
        # 8 of 24 pixels: three times U(0.02, 0.07) + 0.03 (1 - w), half of it under each box
        rows = file["masks_rows"]
        doubt = 1 - quality[np.where(rows < 0, rows[:, :1], rows)]
        area = file["masks_boxes"][..., 2:].prod(-1)
        assert area.mean() == pytest.approx(1.5 * (0.045 + 0.03 * doubt.mean()), abs=0.02)
    assert 'id="looks"' in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
