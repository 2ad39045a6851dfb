"""RAG pipelines in LangChain: dense, hybrid and parent retrieval with reranking, chat history, cited answers.

To run them: `python -m bge_integrations.pipelines.langchain FOLDER "question"`. The LlamaIndex version is
`llama_index.py`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bge_integrations.pipelines.command import Options, interrupted, left_out, missing, run

try:
    from langchain_chroma import Chroma
    from langchain_core.documents import Document
    from langchain_core.messages import BaseMessage, HumanMessage, convert_to_messages
    from langchain_core.output_parsers import StrOutputParser
    from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder
    from langchain_core.retrievers import BaseRetriever
    from langchain_core.runnables import Runnable, RunnableBranch, RunnableLambda, RunnablePassthrough

    from bge_integrations.langchain import BGEEmbeddings, BGEM3Retriever, BGEM3VectorStore, BGEReranker
except ImportError as error:
    raise missing(error, __name__) from error
except KeyboardInterrupt:
    raise interrupted(__name__) from None

from bge_integrations import load_reranker
from bge_integrations.documents.sync import sync
from bge_integrations.errors import InvalidInputError, UnreadableFileError
from bge_integrations.index import M3Index
from bge_integrations.pipelines.answers import (
    CONDENSE,
    INSTRUCTION,
    NOTHING_FOUND,
    Answer,
    Source,
    after_earlier,
    check_question,
    cited_answer,
    numbered,
    quoted_answer,
)
from bge_integrations.pipelines.extractive_answers import sentences
from bge_integrations.pipelines.passages import check_ids, passages_of
from bge_integrations.pipelines.stores import ChromaStore, IndexStore, index_folder, open_chroma

if TYPE_CHECKING:
    from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun
    from langchain_core.language_models import BaseChatModel
    from langchain_core.vectorstores import VectorStoreRetriever


def read_documents(
    path: str | Path | None,
    model: str = "BAAI/bge-base-en-v1.5",
    on_unreadable: Callable[[UnreadableFileError], None] | None = None,
) -> list[Document]:
    """Return the passages of a file or folder as documents; for arguments and errors see `passages.passages_of`."""
    passages = passages_of(path, model, on_unreadable)
    return [Document(passage.text, id=passage.id, metadata=passage.metadata) for passage in passages]


def dense_retriever(
    documents: Sequence[Document],
    folder: str | Path,
    *,
    model: str = "BAAI/bge-base-en-v1.5",
    reranker: str = "BAAI/bge-reranker-v2-m3",
    k: int = 20,
    top_n: int = 5,
    filter: dict[str, Any] | None = None,
) -> BaseRetriever:
    """Return a retriever that searches dense vectors in Chroma and reranks the results.

    The folder is synced with the documents: only new and changed ones are encoded, and those that are gone are
    deleted.

    Args:
        documents: The documents to search, with unique ids.
        folder: Folder for Chroma's files; created if needed.
        model: Embedding model: hub id, folder, or "pocket".
        reranker: Reranker: hub id, folder, or "pocket".
        k: Number of documents to rerank.
        top_n: Number of documents to return.
        filter: Chroma's filter on the metadata: {"source": "notes.md"}, {"page": {"$gte": 2}}.

    Raises:
        InvalidInputError: There are no documents, or their ids are missing or not unique.
        WrongModelError: The folder contains the vectors of another model.
    """
    loaded = BGEReranker(model=reranker, top_n=top_n)
    return loaded.wrap(_chroma_retriever(documents, folder, "langchain-passages", model, k, filter))


@contextmanager
def hybrid_retriever(
    documents: Sequence[Document],
    folder: str | Path,
    *,
    model: str = "BAAI/bge-m3",
    reranker: str = "BAAI/bge-reranker-v2-m3",
    k: int = 20,
    top_n: int = 5,
    filter: dict[str, Any] | None = None,
) -> Iterator[BGEM3Retriever]:
    """Return a retriever that searches an M3Index by bge-m3's three scores and reranks; `with` closes the index.

    Arguments and errors are the same as for `dense_retriever`, but the model must be of the bge-m3 family and the
    filter is an M3Index filter: {"lang": {"$in": ["de", "en"]}}.

    Raises:
        IndexLockedError: The index is open in another process.
    """
    ids = check_ids([document.id for document in documents])
    loaded = BGEReranker(model=reranker)
    with M3Index.open(index_folder(folder) / "langchain-m3", model) as index:
        store = IndexStore(index, BGEM3VectorStore(index).add_documents)
        sync(store, zip(ids, documents, strict=True))
        yield BGEM3Retriever.from_index(index, reranker=loaded, fetch_k=k, k=top_n, filter=filter)


def parent_retriever(
    documents: Sequence[Document],
    folder: str | Path,
    *,
    model: str = "BAAI/bge-base-en-v1.5",
    reranker: str = "BAAI/bge-reranker-v2-m3",
    k: int = 40,
    top_n: int = 5,
    filter: dict[str, Any] | None = None,
) -> BaseRetriever:
    """Return a retriever that searches sentences in Chroma, and returns and reranks the documents they are from.

    Arguments and errors are the same as for `dense_retriever`, but k is the number of sentences.
    """
    check_ids([document.id for document in documents])
    loaded = BGEReranker(model=reranker, top_n=top_n)
    parts = [
        Document(sentence, id=f"{document.id}/{number}", metadata={**document.metadata, "parent": document.id})
        for document in documents
        for number, sentence in enumerate(sentences(document.page_content))
    ]
    retriever = ParentRetriever(
        parts=_chroma_retriever(parts, folder, "langchain-sentences", model, k, filter),
        parents={str(document.id): document for document in documents},
    )
    return loaded.wrap(retriever)


class ParentRetriever(BaseRetriever):
    """Searches parts of documents and returns each document once, in the order of their best parts."""

    parts: BaseRetriever
    """Retriever of the parts; `metadata["parent"]` is the document's id."""
    parents: dict[str, Document]
    """The documents by id."""

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, **kwargs: Any
    ) -> list[Document]:
        return self._parents_of(self.parts.invoke(query, config={"callbacks": run_manager.get_child()}, **kwargs))

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun, **kwargs: Any
    ) -> list[Document]:
        return self._parents_of(
            await self.parts.ainvoke(query, config={"callbacks": run_manager.get_child()}, **kwargs)
        )

    def _parents_of(self, parts: list[Document]) -> list[Document]:
        return [self.parents[parent] for parent in dict.fromkeys(part.metadata["parent"] for part in parts)]


