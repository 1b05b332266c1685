"""The linked panes in a real browser: what they read out, how they move, what links reopen."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from browsing import busy_seconds, requested, visit
from report_run import PATTERNS, make
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait

import reports
from attnbench import pattern
from attnbench.inspection import Wanted, inspected
from attnbench.mapfile import Maps, load_map
from reports.codes import LINEAR, SIGNED_ERROR, WEIGHT_ERROR

pytestmark = pytest.mark.browser
SOME = [one for one in PATTERNS if one[0].startswith(("full", "sinks", "combiner-fixed"))]
WHITE = [255, 255, 255]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = make(
        tmp_path_factory.mktemp("run"), patterns=SOME, lengths=(1024, 2048), captured=(1024,),
        layers=(0, 5), maps=3, passes=("fwd",),
    )  # fmt: skip
    return reports.write(run)


@pytest.fixture(scope="module")
def keys(page: Path) -> list[str]:
    return sorted(path.stem for path in (page.parent / "maps").glob("*.npz"))


@pytest.fixture(scope="module")
def alone(page: Path, keys: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return reports.inspect(load_map(page.parent / "maps" / f"{keys[0]}.npz"),
                           tmp_path_factory.mktemp("alone"), head=3, row=700)  # fmt: skip


@pytest.fixture(scope="module")
def layers() -> list[Maps]:
    """What `inspect` makes of two layers of the shipped sample, in bins of 4 tokens."""
    return inspected(Wanted(pattern=pattern("combiner-fixed[block=16]"), source="captured",
                            layers=("0", "5"), heads=(0, 2), length=300, bins=75))  # fmt: skip


@pytest.fixture(scope="module")
def real(layers: list[Maps], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return reports.inspect(layers, tmp_path_factory.mktemp("real"))


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A map of 1024 bins of 4 tokens, with numbers of every size."""
    side, rng = 1024, np.random.default_rng(0)
    shape = (1, side, side)
    seen = np.tril(np.ones((side, side)))
    full, ours = (10 ** rng.uniform(-6, -1, shape) * seen for _ in range(2))
    arrays = {"full": full, "effective": ours, "difference": ours - full,
              "absolute": abs(ours - full), "full_max": 2 * full, "effective_max": 2 * ours,
              "visible": 16 * seen - 6 * np.eye(side)}  # fmt: skip
    crops = {name: np.zeros((1, 2, 64, 64), np.float32) for name in ("crop_full", "crop_effective")}
    meta = {"pattern": "local[window=64]", "causal": True, "length": 4 * side, "bin_size": 4,
            "heads": [0]}  # fmt: skip
    maps = Maps(**{k: v.astype(np.float32) for k, v in arrays.items()}, **crops, meta=meta)
    return reports.inspect(maps, tmp_path_factory.mktemp("large"))


def ready(browser, page: Path, at: str = "", width: int = 1280) -> None:
    """Open the page at a place in it and wait for the panes."""
    visit(browser, page, width)
    if at:
        browser.get("about:blank")
        browser.get(page.as_uri() + at)
    WebDriverWait(browser, 20).until(lambda one: state(one)["ready"])


def state(browser) -> dict:
    """What the panes say: the chosen map and head, the crosshair, the values."""
    return browser.execute_script("""
        const root = document.getElementById("explorer");
        const said = [...root.querySelectorAll(".readout [data-name] b")];
        const pressed = [...root.querySelectorAll("[aria-pressed=true]")].map(x => x.textContent);
        const read = root.querySelector(".readout");
        return {
          ready: root.dataset.ready, drawMs: root.dataset.drawMs, pressed,
          map: root.querySelector("[data-key=map]")?.value,
          head: Number(root.querySelector("[data-key=head]")?.value),
          row: Number(read?.dataset.row), column: Number(read?.dataset.column),
          live: read?.getAttribute("aria-live"), hash: location.hash,
          bins: root.querySelector(".bins")?.textContent,
          profile: root.querySelector(".legend b")?.textContent,
          keys: root.querySelector(".ticks .key")?.textContent,
          ...Object.fromEntries(said.map(x => [x.parentNode.dataset.name,
                                               {text: x.textContent, value: x.dataset.value}])),
        };""")


