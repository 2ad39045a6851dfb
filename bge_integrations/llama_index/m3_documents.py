"""How LlamaIndex's documents and nodes are stored in an M3Index: rows, versions and replacement."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from llama_index.core.node_parser import NodeParser
from llama_index.core.schema import BaseNode, Document, MetadataMode, RelatedNodeInfo, TransformComponent
from llama_index.core.storage.docstore.types import RefDocInfo
from llama_index.core.utils import iter_batch
from llama_index.core.vector_stores.utils import node_to_metadata_dict
from pydantic_core import PydanticSerializationError

from bge_integrations.errors import InvalidInputError
from bge_integrations.llama_index.filters import REF_DOC
from bge_integrations.llama_index.m3_nodes import is_node, to_node
from bge_integrations.llama_index.scored_nodes import without_scores
from bge_integrations.validation import check_text

if TYPE_CHECKING:
    from bge_integrations.index import M3Index

#: Texts, ids and metadata.
Rows = tuple[list[str], list[str], list[dict[str, Any]]]

#: Metadata key for the document version that a node belongs to.
_VERSION = "_ref_doc_version"
#: Number of documents looked up with one filter; each page of results evaluates the whole filter.
_LOOKUP_BATCH = 500


@dataclass
class KnownDocument:
    """The stored nodes of one document.

    Attributes:
        texts: The texts of the nodes by node id.
        versions: The document version stored with each node.
    """

    texts: dict[str, str] = field(default_factory=dict)
    versions: list[Any] = field(default_factory=list)

    def is_complete(self, version: str) -> bool:
        """Return whether all nodes of this version are stored, and no others.

        They are not if a process was killed while replacing the document.
        """
        return all(known == {"hash": version, "nodes": len(self.texts)} for known in self.versions)


def known_documents(index: M3Index, documents: Iterable[Document]) -> dict[str, KnownDocument]:
    """Return the stored nodes of these documents, by document id."""
    known: dict[str, KnownDocument] = defaultdict(KnownDocument)
    for ids in iter_batch(sorted({document.node_id for document in documents}), _LOOKUP_BATCH):
        for stored in index.scan({REF_DOC: {"$in": ids}}):
            if is_node(stored):
                document = known[stored.metadata[REF_DOC]]
                document.texts[stored.id] = stored.text
                document.versions.append(stored.metadata.get(_VERSION))
    return dict(known)


def ref_doc_info(index: M3Index, filter: dict[str, Any] | None = None) -> dict[str, RefDocInfo]:
    """Return the ids of each document's nodes and the metadata of one of them, among the nodes that match a filter."""
    documents: dict[str, RefDocInfo] = {}
    for stored in index.scan(filter):
        document_id = stored.metadata.get(REF_DOC)
        if document_id is None or not is_node(stored):
            continue
        if document_id not in documents:
            documents[document_id] = RefDocInfo(metadata=to_node(stored).metadata)
        documents[document_id].node_ids.append(stored.id)
    return documents


def versions_of(documents: Iterable[Document]) -> dict[str, str]:
    """Return the documents' hashes by id. Documents with the same id count as one document."""
    versions: dict[str, str] = {}
    for document in documents:
        check_text(document.get_content(MetadataMode.ALL), f"document {document.node_id!r}")
        versions[document.node_id] = versions.get(document.node_id, "") + document.hash
    return versions


def changed(documents: Sequence[Document], known: Mapping[str, KnownDocument]) -> list[bool]:
    """Return, for each document, whether it is new, changed or incomplete in the index."""
    versions = versions_of(documents)
    return [
        document.node_id not in known or not known[document.node_id].is_complete(versions[document.node_id])
        for document in documents
    ]


def replacement(
    nodes: Sequence[BaseNode], versions: Mapping[str, str], known: Mapping[str, KnownDocument]
) -> tuple[Rows, list[str]]:
    """Return the rows to add for these document versions, and the ids of outdated nodes to delete."""
    before = {document_id: known[document_id] for document_id in versions if document_id in known}
    _keep_ids(nodes, before)
    now = {node.node_id for node in nodes}
    return rows_of(nodes, versions), [i for document in before.values() for i in document.texts if i not in now]


