"""The correctness check: what will be timed is compared with the definition, at the timed shape.

All heads, at least 64 rows, against `weights @ v` in float64. A fast form may be twice as far from
it as the definition itself in the dtype of the run, plus 8 roundings of the largest value; and,
because the largest values are those of rows with few keys, the error of every row, and of a whole
gradient, is held to its own size in the same way. For a
backward pass the output's gradient is zero off those rows (16 of them beyond 4096 tokens), so that
autograd through the same rows gives the exact gradients of q, k and v, at every position.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor

from patterns.base import Pattern, expand_groups

ROWS = 64
_ROW_ROUNDINGS = 32.0  # of a row's own size
_NO_SIZE = 1e-2  # a gradient this small beside the others is zero but for cancellation
_FEW_ROWS = 16  # that the definition runs on in the dtype of the run, or with gradients, if long
_LONG = 4096
_EDGES = 40  # of the rows, at most, stand at the edges of blocks
_PLAIN_FACTOR = 2.0
_ROUNDINGS = {torch.float64: 64.0}  # elsewhere 8
_WEIGHT_BYTES = 1 << 28  # of the definition's rows at once
_GRAPH_ELEMENTS = 1 << 26  # batch x heads x length x width x rows that one autograd graph may hold
_NAMES = ("output", "dq", "dk", "dv")

Inputs = tuple[Tensor, Tensor, Tensor]


class Wrong(NamedTuple):
    """What is wrong: the guard that found it, and a sentence."""

    guard: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a check found: `wrong` is None where all is well; `seen` goes into the record."""

    wrong: Wrong | None
    seen: dict[str, Any]

    @property
    def reason(self) -> str | None:
        """What is wrong, as a sentence."""
        return None if self.wrong is None else self.wrong.reason


@dataclass(frozen=True, kw_only=True)
class _Expected:
    """What a tensor should be, and how far the definition in the dtype of the run is from that."""

    value: Tensor
    plain_error: float
    largest: float
    sizes: Tensor  # the norm of every row of the output, or the one norm of a gradient
    plain_share: float  # the error of the definition over that, the worst of them


class Checker:
    """Checks cases and remembers references, which passes and backends of a pattern share."""

    def __init__(self) -> None:
        """Remember nothing yet."""
        self._outputs: dict[tuple[Any, ...], _Expected] = {}  # small: the checked rows alone
        self._gradients: dict[tuple[Any, ...], list[_Expected]] = {}  # large: of one pattern

    def check(
        self,
        pattern: Pattern,
        backend: str,
        inputs: Inputs,
        *,
        scale: float | None,
        seed: int,
        gradients: bool,
    ) -> Verdict:
        """Compare `attend` with the definition.

        Args:
            pattern: resolved.
            backend: of `attend`.
            inputs: q, k, v as they will be timed.
            scale: factor on the scores.
            seed: of the inputs; they and it identify each other here.
            gradients: whether to compare gradients too; dO is drawn from seed + 1.

        Raises:
            Unsupported: the backend cannot run these inputs.
        """
        q, k, v = (x.detach() for x in inputs)
        rows = check_rows(pattern, q.shape[2]).to(q.device)
        before = [x.clone() for x in (q, k, v)]
        leaves = [x.requires_grad_(gradients) for x in (q.detach(), k.detach(), v.detach())]
        _poison(q, v)
        with torch.set_grad_enabled(gradients):
            out = pattern.attend(*leaves, scale=scale, backend=backend)
        seen: dict[str, Any] = {"rows": len(rows)}
        found = out.detach()
        # Before anything is computed from inputs that the call may have spoilt.
        wrong = restored((q, k, v), before)
        wrong = wrong or _why_malformed("output", found, (*q.shape[:3], v.shape[3]), q)
        key = (pattern.spec, q.shape, k.shape, q.dtype, q.device, scale, seed)
        if wrong is None:
            if key not in self._outputs:
                self._outputs[key] = _expected_output(pattern, (q, k, v), rows, scale)
            wrong = _compare("output", found[:, :, rows], self._outputs[key], q.dtype, seen)
        if wrong is None and pattern.causal:
            wrong = _sees_the_future(pattern, backend, (q, k, v), found, rows, scale, seen)
        if wrong is None and gradients:
            rows = rows if q.shape[2] <= _LONG else _few(rows)
            d_rows = _d_out(found[:, :, rows], seed)
            d_out = torch.zeros_like(found).index_copy_(2, rows, d_rows)
            grads = torch.autograd.grad(out, leaves, d_out)
            del out
            wrong = self._check_gradients(pattern, grads, (q, k, v), rows, d_rows, key, seen)
            if wrong is None:
                again = torch.autograd.grad(
                    pattern.attend(*leaves, scale=scale, backend=backend), leaves, d_out
                )
                wrong = _accumulated(leaves, grads, again, seen)
        wrong = restored((q, k, v), before) or wrong
        return Verdict(wrong=wrong, seen={"ok": wrong is None, **seen})

    def _check_gradients(
        self,
        pattern: Pattern,
        grads: Sequence[Tensor],
        inputs: Inputs,
        rows: Tensor,
        d_rows: Tensor,
        key: tuple[Any, ...],
        seen: dict[str, Any],
    ) -> Wrong | None:
        for name, grad, x in zip(_NAMES[1:], grads, inputs, strict=True):
            if wrong := _why_malformed(name, grad, x.shape, x):
                return wrong
        if key not in self._gradients:
            scale = key[-2]
            self._gradients = {key: _expected_gradients(pattern, inputs, rows, d_rows, scale)}
        for name, grad, expected in zip(_NAMES[1:], grads, self._gradients[key], strict=True):
            if wrong := _compare(name, grad, expected, inputs[0].dtype, seen):
                return wrong
        return None


