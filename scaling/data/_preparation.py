"""Contents of a preparation's files: ``manifest.json`` when it is finished, ``progress.json`` until then."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from scaling.records.value import Value

Split = Literal["train", "evaluation"]


class TokenizerEntry(Value):
    """A tokenizer; ``end`` is the token after every document, or None."""

    name: str
    sha256: str
    vocab: int
    end: int | None


# Folders exist whose files repeat here the ``specials`` that the tokenizer's hash holds.
class Asked(Value, forbid_unknown_fields=False):
    """Settings that, with the inputs, determine the tokens.

    Attributes:
      share: 0 if evaluation has its own files.
      kind: what the user said that the files hold; empty: told by their content.
    """

    tokenizer: TokenizerEntry
    column: str
    share: float
    cut: int
    shard_tokens: int
    evaluation_inputs: int
    kind: str = ""


class InputEntry(Value, omit_defaults=True):
    """An input file. ``stamp``: size and modification time when it was hashed; dropped once the preparation is done."""

    name: str
    bytes: int
    sha256: str
    stamp: tuple[int, int] | None = None


class ShardEntry(Value):
    """A complete shard: its file, and hashes of its tokens and of its index of documents."""

    file: Annotated[str, msgspec.Meta(pattern=r"^(train|evaluation)-\d+\.bin$")]
    split: Split
    tokens: int
    documents: int
    text_bytes: int
    sha256: str
    documents_sha256: str


class Amounts(Value):
    """Amounts on one side of the split; ``text_bytes`` is 0 for a column of tokens."""

    tokens: int
    documents: int
    text_bytes: int


class SplitRule(Value):
    """How documents were split, in words, and the hash below which a document goes to evaluation."""

    rule: str
    threshold: int


class Progress(msgspec.Struct, forbid_unknown_fields=True):
    """Progress of a preparation. Mutable: updated while reading and writing.

    Attributes:
      input, position: index of the file that is being read, and position of its next document.
      empty, copies: skipped documents: those without text, and training documents that also occur in evaluation.
      segment: number of the open shards.
      shards: the complete shards.
      literals: names of special tokens within the documents that were read as these tokens.
      damaged: rows that were skipped since they cannot be read.
    """

    schema: Literal[1]
    asked: Asked
    inputs: list[InputEntry]
    threshold: int
    input: int = 0
    position: int = 0
    empty: int = 0
    copies: int = 0
    segment: int = 0
    shards: list[ShardEntry] = msgspec.field(default_factory=list)
    literals: int = 0
    damaged: int = 0


class Manifest(Value):
    """A finished preparation. ``empty``, ``copies``, ``literals``, ``damaged``: as in ``Progress``.

    ``marks_sha256`` is of the marks of the tokenizer's tokens; empty for bytes, and for folders from before there were
    any."""

    schema: Literal[1]
    kind: Literal["tokens"]
    done: Literal[True]
    asked: Asked
    tokenizer: TokenizerEntry
    dtype: Annotated[str, msgspec.Meta(pattern=r"^(\|u1|<u2|<u4)$")]
    inputs: tuple[InputEntry, ...]
    split: SplitRule
    empty: int
    copies: int
    train: Amounts
    evaluation: Amounts
    shards: tuple[ShardEntry, ...]
    literals: int = 0
    damaged: int = 0
    marks_sha256: str = ""
