"""What a mean hides: errors by row, by layer and head, and mass by distance."""

from typing import Any

import numpy as np
import pandas as pd

from reports.frame.layers import on_common_layers
from reports.frame.tidy import each_row


def at_one_place(fidelity: pd.DataFrame, source: str | None = None) -> pd.DataFrame:
    """The ok rows of one source (captured before others) at its longest length, causal and dtype.

    Rows of one (causality, dtype) only: those with most results.
    """
    good = fidelity[fidelity.status.eq("ok") & fidelity.error.notna()]
    if len(good) == 0:
        return good
    source = source if source is not None else best_source(good)
    good = good[good.source.eq(source)]
    if len(good) == 0:
        return good
    sizes = good.groupby(["causal", "dtype", "device"], sort=True).size()
    chosen: Any = sizes.idxmax()
    causal, dtype, device = chosen
    good = good[good.causal.eq(causal) & good.dtype.eq(dtype) & good.device.eq(device)]
    return on_common_layers(good[good.length.eq(good.length.max())])


def at_each_source(fidelity: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """(source, `at_one_place` of it), the source to judge by first, then by name."""
    good = fidelity[fidelity.status.eq("ok") & fidelity.error.notna()]
    if len(good) == 0:
        return []
    best = best_source(good)
    others = sorted(set(good.source) - {best})
    return [(source, at_one_place(good, source)) for source in (best, *others)]


def best_source(fidelity: pd.DataFrame) -> str:
    """The source to judge by: captured ones first, gaussian ones last."""
    sources: list[str] = sorted(fidelity.source.unique())
    return min(sources, key=lambda one: (not one.startswith("captured"), "gaussian" in one, one))


def row_quantiles(rows: pd.DataFrame) -> pd.DataFrame:
    """One row a pattern: `by_quantile` as the mean over layers of the 101 quantiles."""
    use = rows[rows.by_quantile.map(_is_list)]
    return _each_pattern(use, lambda part: {"by_quantile": _mean(part.by_quantile)})


def row_positions(rows: pd.DataFrame) -> pd.DataFrame:
    """One row a pattern: `edges` of the query's position, `p50` and `p95` as means over layers.

    Empty where the records hold none; NaN where no row was compared.
    """
    use = rows[[_has_items(one) for one in rows.position_edges]]
    return _each_pattern(
        use,
        lambda part: {
            "edges": list(part.position_edges.iloc[0]),
            "p50": _mean(part.position_p50),
            "p95": _mean(part.position_p95),
        },
    )


def kept(rows: pd.DataFrame) -> pd.DataFrame:
    """One row a pattern, the best first: what of full attention's weight it keeps.

    `recall_64` and `recall_8` are of the heaviest keys, `kept_mass` is the full mass on pairs with
    weight; means over layers, and the lowest and highest layer of `recall_64`.
    """
    use = rows[rows.recall_64.notna()]
    found = _each_pattern(
        use,
        lambda part: {
            "recall_64": part.recall_64.mean(),
            "recall_64_low": part.recall_64.min(),
            "recall_64_high": part.recall_64.max(),
            "recall_8": part.recall_8.mean(),
            "kept_mass": 1 - part.dropped_mass.mean(),
            "entropy": part.entropy.mean(),
            "full_entropy": part.full_entropy.mean(),
        },
    )
    if len(found) == 0:
        return found
    return found.sort_values(["recall_64", "asked"], ascending=[False, True]).reset_index(drop=True)


def mass_by_distance(rows: pd.DataFrame) -> pd.DataFrame:
    """One row a pattern: `edges`, and `full` and `effective` as means over layers."""
    use = rows[rows.edges.map(_is_list) & rows.effective_mass.map(_is_list)]
    return _each_pattern(
        use,
        lambda part: {
            "edges": list(part.edges.iloc[0]),
            "full": _mean(part.full_mass),
            "effective": _mean(part.effective_mass),
        },
    )


def with_heads(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows that know the error of each head."""
    return rows[rows.error_per_head.map(_is_list)]


def worst_heads(rows: pd.DataFrame, count: int = 20) -> pd.DataFrame:
    """The heads with the largest errors: pattern, layer, head, error."""
    found = [
        {"pattern": row.line, "layer": row.layer, "head": head, "error": float(error)}
        for row in each_row(with_heads(rows))
        for head, error in enumerate(row.error_per_head)
        if row.ranked
    ]
    frame = pd.DataFrame(found, columns=["pattern", "layer", "head", "error"])
    return frame.sort_values("error", ascending=False, kind="stable").head(count)


def _each_pattern(rows: pd.DataFrame, numbers: Any) -> pd.DataFrame:
    kept = ["asked", "backend", "line", "name", "source", "length", "ranked", "simulated"]
    found = [
        {key: part[key].iloc[0] for key in kept} | {"error": part.error.mean()} | numbers(part)
        for _, part in rows.groupby(["asked", "backend"], sort=True)
    ]
    return pd.DataFrame(found)


def _has_items(value: object) -> bool:
    return isinstance(value, list | tuple) and len(value) > 0


def _is_list(value: object) -> bool:
    return isinstance(value, list | tuple) and len(value) > 0 and None not in value


def _mean(lists: pd.Series) -> list[float]:
    longest = max(map(len, lists))
    same = [one for one in lists if len(one) == longest]
    return [float(x) for x in np.mean(np.array(same, dtype=float), axis=0)]
