"""Attention along the lines of a grid, on the GPU: what each pattern reads, told as data.

A plan has *tellings* (which regions the lines of a grid are told by) and *readings* (what every
token reads along its row or column, in one softmax). Forward: pools by a scan, values by attention
of the pooled queries along their line, then the readings, each going on from the one before.
Letters as in `patterns.kernels.lines`.
"""

from dataclasses import dataclass
from typing import Literal

from patterns.kernels.axial_form import Axial
from patterns.kernels.lines_calls import ALL, APART, FROM, UPTO, Frame

Region = Literal["before", "after", "others"]


@dataclass(frozen=True, kw_only=True)
class Telling:
    """Regions of every line: a token with all before it, with all after it, or all but it.

    down: the lines are columns.
    limit: places before it have a summary.
    """

    region: Region
    down: bool
    limit: int

    @property
    def mask(self) -> int:
        """Which tokens of its line a region has, beside its place."""
        return {"before": UPTO, "after": FROM, "others": APART}[self.region]

    @property
    def shift(self) -> int:
        """How far from its place a token of the region is at least."""
        return 1 if self.region == "others" else 0


@dataclass(frozen=True, kw_only=True)
class Sight:
    """One source of a reading: the tokens themselves (`told` is None), or the n-th telling."""

    told: int | None
    mask: int
    shift: int
    line: int = 0


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What the queries read along their lines."""

    down: bool
    sights: tuple[Sight, ...]


@dataclass(frozen=True, kw_only=True)
class Script:
    """What to do for a plan: `shared` readings begin each softmax, then come its own.

    softmaxes: one or two; the output is their mean.
    """

    tellings: tuple[Telling, ...]
    shared: tuple[Reading, ...]
    softmaxes: tuple[tuple[Reading, ...], ...]


def script_of(frame: Frame, form: Axial) -> Script:
    """The script of a plan on this grid."""
    causal = form.causal
    own = Sight(told=None, mask=UPTO if causal else ALL, shift=0)
    cross = Sight(told=None, mask=UPTO if causal else APART, shift=1)
    if frame.rows == 1 or frame.columns == 1:
        # A single line holds everything: there is no region.
        return Script(
            tellings=(),
            shared=(),
            softmaxes=((Reading(down=frame.columns == 1, sights=(own,)),),),
        )
    if form.plan in ("cross", "strided"):
        return Script(tellings=(), shared=(), softmaxes=(_tokens_alone(frame, form, own, cross),))
    vertical = _vertical(frame, causal) if form.plan not in ("horizontal", "split") else ()
    sideways = _sideways(frame, form)
    tellings = (*vertical, *sideways)
    across = tuple(
        Sight(told=index, mask=APART, shift=1, line=-1 if told.region == "before" else 1)
        for index, told in enumerate(vertical)
    )
    lines = {"before": -1, "after": 1, "others": 0}
    down = tuple(
        Sight(told=len(vertical) + index, mask=cross.mask, shift=1, line=lines[told.region])
        for index, told in enumerate(sideways)
    )
    if form.plan == "vertical":
        columns_first = (Reading(down=True, sights=(own,)),)
        return Script(
            tellings=tellings, shared=columns_first, softmaxes=(_readings(False, (cross, *across)),)
        )
    rows_first = (Reading(down=False, sights=(own,)),)
    if form.plan in ("horizontal", "split"):
        return Script(
            tellings=tellings, shared=rows_first, softmaxes=(_readings(True, (cross, *down)),)
        )
    direct = (*rows_first, Reading(down=True, sights=(cross,)))
    far = _readings(False, across), _readings(True, down)
    softmaxes = far if form.plan == "average" else ((*far[0], *far[1]),)
    return Script(tellings=tellings, shared=direct, softmaxes=softmaxes)


def _readings(down: bool, sights: tuple[Sight, ...]) -> tuple[Reading, ...]:
    """As few readings as there can be: two sights each."""
    return tuple(
        Reading(down=down, sights=sights[first : first + 2]) for first in range(0, len(sights), 2)
    )


def _tokens_alone(frame: Frame, form: Axial, own: Sight, cross: Sight) -> tuple[Reading, ...]:
    """The readings of the sparse patterns, which have no regions.

    strided: the tokens at most `columns` away are the own row, the rest of the row before from the
    own column on, and (bidirectional) of the row after up to it.
    """
    if form.plan == "cross":
        return *_readings(False, (own,)), *_readings(True, (cross,))
    before = Sight(told=None, mask=FROM, shift=0, line=-1)
    after = Sight(told=None, mask=UPTO, shift=0, line=1)
    near = _readings(False, (own, before) if form.causal else (own, before, after))
    if frame.rows == 2:
        return near
    return *near, *_readings(True, (Sight(told=None, mask=cross.mask, shift=2),))


def _vertical(frame: Frame, causal: bool) -> tuple[Telling, ...]:
    limit = min(_read_by_some(frame, causal), frame.length)
    above = Telling(region="before", down=True, limit=limit)
    below = Telling(region="after", down=True, limit=frame.length)
    return (above,) if causal else (above, below)


def _sideways(frame: Frame, form: Axial) -> tuple[Telling, ...]:
    limit = _read_by_some(frame, form.causal)
    if form.plan == "vertical":
        return ()
    if form.plan == "horizontal":
        return (Telling(region="others", down=False, limit=limit),)
    left = Telling(region="before", down=False, limit=limit)
    right = Telling(region="after", down=False, limit=min(limit, frame.length))
    return (left, right)


def _read_by_some(frame: Frame, causal: bool) -> int:
    """Places before it have a summary that some query reads.

    Causal: all rows but the last one. Otherwise queries of every column read the last row too,
    however short it is.
    """
    return frame.padded - frame.columns if causal else frame.padded
