"""The switches of the page in a browser: patterns in every figure, sources of inputs."""

from pathlib import Path

import pytest
from browsing import visit
from report_run import PATTERNS, make

import reports

pytestmark = pytest.mark.browser
NAMES = ("full", "sinks[window=64", "fixed", "combiner-fixed[block=64]", "combiner-logsparse")
SOME = [one for one in PATTERNS if one[0].startswith(NAMES)]
FIXED = "combiner-fixed[block=64]@auto"

SEEN = """return [...document.querySelectorAll(arguments[0])].filter(one => one.checkVisibility())
            .map(one => one.dataset.source ?? one.id)"""
LOOSE = """
// Words and marks that name a pattern and are still seen although the pattern is hidden.
return [...document.querySelectorAll('svg.picture text')]
  .filter(one => one.getBoundingClientRect().width > 0)
  .filter(one => arguments[0].includes(one.textContent.trim()))
  .map(one => one.closest('figure').id)
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = make(
        tmp_path_factory.mktemp("run"), patterns=SOME, lengths=(1024, 2048), passes=("fwd",),
        captured=(1024,), layers=(0, 5), maps=1,
    )  # fmt: skip
    return reports.write(run)


def switch(browser, key: str) -> None:
    browser.find_element("css selector", "#patterns summary").send_keys("\n")
    browser.find_element("css selector", f'#patterns input[value="{key}"]').send_keys(" ")


@pytest.mark.parametrize("width", [1280, 390])
def test_a_hidden_pattern_is_gone_from_every_figure(browser, page: Path, width: int):
    visit(browser, page, width)
    words = ["combiner-fixed"]
    before = set(browser.execute_script(LOOSE, words))
    named = {"figure-speedup", "figure-latency", "figure-memory", "figure-error-length"}
    named |= {"figure-parents", "figure-rows", "figure-error-cost", "figure-headline"}
    assert named | {"figure-distance"} <= before
    switch(browser, FIXED)
    assert browser.execute_script(LOOSE, words) == []
    assert browser.execute_script(LOOSE, ["combiner-logsparse"]) != []


def test_a_hidden_pattern_is_covered_in_images(browser, page: Path):
    visit(browser, page, 1280)
    switch(browser, FIXED)
    covers = browser.execute_script(
        """const image = document.querySelector('#figure-heads .wide img').getBoundingClientRect();
           return [...document.querySelectorAll('#figure-heads .wide .cover')]
             .filter(one => one.checkVisibility())
             .map(one => [one.dataset.part, one.getBoundingClientRect()])
             .map(([name, box]) => [name, box.width / image.width, box.height / image.height,
                  box.left >= image.left - 1 && box.right <= image.right + 1])"""
    )
    ((name, width, height, inside),) = covers
    assert name == "panel:combiner-fixed[block=64]"
    assert 0.15 < width < 0.3
    assert 0.1 < height < 1
    assert inside
    hidden = "return getComputedStyle(document.querySelector(arguments[0])).display"
    mask = '#figure-gallery .wide [data-part="name:combiner-fixed"]'
    assert browser.execute_script(hidden, mask) == "block"
    assert browser.execute_script(hidden, mask.replace("fixed", "logsparse")) == "none"


def test_the_map_of_a_hidden_pattern_is_gone(browser, page: Path):
    visit(browser, page, 1280)
    shown = """return getComputedStyle(document.querySelector('#maps figure[data-part]')).display"""
    assert browser.execute_script(shown) == "block"
    named = "return document.querySelector('#maps figure[data-part]').dataset.part"
    switch(browser, f"{browser.execute_script(named).removeprefix('panel:')}@auto")
    assert browser.execute_script(shown) == "none"


def test_a_mask_and_a_curve_go_only_with_all_of_their_name(browser, page: Path):
    visit(browser, page, 1280)
    curve = """return [...document.querySelectorAll('[id*="--curve:sinks"], [id*="--name:sinks"]')]
                 .some(one => one.checkVisibility())"""
    mask = """return document.querySelector('#figure-gallery .wide [data-part="name:full"]')
                .checkVisibility()"""
    assert not browser.execute_script(mask)
    switch(browser, "full@auto")
    assert not browser.execute_script(mask)
    browser.find_element("css selector", ".presses button:nth-of-type(2)").click()  # none
    assert browser.execute_script(mask)
    assert not browser.execute_script(curve)


def test_one_source_is_shown_everywhere_and_chosen_by_keys(browser, page: Path):
    visit(browser, page, 1280)
    parts = ".sources > [data-source]"
    first = browser.execute_script(SEEN, parts)
    assert first == ["captured"] * 3  # fidelity, frontier, maps
    radio = browser.find_element("css selector", '#fidelity .source input[value="captured"]')
    radio.send_keys("\ue014")  # to the right
    assert "source=structured" in browser.execute_script("return location.href")
    assert browser.execute_script(SEEN, parts) == ["structured"] * 3
    assert browser.execute_script(SEEN, "#figure-rows-structured") == ["figure-rows-structured"]
    assert browser.execute_script(SEEN, "#figure-rows") == []
    checked = "return [...document.querySelectorAll('.source :checked')].map(one => one.value)"
    assert browser.execute_script(checked) == ["structured"] * 3
    switch(browser, FIXED)
    assert browser.execute_script(LOOSE, ["combiner-fixed"]) == []
    address = browser.execute_script("return location.href")
    assert "source=structured" in address
    browser.get("about:blank")
    browser.get(address)
    assert browser.execute_script(SEEN, parts) == ["structured"] * 3
    assert browser.execute_script(LOOSE, ["combiner-fixed"]) == []
    assert browser.get_log("browser") == []


def test_a_link_to_a_figure_of_another_source_chooses_it(browser, page: Path):
    browser.get("about:blank")
    browser.get(f"{page.as_uri()}#figure-rows-structured")
    assert browser.execute_script(SEEN, "#figure-rows-structured") == ["figure-rows-structured"]


def test_the_panes_and_the_switches_share_an_address(browser, page: Path):
    visit(browser, page, 1280)
    switch(browser, FIXED)
    panes = browser.find_element("css selector", "#explorer .stages")
    panes.send_keys("w")
    wait = """const done = arguments[0];
              setTimeout(() => done(decodeURIComponent(location.hash)), 300)"""
    said = browser.execute_async_script(wait)
    assert f"hide={FIXED}" in said
    assert "map=" in said
    browser.find_element("id", "theme").click()
    said = browser.execute_script("return decodeURIComponent(location.hash)")
    assert all(one in said for one in (f"hide={FIXED}", "map=", "theme="))


def test_without_scripts_the_first_source_shows_and_the_others_unfold(browser, page: Path):
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    visit(browser, page, 1280)
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
    assert browser.find_element("css selector", "#figure-rows .wide svg").is_displayed()
    other = browser.find_element("css selector", "#fidelity .sources > details")
    assert not other.find_element("css selector", "#figure-rows-structured").is_displayed()
    summary = other.find_element("css selector", "summary")
    assert "structured" in summary.text
    summary.send_keys("\n")
    assert other.find_element("css selector", "#figure-rows-structured .wide svg").is_displayed()
