"""What patterns look at: masks in small, stored maps beside full attention, mass by distance."""

from functools import partial

import pandas as pd

from attnbench.mapfile import load_map
from reports import thumbnails
from reports.chart import Chart, Table
from reports.explorer import Explorer
from reports.figures import distance, gallery, triptych
from reports.frame.maps import Map, mean_variation, pooled, view
from reports.frame.masks import Tile, tiles
from reports.frame.names import by_number, labels
from reports.frame.spread import at_each_source, mass_by_distance
from reports.frame.tidy import each_row
from reports.frame.tradeoff import thinned
from reports.html import paragraph, unfolded
from reports.planes import sheet
from reports.run import Run
from reports.sections import Block, BySource, Section
from reports.sections.shared import source_text
from reports.style import look
from reports.tables import plain
from reports.text import joined, size_text, three, three_places

MOST = 12  # maps on the page; the others stay in maps/
PANE_BINS = 256  # of a map in the linked panes
FEW, FINE, COARSE = 4, 256, 128  # up to so many maps have fine bins; `inspect` draws the finest
_ORDER = ("combiner", "sparse", "other", "dense")  # maps of the last come in small
_FAMILIES = ("dense", "sparse", "combiner", "other")


def section(run: Run) -> Section:
    """Masks, mass by distance, and the stored maps."""
    names = sorted({*run.cost.name, *run.fidelity.name})
    found = tiles(names)
    blocks: list[Block | BySource] = []
    if found:
        blocks.append(_gallery(found))
    spreads = [
        (source, mass_by_distance(thinned(here))) for source, here in at_each_source(run.fidelity)
    ]
    known = tuple((source, (_distance(one),)) for source, one in spreads if len(one))
    if known:
        blocks.append(BySource(parts=known))
    blocks += _maps(run)
    return Section(key="maps", title="Maps", blocks=tuple(blocks))


def _gallery(found: list[Tile]) -> Chart:
    found = sorted(found, key=lambda one: (_FAMILIES.index(look(one.asked).family), one.name))
    frame = pd.DataFrame(
        {"pattern": one.name, "density": one.density, "keys a query": one.keys_per_query}
        for one in found
    )
    table = Table(
        key="gallery", title="Masks at 16 tokens", frame=frame,
        formats={"density": lambda x: f"{100 * x:.0f} %", "keys a query": lambda x: f"{x:.1f}"},
    )  # fmt: skip
    return Chart(
        key="gallery",
        title="What each pattern may look at",
        conclusion=f"{len(found)} patterns at 16 tokens with small parameters.",
        how="A row is a query and a column a key; dark cells are keys read one by one, cells of "
        "one tint are a region read through its summary, empty cells are not seen.",
        caption="Causal, 16 tokens, the small parameters that each pattern names for its own "
        "shape, not those of the run. Density is the share of visible pairs that may have weight; "
        "keys are those of a query in its softmax, regions counted as one. Patterns that choose "
        "keys by content may have weight anywhere.",
        table=table,
        draw=partial(gallery.draw, tiles=found),
        wide_height=gallery.height(len(found), False),
        narrow_height=gallery.height(len(found), True),
        kind="image",
    )


def _distance(spreads: pd.DataFrame) -> Chart:
    spreads = spreads.sort_values("error", kind="stable").reset_index(drop=True)
    first = spreads.iloc[0]
    rows = [
        {"pattern": row.line, "from": low, "to": high, "full": full, "pattern's": ours}
        for row in each_row(spreads)
        for low, high, full, ours in zip(
            row.edges[:-1], row.edges[1:], row.full, row.effective, strict=False
        )
    ]
    table = Table(key="distance", title="Mass by distance", frame=pd.DataFrame(rows),
                  formats={"full": three_places, "pattern's": three_places})  # fmt: skip
    half = len(first.full) // 2
    far = 100 * sum(first.full[half:])
    return Chart(
        key="distance",
        title="Attention by distance",
        conclusion=f"Full attention puts {three(far)} % of its mass {size_text(first.edges[half])} "
        f"tokens away or farther.",
        how="Where the coloured line falls below the grey bars, the pattern has lost the attention "
        "that full softmax pays at that distance.",
        caption=f"Share of mass by query \u2212 key, exact before any pooling, mean over heads "
        f"and layers; {source_text(str(first.source))}, {size_text(int(first.length))} tokens. "
        f"Panels from the closest pattern to the farthest.",
        table=table,
        draw=partial(distance.draw, spreads=spreads),
        wide_height=distance.height(len(spreads), False),
        narrow_height=distance.height(len(spreads), True),
    )


