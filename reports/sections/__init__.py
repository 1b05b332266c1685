"""One section of the page a file: each turns a run into sentences, charts and tables."""

from dataclasses import dataclass

from reports.chart import Chart, Table
from reports.explorer import Explorer

Block = str | Chart | Table | Explorer


@dataclass(frozen=True, kw_only=True)
class BySource:
    """The same charts and tables once a source of inputs; the page shows those of one.

    The parts are (source, what stands below it) with the one to judge by first. The charts and
    tables of the others get the source's name behind their own keys.
    """

    parts: tuple[tuple[str, tuple[str | Chart | Table, ...]], ...]
    title: str = "Inputs"


@dataclass(frozen=True, kw_only=True)
class Section:
    """A heading and what stands below it: markup, charts, tables, linked panes, in order."""

    key: str
    title: str
    blocks: tuple[Block | BySource, ...]
