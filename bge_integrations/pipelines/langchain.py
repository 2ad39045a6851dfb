"""RAG pipelines in LangChain: dense, hybrid and parent retrieval, each reranked; history; answers with citations.

Run them: `python -m bge_integrations.pipelines.langchain FOLDER "question"`. The same in LlamaIndex: `llama_index.py`.
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
    """Search dense vectors in Chroma, and rerank.

    The folder is brought up to date with the documents: unchanged ones cost no model run, those that are gone are
    deleted.

    Args:
        documents: The documents to search, each with an id of its own.
        folder: Chroma stores the vectors here; the folder is created if needed.
        model: Embedding model: hub id, folder, or "pocket".
        reranker: Reranker: hub id, folder, or "pocket".
        k: Number of documents to rerank.
        top_n: Number of documents to return.
        filter: Chroma's filter on the metadata: {"source": "notes.md"}, {"page": {"$gte": 2}}.

    Raises:
        InvalidInputError: There are no documents, or they lack ids.
        WrongModelError: The folder holds the vectors of another model.
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
    """Search by bge-m3's dense, sparse and multi-vector scores in an M3Index, and rerank; `with` closes the index.

    Arguments and errors are as in `dense_retriever`; the model must be of the bge-m3 family, and the filter is
    M3Index's own: {"lang": {"$in": ["de", "en"]}}.

    Raises:
        IndexLockedError: The folder's index is already open, here or in another process.
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
    """Search sentences by dense vectors in Chroma, and return the documents they are from, reranked.

    Arguments and errors are as in `dense_retriever`; k counts sentences.
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
    """Finds parts of documents and returns the documents, each once, in the order of their best parts."""

    parts: BaseRetriever
    """Finds the parts; `metadata["parent"]` is the document's id."""
    parents: dict[str, Document]
    """The documents by their ids."""

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, **kwargs: Any
    ) -> list[Document]:
        return self._of(self.parts.invoke(query, config={"callbacks": run_manager.get_child()}, **kwargs))

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun, **kwargs: Any
    ) -> list[Document]:
        return self._of(await self.parts.ainvoke(query, config={"callbacks": run_manager.get_child()}, **kwargs))

    def _of(self, parts: list[Document]) -> list[Document]:
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


def _check(asked: object) -> dict[str, Any]:
    if not isinstance(asked, dict) or not asked.keys() <= {"question", "chat_history"}:
        raise InvalidInputError(f'pass {{"question": "…"}}, and "chat_history" if there is one, not {asked!r}')
    history = convert_to_messages(asked.get("chat_history") or [])
    return {"question": check_question(asked.get("question")), "chat_history": history}


_checked: Runnable[dict[str, Any], dict[str, Any]] = RunnableLambda(_check)


def _earlier_questions(chat_history: Sequence[BaseMessage]) -> list[str]:
    return [str(message.text) for message in chat_history if isinstance(message, HumanMessage)]


def standalone_question(llm: BaseChatModel | None = None) -> Runnable[dict[str, Any], str]:
    """{"question": str, "chat_history": optional messages} → a question that can be understood without the history.

    A chat model rewrites the question. Without one, the user's last three questions are put in front of it.
    """
    if llm is None:
        return _checked | (lambda asked: after_earlier(asked["question"], _earlier_questions(asked["chat_history"])))
    prompt = ChatPromptTemplate([("system", CONDENSE), MessagesPlaceholder("chat_history"), ("human", "{question}")])
    rewritten = prompt | llm | StrOutputParser()
    return _checked | RunnableBranch((itemgetter("chat_history"), rewritten), itemgetter("question"))


def history_aware(
    retriever: BaseRetriever, llm: BaseChatModel | None = None
) -> Runnable[dict[str, Any], list[Document]]:
    """Retrieval that knows the conversation: {"question": str, "chat_history": optional messages} → documents.

    It searches for the `standalone_question`.
    """
    return standalone_question(llm) | retriever


def answer_chain(
    retriever: BaseRetriever,
    llm: BaseChatModel | None = None,
    *,
    reranker: str = "BAAI/bge-reranker-v2-m3",
    top_n: int = 3,
) -> Runnable[dict[str, Any], Answer]:
    """{"question": str, "chat_history": optional messages} → an `Answer` with citations.

    A chat model answers from the passages. Without one, the answer quotes the sentences that the reranker scores
    highest for the question.

    Args:
        retriever: Finds the passages for the `standalone_question`.
        llm: Any LangChain chat model, or None.
        reranker: Scores the sentences if there is no chat model: hub id, folder, or "pocket".
        top_n: Number of sentences to quote if there is no chat model.

    Raises:
        InvalidInputError: On invocation, if the question is empty.
    """
    searched = {"question": standalone_question(llm)} | RunnablePassthrough.assign(
        sources=itemgetter("question") | retriever | _sources
    )
    if llm is None:
        scorer = load_reranker(reranker)
        return searched | (lambda asked: quoted_answer(asked["question"], asked["sources"], scorer, top_n))
    prompt = ChatPromptTemplate([("system", INSTRUCTION), ("human", "{passages}\n\nQuestion: {question}")])
    asking = (
        RunnablePassthrough.assign(passages=lambda asked: numbered(asked["sources"])) | prompt | llm | StrOutputParser()
    )
    text = RunnableBranch((itemgetter("sources"), asking), lambda _: NOTHING_FOUND)
    answered = searched | RunnablePassthrough.assign(text=text)
    return answered | (lambda asked: cited_answer(asked["text"], asked["sources"]))


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
