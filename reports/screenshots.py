"""Pictures of a report and of an inspector's page as a browser shows them, for documentation.

    python -m reports.screenshots runs/h100/report.html runs/map/map.html docs/screenshots

It needs Chromium on the PATH and asks the network for nothing.
"""

import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from attnbench import BadInput

PLACE = "map=map&head=0&row=387&zoom=362,368,28"  # in a map of 512 tokens: texts beside the cells
_FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"),
    *("--disable-background-networking", "--allow-file-access-from-files"),
    "--virtual-time-budget=8000",
)
_FRAME = (
    "<!doctype html><style>html,body{{margin:0}}iframe{{border:0;width:{width}px;"
    'height:{height}px}}</style><iframe src="{address}"></iframe>'
)


@dataclass(frozen=True, kw_only=True)
class Screen:
    """What one picture shows: a page, its place, and the screen."""

    name: str
    page: Path
    place: str = ""  # behind the # of the address
    width: int = 1280
    height: int = 900
    dark: bool = False


def screens(report: Path, inspector: Path) -> tuple[Screen, ...]:
    """The pictures of the documentation: first screen, a map's panes, and a phone in the dark."""
    return (
        Screen(name="report", page=report),
        Screen(name="inspector", page=inspector, place=PLACE, height=980),
        Screen(name="phone", page=report, width=390, height=844, dark=True),
    )


def take(screen: Screen, folder: Path) -> Path:
    """Write FOLDER/NAME.png, and say where it is.

    The page stands in a frame of the screen's size, as a browser's window cannot be so narrow.

    Raises:
        BadInput: there is no such page or no Chromium, or it took no picture.
    """
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        raise BadInput("pictures of pages need chromium on the PATH, and there is none")
    if not screen.page.is_file():
        raise BadInput(f"expected a page to show, there is no {screen.page}")
    address = f"{screen.page.resolve().as_uri()}{'#' if screen.place else ''}{screen.place}"
    path = folder / f"{screen.name}.png"
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as held:
        frame, raw = Path(held) / "frame.html", Path(held) / "raw.png"
        frame.write_text(
            _FRAME.format(width=screen.width, height=screen.height, address=address),
            encoding="utf-8",
        )
        scheme = ["--blink-settings=preferredColorScheme=0"] if screen.dark else []
        size = f"--window-size={max(500, screen.width)},{screen.height + 100}"
        profile = f"--user-data-dir={held}/profile"
        command = [browser, *_FLAGS, *scheme, size, profile, f"--screenshot={raw}"]
        done = subprocess.run([*command, frame.as_uri()], capture_output=True, check=False)
        if not raw.is_file():
            raise BadInput(f"chromium took no picture: {done.stderr.decode()[-300:].strip()}")
        shown = Image.open(raw).convert("RGB").crop((0, 0, screen.width, screen.height))
    shown.save(path, optimize=True)
    return path


def main(arguments: list[str]) -> int:
    """Take all of them: REPORT.html MAP.html FOLDER."""
    try:
        if len(arguments) != 3:
            raise BadInput(f"expected REPORT.html MAP.html FOLDER, got {len(arguments)} arguments")
        report, inspector, folder = map(Path, arguments)
        for screen in screens(report, inspector):
            print(take(screen, folder))
    except BadInput as error:
        print(f"screenshots: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