def point(browser, pane: int, row: int, column: int, bins: int) -> None:
    """Move the pointer onto a cell of the whole map."""
    browser.execute_script(
        """
        const [pane, row, column, bins] = arguments;
        const canvas = document.querySelectorAll(".stage canvas")[pane];
        canvas.scrollIntoView({block: "center", behavior: "instant"});
        const box = canvas.getBoundingClientRect();
        canvas.dispatchEvent(new PointerEvent("pointermove", {bubbles: true,
          clientX: box.left + (column + 0.5) / bins * box.width,
          clientY: box.top + (row + 0.5) / bins * box.height}));""",
        pane, row, column, bins,
    )  # fmt: skip


def pixels(browser, pane: int) -> np.ndarray:
    """What a pane shows, [side, side, 4]; only a test reads a canvas."""
    found = browser.execute_script(
        """
        const canvas = document.querySelectorAll(".stage canvas")[arguments[0]];
        const {data} = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
        return [canvas.width, [...data]];""",
        pane,
    )
    return np.array(found[1], dtype=np.uint8).reshape(found[0], found[0], 4)


def settled(browser, hash_part: str) -> dict:
    """The state once the address says so."""
    WebDriverWait(browser, 10).until(lambda one: hash_part in state(one)["hash"])
    return state(browser)


@pytest.mark.parametrize("head", [0, 3])
def test_the_read_out_is_what_the_map_file_holds(browser, page: Path, keys: list[str], head: int):
    ready(browser, page, f"#map={keys[1]}&head={head}")
    maps = load_map(page.parent / "maps" / f"{keys[1]}.npz")
    place, tops = maps.meta["heads"].index(head), {}
    index = json.loads(
        browser.execute_script("return document.getElementById('explorer-index').textContent")
    )
    for name in ("full", "effective", "difference", "absolute"):
        tops[name] = index["maps"][0]["planes"][0]["heads"][0][name]["top"]
    for pane, row, column in [(0, 63, 0), (1, 40, 40), (2, 50, 21), (0, 17, 16), (1, 63, 2)]:
        point(browser, pane, row, column, 64)
        said = state(browser)
        assert (said["row"], said["column"]) == (row, column)
        assert said["query"]["text"] == f"{16 * row}\u2013{16 * row + 15}"
        for name, top in tops.items():
            exact = float(getattr(maps, name)[place, row, column])
            signed = name in ("difference", "absolute")
            allowed = (
                SIGNED_ERROR * (abs(exact) + LINEAR * top)
                if signed
                else max(WEIGHT_ERROR * exact * 1.0001, top * 1e-6)
            )
            assert abs(float(said[name]["value"]) - exact) <= allowed
            if exact == 0 and not signed:
                assert said[name]["text"] == "no weight"
            elif exact != 0:
                assert said[name]["text"].startswith(("about", "below"))
    point(browser, 1, 3, 9, 64)
    assert state(browser)["full"]["text"] == "not visible"


