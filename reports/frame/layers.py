"""Means over layers compare patterns only where they are means over the same layers."""

import pandas as pd

PLACE = ["source", "causal", "dtype", "device", "length"]


def on_common_layers(good: pd.DataFrame) -> pd.DataFrame:
    """The rows at layers that at least half of the patterns of a place have.

    A pattern that lacks one of these layers is left out of that place: its mean would be over
    other layers than those beside it. Its missing cases are named where they failed.
    """
    if len(good) == 0:
        return good
    kept = [_common(part) for _, part in good.groupby(PLACE, dropna=False, sort=False)]
    return good.loc[sorted(index for part in kept for index in part)]


def _common(part: pd.DataFrame) -> list[int]:
    lines = part.groupby(["asked", "backend"], sort=False).layer.agg(set)
    held = part.drop_duplicates(["asked", "backend", "layer"]).layer.value_counts()
    common = set(held.index[2 * held >= len(lines)])
    whole = {key for key, layers in lines.items() if common <= layers}
    return [
        index
        for index, asked, backend, layer in zip(
            part.index, part.asked, part.backend, part.layer, strict=True
        )
        if layer in common and (asked, backend) in whole
    ]
