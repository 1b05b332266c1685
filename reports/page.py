"""The page: one self-contained HTML file from the sections of a run."""

import re
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

from reports import tables
from reports.chart import Chart, Table
from reports.explorer import Explorer, style_and_script
from reports.html import details, escape, paragraph, scripts, table
from reports.render import Picture, render
from reports.run import Run
from reports.sections import (
    Block,
    BySource,
    Section,
    about,
    cost,
    evaluation,
    fidelity,
    frontier,
    maps,
    verdict,
)
from reports.sections.shared import device_text, lengths_text

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
LARGEST_BYTES = 4_000_000
_SCRIPTS = ("address", "patterns", "sources", "tables", "")
PANES = "<!-- panes -->"  # where the linked panes go, once it is known what room is left


def write_page(run: Run) -> Path:
    """Write RUN/report.html, RUN/figures and RUN/tables, and say where the page is."""
    figures, tabled = run.folder / "figures", run.folder / "tables"
    figures.mkdir(exist_ok=True)
    tabled.mkdir(exist_ok=True)
    sections = _sections(run)
    explorers = [one for part in sections for one in part.blocks if isinstance(one, Explorer)]
    room = LARGEST_BYTES - 200_000 - sum(len(one.markup(heads=1)) for one in explorers)
    bodies = []
    for section in sections:
        body, room = _section(section, figures, tabled, room)
        bodies.append(body)
    page = document(title=title_of(run), lead=lead_of(run), sections=sections, bodies=bodies)
    for one in explorers:
        page = with_panes(page, one, LARGEST_BYTES)
    path = run.folder / "report.html"
    path.write_text(page, encoding="utf-8")
    return path


def _sections(run: Run) -> list[Section]:
    """All sections; of a run that evaluated a model and measured nothing else, those it fills."""
    in_model = evaluation.sections(run)
    if in_model and not _measured(run):
        rest = [one for one in about.sections(run) if one.key != "failures"]  # it lists its own
        return [evaluation.lead(run), *in_model, *rest]
    return [
        verdict.section(run),
        *cost.sections(run),
        fidelity.section(run),
        frontier.section(run),
        maps.section(run),
        *in_model,
        *about.sections(run),
    ]


def with_panes(page: str, explorer: Explorer, most_bytes: int = 1 << 30) -> str:
    """The page with the linked panes at their place, their style and their script, if they fit."""
    style, script = style_and_script()
    added = ((PANES, ""), ("</style>", style), ("</body>", f"<script>{script}</script>\n"))
    room = most_bytes - len(page.encode()) - sum(len(text.encode()) for _, text in added)
    markup = explorer.fitting(room)
    if not markup:
        return page
    for before, text in added[1:]:
        page = page.replace(before, f"{text}{before}", 1)
    return page.replace(PANES, markup, 1)


def title_of(run: Run) -> str:
    """What the browser shows in its tab."""
    return f"attnbench: {run.folder.resolve().name}"


def lead_of(run: Run) -> str:
    """One line under the heading: what was measured, on what."""
    if not _measured(run) and (said := evaluation.lead_line(run)):
        return said
    parts = []
    cases = _measured(run)
    names = {*run.cost.name, *run.fidelity.name}
    if names:
        parts.append(f"{len(names)} patterns")
    lengths = [*run.cost.length, *run.fidelity.length]
    if lengths:
        parts.append(f"{lengths_text(lengths)} tokens")
    machines = sorted({*run.cost.machine, *run.fidelity.machine} - {""})
    parts += [device_text(run, one) for one in machines[:2]]
    parts.append(f"{cases} cases")
    return " · ".join(parts)


def _measured(run: Run) -> int:
    return len(run.cost) + len(run.windows) + len(run.fidelity)


def document(*, title: str, lead: str, sections: list[Section], bodies: list[str]) -> str:
    """The whole page around the sections."""
    viewer = files("reports") / "viewer"
    style = (viewer / "page.css").read_text(encoding="utf-8")
    script = scripts("page", _SCRIPTS)
    links = "".join(f'<a href="#{one.key}">{escape(one.title)}</a>' for one in sections[1:])
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">',
            f"<title>{escape(title)}</title>",
            f"<style>{style}</style>",
            "</head>",
            "<body>",
            '<a class="skip" href="#verdict">Skip to the verdict</a>',
            '<header><div class="bar"><span class="mark">attnbench</span>',
            f'<span class="lead">{escape(lead)}</span>',
            '<button id="theme" type="button" hidden aria-label="Switch between light and dark">'
            "◐</button></div>",
            f'<nav aria-label="Sections">{links}</nav></header>',
            "<main>",
            *bodies,
            "</main>",
            f"<script>{script}</script>",
            "</body>",
            "</html>",
            "",
        ]
    )


