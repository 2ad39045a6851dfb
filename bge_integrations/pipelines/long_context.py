"""Answers from passages first, and from whole documents when the passages are not enough.

    answers = LongContextAnswers(generator, documents, search)
    answer = answers.ask("What changed between the two reports?")

`search` finds passages, with any retriever. If the model can't answer from them, it reads the documents that they are
from, as many as the budget allows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from bge_integrations.errors import InvalidInputError
from bge_integrations.pipelines.answers import NOTHING_FOUND, Source, check_question, cited_answer, numbered
from bge_integrations.validation import check_whole_number

if TYPE_CHECKING:
    from bge_integrations.generation import Generation, Generator

#: What the model answers if the texts do not contain the answer.
NOT_ENOUGH = "NOT ENOUGH"
INSTRUCTION = (
    "Answer the question from the numbered texts only. After each statement, cite the number of the text that it comes "
    f"from, like [1] or [1][2]. If the texts do not contain the answer, reply only: {NOT_ENOUGH}"
)
#: Tokens for the instruction, the chat template and the numbers.
_RESERVED = 128


@dataclass(frozen=True)
class FoundPassage:
    """A passage that a search found.

    Attributes:
        text: Its text.
        document: The id of the document that it is from.
    """

    text: str
    document: str


@dataclass(frozen=True)
class LongAnswer:
    """An answer, and what it was made from.

    Attributes:
        text: The answer, with citations such as [1].
        sources: The cited passages or documents, sorted by number; their metadata has the document's id as "document".
        read: What the model read for it: "passages", "documents", or "nothing" if nothing was found.
        left_out: Ids of documents with found passages that did not fit into the budget.
        is_enough: Whether the model says that it could answer.
    """

    text: str
    sources: list[Source]
    read: Literal["passages", "documents", "nothing"]
    left_out: list[str]
    is_enough: bool


class LongContextAnswers:
    """Answers questions from passages, and from whole documents when the passages are not enough.

    Args:
        generator: Answers.
        documents: {id: text} of all documents.
        search: Returns the passages for a question, best first.
        budget: Maximum number of tokens that are read for one answer; None uses what fits into the model.
        max_new_tokens: Maximum number of tokens of an answer.
        is_enough: Whether an answer from passages will do; None asks the model, which replies NOT ENOUGH if not.

    Raises:
        InvalidInputError: The budget leaves no room for texts, or is more than fits into the model.
    """

    def __init__(
        self,
        generator: Generator,
        documents: Mapping[str, str],
        search: Callable[[str], Sequence[FoundPassage]],
        *,
        budget: int | None = None,
        max_new_tokens: int = 256,
        is_enough: Callable[[str], bool] | None = None,
    ) -> None:
        check_whole_number(max_new_tokens, "max_new_tokens")
        most = generator.max_length - max_new_tokens
        self.budget = most if budget is None else check_whole_number(budget, "budget", most=most)
        self._room = self.budget - _RESERVED
        if self._room < 1:
            raise InvalidInputError(
                f"a budget of {self.budget} tokens leaves no room for texts", argument="budget", advice="raise it"
            )
        self._generator, self._documents, self._search = generator, documents, search
        self._max_new_tokens = max_new_tokens
        self._is_enough = is_enough or (lambda text: NOT_ENOUGH not in text)

    def ask(self, question: str) -> LongAnswer:
        """Answer a question.

        Raises:
            InvalidInputError: The question is empty, or a passage is from an unknown document.
            TextTooLongError: The question alone does not fit.
        """
        found = list(self._search(check_question(question)))
        for passage in found:
            if passage.document not in self._documents:
                raise InvalidInputError(
                    f"the search found a passage of {passage.document!r}, which is not among the documents",
                    argument="documents",
                    advice="pass all documents that the search covers",
                )
        if not found:
            return LongAnswer(NOTHING_FOUND, [], "nothing", [], False)
        passages, _ = self._fitting([(passage.text, passage.document) for passage in found])
        text = self._generate(question, passages).text
        if self._is_enough(text):
            return LongAnswer(text, cited_answer(text, passages).sources, "passages", [], True)
        ids = dict.fromkeys(passage.document for passage in found)
        documents, left_out = self._fitting([(self._documents[each], each) for each in ids])
        if not documents:  # none fits: the passages were all that can be read
            return LongAnswer(text, cited_answer(text, passages).sources, "passages", left_out, False)
        text = self._generate(question, documents).text
        sources = cited_answer(text, documents).sources
        return LongAnswer(text, sources, "documents", left_out, NOT_ENOUGH not in text)

    def _fitting(self, texts: Sequence[tuple[str, str]]) -> tuple[list[Source], list[str]]:
        """Return the texts that fit into the budget together, best first, and the documents of the others."""
        room, chosen, left_out = self._room, list[Source](), list[str]()
        for text, document in texts:
            tokens = self._generator.count_tokens(text)
            if tokens <= room:
                room -= tokens
                chosen.append(Source(len(chosen) + 1, text, {"document": document}))
            else:
                left_out.append(document)
        return chosen, left_out

    def _generate(self, question: str, sources: Sequence[Source]) -> Generation:
        prompt = f"{INSTRUCTION}\n\n{numbered(sources)}\n\nQuestion: {question}"
        return self._generator.generate(prompt, max_new_tokens=self._max_new_tokens)
