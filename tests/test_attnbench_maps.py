"""Pooled maps: equal to dense maps pooled by hand, bounded in memory, and safe to read."""

import json
import pickle
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from test_attnbench_softmax import Largest
from torch import Tensor

from attnbench import maps
from attnbench.sources import Inputs, load, settings
from patterns import pattern
from patterns.errors import BadInput, Unsupported
from patterns.full import Full
from patterns.sparse.local import Local

BOTH = pytest.mark.parametrize("causal", [True, False])


def inputs(length: int, *, heads: int = 4, kv_heads: int = 2, dtype=torch.float64) -> Inputs:
    """A source with sinks, 8 wide."""
    (setting,) = settings("sink[tokens=2]", causal=True)
    size = {"heads": heads, "kv_heads": kv_heads, "dim": 8}
    return load(setting, length=length, seed=3, device="cpu", dtype=dtype, **size)


def by_hand(one: Tensor, bins: int, causal: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean and maximum over the visible pairs of each bin, and their number, with loops."""
    heads, length, _ = one.shape
    width = -(-length // bins)
    count = -(-length // width)
    mean, most = np.zeros((heads, count, count)), np.zeros((heads, count, count))
    visible = np.zeros((count, count))
    seen = torch.ones(length, length, dtype=torch.bool)
    seen = seen.tril() if causal else seen
    for row in range(count):
        for column in range(count):
            box = (
                slice(row * width, (row + 1) * width),
                slice(column * width, (column + 1) * width),
            )
            inside = one[:, *box][:, seen[box]]
            visible[row, column] = inside.shape[1]
            if inside.shape[1]:
                mean[:, row, column] = inside.mean(1)
                most[:, row, column] = inside.amax(1)
    return mean, most, visible


@BOTH
@pytest.mark.parametrize(
    ("length", "bins"), [(37, 8), (37, 37), (36, 1000), (36, 6), (5, 2), (1, 4)]
)
@pytest.mark.parametrize("spec", ["combiner-fixed[block=8]", "local[window=5]"])
def test_bins_are_those_of_the_dense_maps(causal: bool, length: int, bins: int, spec: str):
    x, form = inputs(length), replace(pattern(spec), causal=causal)
    found = maps.make(form, x, bins=bins, backend="eager")
    ours = form.weights(x.q, x.k)[0]
    full = Full(causal=causal).weights(x.q, x.k)[0]
    wanted = {
        "full": by_hand(full, bins, causal)[0],
        "effective": by_hand(ours, bins, causal)[0],
        "difference": by_hand(ours - full, bins, causal)[0],
        "absolute": by_hand((ours - full).abs(), bins, causal)[0],
        "full_max": by_hand(full, bins, causal)[1],
        "effective_max": by_hand(ours, bins, causal)[1],
        "visible": by_hand(full, bins, causal)[2],
    }
    for name, one in wanted.items():
        np.testing.assert_allclose(getattr(found, name), one, rtol=1e-6, atol=1e-7, err_msg=name)
    assert found.meta["bin_size"] == -(-length // bins)
    mean = maps.effective_map(form, x, bins=bins, backend="eager")
    np.testing.assert_allclose(mean.numpy(), wanted["effective"], rtol=1e-12, atol=1e-13)


@BOTH
def test_crops_are_the_first_and_the_last_tokens_one_to_one(causal: bool, monkeypatch):
    monkeypatch.setattr(maps, "CROP", 11)
    x, form = inputs(37), Local(window=5, causal=causal)
    found = maps.make(form, x, bins=5)
    for name, one in (("crop_full", Full(causal=causal)), ("crop_effective", form)):
        dense = one.weights(x.q, x.k)[0]
        wanted = torch.stack([dense[:, :11, :11], dense[:, -11:, -11:]], dim=1)
        np.testing.assert_allclose(getattr(found, name), wanted.numpy(), atol=1e-7)
    assert found.meta["crops"] == [0, 26]


def test_checks_tell_of_the_map():
    found = maps.make(Local(window=4), inputs(30), case={"asked": "local"})
    checks = found.meta["checks"]
    assert checks["linearity"] < 1e-12
    assert checks["leakage"] == 0
    assert checks["negative_share"] == pytest.approx(0, abs=1e-12)
    assert checks["row_sum"]["low"] == pytest.approx(1) == checks["row_sum"]["high"]
    assert found.meta["case"] == {"asked": "local"}
    assert found.meta["implementation"] == {"backend": "sdpa", "kind": "native"}


@dataclass(frozen=True, kw_only=True)
class Leaks(Local):
    """A window that is said to be causal and is not."""

    name: ClassVar = "leaks"

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, scale: float, backend: str) -> Tensor:
        return Local(window=2, causal=False)._attend(q, k, v, scale, backend)


def test_weight_on_the_future_is_a_check_and_in_no_bin():
    x = inputs(20)
    found = maps.make(Leaks(window=2), x, bins=20)
    future = Local(window=2, causal=False).weights(x.q, x.k)[0].triu(1)
    assert found.meta["checks"]["leakage"] == pytest.approx(float(future.sum(-1).mean()))
    assert not np.triu(found.effective, 1).any()
    assert not np.triu(found.effective_max, 1).any()


@dataclass(frozen=True, kw_only=True)
class Negative(Local):
    """A window that is taken away."""

    name: ClassVar = "negative"

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, scale: float, backend: str) -> Tensor:
        return -Local._attend(self, q, k, v, scale, backend)


def test_a_maximum_is_one_of_visible_pairs():
    x = inputs(20)
    found = maps.make(Negative(window=20), x, bins=5)
    wanted = by_hand(-Full().weights(x.q, x.k)[0], 5, True)[1]
    np.testing.assert_allclose(found.effective_max, wanted, atol=1e-7)
    assert (found.effective_max[:, range(5), range(5)] < 0).all()
    assert found.meta["checks"]["negative_share"] == pytest.approx(1)


@dataclass(frozen=True, kw_only=True)
class EachHeadItsOwn(Local):
    """A window as wide as the number of the head, so that a head alone is another one."""

    name: ClassVar = "each-head-its-own"

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, scale: float, backend: str) -> Tensor:
        heads = [
            Local(window=head + 1)._attend(
                *(x[:, head : head + 1] for x in (q, k, v)), scale, backend
            )
            for head in range(q.shape[1])
        ]
        return torch.cat(heads, dim=1)


@pytest.mark.parametrize("form", [Local(window=3), EachHeadItsOwn(window=3)], ids=["alike", "own"])
def test_chosen_heads_are_those_among_all_heads(form: Local):
    x = inputs(20)
    everything = maps.make(form, x, bins=20)
    some = maps.make(form, x, bins=20, heads=[3, 1])
    np.testing.assert_allclose(some.effective, everything.effective[[3, 1]], atol=1e-7)
    np.testing.assert_allclose(some.full, everything.full[[3, 1]], atol=1e-7)
    assert some.meta["heads"] == [3, 1]
    assert some.meta["checks"]["linearity"] < 1e-12


@pytest.mark.parametrize("heads", [[], [4], [-1]])
def test_heads_that_are_not_there_are_refused(heads: list[int]):
    with pytest.raises(BadInput, match="heads from 0 to 3"):
        maps.make(Local(), inputs(8), heads=heads)


def test_fewer_than_one_bin_is_refused():
    with pytest.raises(BadInput, match="at least 1 bin"):
        maps.make(Local(), inputs(8), bins=0)


def test_what_is_not_linear_in_the_values_has_no_map(monkeypatch):
    monkeypatch.setattr(Local, "linear_in_values", False)
    with pytest.raises(Unsupported, match="not linear"):
        maps.make(Local(), inputs(8))


@pytest.mark.parametrize("backend", ["eager", "sdpa"])
def test_no_tensor_has_a_row_and_a_column_for_every_token(backend: str):
    x = inputs(3000, heads=1, kv_heads=1, dtype=torch.float32)
    with Largest() as largest:
        found = maps.make(pattern("combiner-fixed[block=50]"), x, bins=100, backend=backend)
    assert largest.numel < 3000 * 3000 / 4
    mass = (found.effective * found.visible).sum((1, 2))
    np.testing.assert_allclose(mass, 3000, rtol=1e-5)


# Files.


def test_a_map_comes_back_from_its_file(tmp_path: Path):
    made = maps.make(Local(window=4), inputs(30), bins=7, case={"layer": None, "asked": "é"})
    maps.save_map(tmp_path / "a.npz", made)
    back = maps.load_map(tmp_path / "a.npz")
    assert back.meta == made.meta
    for name in ("full", "absolute", "visible", "crop_full"):
        # Twelve significant bits: half a unit in the last place is 2^-12.
        np.testing.assert_allclose(getattr(back, name), getattr(made, name), rtol=2**-12)
        assert getattr(back, name).dtype == np.float32


class Trap:
    """Its pickle writes a file where it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def arrays(**other) -> dict[str, object]:
    """What a valid file holds, with other values for some names; None leaves one out."""
    square = np.zeros((1, 3, 3), np.float32)
    names = ("full", "effective", "difference", "absolute", "full_max", "effective_max")
    crop = np.zeros((1, 2, 4, 4), np.float32)
    held = dict.fromkeys(names, square) | {"crop_full": crop, "crop_effective": crop}
    held |= {"visible": square[0], "meta": np.array(json.dumps({}))} | other
    return {name: value for name, value in held.items() if value is not None}


def test_pickled_objects_are_refused_and_not_run(tmp_path: Path):
    trap = np.array([Trap(tmp_path / "sprung")], dtype=object)
    for name in ("full", "meta"):
        np.savez(tmp_path / "a.npz", allow_pickle=True, **arrays(**{name: trap}))
        with pytest.raises(BadInput, match="not a map file"):
            maps.load_map(tmp_path / "a.npz")
    (tmp_path / "a.npz").write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    with pytest.raises(BadInput, match="not a map file"):
        maps.load_map(tmp_path / "a.npz")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    "other",
    [
        {"full": None},
        {"meta": None},
        {"meta": np.array("[1]")},
        {"meta": np.array("{")},
        {"meta": np.array("[" * 100_000)},
        {"full": np.zeros((1, 3, 3))},
        {"full": np.zeros((1, 3, 4), np.float32)},
        {"full": np.float32(0)},
        {"absolute": np.zeros((2, 3, 3), np.float32)},
        {"visible": np.zeros((3, 4), np.float32)},
        {"crop_full": np.zeros((1, 2, 4, 5), np.float32)},
        {"crop_effective": np.zeros((1, 3, 4, 4), np.float32)},
    ],
)
def test_a_file_that_is_no_map_is_refused(tmp_path: Path, other: dict[str, object]):
    np.savez(tmp_path / "good.npz", **arrays())
    maps.load_map(tmp_path / "good.npz")
    np.savez(tmp_path / "a.npz", **arrays(**other))
    with pytest.raises(BadInput, match="is not a map file"):
        maps.load_map(tmp_path / "a.npz")


