"""Texts as RetroMAE reads them: cut into pieces, with whole words masked anew at each visit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from bge_integrations.training.groups import random_for

if TYPE_CHECKING:
    from torch import Tensor

    from bge_integrations.models.tokenizer import TextTokenizer
    from bge_integrations.training.groups import Visit

#: A "word" of more tokens, such as a sentence without spaces, is masked token by token.
_LONGEST_WORD = 8
#: Of the masked tokens, this share becomes the mask token, and this share a random token; the rest stays.
_MASKED, _RANDOM = 0.8, 0.1
#: Maximum number of different masks that the decoder gets for one text.
_DECODER_MASKS = 128
#: Texts that are tokenised at a time.
_TOKENIZED_AT_ONCE = 1000
#: The label of a token that is not predicted.
_IGNORED = -100


class Piece(NamedTuple):
    """A piece of a text.

    Attributes:
        ids: Token ids, special tokens included, (tokens,).
        words: The number of each token's word from 0; -1 for special tokens, int32 (tokens,).
    """

    ids: np.ndarray
    words: np.ndarray


class MaskedPiece(NamedTuple):
    """A piece as the model gets it.

    Attributes:
        masked: The encoder's input: ids with masked words, (tokens,).
        encoder_labels: The ids that the encoder must predict; -100 elsewhere, (tokens,).
        ids: The decoder's input: the original ids, (tokens,).
        visible: Whether the decoder sees a token (second dimension) at a position (first one), bool (tokens, tokens).
    """

    masked: np.ndarray
    encoder_labels: np.ndarray
    ids: np.ndarray
    visible: np.ndarray


def pieces_of(texts: Iterable[str], tokenizer: TextTokenizer, max_length: int) -> Iterator[Piece]:
    """Yield texts as pieces of at most `max_length` tokens, which end between words if they can.

    Nothing is truncated; a piece without any token is left out.
    """
    before, after = tokenizer.text.parts
    room = max_length - len(before) - len(after)
    waiting = iter(texts)
    while batch := list(islice(waiting, _TOKENIZED_AT_ONCE)):
        for ids, words in tokenizer.ids_and_words(batch):
            for start, stop in _cuts(words, room):
                left, right = (np.full(len(part), -1, np.int32) for part in (before, after))
                yield Piece(
                    np.concatenate([before, ids[start:stop], after]),
                    np.concatenate([left, _numbered(words[start:stop]), right]),
                )


class MaskedTexts(Dataset[MaskedPiece]):
    """The pieces, masked; the same visit always masks the same words.

    Args:
        pieces: The pieces.
        tokenizer: Its ids are those of the pieces.
        encoder_share: The share of the tokens that the encoder must predict.
        decoder_share: The share of the tokens that each position of the decoder does not see.
        seed: Determines the masks.
    """

    def __init__(
        self,
        pieces: Sequence[Piece],
        tokenizer: TextTokenizer,
        encoder_share: float,
        decoder_share: float,
        seed: int,
    ) -> None:
        assert tokenizer.mask_id is not None
        self._pieces = pieces
        self._mask_id = tokenizer.mask_id
        self._ordinary = np.setdiff1d(np.arange(tokenizer.vocabulary_size), tokenizer.special_ids)
        self._encoder_share, self._decoder_share = encoder_share, decoder_share
        self._seed = seed

    def __len__(self) -> int:
        return len(self._pieces)

    def __getitem__(self, visit: Visit) -> MaskedPiece:
        piece = self._pieces[visit.row]
        generator = np.random.default_rng(random_for(self._seed, "masks", visit.epoch, visit.row).getrandbits(64))
        chosen = masks(piece.words, self._encoder_share, 1, generator)[0]
        return MaskedPiece(
            masked=self._replaced(piece.ids, chosen, generator),
            encoder_labels=np.where(chosen, piece.ids, _IGNORED),
            ids=piece.ids,
            visible=self._visible(piece.words, generator),
        )

    def _replaced(self, ids: np.ndarray, chosen: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """Return the ids with the chosen tokens masked, or exchanged, or left as they are."""
        luck = generator.random(len(ids))
        exchanged = np.where(luck < _MASKED, self._mask_id, generator.choice(self._ordinary, len(ids)))
        return np.where(chosen & (luck < _MASKED + _RANDOM), exchanged, ids)

    def _visible(self, words: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """Return which tokens the decoder sees at each position, (tokens, tokens): never the one that it predicts."""
        size = len(words)
        hidden = masks(words, self._decoder_share, min(size, _DECODER_MASKS), generator)
        visible = ~hidden[generator.integers(len(hidden), size=size)]
        np.fill_diagonal(visible, False)
        return visible


def masks(words: np.ndarray, share: float, count: int, generator: np.random.Generator) -> np.ndarray:
    """Draw `count` masks of whole words, at least one word each, of about this share of the tokens.

    Args:
        words: The word of each token; -1 for tokens that are never masked.
        share: The share of the tokens, counting those that are never masked.
        count: How many masks.
        generator: Where the randomness comes from.

    Returns:
        Whether a token is masked, (count, tokens).
    """
    sizes = np.bincount(words[words >= 0])
    order = generator.permuted(np.tile(np.arange(len(sizes)), (count, 1)), axis=1)
    most = max(1, round(share * len(words)))
    taken = np.cumsum(sizes[order], axis=1) <= most
    taken[:, 0] = True
    chosen = np.zeros((count, len(sizes) + 1), bool)  # -1 reads the last column, which stays False
    np.put_along_axis(chosen, order, taken, axis=1)
    return chosen[:, words]


def collate(pad_id: int, pieces: Sequence[MaskedPiece]) -> dict[str, Tensor]:
    """Return a batch of pieces, padded on the right, as `RetroMAE.forward` takes it."""
    longest = max(len(piece.ids) for piece in pieces)

    def pad(rows: Iterable[np.ndarray], value: int) -> Tensor:
        whole = np.full((len(pieces), longest), value, np.int64)
        for row, values in zip(whole, rows, strict=True):
            row[: len(values)] = values
        return torch.from_numpy(whole)

    visible = np.zeros((len(pieces), longest, longest), bool)
    for matrix, piece in zip(visible, pieces, strict=True):
        matrix[: len(piece.ids), : len(piece.ids)] = piece.visible
    labels = [np.concatenate([[_IGNORED], piece.ids[1:-1], [_IGNORED]]) for piece in pieces]
    return {
        "encoder_input_ids": pad((piece.masked for piece in pieces), pad_id),
        "attention_mask": pad((np.ones_like(piece.ids) for piece in pieces), 0),
        "encoder_labels": pad((piece.encoder_labels for piece in pieces), _IGNORED),
        "decoder_input_ids": pad((piece.ids for piece in pieces), pad_id),
        "decoder_labels": pad(labels, _IGNORED),
        "visible": torch.from_numpy(visible),
    }


def _cuts(words: np.ndarray, room: int) -> Iterator[tuple[int, int]]:
    """Yield the first token of each piece and the one after its last."""
    start = 0
    while start < len(words):
        stop = min(start + room, len(words))
        between = stop
        while stop < len(words) and between > start and words[between] == words[between - 1]:
            between -= 1
        stop = between if between > start else stop
        yield start, stop
        start = stop


def _numbered(words: Any) -> np.ndarray:
    """Number a piece's words from 0; each token of a word that is too long becomes its own."""
    _, index, sizes = np.unique(words, return_inverse=True, return_counts=True)
    is_long = sizes[index] > _LONGEST_WORD
    single = np.where(is_long, len(sizes) + np.arange(len(words)), index)
    return np.unique(single, return_inverse=True)[1].astype(np.int32)
