"""The chat template of an LLM reranker: how sentence-transformers builds its pairs, and how we recognise one."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from bge_integrations.errors import CheckpointError
from bge_integrations.models.checkpoint import TEMPLATE_FILE

if TYPE_CHECKING:
    from pathlib import Path

_CONTENT = "{{{{ messages | selectattr('role', 'eq', '{}') | map(attribute='content') | first }}}}"
#: What comes before the prompt.
_PAIR = f"{{{{ bos_token }}}}A: {_CONTENT.format('query')}\nB: {_CONTENT.format('document')}\n"


def reranker_template(prompt: str) -> str:
    """Return the template of an LLM reranker that is asked this prompt after the pair."""
    return f"{_PAIR}{{{{ {json.dumps(prompt, ensure_ascii=False)} }}}}"


def prompt_in_template(folder: Path) -> str | None:
    """Return the prompt in a folder's chat template; None if it has no template of ours.

    Raises:
        CheckpointError: The template was changed, or is not readable.
    """
    file = folder / TEMPLATE_FILE
    if not file.is_file():
        return None
    try:
        template = file.read_text("utf-8")
        if not template.startswith(_PAIR):
            return None
        prompt = json.loads(template.removeprefix(_PAIR).strip().removeprefix("{{").removesuffix("}}"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{file} is damaged ({error})", advice="copy the file from the trained model") from error
    return str(prompt)
