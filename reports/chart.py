"""A chart and a table, as values: what to draw, what to say about it, what its numbers are."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import pandas as pd
from matplotlib.figure import Figure

from reports.text import DASH


@dataclass(frozen=True, kw_only=True)
class Table:
    """Numbers as they are, and how each column is written for people."""

    key: str
    title: str
    frame: pd.DataFrame
    formats: Mapping[str, Callable[[Any], str]] = field(default_factory=dict)

    def text(self, column: str, value: Any) -> str:
        """One cell for people; a dash where there is nothing."""
        if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)):
            return DASH
        if column in self.formats:
            return self.formats[column](value)
        return (
            f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
        )


@dataclass(frozen=True, kw_only=True)
class Chart:
    """One figure of the report, drawn twice: as wide as two columns and as wide as one."""

    key: str  # names its files
    title: str
    conclusion: str  # what a reader who cannot see it has to know, in numbers
    how: str  # how to read this, in one sentence
    caption: str  # its settings
    table: Table
    draw: Callable[[Figure], None]
    wide_height: float  # inches
    narrow_height: float
    kind: Literal["lines", "image"] = "lines"
    alike: bool = False  # on a narrow screen the page shows the wide one, smaller
    pattern: str = ""  # the one that all of it is about, as it was asked for
    missing: str = ""  # the cells without a result, each with its reason
