"""Failures, environment, method and command: what a reader needs to trust or repeat the run."""

from reports.chart import Chart, Table
from reports.frame.marks import MARK
from reports.html import bullets, definitions, escape, paragraph
from reports.run import Run
from reports.sections import Section, command
from reports.sections.facts import flat
from reports.tables import failures as failures_table
from reports.tables import marked as marked_table
from reports.text import joined

_MEANING = {
    "unsupported": "the implementation cannot run it and says why",
    "oom": "it did not fit in memory",
    "timeout": "it took too long",
    "wrong": "it failed its correctness check, so it has no time",
    "crashed": "it ended with an error",
    "skipped": "it was predicted not to fit, or the budget was spent",
}


def sections(run: Run) -> list[Section]:
    """The closing sections."""
    return [_failures(run), _environment(run), _method(run), command.section(run)]


def _failures(run: Run) -> Section:
    failed, doubtful = run.failures, _doubtful(run)
    total = len(run.cost) + len(run.windows) + len(run.fidelity)
    if len(failed) == 0:
        said = f"All {total} cases ended well." if total else "This run holds no cases at all."
        blocks: list[str | Chart | Table] = [paragraph(said, "empty"), *doubtful]
        return Section(key="failures", title="Failures", blocks=tuple(blocks))
    counts = failed.status.value_counts().sort_index()
    lines = [
        f"{n} {status}: {_MEANING.get(status, 'see the reasons')}"
        for status, n in zip(map(str, counts.index), counts, strict=True)
    ]
    blocks = [
        paragraph(
            f"{len(failed)} of {total} cases have no result. None of them is left out silently."
        ),
        bullets(lines),
        failures_table(failed),
        *doubtful,
    ]
    return Section(key="failures", title="Failures", blocks=tuple(blocks))


def _doubtful(run: Run) -> list[str | Chart | Table]:
    if len(found := run.marked) == 0:
        return []
    said = f"Numbers to doubt: {len(found)}, by the guards. {MARK} stands behind their patterns."
    return [paragraph(said), marked_table(found)]


def _environment(run: Run) -> Section:
    blocks: list[str | Chart | Table] = []
    for key, facts in sorted(run.machines.items()):
        blocks.append(f"<h3>{escape(key)}</h3>")
        blocks.append(definitions(flat(facts)))
    code = joined(run.versions) if run.versions else "not recorded"
    blocks.append(definitions([("code", code)]))
    if not run.machines:
        blocks.insert(0, paragraph("This run does not say what it was measured on.", "empty"))
    return Section(key="environment", title="Environment", blocks=tuple(blocks))


def _method(run: Run) -> Section:
    timed = run.cost[run.cost.status.eq("ok")]
    said = []
    if len(timed):
        where = "wall time of one call on the CPU"
        if timed.device.eq("cuda").any():
            where = "device time of one call with a flushed L2 cache"
        stops = timed.stopped[timed.stopped.ne("")].value_counts().sort_index()
        ends = joined(f"{n} at the {why}" for why, n in stops.items())
        rounds = int(timed.rounds.median()) if timed.rounds.notna().any() else 0
        said += [
            f"Times are medians of {where}; bands reach from the 20th to the 80th percentile and "
            f"intervals are 95 % bootstrap intervals over rounds.",
            f"The contenders of a group were checked first and then timed in turns, round by "
            f"round, in random order: {rounds} rounds in the median case. "
            f"Cases stopped: {ends or 'unknown'}.",
            "Speed-ups are over the fastest dense SDPA kernel of the same group, paired round by "
            "round; a case that failed its check has no time.",
            "Memory was measured in a pass of its own, as the peak above the inputs.",
        ]
    if len(run.fidelity):
        said += [
            "Output errors compare a pattern with full softmax attention in high precision; the "
            "error of the implementation and that of the dtype are measured apart and are listed "
            "in the table of distances.",
            "An error at a layer is not the quality of a model: the two are only loosely related.",
        ]
    if not said:
        said = ["This run holds nothing that was measured."]
    return Section(key="method", title="How it was measured", blocks=(bullets(said),))
