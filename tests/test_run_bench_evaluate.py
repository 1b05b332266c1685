"""What `evaluate` refuses before it loads a model: one line, exit code 2."""

import sys
from pathlib import Path

import pytest

import run_bench


@pytest.fixture
def typed(tmp_path: Path) -> list[str]:
    text = tmp_path / "text"
    text.write_text("A text.")
    return ["evaluate", str(tmp_path), "--text", str(text), "--device", "cpu"]


def refused(typed: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert run_bench.main(typed) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    return err


def test_without_transformers_it_says_what_to_install(
    typed: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setitem(sys.modules, "transformers", None)
    said = refused([*typed, "--pattern", "full"], capsys)
    assert said == "this needs transformers: pip install 'transformers>=5' gguf accelerate\n"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["--pattern", "masforme"], "did you mean 'masformer'"),
        (["--pattern", "full", "--length", "x"], "--length: expected a whole number"),
        (["--pattern", "full", "--excerpts", "0"], "at least 1 excerpt, got 0"),
        (["--pattern", "full", "--excerpts", "x"], "--excerpts: expected a whole number"),
        (["--pattern", "full", "--seed", "x"], "--seed: expected a whole number"),
        (["--pattern", "full", "--retry", "okay"], "did you mean 'ok'"),
        (["--pattern", "full", "--text", "absent"], "cannot read absent: No such file"),
    ],
)
def test_bad_input_is_refused_without_a_model(
    typed: list[str], capsys: pytest.CaptureFixture[str], changes: list[str], said: str
):
    assert said in refused([*typed, *changes], capsys)


def test_a_text_that_is_none_is_refused(
    typed: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "text").write_bytes(b"\xff\xfe\x00")
    assert "expected UTF-8 text" in refused([*typed, "--pattern", "full"], capsys)


def test_a_model_that_reads_both_ways_is_refused_by_its_name(
    typed: list[str], capsys: pytest.CaptureFixture[str]
):
    typed[1] = "minilm"
    assert "minilm reads both ways" in refused([*typed, "--pattern", "full"], capsys)
