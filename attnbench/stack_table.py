"""What the stacks of an evaluation cost, as a table: nothing is run for it."""

from collections.abc import Sequence
from pathlib import Path

from tabulate import tabulate

from attnbench.evaluation import Asked, Evaluation, cases
from attnbench.language import Sizes
from attnbench.matrix import ELEMENT_BYTES
from attnbench.predict import gib
from attnbench.reach import reach
from attnbench.records import Record, read
from attnbench.stack import predicted_time
from patterns.errors import Unsupported

_REACH_TOKENS = 1024  # up to which reach is computed here: a dense product for every layer
_HEAD = (
    "length", "patterns", "keys a query", "GFLOP", "key-value bytes", "attention ms", "reach",
)  # fmt: skip


def stack_table(asked: Evaluation, sizes: Sizes, text: str, times: Path | None) -> str:
    """Keys, products, cache, time and reach of every schedule, a line a length.

    Args:
        asked: what to list.
        sizes: of the model.
        text: the digest of its tokens.
        times: a run folder to predict times from; None predicts none.

    Raises:
        BadInput: a schedule does not fit the model, or `times` is no run folder.
    """
    records = None if times is None else read(times)
    rows, notes = [], []
    for group in cases(asked, sizes, text):
        for one in group:
            if one.case.layer is not None:
                continue
            ms, note = _time(one, sizes, records)
            notes += [note] if note else []
            rows.append(
                (
                    one.case.length, one.case.asked, f"{one.cost.keys_per_query:.1f}",
                    f"{one.cost.flops / 1e9:.3g}", gib(one.cost.kv_bytes), ms, _reach(one),
                )
            )  # fmt: skip
    table = tabulate(rows, _HEAD, disable_numparse=True, colalign=_sides(rows))
    return "\n".join([table, *dict.fromkeys(notes)])


def _time(one: Asked, sizes: Sizes, records: Sequence[Record] | None) -> tuple[str, str]:
    """The predicted time and how it came about; or a dash, and why."""
    if records is None:
        return "-", ""
    case = one.case
    layers = one.schedule.patterns(sizes.layers)
    shape = sizes.shape(case.length, ELEMENT_BYTES[case.dtype])
    try:
        found = predicted_time(layers, shape, records, dtype=case.dtype, device=case.device)
    except Unsupported as error:
        return "-", str(error)
    between = {name: at for name, at in found.measured.items() if at != (case.length,)}
    said = "; ".join(f"{name} from {' and '.join(map(str, at))}" for name, at in between.items())
    return f"{found.ms:.4g}", f"at {case.length}: {said}" if said else ""


def _reach(one: Asked) -> str:
    """How far back the last layer's tokens know of, as a share of the way there is, on average."""
    if one.case.length > _REACH_TOKENS:
        return "-"
    layers = one.schedule.patterns(one.case.layers)
    last = reach(layers, one.case.length, heads=one.case.heads)[-1]
    return f"{last.distance:.0f} tokens, {100 * last.share:.0f} % seen"


def _sides(rows: Sequence[tuple[object, ...]]) -> tuple[str, ...] | None:
    return ("right", "left", *("right",) * (len(_HEAD) - 2)) if rows else None
