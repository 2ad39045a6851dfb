"""A MkDocs hook that adds the notebooks to the site, as pages with the outputs that they were saved with.

The pages of docs/ link to a notebook by its path in the repository, such as `../notebooks/04_reranking.ipynb`. On the
site the link leads to the notebook's page.
"""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add a page for each notebook, and a file for each picture in it."""
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        page, pictures = _page(json.loads(path.read_text("utf-8")), path.stem)
        files.append(
            File.generated(config, f"notebooks/{path.stem}.md", content=page, inclusion=InclusionLevel.NOT_IN_NAV)
        )
        for name, picture in pictures.items():
            files.append(File.generated(config, f"notebooks/{name}", content=picture))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Link to the notebooks' pages instead of the notebooks."""
    return re.sub(r"\]\(\.\./notebooks/([\w-]+)\.ipynb\)", r"](notebooks/\1.md)", markdown)


def _page(notebook: dict[str, Any], stem: str) -> tuple[str, dict[str, bytes]]:
    """Return a notebook as Markdown, and its pictures by file name."""
    parts: list[str] = []
    pictures: dict[str, bytes] = {}
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "code":
            parts.append(_fenced(source, "python"))
        else:
            parts.append(re.sub(r"\]\(([\w-]+)\.ipynb\)", r"](\1.md)", source))
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "image/png" in data:
                name = f"{stem}_{len(pictures) + 1}.png"
                pictures[name] = base64.b64decode(data["image/png"])
                parts.append(f"![Output of the cell above]({name})")
            elif "text/markdown" in data:
                parts.append("".join(data["text/markdown"]))
            else:
                parts.append(_fenced("".join(output.get("text") or data["text/plain"]), "text"))
    return "\n\n".join(parts) + "\n", pictures


def _fenced(text: str, language: str) -> str:
    return f"~~~~ {language}\n{text.rstrip()}\n~~~~"
