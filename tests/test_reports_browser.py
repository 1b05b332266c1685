"""The page in a real browser: silent, offline, and no wider than the screen."""

from pathlib import Path

import pytest
from browsing import requested, visit
from report_run import PATTERNS, make

import reports

pytestmark = pytest.mark.browser
SOME = [one for one in PATTERNS if one[0].startswith(("full", "sinks", "combiner"))]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = make(
        tmp_path_factory.mktemp("run"), patterns=SOME, lengths=(1024, 2048, 4096),
        captured=(1024, 2048), layers=(0, 5), maps=1,
    )  # fmt: skip
    return reports.write(run)


@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_is_silent_offline_and_fits(browser, page: Path, width: int):
    visit(browser, page, width)
    assert browser.execute_script("return innerWidth") == width
    wide = browser.execute_script("return document.documentElement.scrollWidth")
    assert wide <= width
    shown = browser.execute_script(
        """return [...document.querySelectorAll('.picture')]
             .filter(one => one.checkVisibility())
             .map(one => [one.getBoundingClientRect().width, one.getBoundingClientRect().right,
                          one.naturalWidth ?? 1])"""
    )
    figures = browser.execute_script(
        """return document.querySelectorAll('figure:not(details.still:not([open]) figure)' +
             ':not([hidden] figure)').length"""
    )
    assert len(shown) == figures
    assert all(w > 0 and right <= width and natural > 0 for w, right, natural in shown)
    outside = [url for url in requested(browser) if not url.startswith(("file:", "data:"))]
    assert outside == []
    assert browser.get_log("browser") == []


def test_a_long_table_is_cut_in_the_middle_of_a_row(browser, page: Path):
    visit(browser, page, 1280)
    shares = browser.execute_script(
        """for (const one of document.querySelectorAll("details")) one.open = true;
        document.body.getBoundingClientRect();
        return new Promise((done) => setTimeout(() => done(
          [...document.querySelectorAll(".scroll.long")].filter((box) => box.checkVisibility())
            .map((box) => {
              const end = box.getBoundingClientRect().bottom;
              const row = [...box.querySelectorAll("tbody tr")]
                .map((x) => x.getBoundingClientRect())
                .find((x) => x.top < end && end < x.bottom);
              return row ? (end - row.top) / row.height : -1;
            })), 300));"""
    )
    assert shares
    assert all(0.3 < share < 0.7 for share in shares), shares


def test_on_a_phone_the_names_of_a_table_stay_in_sight(browser, page: Path):
    visit(browser, page, 390)
    found = browser.execute_script(
        """const box = [...document.querySelectorAll("#cost .table .scroll")]
             .find((one) => one.scrollWidth > one.clientWidth + 60);
        box.scrollLeft = 60;
        const parts = [box, box.querySelector("tbody th"), box.querySelector("tbody td")];
        const [left, name, cell] = parts.map((one) => one.getBoundingClientRect().left);
        return [name - left, cell - left, box.querySelector("tbody th").offsetWidth];"""
    )
    assert abs(found[0]) <= 1
    assert found[1] < found[2], "the cells move below the names"


def test_tables_sort_and_the_theme_switches(browser, page: Path):
    visit(browser, page, 1280)
    column = """return [...arguments[0].querySelectorAll('tbody tr')]
                  .map(row => row.cells[1].dataset.v).filter(Boolean).map(Number)"""
    tables = browser.find_elements("css selector", "#cost .table table")
    table = max(tables, key=lambda one: len(browser.execute_script(column, one)))
    before = browser.execute_script(column, table)
    press = table.find_elements("css selector", "thead button")[1]
    browser.execute_script("arguments[0].click()", press)
    rising = browser.execute_script(column, table)
    assert len(rising) > 5
    assert before != rising == sorted(before)
    browser.execute_script("arguments[0].click()", press)
    assert browser.execute_script(column, table) == sorted(rising, reverse=True)
    ground = "return getComputedStyle(document.body).backgroundColor"
    before = browser.execute_script(ground)
    browser.find_element("id", "theme").click()
    assert browser.execute_script(ground) != before
    card = "return getComputedStyle(document.querySelector('.card')).backgroundColor"
    assert browser.execute_script(card) == "rgb(255, 255, 255)"
    assert browser.get_log("browser") == []


def test_without_scripts_everything_but_switching_is_there(browser, page: Path):
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    visit(browser, page, 1280)
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
    assert not browser.find_element("id", "theme").is_displayed()
    assert browser.find_element("css selector", "#figure-headline .wide svg").is_displayed()
    unfold = browser.find_element("css selector", "#figure-headline summary")
    browser.execute_script("arguments[0].click()", unfold)
    assert browser.find_element("css selector", "#figure-headline details table").is_displayed()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_stands_out_from_its_ground(browser, page: Path, theme: str):
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia",
        {"features": [{"name": "prefers-color-scheme", "value": theme}]},
    )
    visit(browser, page, 1280)
    ratios = browser.execute_script(
        """
        const light = (text) => {
          const [r, g, b] = text.match(/[\\d.]+/g).map(Number).map(x => x / 255)
            .map(x => x <= 0.03928 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4);
          return 0.2126 * r + 0.7152 * g + 0.0722 * b;
        };
        const ground = (one) => {
          while (one) {
            const colour = getComputedStyle(one).backgroundColor;
            if (!colour.startsWith('rgba(0, 0, 0, 0')) return colour;
            one = one.parentElement;
          }
          return 'rgb(255, 255, 255)';
        };
        return ['h1', '.verdict li', '.how', 'figcaption p', '.links a', 'td', 'summary', 'nav a']
          .map(name => document.querySelector(name))
          .map(one => [light(getComputedStyle(one).color), light(ground(one))])
          .map(([a, b]) => (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05));
        """
    )
    assert min(ratios) >= 4.5


def test_a_switch_hides_a_pattern_everywhere_and_an_address_brings_it_back(browser, page: Path):
    visit(browser, page, 1280)
    drawn = """return [...document.querySelectorAll('svg.picture [id*="series:combiner-mixture@"]')]
                 .map(one => getComputedStyle(one).display)"""
    before = browser.execute_script(drawn)
    assert len(before) > 4
    assert set(before) == {"inline"}
    summary = browser.find_element("css selector", "#patterns summary")
    summary.send_keys("\n")  # by keyboard
    box = browser.find_element("css selector", '#patterns input[value="combiner-mixture@auto"]')
    box.send_keys(" ")
    assert set(browser.execute_script(drawn)) == {"none"}
    box.send_keys("\ue00c")  # escape closes
    assert not box.is_displayed()
    field = browser.find_element("css selector", "#cost .table input[type=search]")
    field.send_keys("COMBINER")
    rows = """return [...document.querySelectorAll('#cost .table:has(input) tbody')][0]
                .querySelectorAll('tr:not([hidden])').length"""
    left = browser.execute_script(rows)
    address = browser.execute_script("return location.href")
    assert "hide=combiner-mixture" in address
    assert "filter=" in address
    browser.get("about:blank")
    browser.get(address)
    assert set(browser.execute_script(drawn)) == {"none"}
    assert browser.execute_script(rows) == left > 0
    assert browser.get_log("browser") == []
