"""The page and its files: self-contained, complete, escaped, and the same bytes every time."""

import html.parser
import json
import re
from pathlib import Path

import numpy as np
import pytest
from report_run import PATTERNS, make

import reports
from attnbench import BadInput
from attnbench.mapfile import load_map
from reports.page import LARGEST_BYTES

SOME = [one for one in PATTERNS if one[0].startswith(("full", "sinks", "fixed", "combiner-fixed"))]
SMALL = {"lengths": (1024, 2048, 4096), "captured": (1024, 2048), "layers": (0, 5)}
FEW = {"patterns": SOME, **SMALL, "passes": ("fwd",)}


class Page(html.parser.HTMLParser):
    """What a test asks of a page: its tags with their attributes, and its visible text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self._hidden = ""
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {key: value or "" for key, value in attrs}))
        if tag in ("script", "style"):
            self._hidden = tag

    def handle_endtag(self, tag: str) -> None:
        if tag == self._hidden:
            self._hidden = ""

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = make(tmp_path_factory.mktemp("run"), **FEW, maps=1)
    reports.write(found)
    return found


@pytest.fixture(scope="module")
def page(folder: Path) -> Page:
    return Page(folder / "report.html")


def test_every_section_is_there(page: Page):
    keys = [attributes["id"] for attributes in page.all("section")]
    assert keys == [
        *("verdict", "cost", "memory", "roofline", "fidelity", "frontier", "maps", "failures"),
        *("environment", "method", "command"),
    ]


def test_the_page_asks_for_nothing_from_elsewhere(page: Page):
    assert not re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?\s*(?:https?:)?//""", page.source)
    (policy,) = [meta for meta in page.all("meta") if "http-equiv" in meta]
    assert policy["content"].startswith("default-src 'none'; img-src data:;")
    assert not page.all("link")
    assert all("src" not in script for script in page.all("script"))
    assert all(re.match("data:image/(webp|png);base64,", one["src"]) for one in page.all("img"))
    assert len(page.source.encode()) <= LARGEST_BYTES


def test_every_link_leads_somewhere(page: Page, folder: Path):
    ids = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    targets = [link["href"] for link in page.all("a")]
    assert len(targets) > 40
    for target in targets:
        assert target[1:] in ids if target.startswith("#") else (folder / target).is_file(), target


def test_no_id_is_used_twice(page: Page):
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(set(ids)) == len(ids)


def test_every_figure_says_what_it_shows_and_has_its_table(page: Page):
    figures = re.findall(r"<figure.*?</figure>", page.source, re.DOTALL)
    assert len(figures) >= 10
    for figure in figures:
        said = re.findall(r'(?:aria-label|alt)="([^"]+)"', figure)
        assert len([one for one in said if len(one) > 20]) >= 2  # for wide and for narrow screens
        assert figure.count("<svg") == figure.count('role="img"')
        assert "How to read this" in figure
        assert re.search(r"<details>.*<table.*</table>", figure, re.DOTALL)
        assert "<figcaption><p>" in figure


def test_each_pattern_is_a_group_of_its_own(page: Page):
    ids = {attributes["id"] for tag, attributes in page.tags if tag == "g" and "id" in attributes}
    assert "latency--series:fixed[block=64]@auto" in ids
    assert "latency-narrow--series:fixed[block=64]@auto" in ids
    assert "headline--curve:sinks" in ids


def test_each_figure_is_exported_as_png_svg_and_pdf(folder: Path, page: Page):
    keys = [one["id"].removeprefix("figure-") for one in page.all("figure")]
    for key in keys:
        for kind, magic in (("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")):
            content = (folder / "figures" / f"{key}.{kind}").read_bytes()
            assert content.startswith(magic)
            assert len(content) > 2000
        assert (folder / "figures" / f"{key}.csv").is_file()


def test_tables_are_written_in_three_forms(folder: Path):
    lines = (folder / "tables" / "times-fwd.md").read_text().splitlines()
    assert lines[0].startswith("| pattern")
    assert "\\toprule" in (folder / "tables" / "times-fwd.tex").read_text()
    head, first, *_ = (folder / "tables" / "times-fwd.csv").read_text().splitlines()
    assert head.startswith("pattern,1k,2k,4k,exponent")
    assert float(first.split(",")[1]) > 0


def test_whole_numbers_stay_whole(folder: Path):
    (row, *_) = (folder / "tables" / "memory-fwd.csv").read_text().splitlines()[1:]
    assert re.fullmatch(r"[^,]+(,\d+)+", row)


def test_the_same_run_gives_the_same_bytes(folder: Path, tmp_path: Path):
    other = make(tmp_path / folder.name, **FEW, maps=1)
    reports.write(other)
    names = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    assert names == sorted(path.relative_to(other) for path in other.rglob("*") if path.is_file())
    differing = [
        str(name)
        for name in names
        if name.suffix != ".npz" and (folder / name).read_bytes() != (other / name).read_bytes()
    ]
    assert differing == []


