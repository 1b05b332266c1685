"""Nested facts as a flat list of names and texts."""

from typing import Any

from reports.text import DASH, bytes_text


def flat(facts: dict[str, Any], before: str = "") -> list[tuple[str, str]]:
    """Nested facts as (name, text) pairs; long lists are cut."""
    found: list[tuple[str, str]] = []
    for key, value in facts.items():
        name = f"{before}{key}".replace("_", " ")
        if isinstance(value, dict):
            found += flat(value, f"{before}{key}: ")
        elif value is None:
            found.append((name, DASH))
        elif isinstance(value, list) and value and all(isinstance(one, dict) for one in value):
            for number, one in enumerate(value, start=1):
                tail = f" {number}" if len(value) > 1 else ""
                found += flat(one, f"{before}{key}{tail}: ")
        elif isinstance(value, list):
            shown = ", ".join(map(str, value[:12]))
            found.append((name, shown + (f" … ({len(value)})" if len(value) > 12 else "")))
        elif str(key).endswith("bytes") and isinstance(value, int | float):
            found.append((name.removesuffix(" bytes"), bytes_text(float(value))))
        elif isinstance(value, float):
            found.append((name, f"{value:.4g}"))
        else:
            found.append((name, str(value)))
    return found
