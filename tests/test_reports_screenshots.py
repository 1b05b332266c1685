"""Pictures of pages: of the asked size, of the asked place, light or dark."""

from pathlib import Path

import pytest
from PIL import Image

from attnbench import BadInput
from reports.screenshots import Screen, main, take

PAGE = """<!doctype html><meta name="color-scheme" content="light dark">
<style>
body { margin: 0; background: #fff }
i { position: fixed; right: 0; width: 9px; height: 9px; background: #00f }
@media (prefers-color-scheme: dark) { body { background: #123 } }
</style><i></i>
<script>if (location.hash === "#red") document.querySelector("i").style.background = "#f00"</script>
"""


@pytest.fixture
def page(tmp_path: Path) -> Path:
    path = tmp_path / "a page.html"
    path.write_text(PAGE)
    return path


@pytest.mark.browser
@pytest.mark.parametrize(
    ("settings", "ground", "corner"),
    [
        ({"width": 390, "dark": True}, (17, 34, 51), (0, 0, 255)),
        ({"width": 640, "place": "red"}, (255, 255, 255), (255, 0, 0)),
    ],
)
def test_a_picture_shows_the_page_as_it_was_asked_for(tmp_path, page, settings, ground, corner):
    path = take(Screen(name="one", page=page, height=300, **settings), tmp_path / "out")
    shown = Image.open(path).convert("RGB")
    assert shown.size == (settings["width"], 300)
    assert shown.getpixel((5, 200)) == ground
    assert shown.getpixel((settings["width"] - 3, 3)) == corner


@pytest.mark.browser
def test_a_page_that_is_not_there_is_bad_input(tmp_path: Path):
    with pytest.raises(BadInput, match="there is no"):
        take(Screen(name="one", page=tmp_path / "nothing.html"), tmp_path)


def test_without_a_browser_the_reason_is_said(tmp_path: Path, page: Path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main([str(page), str(page), str(tmp_path)]) == 2
    assert "chromium" in capsys.readouterr().err
    assert main([str(page)]) == 2