def restored(inputs: Sequence[Tensor], before: Sequence[Tensor]) -> Wrong | None:
    """Put back what a call wrote to its inputs, and say so."""
    names = []
    for name, x, was in zip("qkv", inputs, before, strict=True):
        if not torch.equal(x, was):
            x.detach().copy_(was)
            names.append(name)
    return Wrong("inputs", f"the call changed its input {', '.join(names)}") if names else None


@torch.no_grad()
def _sees_the_future(
    pattern: Pattern,
    backend: str,
    inputs: Inputs,
    out: Tensor,
    rows: Tensor,
    scale: float | None,
    seen: dict[str, Any],
) -> Wrong | None:
    """Compare the checked rows up to the middle with those of a call with another future."""
    cut = out.shape[2] // 2
    past = torch.unique(torch.cat([rows[rows <= cut], rows.new_tensor([cut])]))
    changed = (torch.cat([x[:, :, : cut + 1], -x[:, :, cut + 1 :].flip(2)], 2) for x in inputs)
    again = pattern.attend(*changed, scale=scale, backend=backend)
    error = float((again[:, :, past].double() - out[:, :, past].double()).abs().max())
    bound = _PLAIN_FACTOR * seen["output"]["bound"]
    seen["future"] = {"error": error, "bound": bound}
    if error <= bound:
        return None
    return Wrong(
        "causality",
        f"another future changes the output up to token {cut} by {error:.2g}; "
        f"{bound:.2g} is allowed",
    )


def _accumulated(
    leaves: Sequence[Tensor], grads: Sequence[Tensor], again: Sequence[Tensor], seen: dict[str, Any]
) -> Wrong | None:
    """A second backward pass returns the same gradients, and leaves none behind."""
    if names := [name for name, x in zip("qkv", leaves, strict=True) if x.grad is not None]:
        return Wrong(
            "accumulation", f"the backward pass left gradients in .grad of {', '.join(names)}"
        )
    for name, one, other in zip(_NAMES[1:], grads, again, strict=True):
        error, bound = float((one - other).abs().max()), _PLAIN_FACTOR * seen[name]["bound"]
        if not error <= bound:
            return Wrong(
                "accumulation",
                f"a second backward pass gives a {name} that differs by {error:.2g}; "
                f"{bound:.2g} is allowed",
            )
    return None


