"""The command line: what it refuses, what it prints, and what it leaves behind."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import run_bench
from attnbench.arguments import parser
from attnbench.records import journal, read
from attnbench.requests import DEFAULT_ENGINE, engine_options, matrix_options
from attnbench.typed import lengths, retried
from patterns import PATTERNS, BadInput

ROOT = Path(__file__).parents[1]
TINY = ("--pattern", "uniform", "--heads", "1", "--dim", "8", "--no-baselines", "--device", "cpu")
INLINE = ("--engine", "inline")  # most tests need no other process


def options(*typed: str) -> dict:
    commands = dict.fromkeys(run_bench._COMMANDS, main_is)
    return matrix_options(parser(commands).parse_args(["run", *typed]))


def main_is(_: object) -> int:
    return 0


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("1k..8k", (1024, 2048, 4096, 8192)),
        ("1024,3000", (1024, 3000)),
        ("1k..3k", (1024, 2048)),
        ("64,16,64", (16, 64)),
        ("256..512,700", (256, 512, 700)),
    ],
)
def test_lengths_double_and_list(text: str, found: tuple[int, ...]):
    assert lengths(text) == found


@pytest.mark.parametrize("text", ["", "x", "1k..", "2k..1k", "0", "1.5k", "-1", "1k...2k"])
def test_lengths_that_make_no_sense_are_refused(text: str):
    with pytest.raises(BadInput, match="--length"):
        lengths(text)


def test_options_are_only_what_was_asked_for():
    assert options() == {}
    assert options("--heads", "32/8", "--pass", "fwd,bwd", "--bidirectional", "--seed", "3") == {
        "heads": 32,
        "kv_heads": 8,
        "passes": ("fwd", "bwd"),
        "causal": False,
        "seed": 3,
    }
    assert options("--pattern", "local", "--pattern", "full", "--backend", "eager, sdpa") == {
        "patterns": ("local", "full"),
        "backends": ("eager", "sdpa"),
    }


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (("run", "--pattern", "ful"), "did you mean 'full'"),
        (("run", "--pattern", "local[widow=4]"), "did you mean 'window'"),
        (("run", "--pattern", "local[window=4k]", "--length", "1k"), "longer than the length"),
        (("run", "--length", "1x"), "--length: expected a whole number"),
        (("run", "--pass", "fwdbw"), "did you mean 'fwdbwd'"),
        (("run", "--heads", "4/3"), "--heads expects"),
        (("run", "--batch", "0"), "--batch must be at least 1"),
        (("run", "--preset", "quik"), "did you mean 'quick'"),
        (("run", "--source", "gausian"), "did you mean 'gaussian'"),
        (("run", "--source", "captured:/no/such.file"), "No such file"),
        (("run", "--source", "captured", "--length", "16k"), "up to 8192 tokens"),
        (("run", "--retry", "wrng"), "did you mean 'wrong'"),
        (("run", "--retry", "oom,timout"), "did you mean 'timeout'"),
        (("run", "--gpus", "all"), "--gpus needs --device cuda"),
        (("run", "--workers", "0"), "--workers expects a number from 1 to"),
        (("run", "--workers", "two"), "--workers expects a number from 1 to"),
        (("run", "--engine", "inline", "--workers", "1"), "needs worker processes"),
        (("run", "--engine", "dask"), "needs --scheduler tcp://host:port"),
        (("run", "--engine", "local", "--scheduler", "tcp://h:1"), "is for --engine dask"),
        (("run", "--scheduler", "tcp://h:1", "--gpus", "2"), "in a cluster each worker has a GPU"),
        (("run", "--scheduler", "tcp://h:1", "--workers", "0"), "--workers must be at least 1"),
        (("run", "--timeout", "0"), "--timeout must be more than 0"),
        (("run", "--plugin", "no-such.py", "--engine", "inline"), "expects a Python file"),
        (("run", "--budget", "0"), "--budget must be more than 0"),
        (("run", "--backend", "egaer"), "did you mean 'eager'"),
        # What a shell makes of a variable that is not set.
        (("run", "--pass", ""), "unknown pass ''"),
        (("run", "--backend", ""), "unknown backend ''"),
        (("run", "--heads", ""), "--heads expects"),
        (("run", "--batch", ""), "--batch: expected a whole number"),
        (("run", "--dim", ""), "--dim: expected a whole number"),
        (("run", "--seed", ""), "--seed: expected a whole number"),
        (("run", "--length", "99999999999999999999"), "--length must be at most"),
        (("frontier", "--heads", ""), "--heads expects"),
        (("frontier", "--memory", ""), "--memory expects a size"),
        (("frontier", "--backend", "egaer", "--pattern", "full"), "did you mean 'eager'"),
        (("advise", "no-such-run", "--length", "0"), "--length must be at least 1"),
        (("inspect", "local", "--layer", "99"), "no layer '99'"),
        (("profile", "loca"), "did you mean 'local'"),
        (("profile", "local", "--repeat", "0"), "--repeat must be at least 1"),
        (("retune", "--budget", "0"), "--budget must be more than 0"),
        (("retune", "--pattern", "combiner-fxed"), "did you mean 'combiner-fixed'"),
        (("report", "no-such-run"), "no-such-run"),
        (("export", "no-such-run", "--out", "x"), "no-such-run"),
        (("export", "no-such-run", "--out", "x", "--figures", "pgn"), "did you mean 'png'"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    typed: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
):
    assert run_bench.main([*typed, *(("--device", "cpu") if typed[0] == "run" else ())]) == 2
    out, err = capsys.readouterr()
    assert said in err
    assert err.count("\n") == 1
    assert out == ""


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU to ask")
@pytest.mark.parametrize("typed", [("profile", "local"), ("retune",)])
def test_what_needs_a_gpu_says_so_in_one_line(
    typed: tuple[str, ...], capsys: pytest.CaptureFixture[str]
):
    assert run_bench.main(typed) == 2
    out, err = capsys.readouterr()
    assert "PyTorch sees none" in err
    assert (out, err.count("\n")) == ("", 1)


@pytest.mark.parametrize(
    ("typed", "count"),
    [
        ((), int(DEFAULT_ENGINE == "local")),
        (("--engine", "inline"), 0),
        (("--engine", "local"), 1),
        (("--workers", "1"), 1),
        (("--timeout", "5"), 1),
    ],
)
def test_cases_run_where_the_default_or_the_options_say(typed: tuple[str, ...], count: int):
    commands = dict.fromkeys(run_bench._COMMANDS, run_bench.run)
    read = parser(commands).parse_args(["run", "--device", "cpu", *typed])
    assert len(engine_options(read).get("places", ())) == count


def test_statuses_to_retry_may_be_listed():
    assert retried(None) == ()
    assert retried(["oom,timeout", "crashed"]) == ("oom", "timeout", "crashed")


@pytest.mark.parametrize("typed", [["frob"], ["run", "--frob"], ["run", "--dtype", "int8"]])
def test_a_command_line_that_cannot_be_read_is_one_line(
    typed: list[str], capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(SystemExit) as stopped:
        run_bench.main(typed)
    assert stopped.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_run_measures_and_goes_on_and_export_thins(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    run, thin = tmp_path / "run", tmp_path / "thin"
    typed = ["run", *TINY, *INLINE, "--length", "32..64", "--out", str(run), "--source", "needle"]
    assert run_bench.main(typed) == 0
    assert "4 ok" in capsys.readouterr().out
    before = (run / "records.jsonl").read_bytes()
    assert run_bench.main(typed) == 0
    assert (run / "records.jsonl").read_bytes() == before
    assert run_bench.main(["export", str(run), "--out", str(thin)]) == 0
    assert len(read(thin)) == 4
    assert (thin / "records.jsonl").stat().st_size < len(before)


def test_a_dry_run_lists_the_cases_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "run"
    typed = ["run", "--dry-run", "--device", "cpu", "--pattern", "local[window=512]"]
    assert run_bench.main([*typed, "--length", "256..512", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "local[window=512]@auto" in said
    assert "unsupported: window=512 is longer than the length 256" in said
    assert "GFLOP" in said
    assert not out.exists()


def test_list_has_every_pattern(capsys: pytest.CaptureFixture[str]):
    assert run_bench.main(["list"]) == 0
    text = capsys.readouterr().out
    assert run_bench.main(["list", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [one["name"] for one in document["patterns"]] == list(PATTERNS)
    assert all(name in text for name in PATTERNS)
    assert {one["name"] for one in document["presets"]} == {"quick", "full", "kernels", "maps"}
    assert "captured" in {one["name"] for one in document["sources"]}


def test_without_a_command_the_quick_preset_runs_and_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    import reports
    from attnbench import engine

    seen = []

    def fake(plan, folder: Path, **_: object) -> engine.Result:
        seen.append(plan.preset)
        return engine.Result(run=folder, statuses={"ok": 1, "crashed": 1}, stopped=False)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(engine, "run", fake)
    monkeypatch.setattr(reports, "write", lambda folder: folder / "report.html")
    assert run_bench.main([]) == 1
    assert seen == ["quick"]
    out = capsys.readouterr().out
    assert "1 crashed, 1 ok" in out
    assert f"report: {Path('runs')}" in out


def test_ctrl_c_finishes_the_group_and_the_same_command_goes_on(tmp_path: Path):
    run = tmp_path / "run"
    asked = ",".join(str(length) for length in range(32, 64))
    command = [
        sys.executable, "run_bench.py", "run", *TINY, *INLINE, "--pass", "fwd", "--length", asked,
        "--source", "needle", "--out", str(run),
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    started = subprocess.Popen(command, cwd=ROOT, env=environment, **pipes)
    for line in started.stderr:
        if line.startswith("needle-"):
            break
    time.sleep(0.1)
    started.send_signal(signal.SIGINT)
    out, err = started.communicate(timeout=60)
    assert started.returncode == 130
    assert "stopping after the group in flight" in err
    assert f"the same command with --out {run} goes on" in out
    found = read(run)
    assert 1 <= len(found) < 64
    assert all(one["status"] == "ok" for one in found)
    assert "Traceback" not in err


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM")
@pytest.mark.parametrize("engine", ["inline", "local"])
def test_sigterm_ends_at_once_in_one_line_and_the_same_command_goes_on(tmp_path: Path, engine: str):
    run = tmp_path / "run"
    asked = ",".join(str(length) for length in range(32, 64))
    command = [
        sys.executable, "run_bench.py", "run", *TINY, "--engine", engine, "--pass", "fwd",
        "--length", asked, "--source", "needle", "--out", str(run),
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    started = subprocess.Popen(
        command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True
    )
    for line in started.stderr:
        if line.startswith("needle-"):
            break
    started.send_signal(signal.SIGTERM)
    _, err = started.communicate(timeout=60)
    assert started.returncode == 128 + signal.SIGTERM
    assert err.splitlines()[-1].startswith("ended by SIGTERM")
    assert "Traceback" not in err
    assert 1 <= len(read(run)) < 64
    with journal(run) as book:
        assert book.said == []  # whoever ends so does not die over the lock


def test_sigterm_is_as_before_once_the_command_is_over(capsys: pytest.CaptureFixture[str]):
    before = signal.getsignal(signal.SIGTERM)
    assert run_bench.main(["list"]) == 0
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_file_where_a_folder_is_wanted_is_said_in_one_line(tmp_path: Path, capsys):
    (tmp_path / "taken").write_text("")
    out = str(tmp_path / "taken" / "below")
    asked = ["inspect", "local", "--source", "gaussian", "--length", "64", "--out", out]
    assert run_bench.main(asked) == 2
    assert capsys.readouterr().err.startswith("cannot use ")


@pytest.mark.parametrize("typed", [("--help",), ("smollm2", "--help")])
def test_capture_shows_its_own_options(
    typed: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        run_bench.main(["capture", *typed])
    assert ended.value.code == 0
    assert "--text" in capsys.readouterr().out


def test_a_text_that_is_not_there_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "absent.txt"
    typed = ["capture", "smollm2", "--text", str(text), "--out", str(tmp_path / "out")]
    assert run_bench.main(typed) == 2
    assert capsys.readouterr().err == f"cannot read {text}: No such file or directory\n"
