"""A checkpoint's tokenizer. It is never reconfigured after loading, so many threads can share it."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from tokenizers import Tokenizer
from tokenizers.normalizers import BertNormalizer

from bge_integrations.errors import BGEError, CheckpointError, NotSupportedError
from bge_integrations.models.checkpoint import TOKENIZER_FILES, check_not_pointer, read_json
from bge_integrations.outputs import Token

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

logger = logging.getLogger(__name__)

#: A single text of at most this many characters is encoded without the tokenizer's thread pool.
_SHORT = 2000
_SPECIAL = ("cls_token", "sep_token", "bos_token", "eos_token", "pad_token", "unk_token")


@dataclass(frozen=True)
class Template:
    """The special tokens around a text or a pair: `parts[0] text parts[1]`, or `parts[0] a parts[1] b parts[2]`.

    Attributes:
        parts: Ids of the special tokens before, between and after the texts.
        part_types: Token type ids of these tokens.
        text_types: Token type id of each text.
    """

    parts: tuple[np.ndarray, ...]
    part_types: tuple[np.ndarray, ...]
    text_types: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of special tokens it adds."""
        return sum(map(len, self.parts))

    def with_token(self, index: int, token: int | None) -> Template:
        """Add a token before (index 0) or after (index -1) everything, unless it is None or already there.

        tokenizer_config.json can request a token that tokenizer.json lacks; newer versions of transformers don't add
        it to the file.
        """
        if token is None or token in self.parts[index]:
            return self
        parts, types = list(self.parts), list(self.part_types)
        parts[index] = np.insert(parts[index], 0 if index == 0 else len(parts[index]), token)
        types[index] = np.zeros(len(parts[index]), np.int32)
        return Template(tuple(parts), tuple(types), self.text_types)


