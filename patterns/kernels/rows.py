"""What all kernels share: reading and writing rows of a tile, and where a head begins.

Row numbers beyond the last are read as the last row, so that no load needs a mask for them: what
was computed from them is masked out of the softmax, or never stored.
"""

import triton
import triton.language as tl


@triton.jit
def head_offset(batch, head, batch_stride, head_stride):
    """How many elements lie before this head; 64 bits, for tensors of more than 2^31 elements."""
    return batch.to(tl.int64) * batch_stride + head.to(tl.int64) * head_stride


@triton.jit
def load_rows(base, stride, first, last, ROWS: tl.constexpr, D: tl.constexpr, WIDTH: tl.constexpr):
    """[ROWS, WIDTH]: rows from `first` on, none beyond `last`; zeros from column D on."""
    row = tl.minimum(tl.arange(0, ROWS), last - first)
    column = tl.arange(0, WIDTH)
    at = base + first.to(tl.int64) * stride + (row[:, None] * stride + column[None, :])
    return tl.load(at) if D == WIDTH else tl.load(at, mask=(column < D)[None, :], other=0.0)


@triton.jit
def store_rows(base, stride, first, last, x, D: tl.constexpr):
    """Write [ROWS, WIDTH] to the rows from `first` to `last` and the columns below D."""
    row = tl.arange(0, x.shape[0])
    column = tl.arange(0, x.shape[1])
    at = base + first.to(tl.int64) * stride + (row[:, None] * stride + column[None, :])
    inside = (row <= last - first)[:, None] & (column < D)[None, :]
    tl.store(at, x.to(base.dtype.element_ty), mask=inside)


@triton.jit
def load_numbers(base, first, last, ROWS: tl.constexpr):
    """[ROWS]: one number a row from `first` on, none beyond `last`."""
    return tl.load(base + tl.minimum(first + tl.arange(0, ROWS), last))


@triton.jit
def store_numbers(base, first, last, x):
    """Write one number a row to the rows from `first` to `last`."""
    row = first + tl.arange(0, x.shape[0])
    tl.store(base + row, x, mask=row <= last)