def test_the_verdict_names_the_weights_the_device_and_the_samples(page: Page):
    found = re.search(r'<ul class="verdict">(.*?)</ul>\s*<figure', page.source, re.DOTALL)
    assert found is not None
    verdict = re.sub(r"<[^>]*>", " ", found[1])
    assert "SmolLM2-135M-Instruct, Q4_1 weights" in verdict
    assert "NVIDIA H100 80GB HBM3" in verdict
    assert "1 sample \u00d7 2 layers \u00d7 9 heads" in verdict
    assert "Use full attention below about" in verdict
    assert "What overtakes full attention, and at what loss" in verdict


def test_the_command_is_written_so_that_it_can_be_run(page: Page):
    assert "python run_bench.py run --preset reference --lengths 1k..16k" in page.text


HOSTILE = "</script><script>alert('x')</script> \"q\" & <b>\u202e \U0001f600"


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Page:
    one = ("full", "auto", 2.0, 0.02, 0, 0.001)
    other = (f"local[note={HOSTILE}]", "auto", 1.0, 0.02, 64, 0.5)
    run = make(
        tmp_path_factory.mktemp("hostile"), patterns=[one, other], lengths=(1024, 2048),
        captured=(1024,), layers=(0,), passes=("fwd",), maps=0,
    )  # fmt: skip
    lines = [json.loads(line) for line in (run / "records.jsonl").read_text().splitlines()]
    lines[0] |= {"status": "crashed", "reason": HOSTILE, "time": None, "memory": None}
    (run / "records.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (run / "machine.json").write_text(json.dumps({"m1": {"gpu": HOSTILE, HOSTILE: [HOSTILE]}}))
    (run / "run.json").write_text(json.dumps({"command": ["run", HOSTILE], HOSTILE: HOSTILE}))
    return Page(reports.write(run))


def test_nothing_from_the_data_becomes_markup(hostile: Page):
    assert len(hostile.all("script")) == 1
    assert not hostile.all("b") or all(not attributes for attributes in hostile.all("b"))
    assert "alert('x')</script>" not in hostile.source
    assert hostile.text.count("<b>") >= 3
    assert "\U0001f600" in hostile.text


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"captured": ()}, "This run has no errors"),
        ({"lengths": ()}, "This run has no times"),
        ({"captured": (), "lengths": ()}, "This run holds no cases at all"),
        ({"lengths": (2048,), "captured": (2048,)}, "stored no maps"),
        ({"patterns": SOME[:1], "captured": ()}, "No speed-ups"),
        ({"patterns": [PATTERNS[17]]}, "nothing to compute a speed-up over"),
        ({"device": "cpu", "failures": False}, "wall time of one call on the CPU"),
    ],
)
def test_a_partial_run_says_what_it_lacks(tmp_path: Path, changes, said):
    settings = FEW | {"lengths": (1024, 2048), "captured": (1024,), "maps": 0} | changes
    found = Page(reports.write(make(tmp_path / "run", **settings)))
    assert said in found.text
    assert len(found.all("section")) == 11


def test_a_run_of_failures_only_is_a_list_of_reasons(tmp_path: Path):
    run = make(tmp_path, **FEW, maps=0)
    lines = [json.loads(line) for line in (run / "records.jsonl").read_text().splitlines()]
    for line in lines:
        line |= {"status": "oom", "reason": "it is full", "time": None, "fidelity": None}
    (run / "records.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = Page(reports.write(run))
    assert f"{len(lines)} of {len(lines)} cases have no result" in found.text
    assert "it is full" in found.text


def test_a_missing_folder_is_bad_input(tmp_path: Path):
    with pytest.raises(BadInput, match="no run folder"):
        reports.write(tmp_path / "nowhere")


def test_a_notebook_shows_the_page_in_a_frame(tmp_path: Path):
    run = make(tmp_path, lengths=(), captured=(), maps=0)
    shown = reports.open(run)._repr_html_()
    assert shown.startswith("<iframe")
    assert "&lt;!doctype html&gt;" in shown
    assert 'sandbox="allow-scripts"' in shown


def test_inspect_writes_one_map_as_files_and_a_page(folder: Path, tmp_path: Path):
    maps = load_map(next((folder / "maps").glob("*.npz")))
    found = Page(reports.inspect(maps, tmp_path / "out", head=3, row=900))
    assert len(found.all("figure")) == 2
    assert "query 900" in found.text
    for name in ("map.png", "map.svg", "map.pdf", "profile.png", "profile.svg", "profile.csv"):
        assert (tmp_path / "out" / "figures" / name).stat().st_size > 200
    written = (tmp_path / "out" / "figures" / "profile.csv").read_text().splitlines()
    bin_size = maps.meta["bin_size"]
    assert len(written) == 1 + 900 // bin_size + 1
    key, full, _ = map(float, written[1].split(","))
    assert key == bin_size / 2
    assert full == pytest.approx(float(np.float64(maps.full[1, 900 // bin_size, 0])))


@pytest.mark.parametrize("wanted", [{"head": 1}, {"row": 100_000}, {"row": -1}])
def test_inspect_refuses_a_head_or_row_that_is_not_there(folder: Path, tmp_path: Path, wanted):
    maps = load_map(next((folder / "maps").glob("*.npz")))
    with pytest.raises(BadInput):
        reports.inspect(maps, tmp_path, **wanted)