class TextTokenizer:
    """Turns texts into token ids without special tokens; the templates define the special tokens around them.

    Args:
        folder: The checkpoint.
        embeddings: Number of token embeddings in the weights. Added tokens with higher ids are read as plain text,
            unless they are special. None keeps all tokens.
    """

    def __init__(self, folder: Path, embeddings: int | None = None) -> None:
        try:
            self._read(folder, embeddings)
        except (BGEError, KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # the library raises bare Exception, and panics that are not even that
            raise CheckpointError(f"the tokenizer in {folder} is damaged ({error}); download it again") from error

    def _read(self, folder: Path, embeddings: int | None) -> None:
        for name in TOKENIZER_FILES:
            check_not_pointer(folder / name)
        self._tokenizer = _load(folder)
        if embeddings is not None and self._tokenizer.get_vocab_size(with_added_tokens=True) > embeddings:
            self._tokenizer = _without_added_tokens(self._tokenizer, embeddings, folder)
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.vocabulary_size: int = self._tokenizer.get_vocab_size(with_added_tokens=True)
        config = read_json(folder, "tokenizer_config.json") or {}
        config = (read_json(folder, "special_tokens_map.json") or {}) | config
        #: Maximum length according to the tokenizer's own config; None if it has none.
        self.max_length: int | None = _plausible(config.get("model_max_length"))
        self._apply_overrides(folder, config)
        #: Ids of the BOS and padding tokens; None if there are none.
        self.bos_id, self.pad_id = (self._id_of(config.get(key)) for key in ("bos_token", "pad_token"))
        #: Id of the token that replaces masked words; None if there is none.
        self.mask_id = self._id_of(config.get("mask_token"))
        self.text = self._template(1)
        for index, name in ((0, "bos"), (-1, "eos")):
            if config.get(f"add_{name}_token") is True:
                self.text = self.text.with_token(index, self._id_of(config.get(f"{name}_token")))
        self.pair = self._template(2)
        #: Ids of the special tokens, which carry no lexical weight.
        self.special_ids = np.unique(np.concatenate([self._special_ids(config), *self.text.parts, *self.pair.parts]))
        self._special = frozenset(self.special_ids.tolist())

    def check_fits(self, folder: Path, embeddings: int) -> None:
        """Raise CheckpointError if the tokenizer has more tokens than the weights have embeddings."""
        if self.vocabulary_size > embeddings:
            raise CheckpointError(
                f"{folder}: the tokenizer has {self.vocabulary_size} tokens, but the weights have {embeddings}; they "
                "belong to different models"
            )

    @property
    def vocabulary(self) -> dict[str, int]:
        """The id of each token, added tokens included."""
        vocabulary: dict[str, int] = self._tokenizer.get_vocab(with_added_tokens=True)
        return vocabulary

    def ids(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Return the token ids of each text, int32, without special tokens and without truncation."""
        try:
            if len(texts) == 1 and len(texts[0]) <= _SHORT:  # a query needs no thread pool, but `encode` holds the GIL
                encodings = [self._tokenizer.encode(texts[0], add_special_tokens=False)]
            else:
                encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        except Exception as error:  # the tokenizers library raises bare Exception
            raise CheckpointError(f"the tokenizer is damaged: it can't encode a text ({error})") from error
        return [np.array(encoding.ids, dtype=np.int32) for encoding in encodings]

    def ids_and_words(self, texts: Sequence[str]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return the token ids of each text as `ids` does, and the number of the word that each token is a part of."""
        encodings = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return [
            (np.array(each.ids, np.int32), np.array([-1 if word is None else word for word in each.word_ids], np.int32))
            for each in encodings
        ]

    def tokens(self, ids: np.ndarray, text: str, instruction: str) -> list[Token]:
        """Return the tokens with these ids, the ids of `instruction + text` between special tokens."""
        encoding = self._tokenizer.encode(instruction + text, add_special_tokens=False)
        begin = len(self.text.parts[0])
        length = min(len(encoding.ids), len(ids) - self.text.size)
        # other text is around that of models with examples, whose tokens then have no offsets
        is_plain = length >= 0 and np.array_equal(ids[begin : begin + length], encoding.ids[:length])
        tokens = []
        for position, token in enumerate(ids.tolist(), start=-begin):
            start = stop = None
            if is_plain and 0 <= position < length:
                start, stop = (offset - len(instruction) for offset in encoding.offsets[position])
            if start is None or stop is None or start < 0 or start == stop:
                start = stop = None
            content = self._tokenizer.id_to_token(token) if start is None else text[start:stop]
            tokens.append(Token(token, content or "", start, stop, token in self._special))
        return tokens

    def decode(self, ids: Sequence[int], skip_special_tokens: bool) -> str:
        """Return the text that these ids stand for."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=skip_special_tokens)

    @property
    def ignores_case(self) -> bool:
        """Whether texts in upper and lower case have the same ids."""
        upper, lower = self.ids(["A PANDA", "a panda"])
        return bool(np.array_equal(upper, lower))

    def _apply_overrides(self, folder: Path, config: dict[str, Any]) -> None:
        """Apply the overrides of tokenizer_config.json as transformers does; reject unsupported ones."""
        if config.get("truncation_side", "right") != "right":
            raise NotSupportedError(
                f"{folder}/tokenizer_config.json asks for truncation on the left, which is not supported"
            )
        normalizer = self._tokenizer.normalizer
        if isinstance(normalizer, BertNormalizer):
            for name, wanted in (
                ("lowercase", config.get("do_lower_case")),
                ("strip_accents", config.get("strip_accents")),
            ):
                if isinstance(wanted, bool):
                    setattr(normalizer, name, wanted)
            self._tokenizer.normalizer = normalizer

    def _special_ids(self, config: dict[str, Any]) -> np.ndarray:
        ids = (self._id_of(config.get(key)) for key in _SPECIAL)
        return np.array([i for i in ids if i is not None], dtype=np.int32)

    def _id_of(self, token: object) -> int | None:
        """Return the id of a token as written in tokenizer_config.json: a str, or an object with its content."""
        name = token.get("content") if isinstance(token, dict) else token
        return self._tokenizer.token_to_id(name) if isinstance(name, str) else None

    def truncate(self, text: str, tokens: int) -> tuple[str, int]:
        """Truncate a text to `tokens` tokens, without counting special tokens; also return how many it had."""
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        size = len(encoding.ids)
        if size <= tokens:
            return text, size
        return text[: encoding.offsets[tokens - 1][1]] if tokens > 0 else "", size

    def _template(self, texts: int) -> Template:
        """Derive the template from the encoding of one-letter texts."""
        encoding = self._tokenizer.encode("a", "a" if texts == 2 else None)
        parts: list[list[int]] = [[]]
        types: list[list[int]] = [[]]
        text_types: list[int] = []
        for token, kind, sequence in zip(encoding.ids, encoding.type_ids, encoding.sequence_ids, strict=True):
            if sequence is None:
                parts[-1].append(token)
                types[-1].append(kind)
            elif sequence == len(text_types):
                text_types.append(kind)
                parts.append([])
                types.append([])
        if len(text_types) != texts:
            raise CheckpointError("tokenizer.json is damaged: its template loses the letter 'a'; download it again")
        return Template(
            tuple(np.array(p, dtype=np.int32) for p in parts),
            tuple(np.array(t, dtype=np.int32) for t in types),
            tuple(text_types),
        )


def _plausible(length: object) -> int | None:
    """Return the length; None for the 10**30 that transformers writes if the length is unknown."""
    return length if isinstance(length, int) and 0 < length < 10**9 else None


def _without_added_tokens(tokenizer: Tokenizer, embeddings: int, folder: Path) -> Tokenizer:
    """Return a tokenizer that reads added tokens without an embedding as plain text, except for special tokens.

    Qwen3-Embedding-4B and -8B have 151,665 embeddings, but a tokenizer that also has Qwen3's tokens for thoughts.
    """
    content = json.loads(tokenizer.to_str())
    dropped = [token for token in content["added_tokens"] if token["id"] >= embeddings and not token["special"]]
    if not dropped:
        return tokenizer
    names = ", ".join(token["content"] for token in dropped)
    logger.warning("%s: the weights have no embedding for %s, which is read as plain text", folder, names)
    content["added_tokens"] = [token for token in content["added_tokens"] if token not in dropped]
    return Tokenizer.from_str(json.dumps(content))


def _load(folder: Path) -> Tokenizer:
    file = folder / "tokenizer.json"
    if file.is_file():
        try:
            return Tokenizer.from_file(str(file))
        except Exception as error:  # the tokenizers library raises bare Exception
            raise CheckpointError(f"{file} is damaged ({error}); download it again") from error
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise CheckpointError(f"{folder} has no tokenizer; one of these is needed: {', '.join(TOKENIZER_FILES)}")
    from transformers import AutoTokenizer

    try:
        slow: Any = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
        tokenizer: Tokenizer = slow.backend_tokenizer
        return tokenizer
    except Exception as error:
        raise CheckpointError(f"{folder} has no tokenizer.json, and none could be made ({error})") from error
