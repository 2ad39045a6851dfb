"""BM25, the baseline that a model has to beat."""

from __future__ import annotations

import math
import re
import time
from numbers import Real

import numpy as np

from bge_integrations.errors import InvalidInputError
from bge_integrations.evaluation.dataset import Dataset, check_data
from bge_integrations.evaluation.extra import import_extra
from bge_integrations.evaluation.runs import Run
from bge_integrations.progress import progress_bar
from bge_integrations.validation import check_whole_number

#: Han, kana and hangul characters: scripts with few or no spaces between words.
_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"
_CJK_RUN = re.compile(f"[{_CJK}]+")
_CJK_OR_WORD = re.compile(rf"[{_CJK}]+|[^\W{_CJK}]+")


def bm25(
    data: Dataset,
    *,
    language: str = "english",
    stemmer: bool = True,
    stopwords: bool = True,
    k1: float = 1.2,
    b: float = 0.75,
    depth: int = 1000,
    show_progress: bool = False,
) -> Run:
    """Rank all documents with Lucene's BM25 (Kamphuis et al., ECIR 2020), using bm25s and PyStemmer.

    Words are lowercased runs of two or more letters and digits. With `language="cjk"`, for Chinese, Japanese and
    Korean, they are overlapping pairs of characters, as in Lucene's CJKAnalyzer, without stemming or stop words.
    Documents that share no word with the query are not returned, nor is a document with the query's own id.

    Args:
        data: Queries and documents.
        language: Language of the stemmer and the stop words ("english", "german", ...), or "cjk".
        stemmer: Whether to stem words.
        stopwords: Whether to remove the language's most frequent words.
        k1: Term frequency saturation: how much repeated words count, from 0 (not at all).
        b: Length normalisation: how much long documents are penalised, from 0 to 1.
        depth: Number of documents per query.
        show_progress: Show a progress bar.

    Returns:
        A run named "BM25", followed by the language if it is not English.

    Raises:
        InvalidInputError: There is no stemmer or stop word list for the language, the documents need
            `language="cjk"`, no document contains a word, or an argument is invalid.
    """
    check_data(data)
    check_whole_number(depth, "depth")
    if not isinstance(k1, Real) or not 0 <= k1 < math.inf:
        raise InvalidInputError(f"k1={k1!r} must be a number of at least 0", argument="k1")
    if not isinstance(b, Real) or not 0 <= b <= 1:
        raise InvalidInputError(f"b={b!r} must be a number from 0 to 1", argument="b")
    for argument, value in (("stemmer", stemmer), ("stopwords", stopwords)):
        if not isinstance(value, bool):
            raise InvalidInputError(
                f"{argument}={value!r} must be True or False",
                argument=argument,
                advice="choose the language with language=",
            )
    check_language(data, language, stemmer=stemmer, stopwords=stopwords)
    bm25s = import_extra("bm25s")
    started = time.perf_counter()
    document_ids = sorted(data.documents)  # ties are ranked by id
    query_ids = data.judged
    documents = [data.documents[key] for key in document_ids]
    texts = [data.queries[key] for key in query_ids]
    if language == "cjk":
        words, query_words = [_pairs(text) for text in documents], [_pairs(text) for text in texts]
    else:
        words = _words(documents, language, stemmer, stopwords)
        query_words = _words(texts, language, stemmer, stopwords)
    if not any(words):
        raise InvalidInputError(
            f"no document of {data.name!r} contains a word that BM25 can index",
            advice="check the corpus and the language",
        )
    index = bm25s.BM25(method="lucene", k1=k1, b=b)
    index.index(words, show_progress=False)
    indexed = time.perf_counter()
    position_of = {key: position for position, key in enumerate(document_ids)}
    rankings = {}
    with progress_bar(len(query_ids), "query", show_progress) as bar:
        for query, terms in zip(query_ids, query_words, strict=True):
            scores = index.get_scores(terms) if terms else np.zeros(len(document_ids), np.float32)
            if query in position_of:
                scores[position_of[query]] = 0.0
            matches = np.flatnonzero(scores > 0)
            best = matches[np.argsort(-scores[matches], kind="stable")[:depth]].tolist()
            if best:
                rankings[query] = [(document_ids[position], float(scores[position])) for position in best]
            bar.update()
    seconds = {"encode": indexed - started, "search": time.perf_counter() - indexed}
    return Run("BM25" if language == "english" else f"BM25 {language}", rankings, seconds)


def languages() -> list[str]:
    """Return the languages with a stemmer and stop words, and "cjk"."""
    return [*filter(_has_stop_words, import_extra("Stemmer").algorithms()), "cjk"]


def check_language(data: Dataset, language: str, *, stemmer: bool = True, stopwords: bool = True) -> None:
    """Raise InvalidInputError unless BM25 supports the language and it suits the documents' script."""
    if language == "cjk":
        return
    stemmers = import_extra("Stemmer").algorithms()
    if stemmer and language not in stemmers:
        raise InvalidInputError(
            f"there is no stemmer for language={language!r}",
            argument="language",
            advice=f"turn stemming off with stemmer=False, or use one of {', '.join(stemmers)}, or 'cjk' for Chinese, "
            "Japanese and Korean",
        )
    if stopwords and not _has_stop_words(language):
        raise InvalidInputError(
            f"there are no stop words for language={language!r}",
            argument="language",
            advice="turn them off with stopwords=False",
        )
    # without spaces, whole sentences would become words and BM25 would find nothing
    characters = sum(map(len, data.documents.values()))
    if sum(len(run) for text in data.documents.values() for run in _CJK_RUN.findall(text)) > characters / 2:
        raise InvalidInputError(
            "most of these documents are Chinese, Japanese or Korean, which have no spaces between words",
            argument="language",
            advice="pass language='cjk' (--language cjk), or turn BM25 off with baseline=False (--no-baseline)",
        )


def _has_stop_words(language: str) -> bool:
    try:
        import_extra("bm25s").tokenize([], stopwords=language, show_progress=False)
    except ValueError:
        return False
    return True


def _words(texts: list[str], language: str, stemmer: bool, stopwords: bool) -> list[list[str]]:
    words: list[list[str]] = import_extra("bm25s").tokenize(
        texts,
        stopwords=language if stopwords else None,
        stemmer=import_extra("Stemmer").Stemmer(language) if stemmer else None,
        return_ids=False,
        show_progress=False,
    )
    return words


def _pairs(text: str) -> list[str]:
    """Split a text into lowercase words, and runs of CJK characters into overlapping pairs."""
    terms: list[str] = []
    for run in _CJK_OR_WORD.findall(text.lower()):
        if _CJK_RUN.match(run) and len(run) > 1:
            terms += [run[i : i + 2] for i in range(len(run) - 1)]
        else:
            terms.append(run)
    return terms
