"""What repeats the run: its command, what it asked for part by part, and how it was seeded."""

import shlex
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import pandas as pd

from reports.chart import Chart, Table
from reports.html import definitions, escape, paragraph
from reports.run import Run
from reports.sections import Section
from reports.sections.facts import flat
from reports.text import DASH, joined, size_text

_LENGTHS = ("lengths", "fidelity_lengths")


def section(run: Run) -> Section:
    """The command and what it meant."""
    info = run.info
    command = info.get("command")
    text = shlex.join(map(str, command)) if isinstance(command, list) else str(command or "")
    if text and not text.startswith("python"):
        script = "" if text.split()[0].endswith(".py") else "run_bench.py "
        text = f"python {script}{text}"
    blocks: list[str | Chart | Table] = []
    if text:
        blocks.append(f'<pre tabindex="0"><code>{escape(text)}</code></pre>')
    else:
        blocks.append(paragraph("This run does not say which command made it.", "empty"))
    rest = {key: value for key, value in info.items() if key != "command"}
    parts = rest.get("matrix")
    if isinstance(parts, list) and len(parts) > 1 and all(isinstance(x, dict) for x in parts):
        shared, own = split(parts)
        del rest["matrix"]
        rest |= {"every part": shared} if shared else {}
        blocks.append(_parts(own))
    if rest:
        blocks.append(definitions(flat(rest)))
    return Section(key="command", title="The command", blocks=tuple(blocks))


def split(parts: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What all parts of a matrix have in common, and what is left of each."""
    first = parts[0]
    shared = {
        key: value for key, value in first.items() if all(one.get(key) == value for one in parts)
    }
    keys = [key for one in parts for key in one if key not in shared]
    return shared, [{key: one.get(key) for key in dict.fromkeys(keys)} for one in parts]


def _parts(own: Sequence[Mapping[str, Any]]) -> Table:
    rows = [
        {"part": number} | {key.replace("_", " "): _text(key, one[key]) for key in one}
        for number, one in enumerate(own, start=1)
    ]
    title = "The matrix: its parts, by what tells them apart"
    return Table(key="matrix", title=title, frame=pd.DataFrame(rows))


def _text(key: str, value: Any) -> str:
    if value is None or value == []:
        return DASH
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, list):
        return str(value)
    if key not in _LENGTHS:
        return joined(map(str, value))
    if len(value) > 3 and all(2 * a == b for a, b in pairwise(value)):
        return f"{size_text(value[0])} to {size_text(value[-1])}, doubled"
    return joined(size_text(n) for n in value)
