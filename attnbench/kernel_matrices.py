"""What the preset `kernels` measures: fused kernels beside dense attention and FlexAttention."""

from dataclasses import replace
from typing import Any

from attnbench.case import Pass
from attnbench.matrix import Matrix

K = 1024

_FIXED = ("combiner-fixed", "combiner-fixed[summary=variational]")
_LOGSPARSE = ("combiner-logsparse[summary=variational]", "combiner-logsparse")
_GRIDS = (
    "combiner-axial-rowmajor",
    "combiner-axial-vertical",
    "combiner-axial-horizontal",
    "combiner-mixture",
)
_SPARSE = ("sinks[window=256]", "logsparse", "logsparse[keys=suffix]", "strided", "fixed", "axial")
_FULL = ("full",)
_SHAPES: tuple[dict[str, Any], ...] = (  # beside one sequence of 16 heads, 64 wide, read forwards
    {"heads": 32, "kv_heads": 8, "dim": 128},
    {"causal": False},
    {"batch": 4},
    {"dim": 96},
    {"lengths": (16 * K - 3,)},
)


def kernel_parts(main: Matrix) -> tuple[Matrix, ...]:
    """The parts of the preset; `main` has the sizes of one sequence.

    The longest lengths come first (rank 0): the groups of 16k and 64k tokens have so many kernels
    to compile that they may take most of what is left, and know which of their rows to leave out.
    Should the budget end the run, the rarer shapes are missing (rank 2).
    """
    lengths = (4 * K, 16 * K, 64 * K)
    two, long = lengths[1:], (128 * K, 256 * K)
    both: tuple[Pass, ...] = ("fwd", "fwdbwd")
    one = replace(main, lengths=lengths, rank=1, baselines=False)
    first, last = replace(one, rank=0), replace(one, lengths=two, rank=2)
    window = replace(one, patterns=("local[window=256]",), backends=("auto", "flex"))
    pinned = ("sdpa:cudnn", "sdpa:flash") if main.device == "cuda" else ("sdpa",)
    shaped = replace(last, patterns=(_FIXED[0], *_FULL), lengths=two[:1], passes=both)
    return (
        replace(one, patterns=(*_FIXED, *_FULL), passes=both),
        replace(first, patterns=(*_FIXED, *_FULL), lengths=long, passes=both),
        replace(first, patterns=(*_FIXED, *_FULL), lengths=(*lengths, *long), dim=128),
        replace(one, patterns=_FULL, backends=pinned, passes=both),
        replace(one, patterns=(*_LOGSPARSE, *_GRIDS)),
        replace(one, patterns=(_LOGSPARSE[0], *_GRIDS), lengths=two[:1], passes=("fwdbwd",)),
        # combiner-fixed has as many keys as the window of 128 at 16k, and as that of 256 at 64k.
        replace(window, passes=both),
        replace(window, patterns=("local[window=128]",), lengths=two, passes=both),
        replace(window, backends=("sdpa",), lengths=two),
        # How memory grows, and a length at which dense attention takes seconds a call.
        replace(first, patterns=(_LOGSPARSE[0], *_GRIDS, "local[window=256]"), lengths=(256 * K,)),
        replace(first, patterns=_LOGSPARSE, lengths=(1024 * K,)),
        replace(first, patterns=_FIXED[:1], lengths=(1024 * K,), passes=both),
        replace(last, patterns=("combiner-fixed[block=64|128|256|512]",)),
        replace(last, patterns=_SPARSE, backends=("auto", "flex")),
        replace(shaped, patterns=("combiner-fixed[sink=4,near=1]",)),
        *(replace(shaped, **shape) for shape in _SHAPES),
        # 16k tokens in all.
        *(
            replace(shaped, batch=batch, lengths=(16 * K // batch,), passes=("fwd",))
            for batch in (4, 16)
        ),
        # Where a pattern may first be ahead.
        replace(
            last,
            patterns=(_FIXED[0], _LOGSPARSE[0], *_GRIDS, "local[window=256]", *_FULL),
            lengths=(2 * K, 8 * K),
        ),
    )
