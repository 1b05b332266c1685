"""Colour, marker and dash as a function of a pattern's name, and the look of every figure.

Hue tells the family: greys for dense baselines, blues for sparse patterns, oranges for Combiners,
greens for everything else; the bases are Okabe and Ito's, which colour-blind readers tell apart.
The marker tells the structure, so a Combiner shares it with its sparse parent. Size parameters
shade (longer is darker) and other parameters choose the dash; a backend that a pattern would not
choose itself is lighter and broken. Short dashes mean "simulated".
"""

import colorsys
import contextlib
import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import matplotlib as mpl

from reports.frame.names import name_of, parameters_of

Family = Literal["dense", "sparse", "combiner", "other"]
Dash = Literal["-"] | tuple[float, tuple[float, ...]]

WIDE, NARROW = 6.75, 3.25  # inches: two columns and one column of a paper

INK, FAINT, PAPER, RULE = "#1c1f24", "#5f6670", "#ffffff", "#e3e6ea"
"""Text, secondary text, background and grid of every figure."""

_FAMILIES: dict[Family, dict[str, tuple[str, str]]] = {
    "dense": {
        "full": ("#111111", "s"),
        "uniform": ("#8a8f98", "X"),
        "oracle-topk": ("#4b5563", "*"),
    },
    "sparse": {
        "sinks": ("#0072B2", "o"),
        "local": ("#56B4E9", "o"),
        "strided": ("#2aa7c9", "v"),
        "fixed": ("#3b78d8", "s"),
        "logsparse": ("#14508c", "^"),
        "axial": ("#0b2f66", "D"),
        "block-topk": ("#6c7fd8", "P"),
    },
    "combiner": {
        "combiner-fixed": ("#D55E00", "s"),
        "combiner-logsparse": ("#E69F00", "^"),
        "combiner-axial-vertical": ("#9c3a06", "D"),
        "combiner-axial-horizontal": ("#f2803a", "d"),
        "combiner-axial-rowmajor": ("#6d2a08", "<"),
        "combiner-mixture": ("#b98700", "P"),
    },
    "other": {
        "rfa": ("#009E73", "o"),
    },
}
_BASE: dict[Family, str] = {
    "dense": "#6b7280",
    "sparse": "#2f86c1",
    "combiner": "#cc6a12",
    "other": "#1e9470",
}
_STYLES = {
    name: (family, *look) for family, names in _FAMILIES.items() for name, look in names.items()
}
_MARKERS = ("o", "v", "s", "^", "D", "P", "X", "p", "h", "<", ">", "d")
_DASHES: tuple[Dash, ...] = (
    (0, (9, 1.4, 3, 1.4)), (0, (7, 1.6)), (0, (6, 1.5, 1.2, 1.5)), (0, (4, 1.2, 1, 1.2, 1, 1.2)),
)  # fmt: skip
_BACKENDS: dict[str, tuple[str, Dash]] = {
    "sdpa:cudnn": ("#111111", (0, (9, 1.4, 3, 1.4))),
    "sdpa:flash": ("#444a52", (0, (7, 1.6))),
    "sdpa:efficient": ("#737a84", (0, (6, 1.5, 1.2, 1.5))),
    "eager": ("#9aa0a8", (0, (5, 1.5, 1, 1.5, 1, 1.5))),
}
_OTHERS: dict[str, Dash] = {"flex": (0, (4, 1.4)), "sdpa": (0, (2.6, 1.2))}
_SIZES = ("block", "window", "stride", "columns", "features", "landmarks", "keys", "blocks")
_SEEDS = ("seed", "causal", "sink")
_OWN = ("auto", "triton", "")  # the backend that a pattern is judged by
SIMULATED: Dash = (0, (1.8, 1.4))


@dataclass(frozen=True, kw_only=True)
class Look:
    """How a pattern is drawn wherever it appears."""

    family: Family
    colour: str
    marker: str
    dash: Dash
    hollow: bool = False
    key: str = field(default="", compare=False)  # the pattern and backend that it is the look of

    @property
    def ink(self) -> str:
        """The colour, dark enough for text on white."""
        return legible(self.colour)

    @property
    def face(self) -> str:
        """What fills the marker: nothing where the distance is not an error."""
        return PAPER if self.hollow else self.colour


