"""Text that somebody gives in a file."""

from pathlib import Path

from patterns.errors import BadInput


def read_text(path: Path) -> str:
    """What is in a UTF-8 file.

    Raises:
        BadInput: it cannot be read, or holds something else.
    """
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise BadInput(f"cannot read {path}: expected UTF-8 text") from None
