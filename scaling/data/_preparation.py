"""What the files of a preparation hold: ``manifest.json`` of a finished one, ``progress.json`` of one on its way."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from scaling.records.value import Value

Split = Literal["train", "evaluation"]


class TokenizerEntry(Value):
    """The tokenizer; ``end`` is the token after every document, None for none."""

    name: str
    sha256: str
    vocab: int
    end: int | None


class Asked(Value):
    """What decides the tokens, beside the inputs. ``share`` is 0 where evaluation has files of its own."""

    tokenizer: TokenizerEntry
    column: str
    share: float
    cut: int
    shard_tokens: int
    evaluation_inputs: int


class InputEntry(Value, omit_defaults=True):
    """An input file. ``stamp``: size and time of change when it was hashed, known until the preparation is done."""

    name: str
    bytes: int
    sha256: str
    stamp: tuple[int, int] | None = None


class ShardEntry(Value):
    """A shard that is whole: its file, and hashes of its tokens and of its index of documents."""

    file: Annotated[str, msgspec.Meta(pattern=r"^(train|evaluation)-\d+\.bin$")]
    split: Split
    tokens: int
    documents: int
    text_bytes: int
    sha256: str
    documents_sha256: str


class Amounts(Value):
    """Of one side of the split; a column of tokens has no bytes of text."""

    tokens: int
    documents: int
    text_bytes: int


class SplitRule(Value):
    """How documents were split, in words, and the hash below which one goes to evaluation."""

    rule: str
    threshold: int


class Progress(msgspec.Struct, forbid_unknown_fields=True):
    """How far a preparation has come. Mutable: reading and writing move it on.

    Attributes:
      input, position: the file that is being read, and where its next document begins.
      empty, copies: documents that were left out: without text, and of training that are in evaluation too.
      segment: number of the shards that are open.
      shards: those that are whole.
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


class Manifest(Value):
    """A finished preparation."""

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
