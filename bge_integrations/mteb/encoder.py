"""Dense vectors for mteb."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mteb.similarity_functions import cos_sim, pairwise_cos_sim

from bge_integrations.mteb.inputs import all_texts, check_show_progress, kind_of
from bge_integrations.mteb.metadata import embedder_metadata
from bge_integrations.mteb.tasks import is_told_the_task, known_task
from bge_integrations.validation import check_on_truncate

if TYPE_CHECKING:
    from mteb.abstasks.task_metadata import TaskMetadata
    from mteb.types import Array, BatchedInput, EncodeKwargs, PromptType
    from torch.utils.data import DataLoader
    from typing_extensions import Unpack

    from bge_integrations.core.embedder import Embedder
    from bge_integrations.core.request import OnTruncate


class BGEEncoder:
    """An mteb encoder (`EncoderProtocol`) for the dense vectors of any BGE embedder. It runs every kind of text task.

    Queries and documents of retrieval tasks get the embedder's query and passage instructions. Texts of other tasks,
    which mteb marks as neither, get no instruction, as in the published BGE results.

    Models that are told the task (bge-multilingual-gemma2, Qwen3-Embedding, …) get the instruction of each task that
    `bge models --tasks` lists, also for texts that are neither queries nor documents. To use one instruction for all
    tasks, load the model with `task=`, `query_instruction=` or examples.

    Example:
        >>> import mteb
        >>> from bge_integrations import load_embedder
        >>> from bge_integrations.mteb import BGEEncoder
        >>> mteb.evaluate(BGEEncoder(load_embedder("BAAI/bge-m3")), mteb.get_tasks(tasks=["STS12", "NFCorpus"]))

    Args:
        embedder: From `load_embedder`; the caller closes it.
        on_truncate: As in `Embedder.encode`.

    Attributes:
        mteb_model_meta: The name, revision and settings that mteb stores results under.

    Raises:
        InvalidInputError: `on_truncate` has a value that is not allowed.
    """

    def __init__(self, embedder: Embedder, *, on_truncate: OnTruncate = "warn") -> None:
        check_on_truncate(on_truncate)
        self._embedder = embedder
        self._on_truncate = on_truncate
        self._is_told_the_task = is_told_the_task(embedder)
        settings = {"task_instructions": True} if self._is_told_the_task else {}
        self.mteb_model_meta = embedder_metadata(embedder, "dense", embedder.dimension, settings=settings)

    def encode(
        self,
        inputs: DataLoader[BatchedInput],
        *,
        task_metadata: TaskMetadata,
        hf_split: str,
        hf_subset: str,
        prompt_type: PromptType | None = None,
        **kwargs: Unpack[EncodeKwargs],
    ) -> Array:
        """Embed a task's texts.

        Returns:
            float32 (texts, dimension), unit rows.

        Raises:
            InvalidInputError: The inputs contain no text, or an encode_kwarg is not supported.
        """
        show_progress = check_show_progress(kwargs)
        kind = None if prompt_type is None else kind_of(prompt_type)
        embedder = self._embedder
        if self._is_told_the_task and (task := known_task(task_metadata, hf_subset)):
            embedder, kind = embedder.for_task(task), kind or "query"
        dense = embedder.encode(
            all_texts(inputs), kind=kind, on_truncate=self._on_truncate, show_progress=show_progress
        ).dense
        assert dense is not None
        return dense

    def similarity(self, embeddings1: Array, embeddings2: Array) -> Array:
        """Return the cosine similarities of all pairs: float32 (len(embeddings1), len(embeddings2))."""
        return cos_sim(embeddings1, embeddings2)

    def similarity_pairwise(self, embeddings1: Array, embeddings2: Array) -> Array:
        """Return the cosine similarity of each pair of corresponding rows: float32 (pairs,)."""
        return pairwise_cos_sim(embeddings1, embeddings2)