def outdated_nodes(index: M3Index, nodes: Sequence[BaseNode]) -> list[str]:
    """Return the ids of stored nodes that these nodes replace, before these nodes are added.

    They were made from another version of the same document, or they are the same chunk of it under another id. A node
    records the hash of the document that it was made from; nodes without one replace nothing.
    """
    versions: dict[str, set[str]] = defaultdict(set)
    for node in nodes:
        if node.source_node and node.source_node.hash:
            versions[node.source_node.node_id].add(node.source_node.hash)
    chunks = {_chunk(node, _text(node)) for node in nodes} - {None}
    given = {node.node_id for node in nodes}
    outdated = []
    for ids in iter_batch(sorted(versions), _LOOKUP_BATCH):
        for stored in index.scan({REF_DOC: {"$in": ids}}):
            if stored.id in given or not is_node(stored):
                continue
            node = to_node(stored)
            source = node.source_node
            is_old = source is not None and source.hash and source.hash not in versions[source.node_id]
            if is_old or _chunk(node, stored.text) in chunks:
                outdated.append(stored.id)
    return outdated


def _chunk(node: BaseNode, text: str) -> tuple[Any, ...] | None:
    """Return what identifies a chunk of a document's version whatever its id; None if the node does not say where it
    begins. A parent that has the same text as its only child is another chunk."""
    start = getattr(node, "start_char_idx", None)
    if start is None or node.source_node is None:
        return None
    family = node.parent_node is None, not node.child_nodes
    return node.source_node.node_id, node.source_node.hash, start, text, family


def rows_of(nodes: Sequence[BaseNode], versions: Mapping[str, str]) -> Rows:
    """Return the arguments of `M3Index.add`. `versions` contains the documents whose nodes are all in `nodes`.

    The scores of an earlier search are left out.
    """
    nodes = [without_scores(node) for node in nodes]
    parts = Counter(map(_document_id, nodes))
    metadatas = []
    for node in nodes:
        document_id = _document_id(node)
        metadata = _to_metadata(node)
        metadata[REF_DOC] = document_id  # LlamaIndex stores the str "None" if there is no document
        if document_id is not None and document_id in versions:
            metadata[_VERSION] = {"hash": versions[document_id], "nodes": parts[document_id]}
        metadatas.append(metadata)
    return [_text(node) for node in nodes], [node.node_id for node in nodes], metadatas


async def atransform(
    documents: Sequence[BaseNode], transformations: Iterable[TransformComponent]
) -> Sequence[BaseNode]:
    """Turn documents into nodes. Text splitters are synchronous, so they run in a thread and not on the event loop."""
    nodes = documents
    for transformation in transformations:
        if _has_async(transformation):
            nodes = await transformation.acall(nodes)
        else:
            nodes = await asyncio.to_thread(transformation, nodes)
    return nodes


def _has_async(transformation: TransformComponent) -> bool:
    if isinstance(transformation, NodeParser):
        return type(transformation)._aparse_nodes is not NodeParser._aparse_nodes
    return type(transformation).acall is not TransformComponent.acall


def _keep_ids(nodes: Sequence[BaseNode], known: Mapping[str, KnownDocument]) -> None:
    """Reuse the stored ids of chunks whose text is already in the index, so that they are not encoded again.

    Parsers generate new ids on every run. Ids that stay the same (`id_func`) are kept, and so are the ids of documents
    that were not split.
    """
    given = {node.node_id for node in nodes}
    free: dict[tuple[str | None, str], list[str]] = defaultdict(list)
    for document_id, document in known.items():
        if given.isdisjoint(document.texts):
            for node_id, text in document.texts.items():
                free[document_id, text].append(node_id)
    kept: dict[str, str] = {}
    for node in nodes:
        if not isinstance(node, Document) and (ids := free.get((node.ref_doc_id, _text(node)))):
            kept[node.node_id] = ids.pop()
    for node in nodes:
        node.node_id = kept.get(node.node_id, node.node_id)
        for related in _related(node):
            related.node_id = kept.get(related.node_id, related.node_id)


def _related(node: BaseNode) -> Iterator[RelatedNodeInfo]:
    for related in node.relationships.values():
        yield from related if isinstance(related, list) else [related]


def _document_id(node: BaseNode) -> str | None:
    """Return the id of a node's document. A document that was not split is its own node."""
    return node.ref_doc_id or (node.node_id if isinstance(node, Document) else None)


def _text(node: BaseNode) -> str:
    return node.get_content(metadata_mode=MetadataMode.EMBED)


def _to_metadata(node: BaseNode) -> dict[str, Any]:
    try:
        return node_to_metadata_dict(node)
    except PydanticSerializationError as error:
        raise InvalidInputError(
            f"node {node.node_id!r} has metadata that JSON can't represent ({error})",
            advice="use str, numbers, bool, None, lists and dicts",
        ) from error
