"""A report that shows itself in a notebook, with its frames and its figures."""

from dataclasses import dataclass
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from attnbench import BadInput
from attnbench.mapfile import Maps, load_map
from reports import plots
from reports.frame.tidy import setting_text, settings
from reports.page import write_page
from reports.run import Run


@dataclass(frozen=True, kw_only=True)
class Report:
    """A run in memory. Figures take the main setting, the one with most results, or another."""

    run: Run

    @cached_property
    def page(self) -> Path:
        """RUN/report.html, written when it is first asked for."""
        return write_page(self.run)

    @property
    def cost(self) -> pd.DataFrame:
        """The cost cases of all settings, one row a case, ok or not."""
        return self.run.cost

    @property
    def fidelity(self) -> pd.DataFrame:
        """The fidelity cases, one row a case, ok or not."""
        return self.run.fidelity

    @property
    def settings(self) -> list[str]:
        """The settings that were timed, in words: causality, shape, dtype and device."""
        return [setting_text(part) for part in settings(self.run.cost)]

    def setting(self, number: int = 0) -> pd.DataFrame:
        """The cost cases of one of the `settings`.

        Raises:
            BadInput: no such setting.
        """
        parts = settings(self.run.cost)
        if not 0 <= number < len(parts):
            raise BadInput(f"the run has {len(parts)} settings that were timed, got {number}")
        return parts[number]

    @property
    def maps(self) -> tuple[Path, ...]:
        """The files of the stored maps."""
        return self.run.maps

    def map(self, number: int = 0) -> Maps:
        """One of the stored maps, which shows itself.

        Raises:
            BadInput: no such map.
        """
        if not 0 <= number < len(self.run.maps):
            raise BadInput(f"the run has {len(self.run.maps)} stored maps, got {number}")
        return load_map(self.run.maps[number])

    def latency(self, *, setting: int = 0, pass_: str = "fwd", ax: Axes | None = None) -> Axes:
        """See `reports.plots.latency`."""
        return plots.latency(self.setting(setting), pass_=pass_, ax=ax)

    def memory(self, *, setting: int = 0, pass_: str = "fwd", ax: Axes | None = None) -> Axes:
        """See `reports.plots.memory`."""
        return plots.memory(self.setting(setting), pass_=pass_, ax=ax)

    def speedup(self, *, setting: int = 0, pass_: str = "fwd", ax: Axes | None = None) -> Axes:
        """See `reports.plots.speedup`."""
        return plots.speedup(self.setting(setting), pass_=pass_, ax=ax)

    def roofline(self, *, setting: int = 0, pass_: str = "fwd", ax: Axes | None = None) -> Axes:
        """See `reports.plots.roofline`."""
        rows = self.setting(setting)
        machine = self.run.machines.get(str(rows.machine.iloc[0]), {})
        return plots.roofline(rows, machine, pass_=pass_, ax=ax)

    def error_cost(self, *, setting: int = 0, ax: Axes | None = None, **how: Any) -> Axes:
        """See `reports.plots.error_cost`: length, pass_, by and source are passed on."""
        return plots.error_cost(self.setting(setting), self.fidelity, ax=ax, **how)

    def error_length(self, *, source: str | None = None, ax: Axes | None = None) -> Axes:
        """See `reports.plots.error_length`."""
        return plots.error_length(self.fidelity, source=source, ax=ax)

    def row_errors(self, *, source: str | None = None, ax: Axes | None = None) -> Axes:
        """See `reports.plots.row_errors`."""
        return plots.row_errors(self.fidelity, source=source, ax=ax)

    def row_positions(self, *, source: str | None = None, ax: Axes | None = None) -> Axes:
        """See `reports.plots.row_positions`."""
        return plots.row_positions(self.fidelity, source=source, ax=ax)

    def recall(self, *, source: str | None = None, ax: Axes | None = None) -> Axes:
        """See `reports.plots.recall`."""
        return plots.recall(self.fidelity, source=source, ax=ax)

    def parents(self, *, source: str | None = None, ax: Axes | None = None) -> Axes:
        """See `reports.plots.parents`."""
        return plots.parents(self.fidelity, source=source, ax=ax)

    def heads(self, asked: str, *, source: str | None = None, ax: Axes | None = None) -> Axes:
        """See `reports.plots.heads`."""
        return plots.heads(self.fidelity, asked, source=source, ax=ax)

    def mass_by_distance(
        self, asked: str, *, source: str | None = None, ax: Axes | None = None
    ) -> Axes:
        """See `reports.plots.mass_by_distance`."""
        return plots.mass_by_distance(self.fidelity, asked, source=source, ax=ax)

    def _repr_html_(self) -> str:
        """The page inside an iframe, so that its styles stay its own."""
        held = escape(self.page.read_text(encoding="utf-8"), quote=True)
        return (
            f'<iframe title="attnbench report" srcdoc="{held}" '
            'style="width:100%;height:760px;border:1px solid #d5d9df;border-radius:8px" '
            'sandbox="allow-scripts"></iframe>'
        )
