"""data prepare: turns text into tokens on disk."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, TextIO

from scaling.errors import Code, UserError, choose
from scaling.flags import Flag
from scaling.records.typed import plain
from scaling.settings import require_choice
from scaling.verbs._declare import JSON, Verb
from scaling.verbs.show import count, print_json

if TYPE_CHECKING:
    from scaling.data._documents import Found, Input


class _Progress:
    """A progress line: redrawn in place on a terminal, printed every ten seconds elsewhere."""

    def __init__(self, stream: TextIO):
        self._stream, self._live = stream, stream.isatty()
        self._every, self._shown = (0.2, 0.0) if self._live else (10.0, time.monotonic())
        self._what, self._begun, self._from = "", 0.0, (0, 0)

    def __call__(self, what: str, done: int, total: int, tokens: int) -> None:
        from scaling.status import duration

        now = time.monotonic()
        if what != self._what:
            self._what, self._begun, self._from = what, now, (done, tokens)
        if now - self._shown < self._every:
            return
        self._shown, passed = now, max(1e-9, now - self._begun)
        progressed, speed = done - self._from[0], (tokens - self._from[1]) / passed
        left = f", {duration((total - done) * passed / progressed)} left" if progressed > 0 else ""
        rate = f", {count(tokens)} tokens, {count(speed)}/s" if tokens else ""
        line = f"{what}: {done / max(1, total):.1%} of {count(total)}{rate}{left}"
        print(f"\r\x1b[K{line}" if self._live else line, end="" if self._live else "\n", file=self._stream, flush=True)

    def close(self) -> None:
        if self._live:
            print("\r\x1b[K", end="", file=self._stream, flush=True)


def data(options: SimpleNamespace) -> int:
    """Prepares the files, continues an interrupted preparation, or checks a finished one."""
    action, *paths = map(str, options.paths)
    if action != "prepare":
        raise UserError("data", action, choose(action, ["prepare"]), Code.UNKNOWN)
    if not options.out:
        raise UserError("out", "nothing", "give --out=DIR, a directory for the tokens", Code.MISSING)
    from scaling.data import _documents, _formats, _prepare, _tokenizer

    held_out, kind = options.evaluation.split(",") if options.evaluation else [], options.kind or ""
    require_choice("specials", options.specials, _tokenizer.SPECIALS)
    if kind:
        require_choice("kind", kind, _formats.KINDS)
    evaluation = []
    if held_out:
        files = _documents.find(held_out, options.glob or "", kind=kind, column=options.column, evaluation=True)
        evaluation = files.files
    found = _documents.find(paths, options.glob or "", kind=kind, column=options.column)
    job = _prepare.Job(
        found.files,
        Path(options.out),
        _tokenizer.load(options.tokenizer, options.end, specials=options.specials),
        evaluation=evaluation,
        column=options.column,
        share=options.share,
        cut=options.cut or 0,
        shard_tokens=options.shard_tokens,
        damaged=options.damaged,
    )
    progress = _Progress(sys.stderr)
    try:
        manifest, new = _prepare.prepare(job, progress)
    finally:
        progress.close()
    if options.json:
        left_out = {"held": found.held, "unknown": found.unknown, "lacking": found.lacking}
        print_json({**plain(manifest), "out": options.out, **left_out})
        return 0
    _print_files(job.every, found, options.column)
    if not new:
        print(f"nothing to do: inputs and shards of {options.out} match its manifest")
    for name, split in (("train", manifest.train), ("evaluation", manifest.evaluation)):
        print(f"{name}: {split.tokens:,} tokens, {split.documents:,} documents, {split.text_bytes:,} bytes")
    tokenizer, end = manifest.tokenizer, manifest.tokenizer.end
    ends = "no token between documents" if end is None else f"token {end} after each document"
    print(f"{tokenizer.name}, vocabulary {tokenizer.vocab:,}, {ends}")
    if manifest.empty:
        print(f"{manifest.empty:,} documents without text were skipped")
    if manifest.damaged:
        print(f"{manifest.damaged:,} damaged rows were skipped")
    if manifest.literals:
        places = f"{manifest.literals:,} names of special tokens in the text"
        print(f"{places} were read as these tokens, which may end documents")
        print("--specials=text reads as text those that the tokenizer marks as special")
    if manifest.copies:
        print(f"{manifest.copies:,} training documents that also occur in evaluation were skipped")
    print(f'config.data.mine = {{"source": "prepared", "path": "{options.out}"}}')
    return 0


def _print_files(files: Sequence[Input], found: Found, column: str) -> None:
    """What the files hold, and which of the folders' files were left out."""
    formats = Counter(str(input_file.format) for input_file in files)
    print("read as " + ", ".join(f"{name}: {number}" for name, number in sorted(formats.items())))
    if found.held:
        print(
            f"left out: {len(found.held)} files named test or validation ({_some(found.held)}); evaluate on them with "
            "--evaluation=PATH"
        )
    if found.unknown:
        print(f"left out: {len(found.unknown)} files of other names ({_some(found.unknown)}); give --glob to read them")
    if found.lacking:
        lacking = f"{len(found.lacking)} JSON or CSV files that are empty, one object, or without the column {column}"
        print(f"left out: {lacking} ({_some(found.lacking)})")


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


VERB = Verb(
    summary="prepare your own text for training, as tokens on disk, for the source `prepared`",
    positional=("prepare", "PATH..."),
    flags=(
        Flag("out", str, "directory of the tokens"),
        Flag("tokenizer", str, "bytes, or a tokenizer.json of Hugging Face's tokenizers", "bytes"),
        Flag("end", str, "token to put after every document: its name, none, or auto (the tokenizer's own)", "auto"),
        Flag(
            "specials",
            str,
            "names of special tokens within the text are read as: token, text",
            "token",
            offers=lambda: ("token", "text"),
        ),
        Flag("column", str, "column of JSON, CSV, Parquet and Arrow files that holds text, or lists of tokens", "text"),
        Flag("glob", str, "files of a folder, such as '*.log' (default: the names of all formats that are read)"),
        Flag(
            "kind",
            str,
            "what the files hold: text, jsonl, json, csv, tsv, parquet, arrow, records (default: by content)",
        ),
        Flag(
            "evaluation",
            str,
            "files for evaluation, separated by commas (default: a share of the documents)",
        ),
        Flag(
            "share",
            float,
            "share of the documents held out for evaluation, by a hash of their content",
            0.05,
        ),
        Flag(
            "cut",
            int,
            "split plain text longer than this many bytes (default: from number and size of the files)",
        ),
        Flag(
            "damaged",
            int,
            "damaged rows to skip and count (lines that are no JSON, rows without the column or with too many or few "
            "cells, values that are no text); more are an error",
            0,
        ),
        Flag("shard_tokens", int, "tokens per shard; after a crash at most one shard is written again", 2**26),
        JSON,
    ),
    example="scaling data prepare texts --out=tokens",
    call=data,
    offers=lambda: ("prepare",),
)