def _section(section: Section, figures: Path, tabled: Path, room: int) -> tuple[str, int]:
    parts = []
    for block in section.blocks:
        if isinstance(block, BySource):
            text, room = _by_source(block, figures, tabled, room)
        else:
            text, room = _block(block, figures, tabled, room)
        parts.append(text)
    level = "h1" if section.key == "verdict" else "h2"
    inside = "\n".join(parts)
    heading = f"<{level}>{escape(section.title)}</{level}>"
    return f'<section id="{section.key}">{heading}\n{inside}</section>', room


def _block(block: Block, figures: Path, tabled: Path, room: int) -> tuple[str, int]:
    """The markup of a block, and how many bytes are left after it."""
    if isinstance(block, str):
        return block, room
    if isinstance(block, Explorer):
        return PANES, room
    if isinstance(block, Chart):
        picture = render(block, figures)
        tables.write(replace(block.table, key=block.key), figures)
        text = figure_markup(picture)
        if len(text) > room:
            text = _left_out(picture)
    else:
        text = _table(block, tables.write(block, tabled))
    return text, room - len(text)


def _by_source(block: BySource, figures: Path, tabled: Path, room: int) -> tuple[str, int]:
    """The blocks of the first source, and of each other to unfold or, with a script, to choose."""
    found = []
    for place, (source, blocks) in enumerate(block.parts):
        texts = []
        for one in blocks:
            text, room = _block(_for_source(one, source) if place else one, figures, tabled, room)
            texts.append(text)
        inside, named = "\n".join(texts), f'data-source="{escape(source)}"'
        said = f"<summary>The same on {escape(source)}</summary>"
        found.append(
            f"<details {named}>{said}{inside}</details>"
            if place
            else f"<div {named}>{inside}</div>"
        )
    if len(found) == 1:
        return found[0], room
    return f'<div class="sources" data-title="{escape(block.title)}">{"".join(found)}</div>', room


def _for_source(block: str | Chart | Table, source: str) -> str | Chart | Table:
    """Under a key of its own, as two sources share a page."""
    if isinstance(block, str):
        return block
    word = re.sub(r"[^a-z0-9]+", "-", source.lower()).strip("-")
    return replace(block, key=f"{block.key}-{word}")


def figure_markup(picture: Picture) -> str:
    """One figure with all that belongs to it."""
    chart = picture.chart
    about = f' data-part="panel:{escape(chart.pattern)}"' if chart.pattern else ""
    return (
        f'<figure id="figure-{chart.key}"{about}><h3>{escape(chart.title)}</h3>'
        f'<p class="how"><b>How to read this.</b> {escape(chart.how)}</p>'
        f'<div class="card">{_widths(picture)}</div>'
        f"<figcaption><p>{escape(chart.caption)}</p>{_missing(chart)}{_links(picture)}</figcaption>"
        f"{details('The numbers', table(chart.table))}</figure>"
    )


def _widths(picture: Picture) -> str:
    if not picture.narrow:
        return f"<div>{picture.wide}</div>"
    return f'<div class="wide">{picture.wide}</div><div class="narrow">{picture.narrow}</div>'


def _missing(chart: Chart) -> str:
    return f'<p class="missing">{escape(chart.missing)}</p>' if chart.missing else ""


def _left_out(picture: Picture) -> str:
    """A figure for which the page has no room: its words, and where its files are."""
    chart = picture.chart
    return (
        f'<figure id="figure-{chart.key}"><h3>{escape(chart.title)}</h3>'
        f"{paragraph(chart.conclusion)}{paragraph('Too large for this page: see the files.')}"
        f"<figcaption><p>{escape(chart.caption)}</p>{_links(picture)}</figcaption></figure>"
    )


def _links(picture: Picture) -> str:
    names = [*picture.files, f"{picture.chart.key}.csv"]
    words = {name: name.removeprefix(picture.chart.key).removeprefix(".") for name in names}
    shown = [(name, word) for name, word in words.items() if not word.startswith("-")]
    return '<p class="links">' + " ".join(
        f'<a href="figures/{escape(name)}">{escape(word.upper())}</a>' for name, word in shown
    ) + "</p>"  # fmt: skip


def _table(shown: Table, names: tuple[str, ...]) -> str:
    links = " ".join(
        f'<a href="tables/{escape(name)}">{escape(name.rpartition(".")[2].upper())}</a>'
        for name in names
    )
    return f'<div class="table">{table(shown)}<p class="links">{links}</p></div>'
