"""Fine-tune a model and measure its gain: hold out queries, train, evaluate before and after, write a model card."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import bge_integrations
from bge_integrations.atomic_files import write_atomically
from bge_integrations.evaluation import Dataset
from bge_integrations.evaluation.baseline import check_language
from bge_integrations.training.embedder_settings import EmbedderSettings
from bge_integrations.training.gain import Gain, evaluation_data, measure_gain
from bge_integrations.training.model_card import model_card
from bge_integrations.training.reranker_settings import RerankerSettings
from bge_integrations.training.rows import TrainingRows, rows_digest
from bge_integrations.training.settings import TrainingSettings, settings_of
from bge_integrations.training.splitting import hold_out
from bge_integrations.training.statistics import Statistics, statistics_of
from bge_integrations.training.tokens import TokenCounter

if TYPE_CHECKING:
    from bge_integrations.catalog import Kind

#: In the trained folder: how it was trained, and what it gained.
RECORD = "fine_tuning.json"
_CARD = "README.md"
#: Maximum number of held-out queries. A reranker scores 50 pairs for each.
_MOST_QUERIES: Mapping[Kind, int] = {"embedder": 1000, "reranker": 200}


@dataclass(frozen=True, eq=False)
class FineTuned:
    """A fine-tuned model.

    Attributes:
        folder: Where it is.
        losses: The loss before each update.
        gain: The evaluation before and after; None without one.
    """

    folder: Path
    losses: tuple[float, ...]
    gain: Gain | None


@dataclass(frozen=True, eq=False)
class FineTuning:
    """A fine-tuning that is ready to start; `plan_fine_tuning` makes it.

    Attributes:
        kind: "embedder" or "reranker".
        model: The model to start from.
        rows: The rows to train on.
        evaluation: What the model is evaluated with; None for no evaluation.
        statistics: Of the rows, with their leaks into the evaluation.
        settings: How to train.
        query_instruction: The prompt of the held-out rows, if all have the same; None for the model's own.
        language: Of BM25.
    """

    kind: Kind
    model: str
    rows: TrainingRows
    evaluation: Dataset | None
    statistics: Statistics
    settings: TrainingSettings
    query_instruction: str | None
    language: str

    def run(self, output: str | os.PathLike[str]) -> FineTuned:
        """Train, evaluate and write the model card. The same call continues what was interrupted.

        Under torchrun, all processes train, and the first one evaluates.

        Args:
            output: The folder to write; see `train_embedder`.

        Raises:
            KeyboardInterrupt: It was stopped; the message says how to continue.
        """
        folder = Path(output).expanduser().absolute()
        record = _read(folder / RECORD)
        if record is None or record["identity"] != self._identity() or record["gain"] is not None:
            record = self._train(folder)
        losses = tuple(record["losses"])
        if self.evaluation is None or not _is_first_process():
            return FineTuned(folder, losses, None)
        try:
            gain = measure_gain(
                self.kind,
                self.evaluation,
                self.model,
                folder,
                query_instruction=self.query_instruction,
                language=self.language,
                device=self.settings.device,
                show_progress=self.settings.show_progress,
            )
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                f"the trained model is in {folder}; run the same command again to evaluate it"
            ) from None
        self._write(folder, {**record, "gain": gain.to_dict()}, gain)
        return FineTuned(folder, losses, gain)

    def _train(self, folder: Path) -> dict[str, Any]:
        """Train, and return the record of it."""
        if self.kind == "embedder":
            from bge_integrations.training.embedder import train_embedder as train
        else:
            from bge_integrations.training.reranker import train_reranker as train
        given = {field.name: getattr(self.settings, field.name) for field in fields(self.settings)}
        with _without_bars():
            trained = train(self.rows, self.model, folder, **given)
        record = {"identity": self._identity(), "losses": list(trained.losses), "gain": None}
        if _is_first_process():
            self._write(folder, record, None)
        return record

    def _write(self, folder: Path, record: dict[str, Any], gain: Gain | None) -> None:
        about = {
            "version": bge_integrations.__version__,
            "kind": self.kind,
            "model": self.model,
            "settings": asdict(self.settings),
            "statistics": self.statistics.to_dict(),
        }
        content = json.dumps({**about, **record}, ensure_ascii=False, indent=1)
        card = model_card(
            folder,
            kind=self.kind,
            base_model=self.model,
            statistics=self.statistics,
            settings=_shown_settings(self.settings),
            losses=record["losses"],
            gain=gain,
        )
        write_atomically(folder / _CARD, card.encode())
        write_atomically(folder / RECORD, f"{content}\n".encode())

    def _identity(self) -> str:
        """Return a digest of what the result depends on."""
        rows, settings = rows_digest(self.rows), self.settings.deciding()
        whole = [self.kind, self.model, settings, self.language, self.query_instruction, rows]
        digest = sha256(json.dumps(whole).encode())
        if self.evaluation is not None:
            for part in (self.evaluation.queries, self.evaluation.documents, self.evaluation.qrels):
                digest.update(repr(part).encode())
        return digest.hexdigest()


def plan_fine_tuning(
    kind: Kind,
    data: TrainingRows,
    model: str | os.PathLike[str],
    *,
    evaluation: Dataset | None = None,
    held_out: float = 0.1,
    language: str = "english",
    **settings: Any,
) -> FineTuning:
    """Check all arguments, hold out the queries to evaluate with, and compute the statistics of the rest.

    Args:
        kind: "embedder" or "reranker".
        data: All rows, as from `read_training_data`.
        model: The model to start from.
        evaluation: Evaluate with this instead of held-out queries.
        held_out: The share of the queries to hold out, at most 1000 for embedders and 200 for rerankers; 0 for no
            evaluation.
        language: Of BM25, as in `evaluation.bm25`.
        settings: As for `train_embedder` or `train_reranker`.

    Raises:
        InvalidInputError: An argument is invalid, or there are too few queries.
    """
    kinds: dict[Kind, type[TrainingSettings]] = {"embedder": EmbedderSettings, "reranker": RerankerSettings}
    chosen = settings_of(kinds[kind], settings, f"train_{kind}")
    rows, query_instruction = data, None
    if evaluation is None and held_out:
        rows, asked = hold_out(data, held_out, most=_MOST_QUERIES[kind], seed=chosen.seed)
        evaluation = evaluation_data(asked, rows, seed=chosen.seed)
        prompts = {row.prompt for row in asked}
        query_instruction = prompts.pop() if kind == "embedder" and len(prompts) == 1 else None
    if evaluation is not None:
        check_language(evaluation, language)
    lengths = {"query_max_length": chosen.query_max_length, "passage_max_length": chosen.passage_max_length}
    tokens = TokenCounter(model, kind)
    statistics = statistics_of(rows, tokens, evaluation=evaluation, **lengths)
    return FineTuning(kind, os.fspath(model), rows, evaluation, statistics, chosen, query_instruction, language)


def _read(record: Path) -> dict[str, Any] | None:
    if not record.is_file():
        return None
    content: dict[str, Any] = json.loads(record.read_text("utf-8"))
    return content


@contextmanager
def _without_bars() -> Iterator[None]:
    """Hide transformers' bars of loading and saving, which it shows even to files; the training has its own bar."""
    logging: Any = import_module("transformers.utils.logging")
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _is_first_process() -> bool:
    """Return whether this is the only process of the training, or torchrun's first one."""
    return os.environ.get("RANK", "0") == "0"


def _shown_settings(settings: TrainingSettings) -> dict[str, Any]:
    """Return the settings that matter to a reader: those that the result depends on and that are set."""
    return {name: value for name, value in settings.deciding().items() if value not in (None, (), [])}