def test_cells_without_weight_are_not_drawn_like_those_that_cannot_be_seen(browser, page, keys):
    sinks = next(
        key for key in keys
        if load_map(page.parent / "maps" / f"{key}.npz").meta["pattern"].startswith("sinks")
    )  # fmt: skip
    ready(browser, page, f"#map={sinks}&head=0")
    shown = pixels(browser, 1)
    side = len(shown)
    nothing = shown[int(side * 0.9), int(side * 0.3)]
    hidden = shown[int(side * 0.1) : int(side * 0.3), int(side * 0.6) : int(side * 0.9), :3]
    assert nothing[:3].tolist() == WHITE
    assert not (hidden == WHITE).all(axis=-1).any()
    assert len(np.unique(hidden.reshape(-1, 3), axis=0)) == 2  # ground and hatch
    assert pixels(browser, 2)[side // 2, side // 2 - 2, 3] == 255


def test_keys_move_zoom_and_choose_and_links_reopen_what_they_made(browser, page: Path, keys):
    ready(browser, page, f"#map={keys[0]}&head=0&row=640")
    assert state(browser)["profile"] == "Row profile, queries 640\u2013655"
    stages = browser.find_element(By.CSS_SELECTOR, ".stages")
    stages.send_keys(Keys.ARROW_DOWN, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    said = settled(browser, "row=656")
    assert (said["row"], said["live"]) == (41, "polite")
    assert said["profile"] == "Row profile, queries 656\u2013671"
    outline = browser.execute_script("return getComputedStyle(arguments[0]).outlineStyle", stages)
    assert outline != "none"
    stages.send_keys("]", "d")
    settled(browser, "head=3")
    stages.send_keys("+", "+")
    said = settled(browser, "zoom=")
    assert "absolute" in said["pressed"]
    assert said["head"] == 3
    assert "difference=absolute" in said["hash"]
    link, column = said["hash"], said["keys"]
    stages.send_keys("0")
    WebDriverWait(browser, 10).until(lambda one: "zoom=" not in state(one)["hash"])
    ready(browser, page, link)
    again = state(browser)
    for name in ("map", "head", "row", "pressed", "profile", "keys"):
        assert again[name] == said[name], name
    assert again["keys"] == column
    stages = browser.find_element(By.CSS_SELECTOR, ".stages")
    stages.send_keys("w")
    worst = state(browser)["row"]
    maps = load_map(page.parent / "maps" / f"{keys[0]}.npz")
    rows = (maps.absolute[1] * maps.visible).sum(axis=1)
    assert rows[worst] == pytest.approx(rows.max(), rel=1e-3)


def test_selects_the_wheel_and_dragging_change_every_pane(browser, page: Path, keys: list[str]):
    ready(browser, page, f"#map={keys[0]}&head=0")
    before = [pixels(browser, pane) for pane in range(3)]
    Select(browser.find_element(By.CSS_SELECTOR, "[data-key=head]")).select_by_value("3")
    settled(browser, "head=3")
    WebDriverWait(browser, 10).until(lambda one: not np.array_equal(pixels(one, 0), before[0]))
    chosen = Select(browser.find_element(By.CSS_SELECTOR, "[data-key=map]"))
    assert len(chosen.options) == 2
    other = next(x for x in range(2) if not chosen.options[x].is_selected())
    chosen.select_by_index(other)
    WebDriverWait(browser, 10).until(lambda one: state(one)["map"] != keys[0])
    before = [pixels(browser, pane) for pane in range(3)]
    canvas = browser.find_elements(By.CSS_SELECTOR, ".stage canvas")[1]
    ActionChains(browser).move_to_element_with_offset(canvas, -40, 60).click().perform()
    browser.execute_script(
        """const box = arguments[0].getBoundingClientRect();
        for (let i = 0; i < 4; i++) arguments[0].dispatchEvent(new WheelEvent("wheel",
          {deltaY: -100, clientX: box.left + 90, clientY: box.top + 250, cancelable: true}));""",
        canvas,
    )
    zoomed = settled(browser, "zoom=")["hash"]
    after = [pixels(browser, pane) for pane in range(3)]
    assert not any(np.array_equal(a, b) for a, b in zip(before, after, strict=True))
    drag = ActionChains(browser).move_to_element(canvas).click_and_hold()
    drag.move_by_offset(-50, -40).release().perform()
    WebDriverWait(browser, 10).until(
        lambda one: "zoom=" in state(one)["hash"] and state(one)["hash"] != zoomed
    )
    assert not np.array_equal(pixels(browser, 0), after[0])


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_alone_it_is_silent_offline_fits_and_follows_the_theme(browser, alone, width, theme):
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia",
        {"features": [{"name": "prefers-color-scheme", "value": theme}]},
    )
    ready(browser, alone, width=width)
    said = state(browser)
    assert (said["head"], said["profile"]) == (3, "Row profile, queries 688\u2013703")
    assert "16 \u00d7 16 tokens" in said["bins"]
    assert "mean" in said["bins"]
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    right = browser.execute_script(
        """return Math.max(...[...document.querySelectorAll(".explorer *")]
             .filter(one => !one.closest("svg")).map(x => x.getBoundingClientRect().right))"""
    )
    assert right <= width
    cell = pixels(browser, 0)[20, -20, :3]  # the future
    assert (cell.mean() < 90) == (theme == "dark")
    canvas = browser.execute_script(
        """const canvas = document.querySelector(".stage canvas");
        return [canvas.width, canvas.getBoundingClientRect().width * devicePixelRatio]"""
    )
    assert canvas[0] == pytest.approx(canvas[1], abs=0.01)  # never scaled by the style sheet
    assert [url for url in requested(browser) if not url.startswith(("file:", "data:"))] == []
    assert browser.get_log("browser") == []


def test_means_or_maxima_and_the_corners_can_be_chosen(browser, alone: Path):
    ready(browser, alone)
    point(browser, 0, 40, 40, 64)
    mean = float(state(browser)["full"]["value"])
    browser.find_element(By.XPATH, "//button[text()='max']").click()
    said = settled(browser, "cells=max")
    point(browser, 0, 40, 40, 64)
    assert float(state(browser)["full"]["value"]) == pytest.approx(3 * mean, rel=0.06)
    assert "maximum" in said["bins"]
    Select(browser.find_element(By.CSS_SELECTOR, "[data-key=plane]")).select_by_value("2")
    said = settled(browser, "part=2")
    assert "every pair by itself" in said["bins"]
    point(browser, 0, 31, 0, 32)
    said = state(browser)
    assert (said["query"]["text"], said["key"]["text"]) == ("1023", "992")


def test_lines_of_one_bin_survive_where_a_pixel_holds_several(browser, large: Path):
    ready(browser, large, width=900)
    said = state(browser)
    assert "pooled further" in said["bins"]
    side = len(pixels(browser, 0))
    assert side < 400
    maps = json.loads(
        browser.execute_script("return document.getElementById('explorer-index').textContent")
    )
    assert maps["maps"][0]["planes"][0]["bins"] == 1024


def test_1024_bins_are_ready_in_a_second_and_follow_the_pointer_in_8_ms(
    browser, large: Path, record_property
):
    before = busy_seconds(browser)
    ready(browser, large)
    loaded = busy_seconds(browser)
    mean = browser.execute_script(
        """const canvas = document.querySelector(".stage canvas");
        const box = canvas.getBoundingClientRect(), count = 400;
        const begun = performance.now();
        for (let i = 0; i < count; i++) canvas.dispatchEvent(new PointerEvent("pointermove",
          {bubbles: true, clientX: box.left + (i * 7) % box.width, clientY: box.top + i / 2}));
        document.body.getBoundingClientRect();
        return (performance.now() - begun) / count;"""
    )
    times = {"ready_ms": state(browser)["ready"], "draw_ms": state(browser)["drawMs"],
             "pointer_ms": round(mean, 3)}  # fmt: skip
    for name, ms in times.items():
        record_property(name, ms)
    worked = {"load": loaded - before, "pointer": (busy_seconds(browser) - loaded) / 400}
    print(times, worked)
    assert float(times["ready_ms"]) > 0
    assert worked["load"] < 1
    assert worked["pointer"] < 8e-3


def test_without_scripts_the_figures_are_there_and_with_them_folded(browser, page: Path):
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    visit(browser, page, 390)
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
    assert not browser.find_element(By.ID, "explorer").is_displayed()
    pictures = browser.find_elements(By.CSS_SELECTOR, "details.still img.picture")
    assert len(pictures) == 3
    assert all(one.is_displayed() for one in pictures)
    ready(browser, page)
    assert browser.find_element(By.ID, "explorer").is_displayed()
    folded = browser.find_element(By.CSS_SELECTOR, "details.still")
    assert folded.get_attribute("open") is None


def test_codes_that_cannot_be_read_leave_the_figures_open(browser, alone: Path, tmp_path: Path):
    text = alone.read_text(encoding="utf-8")
    broken = tmp_path / "broken.html"
    broken.write_text(re.sub(r'(id="codes-\d+">")', r"\1AAAA", text), encoding="utf-8")
    visit(browser, broken, 1280)
    WebDriverWait(browser, 10).until(
        lambda one: "could not be opened" in one.find_element(By.ID, "explorer").text
    )
    assert browser.find_element(By.CSS_SELECTOR, "details.still").get_attribute("open") is not None


def test_a_layer_can_be_chosen_and_the_address_follows(browser, real: Path):
    ready(browser, real)
    assert "layer 0" in state(browser)["bins"]
    Select(browser.find_element(By.CSS_SELECTOR, "[data-key=layer]")).select_by_index(1)
    said = settled(browser, "map=map-layer-5")
    assert "layer 5" in said["bins"]
    assert not browser.find_element(By.CSS_SELECTOR, "[data-key=map]").is_displayed()


@pytest.mark.parametrize(("row", "column"), [(60, 21), (40, 0)])
def test_a_region_is_outlined_with_its_keys_and_its_mass(browser, real, layers, row, column):
    ready(browser, real, "#map=map-layer-0&head=2")
    point(browser, 1, row, column, 75)
    first = 4 * column // 16 * 16
    cells = slice(first // 4, first // 4 + 4)
    weights = layers[0].effective[1, row, cells] * layers[0].visible[row, cells]
    said = browser.execute_script("""
        const line = document.querySelector(".region");
        const path = document.querySelectorAll(".outline")[1];
        return {...line.dataset, text: line.textContent, shape: path.firstChild.getAttribute("d"),
                own: path.lastChild.getAttribute("d"),
                shade: document.querySelector(".profile .shade").getAttribute("d")}""")
    assert said["keys"] == f"{first}\u2013{first + 15}"
    assert float(said["mass"]) == pytest.approx(float(weights.sum()) / 4, rel=0.03)
    assert f"as query {4 * row + 2} sees it" in said["text"]
    top = (first + 16) // 4  # the first row of bins that reads the region
    assert said["shape"] == f"M{first // 4} {top}H{first // 4 + 4}V75H{first // 4}Z"
    assert said["own"] == f"M{first // 4} {row}H{first // 4 + 4}V{row + 1}H{first // 4}Z"
    assert said["shade"].startswith("M")
    point(browser, 1, row, 4 * row // 16 * 16 // 4, 75)
    line = browser.find_element(By.CSS_SELECTOR, ".region")
    assert line.text == "This key is read directly."
    assert line.get_attribute("data-mass") == ""


def test_the_worst_rows_read_out_pair_by_pair_with_their_tokens(browser, real, layers):
    ready(browser, real, "#map=map-layer-5&head=0&part=3")
    query, key = (layers[1].meta["worst"][name] for name in ("query", "key"))
    tokens = layers[1].meta["tokens"]
    row, column = 250 - query, 21 - key
    point(browser, 0, row, column, 256)
    said = state(browser)
    assert (said["query"]["text"], said["key"]["text"]) == ("250", "21")
    exact = float(layers[1].crop_effective[0, 2, row, column])
    assert float(said["effective"]["value"]) == pytest.approx(exact, rel=WEIGHT_ERROR * 1.001)
    marks = browser.execute_script(
        "return [...document.querySelectorAll('.context mark')].map(x => x.textContent)"
    )
    assert marks == [tokens[250].replace("\n", "\u23ce"), tokens[21].replace("\n", "\u23ce")]


def test_the_mask_shows_none_some_and_all(browser, page: Path, keys: list[str]):
    sinks = next(
        key for key in keys
        if load_map(page.parent / "maps" / f"{key}.npz").meta["pattern"].startswith("sinks")
    )  # fmt: skip
    ready(browser, page, f"#map={sinks}&head=0&cells=mask")
    assert "mask" in state(browser)["pressed"]
    window = int(re.search(r"window=(\d+)", load_map(
        page.parent / "maps" / f"{sinks}.npz").meta["pattern"])[1])  # fmt: skip
    shown, side = pixels(browser, 1), len(pixels(browser, 1))
    row = 50
    for column, colour in ((row - 1, [44, 95, 138]), (row - window // 16, [159, 171, 184]),
                           (20, WHITE), (0, [159, 171, 184])):  # fmt: skip
        place = int((row + 0.5) / 64 * side), int((column + 0.5) / 64 * side)
        assert shown[place][:3].tolist() == colour
    point(browser, 1, row, 0, 64)
    said = browser.find_element(By.CSS_SELECTOR, ".region").text
    assert said.startswith("Pairs of this cell that may have weight: about 2")  # 4 of 16 keys
    stages = browser.find_element(By.CSS_SELECTOR, ".stages")
    stages.send_keys("c")
    WebDriverWait(browser, 10).until(lambda one: "mask" not in state(one)["pressed"])


def test_hostile_tokens_and_names_are_text(browser, layers: list[Maps], tmp_path: Path):
    bad = ["</script><script>window.hacked=1</script>", "\"quo'ted\"", "\U0001f600",
           "\u05e9\u202ex", "<img src=x onerror=window.hacked=1>", "\ud800", "\n", "",
           "&amp;<!--"]  # fmt: skip
    name = "x<img src=x onerror=window.hacked=1>[a=</script>]"
    meta = layers[0].meta
    meta = meta | {"tokens": (bad * 40)[:300], "case": meta["case"] | {"asked": name}}
    page = reports.inspect(replace(layers[0], meta=meta), tmp_path)
    ready(browser, page, "#map=map&head=0&part=1&row=100&zoom=90,90,12")
    point(browser, 0, 100, 9, 256)  # outside of what is seen: the last cells are taken
    words = browser.execute_script(
        "return [...document.querySelectorAll('.ticks .query.word')].map(x => x.textContent)"
    )
    expected = ["</script><script>window.hacked=1</script>", "\"quo'ted\"", "\U0001f600",
                "\u05e9\u25a1x", "<img src=x onerror=window.hacked=1>", "\ufffd", "\u23ce",
                "\u2205", "&amp;<!--"]  # fmt: skip
    assert words[:9] == expected
    assert browser.find_element(By.CSS_SELECTOR, ".pane.effective h4").text.startswith(
        "x<img src=x"
    )
    assert browser.execute_script("return window.hacked") is None
    assert browser.find_elements(By.CSS_SELECTOR, ".explorer img, h1 img") == []
    assert browser.get_log("browser") == []
