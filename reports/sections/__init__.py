"""One section of the page a file: each turns a run into sentences, charts and tables."""

from dataclasses import dataclass

from reports.chart import Chart, Table
from reports.explorer import Explorer


@dataclass(frozen=True, kw_only=True)
class Section:
    """A heading and what stands below it: markup, charts, tables, linked panes, in order."""

    key: str
    title: str
    blocks: tuple[str | Chart | Table | Explorer, ...]