def _few(rows: Tensor) -> Tensor:
    """Some of the rows, evenly spread, the first and the last among them."""
    if len(rows) <= _FEW_ROWS:
        return rows
    chosen = torch.linspace(0, len(rows) - 1, _FEW_ROWS, dtype=torch.float64).round().long()
    return rows[chosen.to(rows.device)]


def check_rows(pattern: Pattern, length: int, count: int = ROWS) -> Tensor:
    """Which query rows are checked: the first, the last, edges of blocks, and random others.

    Returns:
        Ascending int64 on the CPU: `count` of them, or all where there are fewer.
    """
    if length <= count:
        return torch.arange(length)
    resolved: Any = pattern.resolve(length)
    sizes = {getattr(resolved, field.name) for field in dataclasses.fields(resolved)}
    sizes = {size for size in sizes if type(size) is int and 1 < size < length}
    chosen = [0, length - 1, 1, length - 2, length // 2]
    for size in sorted(sizes):
        last = (length - 1) // size * size  # where the last block begins
        chosen += [size - 1, size, size + 1, last - 1, last, 2 * size]
    chosen = list(dict.fromkeys(row for row in chosen if 0 <= row < length))[:_EDGES]
    others = torch.randperm(length, generator=Generator().manual_seed(0)).tolist()
    return torch.tensor(sorted(list(dict.fromkeys([*chosen, *others]))[:count]))


def _poison(q: Tensor, v: Tensor) -> None:
    """Leave NaN where the output will probably lie, so that a row never written shows itself."""
    torch.full((*q.shape[:3], v.shape[3]), torch.nan, dtype=q.dtype, device=q.device)


def _why_malformed(name: str, x: Tensor, shape: Sequence[int], like: Tensor) -> Wrong | None:
    for what, got, wanted in (
        ("shape", list(x.shape), list(shape)),
        ("dtype", x.dtype, like.dtype),
        ("device", x.device, like.device),
    ):
        if got != wanted:
            return Wrong(what, f"the {name} has {what} {got}, expected {wanted}")
    if not bool(torch.isfinite(x).all()):
        bad = int((~torch.isfinite(x)).sum())
        return Wrong("finite", f"the {name} holds NaN or Inf in {bad} of {x.numel()} places")
    return None


def _compare(
    name: str, found: Tensor, expected: _Expected, dtype: torch.dtype, seen: dict[str, Any]
) -> Wrong | None:
    error = float((found.double() - expected.value).abs().max())
    roundings = _ROUNDINGS.get(dtype, 8.0) * torch.finfo(dtype).eps
    bound = _PLAIN_FACTOR * expected.plain_error + roundings * expected.largest
    seen[name] = {"error": error, "bound": bound}
    if not error <= bound:
        return Wrong(
            "definition",
            f"the {name} is {error:.2g} from the definition at the worst place; "
            f"{bound:.2g} is allowed",
        )
    share = _share(found.double() - expected.value, expected.sizes)
    many = _ROW_ROUNDINGS if len(expected.sizes) > 1 else _ROUNDINGS.get(dtype, 8.0)
    allowed = _PLAIN_FACTOR * expected.plain_share + many * torch.finfo(dtype).eps
    seen[name] |= {"share": share, "share_bound": allowed}
    if share <= allowed:
        return None
    return Wrong(
        "definition", f"the {name} is off by {share:.2g} of its own size; {allowed:.2g} is allowed"
    )


def _sizes(x: Tensor, count: int) -> Tensor:
    """The norm of each row of [B, H, R, D], or of all of it where `count` is 1."""
    rows = x.transpose(0, 2).flatten(1) if count > 1 else x.flatten()[None]
    norms: Tensor = torch.linalg.vector_norm(rows, dim=-1)
    return norms


def _share(error: Tensor, sizes: Tensor) -> float:
    """The error over the size, the worst of the rows; 0 over 0 is no error."""
    errors = _sizes(error, len(sizes))
    return float(torch.where(errors == 0, errors, errors / sizes).max())


def _d_out(out_rows: Tensor, seed: int) -> Tensor:
    generator = Generator().manual_seed(seed + 1)
    drawn = torch.randn(out_rows.shape, generator=generator)
    return drawn.to(out_rows.device, out_rows.dtype)


@torch.no_grad()
def _expected_output(
    pattern: Pattern, inputs: Inputs, rows: Tensor, scale: float | None
) -> _Expected:
    batch, length, heads = inputs[0].shape[0], inputs[0].shape[2], inputs[0].shape[1]
    step = max(1, _WEIGHT_BYTES // (8 * batch * heads * length))
    doubled = _doubled(inputs)
    parts = torch.split(rows, step)
    precise = torch.cat([_output(pattern, doubled, some, scale) for some in parts], dim=2)
    some = rows if length <= _LONG else _few(rows)
    plain = _output(pattern, inputs, some, scale)
    chosen = torch.isin(rows, some)
    sizes = _sizes(precise, len(rows))
    return _expected(precise, plain, precise[:, :, chosen], sizes, sizes[chosen])


def _expected_gradients(
    pattern: Pattern, inputs: Inputs, rows: Tensor, d_rows: Tensor, scale: float | None
) -> list[_Expected]:
    precise = _gradients(pattern, _doubled(inputs), rows, d_rows.double(), scale)
    plain = _gradients(pattern, inputs, rows, d_rows, scale)
    # A gradient that is zero by cancellation is as far off as its terms: as the largest of three.
    sizes = torch.stack([x.norm() for x in precise])
    sizes = torch.where(sizes > _NO_SIZE * sizes.max(), sizes, sizes.max())
    found = [
        _expected(value, coarse, value, size[None], size[None])
        for value, coarse, size in zip(precise, plain, sizes, strict=True)
    ]
    largest = max(one.largest for one in found)
    return [dataclasses.replace(one, largest=largest) for one in found]


def _gradients(
    pattern: Pattern, inputs: Inputs, rows: Tensor, d_rows: Tensor, scale: float | None
) -> list[Tensor]:
    """Autograd through the definition, a few rows at a time, summed without further rounding."""
    leaves = [x.detach().requires_grad_() for x in inputs]
    wide = torch.promote_types(inputs[0].dtype, torch.float32)
    totals = [torch.zeros_like(x, dtype=wide) for x in inputs]
    for some, d_some in _slices(inputs[0], rows, d_rows):
        with torch.enable_grad():
            out = _output(pattern, (leaves[0], leaves[1], leaves[2]), some, scale)
        found = torch.autograd.grad(out, leaves, d_some, allow_unused=True)
        for total, grad in zip(totals, found, strict=True):
            if grad is not None:
                total.add_(grad)
    return totals


def _slices(q: Tensor, rows: Tensor, d_rows: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    step = max(1, _GRAPH_ELEMENTS // q.numel())
    return zip(torch.split(rows, step), torch.split(d_rows, step, dim=2), strict=True)


def _output(pattern: Pattern, inputs: Inputs, rows: Tensor, scale: float | None) -> Tensor:
    q, k, v = inputs
    return pattern.weights(q, k, rows=rows, scale=scale) @ expand_groups(v, q.shape[1])


def _doubled(inputs: Inputs) -> Inputs:
    q, k, v = inputs
    return q.double(), k.double(), v.double()


def _expected(
    precise: Tensor, plain: Tensor, same: Tensor, sizes: Tensor, same_sizes: Tensor
) -> _Expected:
    """`same` are the places of `precise` that `plain` has, `same_sizes` their sizes."""
    plain_error = float((plain.double() - same).abs().max())
    finite = plain_error < float("inf")  # a definition that overflows excuses nothing
    return _Expected(
        value=precise,
        plain_error=plain_error if finite else 0.0,
        largest=float(precise.abs().max()),
        sizes=sizes,
        plain_share=_share(plain.double() - same, same_sizes) if finite else 0.0,
    )
