"""Pooling along the lines of a grid: running pools, pools of all other tokens, and their gradients.

A program walks down or along several lines at once, one token of each at a time, which are loaded
ahead of their use. Letters as in `patterns.kernels.lines`.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"

import triton
import triton.language as tl

from patterns.kernels.lines import COUNTS, along, count_of, line_start

AHEAD = tl.constexpr(4)  # tokens in flight


@triton.jit
def own_lines(pid, rows, columns, LINES: tl.constexpr, DOWN: tl.constexpr):
    """The lines of a program [LINES], how long they are, and its head."""
    across = rows
    extent = columns
    if DOWN:
        across = columns
        extent = rows
    chunks = (across + LINES - 1) // LINES
    line = pid % chunks * LINES + tl.arange(0, LINES)
    return line, extent, pid // chunks


@triton.jit
def members(step, count, BACKWARDS: tl.constexpr, OTHERS: tl.constexpr):
    """How many tokens the pool of place `step` has, at least 1."""
    if OTHERS:
        size = count - tl.where(step < count, 1, 0)
    elif BACKWARDS:
        size = count - step
    else:
        size = tl.minimum(step + 1, count)
    return tl.maximum(size, 1).to(tl.float32)


@triton.jit(do_not_specialize=COUNTS)
def pool_lines(
    x,
    pooled,  # [B * H, P, D], for as many heads as x has
    x_batch,
    x_head,
    x_row,
    length,
    rows,
    columns,
    limit,  # places before it get a pool
    heads,
    DOWN: tl.constexpr,
    BACKWARDS: tl.constexpr,  # of a token and all after it
    OTHERS: tl.constexpr,  # of all tokens of the line but one
    MAX: tl.constexpr,
    LINES: tl.constexpr,
    DIM: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """One program some lines and a head; the pool is the maximum or the mean of each channel."""
    line, extent, head_line = own_lines(tl.program_id(0), rows, columns, LINES, DOWN)
    count = count_of(line, length, rows, columns, DOWN)
    asked = count_of(line, limit, rows, columns, DOWN)
    column = tl.arange(0, WIDTH)
    inside = (column < DIM)[None, :]
    begin = line_start(line, columns, DOWN)
    x += (head_line // heads).to(tl.int64) * x_batch + (head_line % heads).to(tl.int64) * x_head
    pooled += head_line.to(tl.int64) * rows * columns * DIM
    source = x + begin[:, None] * x_row + column[None, :]
    target = pooled + begin[:, None] * DIM + column[None, :]
    x_step = along(x_row, columns, DOWN)
    step_on = along(DIM, columns, DOWN)
    running = tl.full([LINES, WIDTH], float("-inf") if MAX else 0.0, tl.float32)
    if OTHERS:
        second = running
        place = tl.full([LINES, WIDTH], -1, tl.int32)
        for step in tl.range(0, extent, num_stages=AHEAD):
            own = (step < count)[:, None] & inside
            found = tl.load(source + step * x_step, mask=own, other=0.0).to(tl.float32)
            if MAX:
                found = tl.where(own, found, float("-inf"))
                second = tl.maximum(second, tl.minimum(running, found))
                place = tl.where(found > running, step, place)
                running = tl.maximum(running, found)
            else:
                running += found
        for step in tl.range(0, extent, num_stages=AHEAD):
            here = (step < asked)[:, None] & inside
            if MAX:
                result = tl.where(place == step, second, running)
            else:
                own = (step < count)[:, None] & inside
                found = tl.load(source + step * x_step, mask=own, other=0.0).to(tl.float32)
                result = (running - found) / members(step, count, False, True)[:, None]
            tl.store(target + step * step_on, result.to(pooled.dtype.element_ty), mask=here)
    else:
        for walked in tl.range(0, extent, num_stages=AHEAD):
            step = walked
            if BACKWARDS:
                step = extent - 1 - walked
            own = (step < count)[:, None] & inside
            found = tl.load(source + step * x_step, mask=own, other=0.0).to(tl.float32)
            if MAX:
                running = tl.maximum(running, tl.where(own, found, float("-inf")))
                result = running
            else:
                running += found
                result = running / members(step, count, BACKWARDS, False)[:, None]
            here = (step < asked)[:, None] & inside
            tl.store(target + step * step_on, result.to(pooled.dtype.element_ty), mask=here)


@triton.jit
def summed_gradient(grad, first, heads_apart, place, here, LOOP: tl.constexpr):
    """The gradient of the pools at one place, summed over the query heads of a group."""
    total = tl.load(grad + first + place, mask=here, other=0.0).to(tl.float32)
    for member in tl.static_range(1, LOOP):
        total += tl.load(grad + first + member * heads_apart + place, mask=here, other=0.0)
    return total


@triton.jit(do_not_specialize=COUNTS)
def unpool_lines(
    x,
    pooled,  # [B * H / LOOP, P, D], of x
    grad,  # [B * H, P, D]: of the pools
    dx,  # [B * H / LOOP, L, D]: added to
    x_batch,
    x_head,
    x_row,
    length,
    rows,
    columns,
    limit,  # places before it have a pool
    heads,
    DOWN: tl.constexpr,
    BACKWARDS: tl.constexpr,
    OTHERS: tl.constexpr,
    MAX: tl.constexpr,
    LOOP: tl.constexpr,  # query heads that share a head of x
    LINES: tl.constexpr,
    DIM: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """One program some lines and a head of x. Of equal maxima the first gets the gradient."""
    line, extent, head_line = own_lines(tl.program_id(0), rows, columns, LINES, DOWN)
    count = count_of(line, length, rows, columns, DOWN)
    asked = count_of(line, limit, rows, columns, DOWN)
    column = tl.arange(0, WIDTH)
    inside = (column < DIM)[None, :]
    begin = line_start(line, columns, DOWN)
    padded = tl.cast(rows, tl.int64) * columns * DIM
    x += (head_line // heads).to(tl.int64) * x_batch + (head_line % heads).to(tl.int64) * x_head
    x += begin[:, None] * x_row + column[None, :]
    dx += (head_line.to(tl.int64) * length + begin[:, None]) * DIM + column[None, :]
    place = begin[:, None] * DIM + column[None, :]
    pools = pooled + head_line.to(tl.int64) * padded + place
    first = head_line.to(tl.int64) * LOOP * padded
    x_step = along(x_row, columns, DOWN)
    step_on = along(DIM, columns, DOWN)
    carried = tl.zeros([LINES, WIDTH], tl.float32)
    if OTHERS:
        # Who has the largest number, and who the largest of the rest, is told by their places.
        largest = tl.full([LINES, WIDTH], float("-inf"), tl.float32)
        second = largest
        who = tl.full([LINES, WIDTH], -1, tl.int32)
        whose = who
        apart = carried  # the gradient of the pool without the largest number
        for step in tl.range(0, extent, num_stages=AHEAD):
            here = (step < asked)[:, None] & inside
            own = (step < count)[:, None] & inside
            change = summed_gradient(grad, first, padded, place + step * step_on, here, LOOP)
            if MAX:
                found = tl.load(x + step * x_step, mask=own, other=0.0).to(tl.float32)
                found = tl.where(own, found, float("-inf"))
                risen = found > largest
                # What was the largest comes before all that equal it.
                whose = tl.where(risen, who, tl.where(found > second, step, whose))
                second = tl.where(risen, largest, tl.maximum(second, found))
                who = tl.where(risen, step, who)
                apart = tl.where(risen, change, apart)
                largest = tl.maximum(largest, found)
                carried += change
            else:
                carried += change / members(step, count, False, True)[:, None]
        for step in tl.range(0, extent, num_stages=AHEAD):
            own = (step < count)[:, None] & inside
            if MAX:
                result = tl.where(who == step, carried - apart, 0.0)
                result += tl.where(whose == step, apart, 0.0)
            else:
                here = (step < asked)[:, None] & inside
                change = summed_gradient(grad, first, padded, place + step * step_on, here, LOOP)
                result = carried - change / members(step, count, False, True)[:, None]
            target = dx + step * step_on
            result += tl.load(target, mask=own, other=0.0).to(tl.float32)
            tl.store(target, result.to(dx.dtype.element_ty), mask=own)
    else:
        for walked in tl.range(0, extent, num_stages=AHEAD):
            step = extent - 1 - walked
            if BACKWARDS:
                step = walked
            here = (step < asked)[:, None] & inside
            own = (step < count)[:, None] & inside
            change = summed_gradient(grad, first, padded, place + step * step_on, here, LOOP)
            target = dx + step * step_on
            result = tl.load(target, mask=own, other=0.0).to(tl.float32)
            if MAX:
                carried += change
                found = tl.load(x + step * x_step, mask=own, other=0.0).to(tl.float32)
                record = own
                if BACKWARDS:
                    pool = tl.load(pools + step * step_on, mask=own, other=0.0).to(tl.float32)
                    record = record & (found == pool)
                else:
                    earlier = own & (step > 0)
                    pool = tl.load(
                        pools + (step - 1) * step_on, mask=earlier, other=float("-inf")
                    ).to(tl.float32)
                    record = record & (found > pool)
                result += tl.where(record, carried, 0.0)
                carried = tl.where(record, 0.0, carried)
            else:
                carried += change / members(step, count, BACKWARDS, False)[:, None]
                result += carried
            tl.store(target, result.to(dx.dtype.element_ty), mask=own)