def _chroma_retriever(
    documents: Sequence[Document], folder: str | Path, name: str, model: str, k: int, filter: dict[str, Any] | None
) -> VectorStoreRetriever:
    ids = check_ids([document.id for document in documents])
    embeddings = BGEEmbeddings(model=model)
    client, collection = open_chroma(folder, name, model)
    store = Chroma(name, client=client, embedding_function=embeddings)
    passages = ChromaStore(collection, store.add_documents, lambda document: (document.page_content, document.metadata))
    sync(passages, zip(ids, documents, strict=True))
    return store.as_retriever(search_kwargs={"k": k, "filter": filter})


def _check(inputs: object) -> dict[str, Any]:
    if not isinstance(inputs, dict) or not inputs.keys() <= {"question", "chat_history"}:
        raise InvalidInputError(
            f"the input {inputs!r} is not supported", advice='pass {"question": "…"}, optionally with "chat_history"'
        )
    history = convert_to_messages(inputs.get("chat_history") or [])
    return {"question": check_question(inputs.get("question")), "chat_history": history}


_checked: Runnable[dict[str, Any], dict[str, Any]] = RunnableLambda(_check)


def _earlier_questions(chat_history: Sequence[BaseMessage]) -> list[str]:
    return [str(message.text) for message in chat_history if isinstance(message, HumanMessage)]


def standalone_question(llm: BaseChatModel | None = None) -> Runnable[dict[str, Any], str]:
    """Map {"question": str, "chat_history": optional messages} to a question that stands on its own.

    A chat model rewrites the question. Without one, the user's last three questions are prepended to it.
    """
    if llm is None:
        return _checked | (lambda inputs: after_earlier(inputs["question"], _earlier_questions(inputs["chat_history"])))
    prompt = ChatPromptTemplate([("system", CONDENSE), MessagesPlaceholder("chat_history"), ("human", "{question}")])
    rewritten = prompt | llm | StrOutputParser()
    return _checked | RunnableBranch((itemgetter("chat_history"), rewritten), itemgetter("question"))


def history_aware(
    retriever: BaseRetriever, llm: BaseChatModel | None = None
) -> Runnable[dict[str, Any], list[Document]]:
    """Map {"question": str, "chat_history": optional messages} to documents.

    The retriever searches for the `standalone_question`.
    """
    return standalone_question(llm) | retriever


def answer_chain(
    retriever: BaseRetriever,
    llm: BaseChatModel | None = None,
    *,
    reranker: str = "BAAI/bge-reranker-v2-m3",
    top_n: int = 3,
) -> Runnable[dict[str, Any], Answer]:
    """Map {"question": str, "chat_history": optional messages} to an `Answer` with citations.

    A chat model answers from the passages. Without one, the answer quotes the sentences that the reranker scores
    highest for the question.

    Args:
        retriever: Retrieves passages for the `standalone_question`.
        llm: Any LangChain chat model, or None.
        reranker: Scores the sentences without a chat model: hub id, folder, or "pocket".
        top_n: Number of sentences to quote without a chat model.

    Raises:
        InvalidInputError: On `invoke`, if the question is empty.
    """
    retrieved = {"question": standalone_question(llm)} | RunnablePassthrough.assign(
        sources=itemgetter("question") | retriever | _sources
    )
    if llm is None:
        scorer = load_reranker(reranker)
        return retrieved | (lambda state: quoted_answer(state["question"], state["sources"], scorer, top_n))
    prompt = ChatPromptTemplate([("system", INSTRUCTION), ("human", "{passages}\n\nQuestion: {question}")])
    generate = (
        RunnablePassthrough.assign(passages=lambda state: numbered(state["sources"])) | prompt | llm | StrOutputParser()
    )
    text = RunnableBranch((itemgetter("sources"), generate), lambda _: NOTHING_FOUND)
    answered = retrieved | RunnablePassthrough.assign(text=text)
    return answered | (lambda state: cited_answer(state["text"], state["sources"]))


def _sources(documents: list[Document]) -> list[Source]:
    return [Source(i, document.page_content, document.metadata) for i, document in enumerate(documents, start=1)]


def _ask(options: Options) -> Answer:
    documents = read_documents(options.path, options.model, left_out)
    retriever: AbstractContextManager[BaseRetriever]
    if options.pipeline == "hybrid":
        retriever = hybrid_retriever(documents, options.index, model=options.model, reranker=options.reranker)
    else:
        make = dense_retriever if options.pipeline == "dense" else parent_retriever
        retriever = nullcontext(make(documents, options.index, model=options.model, reranker=options.reranker))
    with retriever as opened:
        return answer_chain(opened, reranker=options.reranker).invoke({"question": options.question})


if __name__ == "__main__":
    sys.exit(run("bge_integrations.pipelines.langchain", _ask))
