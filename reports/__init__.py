"""The reporter: a run folder to figures, tables and one self-contained page.

`write(RUN)` makes them all, `open(RUN)` gives frames and figures and shows the page in a notebook,
`inspect(maps, OUT)` draws one map, and `plots` has the figures as functions.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from attnbench.mapfile import Maps
    from reports.notebook import Report

__all__ = ["inspect", "open", "write"]


def write(run_folder: str | Path) -> Path:
    """Write RUN/report.html, RUN/figures/ and RUN/tables/; the path of the page.

    Raises:
        BadInput: the folder holds no run, or one that cannot be read.
    """
    from reports.page import write_page
    from reports.run import read

    return write_page(read(Path(run_folder)))


def open(run_folder: str | Path) -> "Report":
    """The report of a run: its frames, a method a figure, and the page, which a notebook shows.

    Nothing is written before the page is asked for.

    Raises:
        BadInput: the folder holds no run, or one that cannot be read.
    """
    from reports.notebook import Report
    from reports.run import read

    return Report(run=read(Path(run_folder)))


def inspect(
    maps: "Maps | Sequence[Maps]",
    out: str | Path,
    *,
    head: int | None = None,
    row: int | None = None,
) -> Path:
    """Write maps as npz, PNG, SVG, PDF and one page into a folder; the path of the page.

    Args:
        maps: what `attnbench.maps.make` or `load_map` gives; one, or several that share a page.
        out: the folder; made where it is missing.
        head: the number of the head that opens; the first stored one if None.
        row: the query row (in tokens) of the profile; the middle of the second half if None.

    Raises:
        BadInput: no such head or row, or no map.
    """
    from attnbench.mapfile import Maps
    from reports.inspector import write_maps

    several = [maps] if isinstance(maps, Maps) else list(maps)
    return write_maps(several, Path(out), head=head, row=row)
