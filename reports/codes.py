"""Maps as 8-bit codes for the page: what a code means, and how far it is from the number.

Weights are coded by their logarithm over `DECADES` below the largest, signed numbers by asinh, so
that both keep small numbers apart from nothing. 255 is a cell that is not visible.

A weight is 0 where the code is 0, positive but below the floor where it is 1, and else off by at
most `WEIGHT_ERROR`. A signed number is exactly 0 where the code is `MIDDLE`, and else off by at
most `SIGNED_ERROR` of itself plus `LINEAR` x `SIGNED_ERROR` of the largest.
"""

import base64
import math
import zlib

import numpy as np
import numpy.typing as npt

DECADES = 6
HIDDEN, MIDDLE = 255, 127
LINEAR = 1e-3  # of the largest: below it signed codes are linear, above it logarithmic
_LEVELS = HIDDEN - 3  # steps between the codes 2 and 254
WEIGHT_ERROR = 10 ** (DECADES / _LEVELS / 2) - 1
SIGNED_ERROR = math.asinh(1 / LINEAR) / MIDDLE / 2 * 1.02

Codes = npt.NDArray[np.uint8]
Array = npt.NDArray[np.float64]


def weight_codes(values: Array, visible: Array, top: float) -> Codes:
    """Codes of weights from 0 to `top`; what is not visible or not a number is `HIDDEN`."""
    with np.errstate(divide="ignore", invalid="ignore"):
        steps = (np.log10(values / top) + DECADES) * (_LEVELS / DECADES)
    codes = np.where(steps >= -0.5, 2 + np.rint(np.clip(steps, 0, _LEVELS)), 1)
    codes = np.where(values > 0, codes, 0)
    return _where_seen(codes, values, visible)


def weights_of(codes: Codes, top: float) -> Array:
    """What weight codes stand for; code 1 is half the floor, hidden cells are NaN."""
    found = top * 10.0 ** ((codes.astype(np.float64) - 2) * (DECADES / _LEVELS) - DECADES)
    found = np.where(codes == 1, top * 10.0**-DECADES / 2, found)
    return np.where(codes == HIDDEN, np.nan, np.where(codes == 0, 0.0, found))


def signed_codes(values: Array, visible: Array, top: float) -> Codes:
    """Codes of numbers from -top to top, 0 in the middle."""
    scaled = np.arcsinh(np.nan_to_num(values) / (LINEAR * top)) / math.asinh(1 / LINEAR)
    return _where_seen(MIDDLE + np.rint(MIDDLE * np.clip(scaled, -1, 1)), values, visible)


def signed_of(codes: Codes, top: float) -> Array:
    """What signed codes stand for; hidden cells are NaN."""
    scaled = (codes.astype(np.float64) - MIDDLE) / MIDDLE * math.asinh(1 / LINEAR)
    return np.where(codes == HIDDEN, np.nan, LINEAR * top * np.sinh(scaled))


def packed(codes: Codes) -> str:
    """The codes compressed by zlib, in base64."""
    return base64.b64encode(zlib.compress(np.ascontiguousarray(codes).tobytes(), 9)).decode()


def unpacked(text: str, side: int) -> Codes:
    """What `packed` has packed, as a square."""
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), np.uint8).reshape(side, side)


def _where_seen(codes: Array, values: Array, visible: Array) -> Codes:
    return np.where((visible > 0) & np.isfinite(values), codes, HIDDEN).astype(np.uint8)
