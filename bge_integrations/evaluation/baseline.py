"""BM25: what a model has to beat."""

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

#: Han, kana and hangul, which are written without spaces or with few.
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
    """Search by Lucene's BM25 (Kamphuis et al., ECIR 2020), exactly, with bm25s and PyStemmer.

    Words are runs of two or more letters and digits, in lower case. With `language="cjk"`, for Chinese, Japanese and
    Korean, neighbouring characters are taken as pairs instead, as Lucene's CJKAnalyzer does, without stems or stop
    words. Documents that share no word with the query are not found, and a document with the query's own id is left
    out.

    Args:
        data: Queries and documents.
        language: Of the stemmer and the stop words ("english", "german", ...), or "cjk".
        stemmer: Whether words are reduced to their stems.
        stopwords: Whether the language's most frequent words are left out.
        k1: How much a word's repetitions count, from 0 (not at all).
        b: How much long documents are held back, from 0 to 1.
        depth: How many documents per query.
        show_progress: Show a bar.

    Returns:
        A run named "BM25", with the language behind it if that is not English.

    Raises:
        InvalidInputError: There is no stemmer or no list of stop words for this language, the documents are written in
            characters that `language="cjk"` is for, no document has a word, or an argument can't be used.
    """
    check_data(data)
    check_whole_number(depth, "depth")
    if not isinstance(k1, Real) or not 0 <= k1 < math.inf:
        raise InvalidInputError(f"k1={k1!r} must be a number of at least 0")
    if not isinstance(b, Real) or not 0 <= b <= 1:
        raise InvalidInputError(f"b={b!r} must be a number from 0 to 1")
    for argument, chosen in (("stemmer", stemmer), ("stopwords", stopwords)):
        if not isinstance(chosen, bool):
            raise InvalidInputError(f"{argument}={chosen!r} must be True or False; language= says which")
    check_language(data, language, stemmer=stemmer, stopwords=stopwords)
    bm25s = import_extra("bm25s")
    started = time.perf_counter()
    document_ids = sorted(data.documents)  # so that among equal scores the smaller id comes first
    query_ids = data.judged
    documents = [data.documents[key] for key in document_ids]
    texts = [data.queries[key] for key in query_ids]
    if language == "cjk":
        words, query_words = [_pairs(text) for text in documents], [_pairs(text) for text in texts]
    else:
        words = _words(documents, language, stemmer, stopwords)
        query_words = _words(texts, language, stemmer, stopwords)
    if not any(words):
        raise InvalidInputError(f"no document of {data.name!r} has a word to search for")
    index = bm25s.BM25(method="lucene", k1=k1, b=b)
    index.index(words, show_progress=False)
    indexed = time.perf_counter()
    own = {key: place for place, key in enumerate(document_ids)}
    rankings = {}
    with progress_bar(len(query_ids), "query", show_progress) as bar:
        for query, asked in zip(query_ids, query_words, strict=True):
            scores = index.get_scores(asked) if asked else np.zeros(len(document_ids), np.float32)
            if query in own:
                scores[own[query]] = 0.0
            found = np.flatnonzero(scores > 0)
            best = found[np.argsort(-scores[found], kind="stable")[:depth]].tolist()
            if best:
                rankings[query] = [(document_ids[place], float(scores[place])) for place in best]
            bar.update()
    seconds = {"encode": indexed - started, "search": time.perf_counter() - indexed}
    return Run("BM25" if language == "english" else f"BM25 {language}", rankings, seconds)


def languages() -> list[str]:
    """Those that have a stemmer and stop words, and "cjk"."""
    return [*filter(_has_stop_words, import_extra("Stemmer").algorithms()), "cjk"]


def check_language(data: Dataset, language: str, *, stemmer: bool = True, stopwords: bool = True) -> None:
    """Raise InvalidInputError unless BM25 can do this language, and the documents' script is its own."""
    if language == "cjk":
        return
    stemmers = import_extra("Stemmer").algorithms()
    if stemmer and language not in stemmers:
        raise InvalidInputError(
            f"there is no stemmer for language={language!r}; leave it out with stemmer=False, or take one of "
            f"{', '.join(stemmers)}, or 'cjk' for Chinese, Japanese and Korean"
        )
    if stopwords and not _has_stop_words(language):
        raise InvalidInputError(
            f"there are no stop words for language={language!r}; leave them out with stopwords=False"
        )
    # in another script whole sentences would be taken as words, and the baseline would be none
    characters = sum(map(len, data.documents.values()))
    if sum(len(run) for text in data.documents.values() for run in _CJK_RUN.findall(text)) > characters / 2:
        raise InvalidInputError(
            "these documents are mostly Chinese, Japanese or Korean, without spaces between words; give BM25 "
            "language='cjk' (--language cjk), or leave it out with baseline=False (--no-baseline)"
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
    """Words in lower case, but each run of CJK characters as its overlapping pairs."""
    found: list[str] = []
    for run in _CJK_OR_WORD.findall(text.lower()):
        if _CJK_RUN.match(run) and len(run) > 1:
            found += [run[i : i + 2] for i in range(len(run) - 1)]
        else:
            found.append(run)
    return found
