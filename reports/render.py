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
from reports.html import escape
from reports.style import NARROW, WIDE, house

_METADATA: dict[str, dict[str, str | None]] = {
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    "png": {"Software": None},
}
DPI = 200


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
    wide = _files(chart, WIDE, chart.wide_height, ("png", "svg", "pdf"))
    needed = ("svg",) if chart.kind == "lines" else ("png",)
    narrow = _files(chart, NARROW, chart.narrow_height, (*needed, "pdf"))
    names = []
    for suffix, made in (("", wide), ("-narrow", narrow)):
        for kind, content in made.items():
            if kind == "text":
                continue
            name = f"{chart.key}{suffix}.{kind}"
            (folder / name).write_bytes(content)
            names.append(name)
    return Picture(
        chart=chart,
        wide=_inline(chart, wide, ""),
        narrow="" if chart.alike else _inline(chart, narrow, "-narrow"),
        files=tuple(names),
    )


def _files(chart: Chart, width: float, height: float, kinds: tuple[str, ...]) -> dict[str, bytes]:
    made = {}
    with house():
        figure = Figure(figsize=(width, height))
        FigureCanvasAgg(figure)
        chart.draw(figure)
        if chart.kind == "lines":
            with mpl.rc_context({"svg.fonttype": "none"}):
                buffer = io.BytesIO()
                figure.savefig(buffer, format="svg", metadata=_METADATA["svg"])
                made["text"] = buffer.getvalue()
        for kind in kinds:
            buffer = io.BytesIO()
            figure.savefig(buffer, format=kind, dpi=DPI, metadata=_METADATA[kind])
            made[kind] = buffer.getvalue()
    return made


def _inline(chart: Chart, made: dict[str, bytes], suffix: str) -> str:
    said = escape(f"{chart.title}. {chart.conclusion}")
    if chart.kind == "image":
        data = base64.b64encode(_smaller(made["png"])).decode()
        return f'<img class="picture" src="data:image/png;base64,{data}" alt="{said}">'
    return inline_svg(made["text"].decode(), f"{chart.key}{suffix}", said)


def _smaller(png: bytes) -> bytes:
    """The same picture in a palette of 256 colours, for the page; the file has them all."""
    buffer = io.BytesIO()
    Image.open(io.BytesIO(png)).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(
        buffer, format="png", optimize=True
    )
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
    body = svg[svg.index(">") + 1 :].strip()
    head = f'<svg class="picture" viewBox="{box[1]}" role="img" aria-label="{said}">'
    return head + re.sub(r">\s+<", "><", body)
