"""The cases that a guard marked: they keep their numbers, and every line that has one says so."""

import pandas as pd

MARK = "†"
_BEGIN = "guards.fired."


def fired(records: pd.DataFrame) -> list[str]:
    """Per record what fired, as ``guard: sentence`` joined by semicolons; empty where nothing did.

    Cases without a result are left out: their reason says what happened.
    """
    names = [column for column in records.columns if str(column).startswith(_BEGIN)]
    if not names:
        return [""] * len(records)
    found = []
    for _, row in records.iterrows():
        said = {name.removeprefix(_BEGIN): row[name] for name in names}
        kept = {name: text for name, text in said.items() if isinstance(text, str) and text}
        ok = row["status"] == "ok"
        found.append("; ".join(f"{name}: {text}" for name, text in kept.items()) if ok else "")
    return found


def marked_lines(frame: pd.DataFrame) -> list[str]:
    """The names of the lines, with a mark behind those of which a guard fired for some case."""
    keys = list(zip(frame["asked"], frame["backend"], strict=True))
    doubtful = {key for key, said in zip(keys, frame["fired"], strict=True) if said}
    return [
        f"{line} {MARK}" if key in doubtful else line
        for key, line in zip(keys, frame["line"], strict=True)
    ]
