"""The model card (README.md) of a fine-tuned model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import bge_integrations

if TYPE_CHECKING:
    from bge_integrations.catalog import Kind
    from bge_integrations.training.gain import Gain
    from bge_integrations.training.statistics import Statistics


def model_card(
    folder: Path,
    *,
    kind: Kind,
    base_model: str,
    statistics: Statistics,
    settings: Mapping[str, Any],
    losses: Sequence[float],
    gain: Gain | None,
) -> str:
    """Return the card as Markdown, with the front matter that the hub reads.

    Args:
        folder: The trained model; its files say how others load it.
        kind: "embedder" or "reranker".
        base_model: The model that it was trained from.
        statistics: Of the rows that it was trained on.
        settings: The settings to show.
        losses: The loss before each update.
        gain: The evaluation; None if there was none.
    """
    name = folder.name
    base = Path(base_model).name if Path(base_model).is_dir() else base_model
    parts = [
        _front_matter(kind, base_model, base),
        f"# {name}\n\n{base}, fine-tuned with bge-integrations {bge_integrations.__version__} on "
        f"{statistics.rows:,} rows of training data.\n",
        "## Evaluation\n\n" + _evaluation(kind, gain),
        "## Use\n\n" + _use(folder, kind),
        "## Training data\n\n" + _table(("", ""), statistics.table(examples=False)),
        "## Settings\n\n" + _table(("setting", "value"), [(key, f"{value}") for key, value in settings.items()]),
        f"The loss went from {_mean(losses[: len(losses) // 10 + 1]):.3f} to {_mean(losses[-len(losses) // 10 :]):.3f} "
        f"in {len(losses):,} updates (means over the first and the last tenth).\n"
        if losses
        else "",
    ]
    return "\n".join(filter(None, parts))


def _front_matter(kind: Kind, base_model: str, base: str) -> str:
    lines = [
        "library_name: sentence-transformers",
        f"pipeline_tag: {'sentence-similarity' if kind == 'embedder' else 'text-ranking'}",
        *([f"base_model: {base_model}"] if base == base_model and "/" in base else []),
        "tags:",
        "- bge",
        f"- {'feature-extraction' if kind == 'embedder' else 'reranker'}",
    ]
    return "\n".join(["---", *lines, "---", ""])


def _evaluation(kind: Kind, gain: Gain | None) -> str:
    if gain is None:
        return "The model was not evaluated.\n"
    task = (
        "Both models search all passages."
        if kind == "embedder"
        else "Both models rerank the passages that BM25 finds; BM25 is their order without a reranker."
    )
    return (
        f"Measured on {gain.data}: {gain.queries:,} queries, {gain.documents:,} passages. {task} Only the positives of "
        f"a query count as its answers. Brackets are 95 % bootstrap intervals.\n\n{gain.markdown()}"
    )


def _use(folder: Path, kind: Kind) -> str:
    snippets = _reranker_snippets(folder) if kind == "reranker" else _embedder_snippets(folder)
    return "\n\n".join(f"```python\n{snippet.replace('NAME', repr(folder.name))}\n```" for snippet in snippets) + "\n"


def _reranker_snippets(folder: Path) -> list[str]:
    snippets = [
        "from bge_integrations import load_reranker\n\nreranker = load_reranker(NAME)\n"
        'print(reranker.score([("query", "passage")]))'
    ]
    if "SequenceClassification" in json.dumps(_content(folder / "config.json")):
        pair = '[("query", "passage")]'
        snippets += [
            f"from sentence_transformers import CrossEncoder\n\nprint(CrossEncoder(NAME).predict({pair}))",
            f"from FlagEmbedding import FlagReranker\n\nprint(FlagReranker(NAME).compute_score({pair}))",
        ]
    return snippets


def _embedder_snippets(folder: Path) -> list[str]:
    texts = '["a passage"]'
    snippets = [
        "from bge_integrations import load_embedder\n\nembedder = load_embedder(NAME)\n"
        f'print(embedder.encode({texts}, kind="passage").dense)',
        "from sentence_transformers import SentenceTransformer\n\nmodel = SentenceTransformer(NAME)\n"
        f"print(model.encode_document({texts}))",
    ]
    pooling = _content(folder / "1_Pooling" / "config.json")
    prompts = _content(folder / "config_sentence_transformers.json").get("prompts", {})
    if (folder / "colbert_linear.pt").is_file():
        dim = _multi_vector_dim(folder)
        arguments = "NAME" if dim == _content(folder / "config.json").get("hidden_size") else f"NAME, colbert_dim={dim}"
        snippets.append(
            f"from FlagEmbedding import BGEM3FlagModel\n\nmodel = BGEM3FlagModel({arguments})\n"
            f"print(model.encode({texts}, return_sparse=True, return_colbert_vecs=True))"
        )
    elif not pooling.get("pooling_mode_lasttoken") and (folder / "config.json").is_file():
        method = "mean" if pooling.get("pooling_mode_mean_tokens") else "cls"
        snippets.append(
            "from FlagEmbedding import FlagModel\n\nmodel = FlagModel(\n    NAME,\n"
            f"    query_instruction_for_retrieval={prompts.get('query', '')!r},\n    pooling_method={method!r},\n)\n"
            f"print(model.encode_corpus({texts}))"
        )
    return snippets


def _multi_vector_dim(folder: Path) -> int:
    import torch

    return int(torch.load(folder / "colbert_linear.pt", weights_only=True, map_location="cpu")["weight"].shape[0])


def _content(file: Path) -> dict[str, Any]:
    """Return the object in a JSON file; empty if there is no such file."""
    content: dict[str, Any] = json.loads(file.read_text("utf-8")) if file.is_file() else {}
    return content


def _table(header: tuple[str, str], rows: Sequence[tuple[str, str]]) -> str:
    cells = [[cell.replace("|", "\\|") for cell in row] for row in (header, ("---", "---"), *rows)]
    return "\n".join(f"| {' | '.join(row)} |" for row in cells) + "\n"


def _mean(numbers: Sequence[float]) -> float:
    return sum(numbers) / len(numbers)
