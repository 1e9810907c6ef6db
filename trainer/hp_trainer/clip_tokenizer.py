"""CLIP's byte-pair tokens of English text.

    "A photo" ─ clean ─► "a photo" ─ words ─► a, photo ─ merges ─► [320, 1125] ─► start … end, 0 …

A label in another script means nothing to CLIP's text encoder and is refused. What is left is
ASCII, on which the published cleaning (ftfy) has nothing to repair, and of the 256 bytes that the
vocabulary begins with only the first 94, the printable ones, can occur.

Source: CLIP, arXiv:2103.00020; byte pairs: arXiv:1508.07909.
"""

from __future__ import annotations

import gzip
import html
import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from hp_sdk.errors import ConfigError, CorruptArtifact, ModelError, ModelNotFound
from hp_trainer.weight_files import DAMAGE

CONTEXT = 77
"""Tokens of a text, start and end included."""
START, END = "<|startoftext|>", "<|endoftext|>"
WORD_END = "</w>"
BYTES = 256
"""Symbols the vocabulary begins with; they come once more as ends of words."""

WORDS = re.compile(r"'s|'t|'re|'ve|'m|'ll|'d|[a-z]+|[0-9]|[^\sa-z0-9]+")

Pair = tuple[str, str]


class CLIPTokenizer:
    """Text → ids; a vocabulary of 256 bytes, 256 final bytes, the merges, start and end."""

    def __init__(self, merges: Sequence[Pair]) -> None:
        printable = [chr(code) for code in range(ord("!"), ord("~") + 1)]
        self.ranks = {pair: rank for rank, pair in enumerate(merges)}
        self.ids = {symbol: i for i, symbol in enumerate(printable)}
        self.ids |= {symbol + WORD_END: BYTES + i for i, symbol in enumerate(printable)}
        self.ids |= {a + b: 2 * BYTES + i for i, (a, b) in enumerate(merges)}
        self.vocabulary = 2 * BYTES + len(merges) + 2
        self.ids |= {START: self.vocabulary - 2, END: self.vocabulary - 1}

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without start and end.

        Raises:
            ConfigError: the text is not plain ASCII.
        """
        words = WORDS.findall(clean(text))
        return [self.ids[symbol] for word in words for symbol in self._symbols(word)]

    def tokens(self, texts: Sequence[str], context: int = CONTEXT) -> Tensor:
        """Ids of several texts with start and end, padded with 0: (N, context).

        Raises:
            ConfigError: a text is too long, or not plain ASCII.
        """
        rows = torch.zeros(len(texts), context, dtype=torch.long)
        for row, text in zip(rows, texts, strict=True):
            ids = [self.ids[START], *self.encode(text), self.ids[END]]
            if len(ids) > context:
                raise ConfigError(
                    f"the prompt {text!r} has {len(ids) - 2} tokens; CLIP's text encoder reads at "
                    f"most {context - 2}, so shorten it"
                )
            row[: len(ids)] = torch.tensor(ids)
        return rows

    def _symbols(self, word: str) -> list[str]:
        """The pieces of a word: its letters, joined pair by pair in the order of the merges."""
        symbols = [*word[:-1], word[-1] + WORD_END]
        while known := self.ranks.keys() & set(pairwise(symbols)):
            symbols = list(_joined(symbols, min(known, key=self.ranks.__getitem__)))
        return symbols


def clean(text: str) -> str:
    """Entities resolved, lower case, single blanks.

    Raises:
        ConfigError: something is left that is not printable ASCII.
    """
    text = " ".join(html.unescape(html.unescape(text)).split()).lower()
    if not (text.isascii() and text.isprintable()):
        raise ConfigError(
            f"{text!r} is not plain English; CLIP's text encoder reads names and prompts in ASCII "
            "only, so spell the label in English"
        )
    return text


def read_tokenizer(path: Path, vocabulary: int) -> CLIPTokenizer:
    """The tokenizer of a file of merges, plain or gzipped, for a text encoder of so many tokens.

    OpenAI's file holds more merges than CLIP uses; the first ones count.

    Raises:
        ModelNotFound: no such file.
        CorruptArtifact: not a file of merges, or damaged.
        ModelError: fewer merges than the text encoder has tokens for.
    """
    if not path.is_file():
        raise ModelNotFound(f"there is no file of merges {path}")
    count = vocabulary - 2 * BYTES - 2
    merges = _read_merges(path)[: max(count, 0)]
    if len(merges) != count:
        raise ModelError(
            f"{path} holds {len(merges)} merges, the text encoder has {vocabulary} tokens and so "
            f"needs {count}; give the whole file of merges that belongs to it"
        )
    return CLIPTokenizer(merges)


def _read_merges(path: Path) -> list[Pair]:
    try:
        content = path.read_bytes()
        plain = gzip.decompress(content) if content.startswith(b"\x1f\x8b") else content
        lines = plain.decode().splitlines()
        merges = [_pair(line) for line in lines if line.strip() and "#version" not in line]
        _check_order(merges)
    except DAMAGE as exc:
        raise CorruptArtifact(
            f"{path} cannot be read as byte-pair merges ({exc}); take bpe_simple_vocab_16e6.txt.gz "
            "of OpenAI's CLIP or merges.txt of a Hugging Face CLIP, and copy it again"
        ) from exc
    return merges


def _pair(line: str) -> Pair:
    first, second = line.split(" ")
    return first, second


def _check_order(merges: Sequence[Pair]) -> None:
    """Every merge joins bytes or what merges before it made."""
    made: set[str] = set()
    for rank, pair in enumerate(merges):
        for symbol in pair:
            if symbol not in made and len(symbol.removesuffix(WORD_END)) != 1:
                raise ValueError(f"merge {rank} joins {symbol!r}, which nothing before it makes")
        made.add("".join(pair))


def _joined(symbols: Sequence[str], pair: Pair) -> Iterator[str]:
    i = 0
    while i < len(symbols):
        both = tuple(symbols[i : i + 2]) == pair
        yield "".join(pair) if both else symbols[i]
        i += 2 if both else 1
