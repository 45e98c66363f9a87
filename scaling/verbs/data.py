"""data prepare: text to tokens, with progress."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import TextIO

from scaling.errors import Code, UserError, choose
from scaling.flags import Flag
from scaling.records.typed import plain
from scaling.verbs._declare import JSON, Verb
from scaling.verbs.show import count, print_json


class _Progress:
    """One line, redrawn on a terminal and repeated every ten seconds elsewhere: what, how far, how fast, how long."""

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
        made, speed = done - self._from[0], (tokens - self._from[1]) / passed
        left = f", {duration((total - done) * passed / made)} left" if made > 0 else ""
        rate = f", {count(tokens)} tokens, {count(speed)}/s" if tokens else ""
        line = f"{what}: {done / max(1, total):.1%} of {count(total)}{rate}{left}"
        print(f"\r\x1b[K{line}" if self._live else line, end="" if self._live else "\n", file=self._stream, flush=True)

    def close(self) -> None:
        if self._live:
            print("\r\x1b[K", end="", file=self._stream, flush=True)


def data(options: SimpleNamespace) -> int:
    """Prepares the files, or goes on, or checks what is there."""
    action, *paths = map(str, options.paths)
    if action != "prepare":
        raise UserError("data", action, choose(action, ["prepare"]), Code.UNKNOWN)
    if not options.out:
        raise UserError("out", "nothing", "give --out=DIR, a directory for the tokens", Code.MISSING)
    from scaling.data import _documents, _prepare, _tokenizer

    given = options.evaluation.split(",") if options.evaluation else []
    job = _prepare.Job(
        _documents.inputs(paths, options.glob or ""),
        Path(options.out),
        _tokenizer.load(options.tokenizer, options.end),
        evaluation=_documents.inputs(given, options.glob or "") if given else (),
        column=options.column,
        share=options.share,
        cut=options.cut or 0,
        shard_tokens=options.shard_tokens,
    )
    progress = _Progress(sys.stderr)
    try:
        manifest, new = _prepare.prepare(job, progress)
    finally:
        progress.close()
    if options.json:
        print_json({**plain(manifest), "out": options.out})
        return 0
    if not new:
        print(f"nothing to do: inputs and shards of {options.out} are what its manifest says")
    for name, found in (("train", manifest.train), ("evaluation", manifest.evaluation)):
        print(f"{name}: {found.tokens:,} tokens, {found.documents:,} documents, {found.text_bytes:,} bytes")
    tokenizer, end = manifest.tokenizer, manifest.tokenizer.end
    ends = "no token between documents" if end is None else f"token {end} after each document"
    print(f"{tokenizer.name}, vocabulary {tokenizer.vocab:,}, {ends}")
    if manifest.empty:
        print(f"{manifest.empty:,} documents without text were left out")
    if manifest.copies:
        print(f"{manifest.copies:,} training documents that are in evaluation were left out")
    print(f'config.data.mine = {{"source": "prepared", "path": "{options.out}"}}')
    return 0


VERB = Verb(
    summary="prepare your own text for training: tokens in shards on disk, for the data source `prepared`",
    positional=("prepare", "PATH..."),
    flags=(
        Flag("out", str, "directory of the tokens"),
        Flag("tokenizer", str, "bytes, or a tokenizer.json of Hugging Face's tokenizers", "bytes"),
        Flag("end", str, "token after every document: its name, none, or auto for the tokenizer's own", "auto"),
        Flag("column", str, "column of jsonl, parquet and arrow files that holds text, or lists of tokens", "text"),
        Flag("glob", str, "which files of a folder, such as '*.log', read as text (default: all kinds it knows)"),
        Flag("evaluation", str, "files for evaluation, with commas between (default: a share of the documents)"),
        Flag("share", float, "share of the documents for evaluation, chosen by the hash of their content", 0.05),
        Flag("cut", int, "cut plain text above this many bytes into documents (default: by the size of the files)"),
        Flag("shard_tokens", int, "tokens in a shard; after a crash at most one is made again", 2**26),
        JSON,
    ),
    example="scaling data prepare texts --out=tokens",
    call=data,
)
