"""From prompts, messages and documents to token ids, with the model's own chat template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bge_integrations.errors import InvalidInputError, NotSupportedError
from bge_integrations.validation import check_text

if TYPE_CHECKING:
    from pathlib import Path

Message = Mapping[str, str]
Prompt = str | Sequence[Message]

#: Stands for the document while the chat template is applied.
_DOCUMENT = "\u241ethe document\u241e"
#: Between a document and the question about it.
_BREAK = "\n\n"
#: Tokens that end an assistant's turn, some of which generation_config.json forgets.
_TURN_ENDS = ("<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>")
_ROLES = ("system", "user", "assistant")


class Prompts:
    """Formats prompts for one model.

    Args:
        tokenizer: transformers' tokenizer.
        folder: The checkpoint, for messages.
    """

    def __init__(self, tokenizer: Any, folder: Path) -> None:
        self.tokenizer, self._folder = tokenizer, folder
        self.has_template: bool = getattr(tokenizer, "chat_template", None) is not None

    def ids_of(self, prompt: Prompt, raw: bool) -> list[int]:
        """Return the ids of a prompt without a context.

        Args:
            prompt: Messages, or one text: a user's message if the model has a chat template, otherwise a text to
                continue.
            raw: Take the text as it is, without the template.
        """
        if isinstance(prompt, str) and (raw or not self.has_template):
            check_text(prompt, "prompt")
            return self._tokenized(prompt, is_begin=True)
        self._refuse_raw(raw)
        return self._tokenized(self._apply(_messages(prompt)), is_begin=False)

    def document_ids(self, document: str, system: str | None, raw: bool) -> list[int]:
        """Return the ids of a document that questions will follow: the beginning of a user's message."""
        check_text(document, "document")
        if not document.strip():
            raise InvalidInputError("the document is empty", argument="document", advice="pass its text")
        if raw or not self.has_template:
            if system is not None:
                raise InvalidInputError(
                    "system= needs a chat template", argument="system", advice="put it at the document's beginning"
                )
            return self._tokenized(document, is_begin=True)
        before, _ = self._around_document(system, [{"role": "user", "content": ""}])
        return self._tokenized(before + document, is_begin=False)

    def question_ids(self, prompt: Prompt, system: str | None, raw: bool) -> list[int]:
        """Return the ids of a question that follows a document read with the same `system` and `raw`."""
        if raw or not self.has_template:
            if not isinstance(prompt, str):
                raise InvalidInputError(
                    "the document was read without a chat template, so messages can't follow it",
                    argument="prompt",
                    advice="pass a str",
                )
            check_text(prompt, "prompt")
            return self._tokenized(prompt, is_begin=False)
        messages = _messages(prompt)
        if messages[0]["role"] != "user":
            raise InvalidInputError(
                f"the first message after a document is of the {messages[0]['role']}",
                argument="prompt",
                advice="begin with a user's message, and pass the system's to read(system=…)",
            )
        _, after = self._around_document(system, messages)
        return self._tokenized(after, is_begin=False)

    def count(self, text: str) -> int:
        """Return the number of tokens of a text, without special tokens around it."""
        check_text(text, "text")
        return len(self._tokenized(text, is_begin=False))

    def stop_ids(self, *configs: Any) -> frozenset[int]:
        """Return the tokens that end an answer: those of the configs, and what ends a turn in known chat templates."""
        ids = {self.tokenizer.eos_token_id}
        for config in configs:
            eos = getattr(config, "eos_token_id", None)
            ids |= set(eos) if isinstance(eos, (list, tuple)) else {eos}
        known = self.tokenizer.get_vocab()
        return frozenset(ids | {known[end] for end in _TURN_ENDS if end in known}) - {None}

    def _around_document(self, system: str | None, messages: list[Message]) -> tuple[str, str]:
        """Return what the template puts before the document, and all that follows it."""
        if system is not None:
            check_text(system, "system")
        first = {"role": "user", "content": _DOCUMENT + _BREAK + messages[0]["content"]}
        head: list[Message] = [] if system is None else [{"role": "system", "content": system}]
        before, mark, after = self._apply([*head, first, *messages[1:]]).partition(_DOCUMENT)
        if not mark:
            raise NotSupportedError(f"the chat template of {self._folder} leaves out or changes the first user message")
        return before, after

    def _apply(self, messages: Sequence[Message]) -> str:
        from jinja2 import TemplateError

        if not self.has_template:
            raise InvalidInputError(
                f"{self._folder} has no chat template, so it takes no messages",
                argument="prompt",
                advice="pass a str, which is continued",
            )
        try:
            text: str = self.tokenizer.apply_chat_template(
                [dict(message) for message in messages], tokenize=False, add_generation_prompt=True
            )
        except TemplateError as error:
            raise InvalidInputError(
                f"the model's chat template refuses these messages ({error})", argument="prompt"
            ) from error
        return text

    def _tokenized(self, text: str, is_begin: bool) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=is_begin, verbose=False)["input_ids"]
        return ids

    def _refuse_raw(self, raw: bool) -> None:
        if raw:
            raise InvalidInputError("raw=True takes one text, not messages", argument="raw", advice="leave it out")


def _messages(prompt: object) -> list[Message]:
    """Return a prompt as messages.

    Raises:
        InvalidInputError: It is neither a str nor a list of messages.
    """
    if isinstance(prompt, str):
        check_text(prompt, "prompt")
        return [{"role": "user", "content": prompt}]
    if not isinstance(prompt, Sequence) or not prompt:
        given = "an empty list" if isinstance(prompt, Sequence) else type(prompt).__name__
        raise InvalidInputError(f"prompt must be a str or a list of messages, got {given}", argument="prompt")
    for i, message in enumerate(prompt):
        if not isinstance(message, Mapping) or message.get("role") not in _ROLES:
            raise InvalidInputError(
                f"prompt[{i}] is not a message with a role of {', '.join(_ROLES)}",
                argument="prompt",
                advice='pass {"role": "user", "content": "…"}',
            )
        check_text(message.get("content"), f"prompt[{i}].content")
    return list(prompt)