def test_a_torn_file_and_a_missing_one_are_refused(tmp_path: Path):
    np.savez(tmp_path / "a.npz", **arrays())
    whole = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "a.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadInput, match="not a map file"):
        maps.load_map(tmp_path / "a.npz")
    middle = len(whole) // 2
    (tmp_path / "a.npz").write_bytes(
        whole[:60] + b"\xff" * 200 + whole[260:middle] + whole[middle:]
    )
    with pytest.raises(BadInput, match="not a map file"):
        maps.load_map(tmp_path / "a.npz")
    with pytest.raises(BadInput, match="cannot read"):
        maps.load_map(tmp_path / "absent.npz")


def test_a_file_that_would_unpack_to_too_much_is_refused(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("attnbench.mapfile._LARGEST_BYTES", 1 << 20)
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("full.npy", bytes(1 << 21))
    with pytest.raises(BadInput, match="would unpack"):
        maps.load_map(tmp_path / "a.npz")


def test_an_array_that_promises_more_than_it_has_is_refused(tmp_path: Path):
    np.savez(tmp_path / "a.npz", **arrays())
    shape = (1 << 20, 1 << 20, 1 << 20)
    with (
        zipfile.ZipFile(tmp_path / "b.npz", "w") as packed,
        zipfile.ZipFile(tmp_path / "a.npz") as old,
    ):
        for name in old.namelist():
            content = old.read(name)
            if name == "full.npy":
                with packed.open(name, "w") as member:
                    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
                    np.lib.format.write_array_header_1_0(member, header)
            else:
                packed.writestr(name, content)
    with pytest.raises(BadInput, match="not a map file"):
        maps.load_map(tmp_path / "b.npz")
