"""Draw docs/terminal.svg: a terminal in which `bge` indexes a folder of notes and answers questions out of it.

    python scripts/terminal_picture.py

runs the commands with the bundled models and draws what they print.
"""

from __future__ import annotations

import io
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text

PICTURE = Path(__file__).parent.parent / "docs" / "terminal.svg"
WIDTH = 84
NOTES = {
    "backups.md": "# Backups\n\nWe decided to keep nightly backups for 30 days. They run at two in the morning.\n",
    "keys.md": "# Keys\n\nThe office has three keys. Anna and Jun have one each, and the third is in the safe.\n",
    "releases.md": "# Releases\n\nA release needs two reviews and a green build. We never deploy on a Friday.\n",
}
#: Each command as its words.
SESSION = (
    ("bge", "index", "notes", "--index", "my-index", "--model", "pocket"),
    ("bge", "search", "Who has a key to the office?", "--index", "my-index", "--top-n", "3"),
    ("bge", "ask", "How long are backups kept?", "--index", "my-index", "--rerank", "pocket", "--top-n", "1"),
)


def main() -> None:
    """Run the session in an empty folder and write the picture."""
    console = Console(record=True, width=WIDTH, file=io.StringIO())
    with tempfile.TemporaryDirectory() as folder:
        notes = Path(folder, "notes")
        notes.mkdir()
        for name, text in NOTES.items():
            (notes / name).write_text(text, "utf-8")
        for number, command in enumerate(SESSION):
            if number:
                console.print()
            console.print(Text.assemble(("$ ", "bold green"), (_typed(command), "bold")))
            console.print(Text(_output(command, folder)), end="", no_wrap=True, overflow="ellipsis")
    svg = console.export_svg(title="bge", clear=False, unique_id="terminal")
    # a page of the docs loads nothing from other hosts, so the reader's own monospaced font is used
    svg = re.sub(r"@font-face \{.*?\}\n?", "", svg, flags=re.S)
    PICTURE.write_text("\n".join(line.rstrip() for line in svg.splitlines()) + "\n", "utf-8")
    print(f"written: {PICTURE}")


def _typed(command: tuple[str, ...]) -> str:
    """Return a command as it is typed, with double quotes around texts."""
    return " ".join(f'"{word}"' if " " in word else word for word in command)


def _output(command: tuple[str, ...], folder: str) -> str:
    """Run a command and return its output, with tabs as columns."""
    done = subprocess.run(
        [sys.executable, "-m", "bge_integrations", *command[1:]], cwd=folder, capture_output=True, text=True, check=True
    )
    return done.stdout.expandtabs(14)


if __name__ == "__main__":
    main()
