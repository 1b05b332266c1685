"""What `choose` refuses before it loads a model: one line, exit code 2."""

import sys
from pathlib import Path

import pytest

import run_bench

TWO = ["--pattern", "sinks[window=8]", "--pattern", "full"]


def refused(tmp_path: Path, changes: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    text = tmp_path / "text"
    text.write_text("A text.")
    typed = ["choose", str(tmp_path), "--text", str(text), "--device", "cpu", *changes]
    assert run_bench.main(typed) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    return err


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["--pattern", "full"], "a choice needs two patterns or more"),
        (["--pattern", "full", "--pattern", "masformer[full=2]"], "got a schedule"),
        (["--pattern", "full", "--pattern", "sink"], "did you mean 'sinks'"),
        ([*TWO, "--keys", "0"], "expected a number of keys above 0"),
        ([*TWO, "--length", "x"], "--length: expected a whole number"),
        ([*TWO, "--excerpts", "0", "--copies", "0"], "at least one excerpt or copy"),
        ([*TWO, "--seed", "x"], "--seed: expected a whole number"),
        ([*TWO, "--text", "absent"], "cannot read absent: No such file"),
    ],
)
def test_bad_input_is_refused_without_a_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: list[str], said: str
):
    assert said in refused(tmp_path, changes, capsys)


def test_without_transformers_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setitem(sys.modules, "transformers", None)
    said = refused(tmp_path, TWO, capsys)
    assert said == "this needs transformers: pip install 'transformers>=5' gguf accelerate\n"


def test_a_text_has_to_be_named(capsys: pytest.CaptureFixture[str]):
    """Without one it would be judged on what `evaluate` reads."""
    with pytest.raises(SystemExit) as stopped:
        run_bench.main(["choose", "smollm2", *TWO])
    assert stopped.value.code == 2
    assert "--text" in capsys.readouterr().err
