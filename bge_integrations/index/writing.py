"""Adding documents to an index and deleting them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

from bge_integrations.errors import EmptyTextWarning
from bge_integrations.index.batches import batches_of
from bge_integrations.index.documents import OnEmpty, chunks_of, documents_of, field_kind, records_of
from bge_integrations.index.flow import Encode
from bge_integrations.index.given_vectors import check_same_model, checked_vectors
from bge_integrations.index.records import point_of
from bge_integrations.index.substrings import resolve
from bge_integrations.progress import progress_bar
from bge_integrations.reporting import warn_caller
from bge_integrations.validation import check_choice

if TYPE_CHECKING:
    from bge_integrations.core.embedder import Input
    from bge_integrations.core.request import OnTruncate
    from bge_integrations.index.engine import Engine
    from bge_integrations.index.filters import Condition
    from bge_integrations.index.flow import Flow
    from bge_integrations.index.records import NewDocument
    from bge_integrations.index.store import Store
    from bge_integrations.outputs import Embeddings

_PAGE = 256
#: An `add` flushes after this many documents; the cost of a flush barely depends on their number.
_FLUSHED_DOCUMENTS = 256
#: Maximum number of ids in a warning.
_SHOWN_IDS = 5
#: Maximum number of metadata keys with an index, because each index takes memory.
_MAX_FIELDS = 100


class Writer:
    """Adds documents to the store of an index, and deletes them.

    Args:
        store: The store.
        takes_images: Whether images can be added.
    """

    def __init__(self, store: Store, takes_images: bool) -> None:
        self._store = store
        self._takes_images = takes_images
        self._shared = store.shared

    def add(
        self,
        texts: Iterable[Input],
        ids: Iterable[str | None] | None,
        metadatas: Iterable[Mapping[str, Any]] | None,
        show_progress: bool,
        on_truncate: OnTruncate,
        on_empty: OnEmpty,
        embeddings: Embeddings | None,
    ) -> Flow[list[str]]:
        """Add documents, as `M3Index.add` describes, and return their ids."""
        self._store.check_writable()  # even if there are no documents
        check_choice(on_empty, "on_empty", get_args(OnEmpty))
        manifest = self._shared.manifest
        stored = manifest.stored
        vectors = None if embeddings is None else checked_vectors(embeddings, texts, manifest)
        unproven = embeddings is not None
        settings = {"kind": "passage", "sparse": "sparse" in stored, "multi_vector": "multi_vector" in stored}
        added: list[str] = []
        empty: list[str] = []
        documents = documents_of(texts, ids, metadatas, on_empty, self._takes_images, vectors)
        with progress_bar(len(texts) if isinstance(texts, Sized) else None, "document", show_progress) as bar:
            for chunk in chunks_of(documents):
                read = len(chunk)
                without_words = [document.id for document in chunk if not document.has_vectors]
                if on_empty == "skip" and without_words:
                    self.delete(without_words, None)  # what is stored under these ids is outdated
                    chunk = [document for document in chunk if document.has_vectors]
                empty += without_words
                pending: Sequence[NewDocument] = list({document.id: document for document in chunk}.values())
                while pending:
                    plan = self.plan(pending)
                    if unproven and (given := plan.given):
                        computed = yield Encode([given.input], {"kind": "passage", "on_truncate": "ignore"})
                        check_same_model(given, computed, manifest)
                        unproven = False
                    encoded = None
                    if inputs := plan.inputs:
                        encoded = yield Encode(inputs, {**settings, "on_truncate": on_truncate}, plan.ids)
                    pending = self.store(plan, encoded)
                added += [document.id for document in chunk]
                bar.update(read)
        if (
            self._shared.written > self._shared.flushed
        ):  # by this call, or by another one whose documents were skipped here
            self.flush()
        if empty and on_empty == "warn":
            _warn(empty)
        return added

    def plan(self, documents: Sequence[NewDocument]) -> Plan:
        """Compare documents with the stored ones, and return what to write."""
        with self._store.read() as engine:
            stored = engine.fetch([document.point for document in documents], ["text_digest", "metadata_digest"])
        plan = Plan([], [])
        for document in documents:
            digests = stored.get(document.point)
            if digests is None or digests["text_digest"] != document.text_digest:
                plan.new.append(document)
            elif digests["metadata_digest"] != document.metadata_digest:
                plan.metadata_changed.append(document)
        return plan

    def store(self, plan: Plan, encoded: Embeddings | None) -> list[NewDocument]:
        """Carry out a plan. Return the documents whose text another caller has replaced in the meantime."""
        self._index_fields([*plan.new, *plan.metadata_changed])
        largest_request = self._store.engine.largest_request
        for batch in batches_of(records_of(plan.new, encoded), lambda record: record.size, largest_request):
            with self._store.write() as engine:
                self._shared.written += len(
                    batch
                )  # before the write, because a failed write may have stored some of them
                engine.write(batch)
        overtaken = self._store_metadata(plan.metadata_changed) if plan.metadata_changed else []
        if self._shared.written - self._shared.flushed >= _FLUSHED_DOCUMENTS:
            self.flush()
        return overtaken

    def delete(self, ids: Sequence[str], condition: Condition | None) -> int:
        """Delete the documents with these ids, or those that match the condition. Return their number."""
        condition = resolve(condition, self._store)
        with self._store.write() as engine:
            if condition is not None:
                points = list(_matching_points(engine, condition))
            else:
                points = list(engine.fetch([point_of(i) for i in ids], ["id"])) if ids else []
            for begin in range(0, len(points), _PAGE):
                engine.remove(points[begin : begin + _PAGE])
        self.flush()
        return len(points)

    def flush(self) -> None:
        """Wait until everything written is on disk."""
        if self._store.read_only:
            _ = self._store.engine  # raises ClosedError
            return
        with self._store.read() as engine:
            written = self._shared.written
            engine.flush()
            self._shared.flushed = written

    def _store_metadata(self, documents: Sequence[NewDocument]) -> list[NewDocument]:
        """Replace the metadata of documents whose text is unchanged. Return the other documents."""
        with self._store.write() as engine:
            stored = engine.fetch([document.point for document in documents], ["text_digest"])
            unchanged = [d for d in documents if stored.get(d.point) == {"text_digest": d.text_digest}]
            self._shared.written += len(unchanged)
            engine.write_payloads(unchanged)
        return [document for document in documents if document not in unchanged]

    def _index_fields(self, documents: Iterable[NewDocument]) -> None:
        """Create an index for each metadata key with tags, numbers or bools when it first appears."""
        for document in documents:
            for key, value in document.metadata.items():
                if (
                    len(self._shared.fields) < _MAX_FIELDS
                    and key not in self._shared.fields
                    and (kind := field_kind(key, value))
                ):
                    with self._store.write() as engine:
                        if key not in self._shared.fields:  # another thread may have created it
                            engine.index_field(key, kind)
                            self._shared.fields[key] = kind


@dataclass
class Plan:
    """Documents to encode and store, and documents whose metadata alone has changed."""

    new: list[NewDocument]
    metadata_changed: list[NewDocument]

    @property
    def inputs(self) -> list[Input]:
        """The texts and images to encode."""
        return [document.input for document in self.new if document.must_be_encoded]

    @property
    def ids(self) -> list[str]:
        """The ids of `inputs`."""
        return [document.id for document in self.new if document.must_be_encoded]

    @property
    def given(self) -> NewDocument | None:
        """The first new document with finished vectors."""
        return next((each for each in self.new if each.has_vectors and not each.must_be_encoded), None)


def _warn(empty: Sequence[str]) -> None:
    """Warn that the texts of these documents have no words."""
    shown = ", ".join(map(repr, empty[:_SHOWN_IDS]))
    more = f" and {len(empty) - _SHOWN_IDS} more" if len(empty) > _SHOWN_IDS else ""
    warn_caller(
        f"{len(empty)} of the texts have no words, so no search finds them (ids: {shown}{more}); they are stored all "
        'the same, and on_empty="skip" leaves them out',
        EmptyTextWarning,
    )


def _matching_points(engine: Engine, condition: Condition) -> Iterator[str]:
    after: str | None = None
    while True:
        page, after = engine.page(condition, after, _PAGE, ["id"])
        yield from (point_of(payload["id"]) for payload in page)
        if after is None:
            return
