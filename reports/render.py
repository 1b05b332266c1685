"""Charts to files and to what a page holds: the same chart gives the same bytes every time."""

import base64
import io
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from reports.chart import Chart
from reports.compact import compact
from reports.html import escape
from reports.style import NARROW, WIDE, house

_METADATA: dict[str, dict[str, str | None]] = {
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    "png": {"Software": None},
}
DPI = 200
PANELS = ("panel:", "name:")  # what the name of axes begins with that are about one pattern


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A chart as the page shows it, on a wide screen and on a narrow one, and its files.

    `narrow` is empty where both are alike.
    """

    chart: Chart
    wide: str
    narrow: str
    files: tuple[str, ...]


def render(chart: Chart, folder: Path) -> Picture:
    """Draw a chart, write its PNG, SVG and PDF into a folder, and give the markup for the page."""
    wide = _made(chart, WIDE, chart.wide_height, ("png", "svg", "pdf"))
    needed = ("svg",) if chart.kind == "lines" else ("png",)
    narrow = _made(chart, NARROW, chart.narrow_height, (*needed, "pdf"))
    names = []
    for suffix, made in (("", wide), ("-narrow", narrow)):
        for kind, content in made.files.items():
            name = f"{chart.key}{suffix}.{kind}"
            (folder / name).write_bytes(content)
            names.append(name)
    return Picture(
        chart=chart,
        wide=_inline(chart, wide, ""),
        narrow="" if chart.alike else _inline(chart, narrow, "-narrow"),
        files=tuple(names),
    )


@dataclass(frozen=True, kw_only=True)
class _Made:
    """One drawing of a chart: its files by their kind, and what a page needs beside them."""

    files: dict[str, bytes]
    text: str  # as SVG whose words are text; '' for an image
    covers: str  # markup; '' for lines


def _made(chart: Chart, width: float, height: float, kinds: tuple[str, ...]) -> _Made:
    files: dict[str, bytes] = {}
    text = covers = ""
    with house():
        figure = Figure(figsize=(width, height))
        canvas = FigureCanvasAgg(figure)
        chart.draw(figure)
        if chart.kind == "lines":
            with mpl.rc_context({"svg.fonttype": "none"}):
                text = _saved(figure, "svg").decode()
        else:
            covers = _covers(figure, canvas)
        for kind in kinds:
            files[kind] = _saved(figure, kind)
    return _Made(files=files, text=text, covers=covers)


def _saved(figure: Figure, kind: str) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, dpi=DPI, metadata=_METADATA[kind])
    return buffer.getvalue()


def _inline(chart: Chart, made: _Made, suffix: str) -> str:
    said = escape(f"{chart.title}. {chart.conclusion}")
    if chart.kind == "image":
        data = base64.b64encode(_smaller(made.files["png"])).decode()
        image = f'<img class="picture" src="data:image/webp;base64,{data}" alt="{said}">'
        return f'<div class="covered">{image}{made.covers}</div>' if made.covers else image
    return inline_svg(made.text, f"{chart.key}{suffix}", said)


def _covers(figure: Figure, canvas: FigureCanvasAgg) -> str:
    """An empty place over each panel of a pattern, for a page to hide the panel with."""
    renderer, whole = canvas.get_renderer(), figure.bbox  # type: ignore[no-untyped-call]
    found = []
    for axes in figure.axes:
        name = str(axes.get_gid() or "")
        box = axes.get_tightbbox(renderer)
        if not name.startswith(PANELS) or box is None:
            continue
        box = box.padded(2 * figure.dpi / 72)
        sides = {
            "left": box.x0 / whole.width, "top": 1 - box.y1 / whole.height,
            "width": box.width / whole.width, "height": box.height / whole.height,
        }  # fmt: skip
        style = ";".join(f"{side}:{100 * share:.2f}%" for side, share in sides.items())
        found.append(f'<i class="cover" data-part="{escape(name)}" style="{style}"></i>')
    return "".join(found)


def _smaller(png: bytes) -> bytes:
    """The same picture in 256 colours as WebP, for the page; the file has them all."""
    buffer = io.BytesIO()
    few = Image.open(io.BytesIO(png)).convert("RGB").quantize(256, dither=Image.Dither.NONE)
    few.convert("RGB").save(buffer, format="webp", lossless=True)
    return buffer.getvalue()


def inline_svg(svg: str, key: str, said: str) -> str:
    """An SVG file as part of a page: without its header, every id of its own, named for readers.

    Coordinates are cut to a hundredth of a point, which is enough for a screen.
    """
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", svg, count=1, flags=re.DOTALL)
    seen: Counter[str] = Counter()

    def own(found: re.Match[str]) -> str:
        name = re.sub(r"\s+", "_", found[1])
        seen[name] += 1
        again = f"--{seen[name]}" if seen[name] > 1 else ""  # a pattern is in several panels
        return f'id="{key}--{name}{again}"'

    svg = re.sub(r'\bid="([^"]*)"', own, svg)
    svg = re.sub(r'xlink:href="#([^"]*)"', lambda found: f'href="#{key}--{found[1]}"', svg)
    svg = re.sub(r"url\(#([^)]*)\)", lambda found: f"url(#{key}--{found[1]})", svg)
    svg = re.sub(r" font-family: '[^;]*;", "", svg)  # the page's own has the same widths
    svg = re.sub(r' transform="rotate\(-?0 [^"]*\)"', "", svg)
    svg = re.sub(r"<[^>]*>", lambda tag: re.sub(r"(\d\.\d\d)\d+", r"\1", tag[0]), svg)
    svg = re.sub(r"<!--.*?-->\s*", "", svg, flags=re.DOTALL)
    box = re.search(r'viewBox="([^"]*)"', svg)
    assert box is not None
    body = re.sub(r">\s+<", "><", svg[svg.index(">") + 1 :].strip())
    drawn = f'class="picture drawn-{key}"'
    head = f'<svg {drawn} viewBox="{box[1]}" role="img" aria-label="{said}">'
    return head + compact(body, key)
