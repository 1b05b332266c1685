"""Each Combiner beside the sparse pattern that it gives summaries to."""

import math

import numpy as np
import pandas as pd

from reports.frame.tidy import each_row

PARENTS = {
    "combiner-fixed": "fixed",
    "combiner-logsparse": "logsparse",
    "combiner-axial-vertical": "axial",
    "combiner-axial-horizontal": "axial",
    "combiner-axial-rowmajor": "axial",
}
"""Each Combiner and the sparse pattern that it gives summaries to."""


def parents(errors: pd.DataFrame) -> pd.DataFrame:
    """Each Combiner beside its sparse parent, and the parent at equal keys where it was measured.

    Of a parent's rows the one whose keys a query are nearest is taken; `keys_ratio` says how near.
    """
    rows = []
    groups = errors.groupby(["causal", "dtype", "length", "source"], dropna=False, sort=True)
    for (causal, dtype, length, source), part in groups:
        for child in each_row(part[part.name.isin(PARENTS)]):
            mothers = part[part.name.eq(PARENTS[str(child.name)])]
            if len(mothers) == 0:
                continue
            away = (np.log(mothers.keys_per_query) - math.log(child.keys_per_query)).abs()
            mother = mothers.loc[away.idxmin()]
            rows.append(
                {
                    "causal": causal, "dtype": dtype, "length": length, "source": source,
                    "asked": child.asked, "label": child.label, "error": child.error,
                    "keys": child.keys_per_query,
                    "parent": mother.asked, "parent_label": mother.label,
                    "parent_error": mother.error, "parent_keys": mother.keys_per_query,
                    "keys_ratio": mother.keys_per_query / child.keys_per_query,
                }
            )  # fmt: skip
    return pd.DataFrame(rows)