def look(
    asked: str, backend: str = "auto", *, simulated: bool = False, ranked: bool = True
) -> Look:
    """The look of a pattern, by how it was asked for and by nothing else.

    Args:
        asked: such as ``combiner-fixed[block=64]``.
        backend: tells the dense rows, which are one pattern, from each other; another pattern is
            lighter and broken under a backend that it would not choose itself.
        simulated: a dense product under a mask: short dashes.
        ranked: whether the distance is an error; otherwise the marker is hollow.
    """
    name, given = name_of(asked), parameters_of(asked)
    family, colour, marker = _STYLES.get(name) or _stranger(name)
    dash: Dash = "-"
    if name == "full":
        colour, dash = _BACKENDS.get(backend, (colour, dash))
    shade = sum(_octaves(given[key]) for key in _SIZES if key in given)
    words = [f"{k}={v}" for k, v in sorted(given.items()) if k not in (*_SIZES, *_SEEDS)]
    if words:
        dash = _DASHES[zlib.crc32(",".join(words).encode()) % len(_DASHES)]
    colour = shaded(colour, -0.1 * shade)
    if name != "full" and backend not in _OWN:
        colour, dash = shaded(colour, 0.33), _OTHERS.get(backend, (0, (1.2, 1.2, 4, 1.2)))
    found = Look(
        family=family, colour=colour, marker=marker, dash=dash,
        hollow=not ranked, key=f"{asked}@{backend}",
    )  # fmt: skip
    return replace(found, dash=SIMULATED) if simulated else found


def shaded(colour: str, by: float) -> str:
    """A lighter (by > 0) or darker colour; at most a third of the way to white or black."""
    by = max(-0.33, min(0.33, by))
    end = 1.0 if by > 0 else 0.0
    return _hex(*(x + (end - x) * abs(by) for x in mpl.colors.to_rgb(colour)))


def legible(colour: str, contrast: float = 4.6) -> str:
    """The colour itself or the nearest darker one with this contrast to white (WCAG)."""
    hue, lightness, saturation = colorsys.rgb_to_hls(*mpl.colors.to_rgb(colour))
    while contrast_to_white(_hex(*colorsys.hls_to_rgb(hue, lightness, saturation))) < contrast:
        lightness -= 0.01
    return _hex(*colorsys.hls_to_rgb(hue, lightness, saturation))


def contrast_to_white(colour: str) -> float:
    """The contrast ratio of a colour on white, 1 to 21, by WCAG."""
    linear = [
        x / 12.92 if x <= 0.03928 else ((x + 0.055) / 1.055) ** 2.4
        for x in mpl.colors.to_rgb(colour)
    ]
    return 1.05 / (0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] + 0.05)


@contextlib.contextmanager
def house() -> Iterator[None]:
    """The settings of every figure, and nothing of the reader's own matplotlibrc."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_SETTINGS)
        yield


_SETTINGS: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "axes.titlesize": 8.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 6,
    "axes.labelsize": 8,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#9aa1ab",
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "legend.frameon": False,
    "legend.fontsize": 7,
    "lines.linewidth": 1.4,
    "lines.markersize": 4,
    "lines.markeredgewidth": 0.9,
    "lines.solid_capstyle": "round",
    "figure.facecolor": PAPER,
    "savefig.facecolor": PAPER,
    "savefig.transparent": False,
    "image.interpolation": "nearest",
    "pdf.fonttype": 42,
    "ps.fonttype": 42,
    "svg.fonttype": "path",
    "svg.hashsalt": "attnbench",
    "path.simplify": True,
}


def _stranger(name: str) -> tuple[Family, str, str]:
    """A pattern without a place in the table: its family by its name, the rest by its letters."""
    from attnbench import PATTERNS

    found = PATTERNS.get(name)
    room = found.__module__ if found is not None else ""
    family: Family = "other"
    if name.startswith("combiner"):
        family = "combiner"
    elif ".sparse" in room:
        family = "sparse"
    elif room.count(".") == 1:
        family = "dense"
    code = zlib.crc32(name.encode())
    return family, shaded(_BASE[family], (code % 7 - 3) * 0.09), _MARKERS[code // 7 % len(_MARKERS)]


def _octaves(value: str) -> float:
    """How many times a size is twice 64."""
    try:
        return math.log2(float(value) / 64) if float(value) > 0 else 0.0
    except ValueError:
        return 0.0


def _hex(*rgb: float) -> str:
    return "#" + "".join(f"{round(255 * max(0.0, min(1.0, x))):02x}" for x in rgb)
