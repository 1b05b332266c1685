"""Evaluate schedules in a language model: losses against full attention, retrieval, time, memory.

docs/evaluate.md says what is measured and how; docs/records.md has the record.
"""

import hashlib
import math
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from attnbench.case import as_dict, case_key
from attnbench.engine import Result
from attnbench.evaluation import Asked, Evaluation, cases, expect_sense
from attnbench.excerpts import COPIED, FILLER, MOST_COPIES, copies, excerpts, python_help
from attnbench.language import Reader
from attnbench.layer_check import LayerChecks
from attnbench.machine import facts, machine_id
from attnbench.models import MODELS, load_model
from attnbench.opening import opened
from attnbench.outcome import Ended, Origin, confirm_device, ending
from attnbench.progress import Progress
from attnbench.records import (
    RUN,
    Journal,
    journal,
    write_document,
)
from attnbench.remaining import OVER_BUDGET
from attnbench.schedule_numbers import Texts, schedule_numbers
from attnbench.stop import Stop
from attnbench.text_file import read_text
from attnbench.version import version
from patterns.errors import BadInput


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A model taken apart, and the tokens of the text that it is to read."""

    reader: Reader
    tokens: Sequence[int]
    prefix: Sequence[int] = ()  # special tokens before every excerpt
    weights: str | None = None  # how they are stored, where that matters

    @property
    def digest(self) -> str:
        """12 hexadecimal digits of the tokens."""
        text = ",".join(map(str, [*self.prefix, -1, *self.tokens]))
        return hashlib.sha256(text.encode()).hexdigest()[:12]


class Wanted(Protocol):
    """What has a model to load."""

    @property
    def model(self) -> str: ...
    @property
    def dtype(self) -> str: ...
    @property
    def device(self) -> str: ...


def load(asked: Wanted, text: Path | None) -> Loaded:
    """Load the model that was asked for, and make tokens of a text file.

    Args:
        asked: names the model, its dtype and its device.
        text: the file; None reads the topics of Python's own help.

    Raises:
        BadInput: no such model or file, or no language model.
        Unsupported: a package is missing, or the model keeps its attention to itself.
    """
    words = python_help() if text is None else read_text(text)
    model, tokenizer = load_model(asked.model, language=True)
    ids = tokenizer(words, add_special_tokens=False, verbose=False)["input_ids"]
    bare, special = (tokenizer("a", add_special_tokens=add)["input_ids"] for add in (False, True))
    packaged = MODELS.get(asked.model)
    return Loaded(
        reader=Reader(model.to(asked.device, getattr(torch, asked.dtype))),
        tokens=ids,
        prefix=special[: special.index(bare[0])] if bare and bare[0] in special else (),
        weights=packaged.weights if packaged else None,
    )


def evaluate(
    asked: Evaluation,
    loaded: Loaded,
    folder: Path,
    *,
    command: Sequence[str] = (),
    retry: Iterable[str] = (),
    extend: bool = False,
    until: float = math.inf,
) -> Result:
    """Evaluate what is asked for and the folder lacks, a record a schedule and length.

    Args:
        asked: what to evaluate.
        loaded: the model and its text.
        folder: the run folder, made where there is none; a run of cases may be in it.
        command: how this was asked for, to be kept.
        retry: statuses whose cases are done again.
        extend: whether the folder may hold other evaluations too.
        until: of `time.monotonic`: what is not begun by then is recorded as skipped.

    Raises:
        BadInput: a schedule does not fit the model, the text is too short, or the folder holds
            another evaluation, version or machine.
        DeviceLost: a case broke the GPU's context; what was measured before it is kept.
    """
    expect_sense(asked)
    groups = list(cases(asked, loaded.reader.sizes, loaded.digest))
    read = {group[0].case.length: _texts(group[0], loaded) for group in reversed(groups)}
    found = facts(torch.device(asked.device))
    origin = Origin(version=version(), machine=machine_id(found))
    again = set(retry)
    with journal(folder) as book:
        _open(book, asked, loaded, origin, found, command=command, extend=extend)
        todo = [[one for one in group if _is_missing(one, book, again)] for group in groups]
        progress = Progress(sum(map(len, todo)))
        for line in (*book.said, *([] if any(todo) else ["nothing left to do"])):
            progress.say(line)
        checks = LayerChecks(
            loaded.reader.sizes, dtype=asked.dtype, device=asked.device, seed=asked.seed
        )
        with Stop(progress.say) as stop:
            try:
                for missing, group in zip(todo, groups, strict=True):
                    texts = read[group[0].case.length]
                    for record in _group(
                        missing, texts, loaded.reader, checks, origin, stop, until
                    ):
                        book.append(record)
                        progress.record(record)
            finally:
                progress.close()
        keys = [case_key(one.case) for group in groups for one in group]
        statuses = Counter(book.records[key]["status"] for key in keys if key in book.records)
        stopped = stop.asked and any(key not in book.records for key in keys)
        return Result(run=folder, statuses=dict(statuses), stopped=stopped)


def _open(
    book: Journal,
    asked: Evaluation,
    loaded: Loaded,
    origin: Origin,
    found: Mapping[str, Any],
    *,
    command: Sequence[str],
    extend: bool,
) -> None:
    """Refuse a folder of something else; else write down what is evaluated in it."""
    folder, wanted = book.run, asked.document() | {"text": loaded.digest, "weights": loaded.weights}
    known = opened(book, origin, found, command=command)
    before = known.get("evaluations", [])
    if before and wanted not in before and not extend:
        raise BadInput(
            f"{folder} holds another evaluation: --extend adds this one to it, "
            "or choose another --out"
        )
    more = [] if wanted in before else [wanted]
    write_document(folder, RUN, known | {"evaluations": [*before, *more]})


def _is_missing(one: Asked, book: Journal, retry: set[str]) -> bool:
    found = book.records.get(case_key(one.case))
    return found is None or found["status"] in retry


def _texts(first: Asked, loaded: Loaded) -> Texts:
    case = first.case
    try:
        twice = copies(
            loaded.tokens, min(case.excerpts, MOST_COPIES), case.seed, prefix=loaded.prefix
        )
        why = None
    except BadInput as error:
        twice, why = [], str(error)
    positions = loaded.reader.sizes.positions
    if twice and positions is not None and len(twice[0]) > positions:
        twice, why = [], f"the model has {positions} positions, the copies need {len(twice[0])}"
    return Texts(
        excerpts=excerpts(
            loaded.tokens, case.length, case.excerpts, case.seed, prefix=loaded.prefix
        ),
        copies=twice,
        why_no_copies=why,
    )


def _group(
    missing: Sequence[Asked],
    texts: Texts,
    reader: Reader,
    checks: LayerChecks,
    origin: Origin,
    stop: Stop,
    until: float,
) -> Iterator[dict[str, Any]]:
    """The records of one length; what full attention makes of the excerpts is kept for all."""
    for one in missing:
        if stop.asked:
            return
        ended, found, prefill, memory = None, None, None, None
        try:
            if time.monotonic() >= until:
                raise Ended("skipped", OVER_BUDGET)
            if not texts.full:  # all or nothing, so that a failure half-way is tried again
                hidden = [reader.read(tokens)[0] for tokens in texts.excerpts]
                pairs = zip(hidden, texts.excerpts, strict=True)
                texts.full_losses = [reader.losses(one, tokens) for one, tokens in pairs]
                texts.full = hidden
            found, prefill, memory = schedule_numbers(one, texts, reader, checks)
        except Exception as error:  # whatever a pattern does, the others go on
            ended = ending(error)
            confirm_device(reader.device)
        yield _record(one, origin, ended=ended, found=found, prefill=prefill, memory=memory)


def _record(
    one: Asked,
    origin: Origin,
    *,
    ended: Ended | None,
    found: Mapping[str, Any] | None,
    prefill: Mapping[str, Any] | None,
    memory: Mapping[str, Any] | None,
) -> dict[str, Any]:
    return {
        "kind": one.case.kind,
        "case_key": case_key(one.case),
        "group": one.case.group,
        "role": one.role,
        "case": as_dict(one.case),
        "status": "ok" if ended is None else ended.status,
        "reason": None if ended is None else ended.reason,
        "implementation": None,
        "time": prefill,
        "memory": memory,
        "fidelity": None,
        "evaluation": found,
        "cost": asdict(one.cost),
        "guards": {"copies": {"copied": COPIED, "filler": FILLER}},
        "version": origin.version,
        "machine": origin.machine,
    }