def _maps(run: Run) -> list[Block]:
    if not run.maps:
        text = "This run stored no maps, so there is no pattern to lay beside full attention here."
        return [paragraph(text, "empty")]
    bins = FINE if len(run.maps) <= FEW else COARSE
    every = [(path.stem, load_map(path)) for path in run.maps]
    every.sort(key=lambda one: _rank(view(one[1])))
    held, rest = every[:MOST], every[MOST:]
    short = labels([view(one).asked for _, one in every])
    sheets = [sheet(key, short[view(one).asked], one, bins=PANE_BINS) for key, one in held]
    found = [(key, pooled(view(one), bins)) for key, one in held]
    opening, closing = unfolded("The same maps as figures")
    blocks: list[Block] = [
        Explorer(sheets=tuple(sheets), title="Inside the maps"),
        opening,
        *(
            chart_of(one, 0, short[one.asked], _distances(run, key, one), f"map-{key}")
            for key, one in found
        ),
        closing,
    ]
    if rest:
        small = [(key, short[view(one).asked], view(one)) for key, one in rest]
        said = "1 more stored map" if len(rest) == 1 else f"{len(rest)} more stored maps"
        blocks += [
            paragraph(
                f"{said}; run_bench.py inspect opens their files, and all of a run\u2019s folder:"
            ),
            thumbnails.markup(small[: thumbnails.MOST]),
        ]
    return blocks


def _rank(found: Map) -> tuple[int, object, object]:
    """First the maps that differ most from what one already knows, then by name and layer."""
    asked = found.asked
    return (_ORDER.index(look(asked).family), by_number(asked), by_number(str(found.case)))


def _distances(run: Run, key: str, found: Map) -> str:
    """Total variation and KL of the first stored head, as measured at full resolution."""
    row = run.fidelity[run.fidelity.case_key.eq(key)]
    said = [f"total variation {three(mean_variation(found, 0))}"]
    if len(row) and row.kl.notna().any():
        said.append(f"KL {three(row.kl.iloc[0])} (mean of heads)")
    return " · ".join(said)


def chart_of(found: Map, head: int, name: str, distances: str, key: str) -> Chart:
    """The triptych of one head of a map."""
    case, size = found.case, found.bin_size
    source = str(case.get("source", "given q, k, v"))
    layer = "" if case.get("layer") is None else f", layer {case['layer']}"
    checks = found.meta.get("checks") or {}
    held = [
        f"{word.replace('_', ' ')} {three_places(float(value))}"
        for word, value in sorted(checks.items())
        if isinstance(value, int | float)
    ]
    bins = (
        "every pair by itself"
        if size == 1
        else f"means over the visible pairs of {size} \u00d7 {size} tokens"
    )
    return Chart(
        key=key,
        title=f"{name}{layer}, head {found.heads[head]}",
        conclusion=f"{distances} between {name} and full attention over "
        f"{size_text(found.length)} tokens.",
        how="Both maps share one logarithmic colour scale; white has no weight and grey is not "
        "visible. Blue in the difference is attention lost, red attention gained. TV is the total "
        "variation: the share of a row's mass that lies elsewhere.",
        caption=f"{source}{layer}, {size_text(found.length)} tokens; {bins}. Signed differences "
        f"can cancel inside a bin, absolute ones were taken before pooling. Checks of the map: "
        f"{joined(held) if held else 'none recorded'}.",
        table=_sums(found, head, key),
        draw=partial(triptych.draw, found=found, head=head, title=_short(distances)),
        wide_height=triptych.height(False),
        narrow_height=triptych.height(True),
        kind="image",
        alike=True,
        pattern=found.asked,
    )


def _short(distances: str) -> str:
    """As the title of a panel has room for."""
    return distances.replace("total variation", "TV").replace(" (mean of heads)", "")


def _sums(found: Map, head: int, key: str) -> Table:
    from reports.frame.maps import mass_by_distance as by_distance

    edges, full, ours = by_distance(found, head)
    frame = pd.DataFrame({"from": edges[:-1], "to": edges[1:], "full": full, "pattern's": ours})
    return plain(key, "Mass by distance, from the pooled map", frame,
                 {str(name): str(name) for name in frame}, {
        **dict.fromkeys(("from", "to"), size_text),
        **dict.fromkeys(("full", "pattern's"), three_places),
    })  # fmt: skip
