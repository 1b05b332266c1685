"""The linked panes as data: what they hold, what they share, and how they fit into a page."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report_run import PATTERNS, make

import reports
from attnbench.mapfile import Maps, load_map
from reports import thumbnails
from reports.codes import LINEAR, SIGNED_ERROR, WEIGHT_ERROR, signed_of, unpacked, weights_of
from reports.explorer import Explorer
from reports.frame.maps import view
from reports.page import LARGEST_BYTES
from reports.planes import sheet

SOME = [one for one in PATTERNS if one[0].startswith(("full", "sinks", "combiner-fixed"))]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(
        tmp_path_factory.mktemp("run"), patterns=SOME, lengths=(1024, 2048),
        captured=(1024,), layers=(0, 5), maps=14, passes=("fwd",),
    )  # fmt: skip


@pytest.fixture(scope="module")
def held(run: Path) -> list[Maps]:
    return [load_map(path) for path in sorted((run / "maps").glob("*.npz"))]


def blocks(markup: str) -> dict[str, Any]:
    found = re.findall(r'<script type="application/json" id="([^"]+)">(.*?)</script>', markup)
    return {key: json.loads(text) for key, text in found}


def test_each_block_says_what_the_map_file_holds(held: list[Maps]):
    made = blocks(Explorer(sheets=(sheet("a", "A", held[0], rich=True),)).markup())
    plane = made["explorer-index"]["maps"][0]["planes"][0]
    seen = held[0].visible > 0
    for head in range(2):
        for name, block in plane["heads"][head].items():
            if name == "variation":
                continue
            codes = unpacked(made[f"codes-{block['codes']}"], plane["bins"])
            exact = getattr(held[0], name)[head].astype(float)
            decode = signed_of if block["signed"] else weights_of
            found = decode(codes, block["top"])
            assert np.isnan(found[~seen]).all()
            error = np.abs(found - exact)[seen]
            if block["signed"]:
                allowed = SIGNED_ERROR * (np.abs(exact) + LINEAR * block["top"])
            else:
                allowed = np.maximum(WEIGHT_ERROR * exact * (1 + 1e-6), block["top"] * 1e-6)
            assert (error <= allowed[seen]).all()


def test_variation_of_rows_is_half_their_absolute_difference(held: list[Maps]):
    made = blocks(Explorer(sheets=(sheet("a", "A", held[0]),)).markup())
    found = made["explorer-index"]["maps"][0]["planes"][0]["heads"][1]["variation"]
    size = held[0].meta["bin_size"]
    row = float((held[0].absolute[1, 40] * held[0].visible[40]).sum()) / (2 * size)
    assert found[40] == pytest.approx(row, rel=1e-3)


def test_maps_of_one_page_share_limits_and_equal_codes(held: list[Maps]):
    sheets = tuple(sheet(str(i), str(i), one) for i, one in enumerate(held[:4]))
    made = blocks(Explorer(sheets=sheets).markup())
    heads = [one["planes"][0]["heads"][0] for one in made["explorer-index"]["maps"]]
    assert len({head["full"]["top"] for head in heads}) == 1
    assert len({head["difference"]["top"] for head in heads}) == 1
    assert heads[0]["effective"]["top"] == heads[0]["full"]["top"]
    assert len({head["full"]["codes"] for head in heads}) == 1  # the same full attention, once


def test_corners_are_held_one_to_one_where_bins_are_wider(held: list[Maps]):
    one = sheet("a", "A", held[0], rich=True)
    assert [plane.bin_size for plane in one.planes] == [held[0].meta["bin_size"], 1, 1]
    assert [plane.start for plane in one.planes] == [0, 0, one.about.length - 32]
    assert np.array_equal(one.planes[2].arrays["full"], held[0].crop_full[:, 1])
    assert [plane.name for plane in sheet("a", "A", held[0]).planes] == ["whole map"]


def test_the_worst_rows_have_a_place_of_their_own(held: list[Maps]):
    crops = {name: np.repeat(getattr(held[0], name)[:, :1], 3, axis=1)
             for name in ("crop_full", "crop_effective")}  # fmt: skip
    meta = held[0].meta | {"worst": {"query": 300, "key": 290}}
    worst = sheet("a", "A", replace(held[0], **crops, meta=meta), rich=True).planes[3]
    assert (worst.start, worst.key_start, worst.bin_size) == (300, 290, 1)
    assert worst.visible[0, 10] == 1
    assert worst.visible[0, 11] == 0
    made = blocks(
        Explorer(
            sheets=(sheet("a", "A", replace(held[0], meta=meta, **crops), rich=True),)
        ).markup()
    )
    plane = made["explorer-index"]["maps"][0]["planes"][3]
    codes = unpacked(made[f"codes-{plane['heads'][0]['full']['codes']}"], 32)
    assert codes[0, 10] != 255
    assert codes[0, 11] == 255


def test_where_a_part_is_the_whole_there_is_one_of_them(held: list[Maps]):
    length = held[0].meta["length"]
    crops = {name: np.zeros((2, 2, length, length), np.float32)
             for name in ("crop_full", "crop_effective")}  # fmt: skip
    planes = sheet("a", "A", replace(held[0], **crops), rich=True).planes
    assert [(one.name, one.bin_size) for one in planes[1:]] == [("all tokens, 1:1", 1)]
    assert planes[1].visible.shape == (length, length)


def test_the_sample_has_its_text_and_no_other_source_has_any(held: list[Maps]):
    found = sheet("a", "A", held[0]).tokens
    assert found is not None
    assert "".join(found).startswith('The "assert" statement')
    assert len(found) == held[0].meta["length"]
    case = held[0].meta["case"] | {"source": "captured:mine.safetensors"}
    mine = replace(held[0], meta=held[0].meta | {"case": case})
    assert sheet("a", "A", mine).tokens is None
    told = replace(mine, meta=mine.meta | {"tokens": ["a", "\ud800", "</script>"]})
    made = Explorer(sheets=(sheet("a", "A", told),)).markup()
    found = blocks(made)
    texts = json.loads(found[f"codes-{found['explorer-index']['maps'][0]['tokens']}"])
    assert texts == ["a", "\ufffd", "</script>"]


def test_several_maps_share_a_page_and_have_files_of_their_own(held: list[Maps], tmp_path: Path):
    layers = [held[0], held[1], held[0]]  # of which two would have the same name
    page = reports.inspect(layers, tmp_path)
    index = blocks(page.read_text(encoding="utf-8"))["explorer-index"]
    keys = [one["key"] for one in index["maps"]]
    assert len(set(keys)) == 3
    for key, one in zip(keys, layers, strict=True):
        assert load_map(tmp_path / f"{key}.npz").meta == one.meta
        assert (tmp_path / "figures" / f"{key}.svg").is_file()
        assert (tmp_path / "figures" / f"{key}.png").is_file()
    assert page.read_text(encoding="utf-8").count('class="still"') == 1


def test_a_picture_in_small_is_white_without_weight_and_grey_where_nothing_is_seen(held):
    sinks = next(one for one in held if one.meta["pattern"].startswith("sinks"))
    found = thumbnails.picture(view(sinks))
    assert found[40, 20].tolist() == [1, 1, 1, 1]
    assert found[20, 40, :3].tolist() == pytest.approx([0.93, 0.94, 0.95])
    assert found[40, 40, :3].tolist() != [1, 1, 1]
    text = thumbnails.markup([("k", "<b>", view(sinks))])
    assert "&lt;b&gt;" in text
    assert text == thumbnails.markup([("k", "<b>", view(sinks))])


def test_negative_weights_are_coded_with_their_sign(held: list[Maps]):
    values = {name: getattr(held[0], name) for name in held[0].__dataclass_fields__}
    ours = values["effective"].copy()
    ours[0, 5, 2] = -0.01
    one = Maps(**{**values, "effective": ours})
    made = blocks(Explorer(sheets=(sheet("a", "A", one),)).markup(heads=1))
    block = made["explorer-index"]["maps"][0]["planes"][0]["heads"][0]["effective"]
    assert block["signed"]
    codes = unpacked(made[f"codes-{block['codes']}"], 64)
    assert signed_of(codes, block["top"])[5, 2] == pytest.approx(-0.01, rel=0.04)


def test_heads_are_left_out_before_the_page_grows_too_large(held: list[Maps]):
    explorer = Explorer(sheets=(sheet("a", "A", held[0]),))
    one, both = explorer.markup(heads=1), explorer.markup()
    assert explorer.fitting(len(both.encode())) == both
    assert explorer.fitting(len(both.encode()) - 1) == one
    assert explorer.fitting(len(one.encode()) - 1) == ""


def test_a_report_holds_twelve_maps_and_stays_below_four_megabytes(run: Path):
    text = reports.write(run).read_text(encoding="utf-8")
    assert len(text.encode()) <= LARGEST_BYTES <= 4_000_000
    found = blocks(text)["explorer-index"]
    assert len(found["maps"]) == 12
    assert len({one["key"] for one in found["maps"]}) == 12
    assert "figure-map-" in text
    assert "2 more stored maps" in text
    assert len(re.findall(r"<code>maps/\w+\.npz", text)) == 2


def test_pages_of_the_same_map_are_the_same_bytes(held: list[Maps], tmp_path: Path):
    first, second = (reports.inspect(held[0], tmp_path / name, row=700) for name in ("a", "b"))
    assert first.read_bytes() == second.read_bytes()
    assert blocks(first.read_text())["explorer-index"]["row"] == 700
