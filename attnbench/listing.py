"""What there is to ask for, and what was asked for but not yet run: as text and as JSON."""

import dataclasses
import inspect
import json
from typing import Any

import torch
from tabulate import tabulate

from attnbench.case import CostCase
from attnbench.matrix import groups_of, shape_of, too_long
from attnbench.predict import gib, predict
from attnbench.presets import PRESETS, Plan
from attnbench.sources import SOURCES
from patterns import PATTERNS
from patterns import pattern as one_pattern
from patterns.base import Implementation, Pattern
from patterns.errors import BadInput, Unsupported


def as_json() -> str:
    """Patterns, sources and presets, for programs."""
    document = {
        "patterns": [_pattern(cls) for cls in PATTERNS.values()],
        "sources": [
            {"name": name, "about": _first_line(cls), "parameters": _parameters(cls)}
            for name, cls in SOURCES.items()
        ],
        "presets": [{"name": name, "about": _first_line(fn)} for name, fn in PRESETS.items()],
    }
    return json.dumps(document, indent=2, ensure_ascii=False)


def as_text() -> str:
    """The same for people."""
    rows = [
        (
            found["name"],
            found["aim"],
            _written(found["parameters"]),
            " ".join(found["backends"]),
            f"{found['paper']['authors'].split(',')[0]} {found['paper']['year']}",
        )
        for found in map(_pattern, PATTERNS.values())
    ]
    patterns = tabulate(rows, ["pattern", "aim", "parameters", "backends", "paper"], "plain")
    sources = tabulate(
        [(name, _written(_parameters(cls)), _first_line(cls)) for name, cls in SOURCES.items()],
        ["source", "parameters", "what it is"],
        "plain",
    )
    presets = tabulate(
        [(name, _first_line(function)) for name, function in PRESETS.items()],
        ["preset", "what it measures"],
        "plain",
    )
    return f"{patterns}\n\n{sources}\n\n{presets}"


def dry_run(plan: Plan) -> str:
    """Every case of a plan with what it is predicted to need, and all together."""
    rows: list[tuple[str, ...]] = []
    total_s, count = 0.0, 0
    for group in groups_of(plan.parts):
        rows.append((group.id,))
        for case in group.cases:
            count += 1
            pattern = one_pattern(case.pattern)
            name = f"  {case.asked}@{case.backend}"
            layer = None if isinstance(case, CostCase) else case.layer
            name += "" if layer is None else f" layer {layer}"
            if reason := too_long(pattern, case.length):
                rows.append((name, f"unsupported: {reason}"))
                continue
            try:
                ran = _implementation(pattern, case)
            except (Unsupported, BadInput) as error:
                rows.append((name, f"unsupported: {error}"))
                continue
            needs = predict(case, pattern, ran)
            total_s += needs.measuring_s
            rows.append(
                (
                    name,
                    f"{needs.flops / 1e9:.3g} GFLOP",
                    f"{gib(needs.bytes)} moved",
                    f"{gib(needs.peak_bytes)} held",
                    f"about {needs.measuring_s:.2g} s",
                )
            )
    last = min(total_s, plan.budget_s)
    return (
        f"{tabulate(rows, tablefmt='plain')}\n"
        f"{count} cases, about {max(1, round(last / 60))} min (the budget is "
        f"{plan.budget_s / 60:.3g} min; alone they would take {total_s / 60:.2g} min)"
    )


def _implementation(pattern: Pattern, case: Any) -> Implementation:
    """What would run, found out on inputs of no content."""
    shape = shape_of(case)
    dtype = getattr(torch, case.dtype)
    q = torch.empty(shape.batch, shape.heads, 1, shape.dim, dtype=dtype, device=case.device)
    q = q.expand(-1, -1, shape.length, -1)
    return pattern.implementation(q, q[:, : shape.kv_heads], q[:, : shape.kv_heads], case.backend)


def _pattern(cls: type[Pattern]) -> dict[str, Any]:
    return {
        "name": cls.name,
        "aim": cls.aim,
        "about": _first_line(cls),
        "parameters": _parameters(cls),
        "backends": list(cls.backends),
        "quadratic": cls.quadratic,
        "paper": dataclasses.asdict(cls.paper),
    }


def _parameters(cls: Any) -> dict[str, Any]:
    return {
        field.name: field.default
        for field in dataclasses.fields(cls)
        if field.default is not dataclasses.MISSING
    }


def _written(parameters: dict[str, Any]) -> str:
    return ",".join(
        f"{name}={'auto' if value is None else value}"
        for name, value in parameters.items()
        if name != "causal"
    )


def _first_line(thing: Any) -> str:
    return (inspect.getdoc(thing) or "").partition("\n")[0]
