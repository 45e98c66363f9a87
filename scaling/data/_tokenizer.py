"""Tokenizers: bytes, or a ``tokenizer.json`` of Hugging Face's ``tokenizers``. Nothing is downloaded.

Where a text spells the name of a special token (``<|endoftext|>`` in an article on tokenizers, ``<s>`` in HTML), the
library reads the token, which ends the document for a model. ``specials`` says whether that is meant, and ``literals``
finds these places, so that they are counted and not silent.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scaling.data._extras import need
from scaling.data._preparation import TokenizerEntry
from scaling.errors import Code, UserError

ENDS = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<|endofdoc|>", "<|end|>", "[SEP]")
"""Names of end-of-text tokens, in the order in which they are tried."""
SPECIALS = ("token", "text")


# What a token's text tells of words and sentences, as bits: it continues the word of what precedes it, ends within a
# word, ends a line, ends with a full stop, begins after a space.
CONTINUES, WITHIN, LINE, STOP, SPACE = (1 << bit for bit in range(5))
# How tokenizers of bytes write white space; others may have these letters.
BYTE_SPACES = {0x0109: "\t", 0x010A: "\n", 0x010D: "\r", 0x0120: " "}


def marks(pieces: Sequence[str], continuing: str = "", ending: str = "") -> np.ndarray | None:
    """Bits of every token by its text, uint8 (len(pieces),); None if the tokens do not tell where spaces are.

    Args:
      pieces: the tokens as a tokenizer writes them: spaces as they are or as ``\u2581``, or all bytes as letters (then
        ``\u0120``, the space, is a token of its own), single bytes as ``<0x0A>``.
      continuing: what a token begins with that continues a word (``##``). Empty for a tokenizer that writes spaces: a
        token then continues a word if its first letter is one of a word, as those of bytes beyond ASCII all are.
      ending: what a token ends with that ends a word (``</w>``); such tokenizers write no spaces.
    """
    spaces = any(piece.startswith(("\u2581", " ")) for piece in pieces)
    by_byte = not continuing and not spaces and "\u0120" in pieces  # elsewhere it is a letter of Maltese
    if not (continuing or ending or spaces or by_byte):
        return None

    def inside(letter: str) -> bool:
        return bool(re.match(r"\w", letter)) or (by_byte and ord(letter) > 127)

    def of(piece: str) -> int:
        single = re.fullmatch(r"<0x([0-9A-F]{2})>", piece)
        whole = piece.removeprefix(continuing).removesuffix(ending).replace("\u2581", " ")
        text = chr(int(single[1], 16)) if single else whole.translate(BYTE_SPACES) if by_byte else whole
        if not text:
            return 0
        joins = piece.startswith(continuing) if continuing else inside(text[0])
        ended = bool(ending) and piece.endswith(ending)
        spaced = not joins if continuing else bool(ending) or text[0].isspace()
        stops = text[-1] in ".!?" and (ended or not ending)
        told = joins, inside(text[-1]) and not ended, text[-1] == "\n", stops, spaced
        return sum(bit for bit, holds in zip((CONTINUES, WITHIN, LINE, STOP, SPACE), told) if holds)

    return np.array([of(piece) for piece in pieces], np.uint8)


@dataclass(frozen=True)
class Tokenizer:
    """A tokenizer: ``encode`` turns texts (UTF-8 bytes) into tokens; ``end`` is the token after a text, or None.

    ``literals`` matches, in a text, the names that are read as special tokens; None if no text can spell one. ``marks``
    are those of every token, (vocab,); None for bytes, and where they cannot be told.
    """

    name: str
    sha256: str
    vocab: int
    end: int | None
    encode: Callable[[Sequence[bytes]], list[np.ndarray]]
    literals: re.Pattern[bytes] | None = None
    marks: np.ndarray | None = None

    @property
    def dtype(self) -> np.dtype:
        """The smallest of uint8, uint16 and uint32, little-endian, that holds every token."""
        return np.dtype("u1" if self.vocab <= 2**8 else "<u2" if self.vocab <= 2**16 else "<u4")

    def count_literals(self, text: bytes) -> int:
        """Number of places in a text that are read as special tokens."""
        return 0 if self.literals is None else len(self.literals.findall(text))

    def about(self) -> TokenizerEntry:
        """Its entry in a manifest."""
        return TokenizerEntry(self.name, self.sha256, self.vocab, self.end)


def _bytes(texts: Sequence[bytes]) -> list[np.ndarray]:
    return [np.frombuffer(text, np.uint8) for text in texts]


def _read(name: str) -> tuple[Path, bytes, Any]:
    """A tokenizer.json: its path, content, and the library's tokenizer."""
    path = Path(name).expanduser()
    if not path.is_file():
        raise UserError("tokenizer", name, "is no file; give a tokenizer.json, or bytes", Code.MISSING)
    library, content = need("tokenizers", path.name), path.read_bytes()
    try:
        huggingface = library.Tokenizer.from_str(content.decode())
    except Exception as error:  # the library raises bare Exceptions
        remedy = f"is no tokenizer.json ({str(error)[:120]})"
        raise UserError("tokenizer", name, remedy, Code.DAMAGED) from error
    # A file may enable both, which would silently cut long texts or pad short ones.
    huggingface.no_truncation()
    huggingface.no_padding()
    return path, content, huggingface


def load(name: str, end: str = "auto", *, closed: bool = False, specials: str = "token") -> Tokenizer:
    """Loads a tokenizer.

    Args:
      name: ``bytes``, or the path of a tokenizer.json.
      end: the token after every text: ``none``, its name, or ``auto``, the first of ``ENDS`` that the tokenizer has.
      closed: whether every text must end with an end token that is the highest token, so that a text tower can find it.
        For bytes this is an extra token, 256; a tokenizer's end token is swapped with its highest token.
      specials: one of ``SPECIALS``: names of special tokens within a text are read as tokens, or as text.

    Raises:
      UserError: the file (MISSING) or the token (UNKNOWN) does not exist, the file is not a tokenizer (DAMAGED), there
        is no end token although ``closed`` (MISSING), or ``tokenizers`` is not installed (ENVIRONMENT).
    """
    if name == "bytes":
        if end not in ("auto", "none"):
            remedy = "bytes have no such token; leave the flag out, or give a tokenizer"
            raise UserError("end", end, remedy, Code.UNKNOWN)
        sha256 = hashlib.sha256(b"bytes, 256 ends" if closed else b"bytes").hexdigest()
        return Tokenizer("bytes", sha256, 256 + closed, 256 if closed else None, _bytes)
    path, content, huggingface = _read(name)
    huggingface.encode_special_tokens = specials == "text"
    table = huggingface.get_vocab(with_added_tokens=True)
    if not table:
        raise UserError("tokenizer", name, "has an empty vocabulary; train it first", Code.DAMAGED)
    end_token = next((token for token in ENDS if token in table), None) if end == "auto" else end
    if end == "none":
        end_token = None
    if end_token is None and closed:
        reason = "captions need an end" if end == "none" else f"{path.name} has no end-of-text token that is known"
        raise UserError("end", end, f"{reason}; give the name of a token", Code.MISSING)
    if end_token is not None and end_token not in table:
        remedy = f"is no token of {path.name}; give one of its tokens, or none"
        raise UserError("end", end_token, remedy, Code.UNKNOWN)
    number, highest = None if end_token is None else table[end_token], max(table.values())
    traded = number if closed and number != highest else None

    def encode(texts: Sequence[bytes]) -> list[np.ndarray]:
        encoded = huggingface.encode_batch_fast([text.decode() for text in texts], add_special_tokens=False)
        tokens = [np.array(text.ids, np.int64) for text in encoded]
        if traded is None:
            return tokens
        return [np.where(ids == highest, traded, np.where(ids == traded, highest, ids)) for ids in tokens]

    variant = b"" if traded is None else b"\nend highest"
    variant += b"\nspecials as text" if specials == "text" else b""
    sha256 = hashlib.sha256(content + variant).hexdigest()
    special = {token.content for token in huggingface.get_added_tokens_decoder().values() if token.special}
    read = special | ({end_token} if end_token else set())
    if specials == "text":
        read -= special  # an end that is not marked as special is read as the token all the same
    names = sorted(read, key=len, reverse=True)
    found = re.compile(b"|".join(re.escape(each.encode()) for each in names)) if names else None
    pieces = [huggingface.id_to_token(token) or "" for token in range(highest + 1)]
    if traded is not None:
        pieces[traded], pieces[highest] = pieces[highest], pieces[traded]
    model = huggingface.model
    affixes = [getattr(model, name, None) or "" for name in ("continuing_subword_prefix", "end_of_word_suffix")]
    told = marks(pieces, *affixes)
    return Tokenizer(path.name, sha256, highest + 1, number if traded is None else highest, encode, found, told)
