"""Fine-tune a model and measure its gain: hold out queries, train, evaluate before and after, write a model card."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import bge_integrations
from bge_integrations.atomic_files import write_atomically
from bge_integrations.evaluation import Dataset
from bge_integrations.evaluation.baseline import check_language
from bge_integrations.models.checkpoint import M3_HEADS, tensor_files
from bge_integrations.training import embedder_source, reranker_source
from bge_integrations.training.embedder_settings import EmbedderSettings
from bge_integrations.training.gain import Gain, evaluation_data, measure_gain
from bge_integrations.training.groups import check_group_size, check_negatives, check_teacher_scores
from bge_integrations.training.model_card import model_card
from bge_integrations.training.outputs import check_new_folder
from bge_integrations.training.reranker_settings import RerankerSettings
from bge_integrations.training.rows import TrainingRows, rows_digest
from bge_integrations.training.settings import TrainingSettings, settings_of
from bge_integrations.training.source import ModelSource
from bge_integrations.training.splitting import hold_out
from bge_integrations.training.statistics import Statistics, statistics_of
from bge_integrations.training.tokens import TokenCounter

if TYPE_CHECKING:
    from bge_integrations.catalog import Kind

#: In the trained folder: how it was trained, and what it gained.
RECORD = "fine_tuning.json"
_CARD = "README.md"
#: Settings of the training that are also arguments of `load_embedder` or `load_reranker`.
_LOADING = (
    *("family", "pooling", "passage_instruction", "task", "prompt"),
    *("revision", "cache_folder", "local_files_only"),
)
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
        source: Where it is.
        rows: The rows to train on.
        evaluation: What the model is evaluated with; None for no evaluation.
        statistics: Of the rows, with their leaks into the evaluation.
        settings: How to train.
        query_instruction: The prompt of the held-out rows, if all have the same; None for the model's own.
        language: Of BM25.
    """

    kind: Kind
    model: str
    source: ModelSource
    rows: TrainingRows
    evaluation: Dataset | None
    statistics: Statistics
    settings: TrainingSettings
    query_instruction: str | None
    language: str

    def run(self, output: str | os.PathLike[str]) -> FineTuned:
        """Train, evaluate and write the model card. The same call continues what was interrupted.

        A folder with a finished result is refused.

        Under torchrun, all processes train, and the first one evaluates.

        Args:
            output: The folder to write; see `train_embedder`.

        Raises:
            KeyboardInterrupt: It was stopped; the message says how to continue.
        """
        folder = Path(output).expanduser().absolute()
        record = _unmeasured(folder, self.settings)
        if record is None or record["identity"] != self._identity():
            record = self._train(folder)
        losses = tuple(record["losses"])
        if self.evaluation is None or not _is_first_process():
            return FineTuned(folder, losses, None)
        before, after = _loading(self.settings, self.source)
        try:
            gain = measure_gain(
                self.kind,
                self.evaluation,
                self.model,
                folder,
                before_settings=before,
                after_settings=after,
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
        is_complete = gain is not None or self.evaluation is None
        content = json.dumps({**about, **record, "is_complete": is_complete}, ensure_ascii=False, indent=1)
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


def check_start(kind: Kind, model: str | os.PathLike[str], output: str | os.PathLike[str], **settings: Any) -> None:
    """Check what does not depend on the data, which may take long to read: the settings, the model and the output.

    Args:
        kind, model, settings: As for `plan_fine_tuning`.
        output: As for `FineTuning.run`.

    Raises:
        BGEError: One of them can't be used.
    """
    chosen, _ = _check_model(kind, model, settings)
    if _unmeasured(Path(output).expanduser(), chosen) is None:
        check_new_folder(output)


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
    """Check the model and all arguments, hold out the queries to evaluate with, and compute statistics of the rest.

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
        InvalidInputError: An argument is invalid, rows lack negatives or scores that they need, or there are too few
            queries.
        BGEError: The model can't be trained; see `train_embedder` and `train_reranker`.
    """
    chosen, source = _check_model(kind, model, settings)
    rows, query_instruction = data, None
    if evaluation is None and held_out:
        rows, asked = hold_out(data, held_out, most=_MOST_QUERIES[kind], seed=chosen.seed)
        evaluation = evaluation_data(asked, rows, seed=chosen.seed)
        prompts = {row.prompt for row in asked}
        query_instruction = prompts.pop() if kind == "embedder" and len(prompts) == 1 else None
    if evaluation is not None:
        check_language(evaluation, language)
    _check_rows(rows, chosen)
    lengths = {"query_max_length": chosen.query_max_length, "passage_max_length": chosen.passage_max_length}
    tokens = TokenCounter(source.weights, kind)
    statistics = statistics_of(rows, tokens, evaluation=evaluation, **lengths)
    return FineTuning(kind, os.fspath(model), source, rows, evaluation, statistics, chosen, query_instruction, language)


def _check_model(
    kind: Kind, model: str | os.PathLike[str], settings: Mapping[str, Any]
) -> tuple[EmbedderSettings | RerankerSettings, ModelSource]:
    """Return the settings and where the model is, or raise if the model can't be trained with them."""
    chosen: EmbedderSettings | RerankerSettings
    source: ModelSource
    if kind == "embedder":
        chosen = settings_of(EmbedderSettings, settings, "train_embedder")
        source = embedder = embedder_source.locate_source(model, chosen)
        source.uses_lora(chosen, by_default=embedder.is_decoder)
    else:
        chosen = settings_of(RerankerSettings, settings, "train_reranker")
        source = reranker = reranker_source.locate_source(model, chosen)
        source.uses_lora(chosen, by_default=reranker.is_llm)
    tensor_files(source.weights)
    return chosen, source


def _loading(settings: TrainingSettings, source: ModelSource) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return with which arguments the model is loaded before and after the training, if its files don't say them."""
    before: dict[str, Any] = {}
    for name in _LOADING:
        if (value := getattr(settings, name, None)) is not None:
            before[name] = value
    after = {name: value for name, value in before.items() if name in ("family", "prompt")}
    if before.get("family") == "m3" and not any((source.weights / head).is_file() for head in M3_HEADS):
        before |= {"family": "encoder", "pooling": before.get("pooling", "cls")}  # its heads are new
    return before, after


def _check_rows(rows: TrainingRows, settings: EmbedderSettings | RerankerSettings) -> None:
    """Raise InvalidInputError if rows lack negatives or teacher scores that they need."""
    if isinstance(settings, EmbedderSettings):
        check_group_size(rows, settings.group_size, own_negatives=not settings.in_batch_negatives)
    else:
        check_negatives(rows)
    if settings.distillation is not None:
        check_teacher_scores(rows)


def _unmeasured(folder: Path, settings: TrainingSettings) -> dict[str, Any] | None:
    """Return the record of a training whose evaluation is still to be done; None if there is none."""
    record = folder / RECORD
    if not settings.resume or not record.is_file():
        return None
    content: dict[str, Any] = json.loads(record.read_text("utf-8"))
    return None if content.get("is_complete", True) else content


def _is_first_process() -> bool:
    """Return whether this is the only process of the training, or torchrun's first one."""
    return os.environ.get("RANK", "0") == "0"


def _shown_settings(settings: TrainingSettings) -> dict[str, Any]:
    """Return the settings that matter to a reader: those that the result depends on and that are set."""
    return {name: value for name, value in settings.deciding().items() if value not in (None, (), [])}
