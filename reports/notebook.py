"""A report that shows itself in a notebook, in a frame of its own."""

from dataclasses import dataclass
from html import escape
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Report:
    """The page that `write` made."""

    page: Path

    def _repr_html_(self) -> str:
        """The page inside an iframe, so that its styles stay its own."""
        held = escape(self.page.read_text(encoding="utf-8"), quote=True)
        return (
            f'<iframe title="attnbench report" srcdoc="{held}" '
            'style="width:100%;height:760px;border:1px solid #d5d9df;border-radius:8px" '
            'sandbox="allow-scripts"></iframe>'
        )
