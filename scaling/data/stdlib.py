"""The bytes of the running interpreter's standard library: real text that is on every machine with Python.

Every ``*.py`` below the library's folder, sorted by relative path, except: tests (``test``, ``tests``, ``idle_test``),
``lib2to3`` (gone since 3.13), installed packages, and tables that a script generated (code pages, HTML entities, help
topics, build settings). The tables are 1.9 of 11.8 MB in Python 3.11 and repetitive (xz: 0.96 to 1.26 bits/byte
against 1.3 to 2.0 for code), and the loss would depend on which of them fell into evaluation.

A file goes to evaluation by the hash of its content (5 % of the bytes in expectation): whole files, no shared copies.
The text differs between Python versions and builds, so the version, the number of bytes and the sha256 over (relative
name, content) are in every record, and losses are compared only where the sha256 is equal. Unreadable files and
broken links are skipped, in which case the hash shows that the text differs.
"""

from __future__ import annotations

import hashlib
import os
import platform
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from scaling.data._tokens import Document, TokenSource, content_hash, held_out, join
from scaling.errors import Code, UserError
from scaling.settings import check, setting

SKIPPED_FOLDERS = frozenset(
    ("test", "tests", "idle_test", "lib2to3", "site-packages", "dist-packages", "__pycache__", "lib-dynload")
)
GENERATED = frozenset(("html/entities.py", "stringprep.py", "re/_casefix.py", "_opcode_metadata.py"))
LOCAL = frozenset(("sitecustomize.py", "usercustomize.py"))


@dataclass(frozen=True)
class Config:
    """The text is the library of the running interpreter."""

    limit: int = setting(0, least=0)
    """Training bytes to keep, of files in the order of their hash; 0 keeps all. Evaluation is not cut."""

    def __post_init__(self):
        check(self, "data")


def generated(name: str, content: bytes) -> bool:
    """Whether a library file (relative posix path, content) is a table that a script wrote, or a site's own file."""
    if name in GENERATED or name in LOCAL or name.startswith(("pydoc_data/", "_sysconfigdata_")):
        return True
    return name.startswith("encodings/") and (b"\ndecoding_table" in content or b"\ndecoding_map" in content)


def files(root: Path) -> list[tuple[str, bytes]]:
    """(relative posix path, content) of the text files below ``root``, sorted by path; empty files are skipped."""
    texts = []
    for folder, folders, members in os.walk(root):
        folders[:] = [name for name in folders if name not in SKIPPED_FOLDERS and not name.startswith("config-")]
        for member in members:
            if member.endswith(".py"):
                path = Path(folder, member)
                name = path.relative_to(root).as_posix()
                try:
                    content = path.read_bytes()
                except OSError:
                    continue
                if content and not generated(name, content):
                    texts.append((name, content))
    return sorted(texts)


def make(config: Config, root: Path | None = None) -> TokenSource:
    """The library of this interpreter, or of ``root``.

    Raises:
      UserError: this Python has (almost) no library source files, for example since it is zipped (MISSING), or fewer
        bytes than ``limit`` (TOO_FEW).
    """
    root = Path(sysconfig.get_paths()["stdlib"]) if root is None else root
    library = files(root)
    train, documents = [], []
    for name, content in library:
        digest = hashlib.sha256(content).digest()
        if held_out(digest):
            documents.append(Document(name, join([content]), digest))
        else:
            train.append((digest, content))
    if not train or not documents:
        remedy = f"this Python has {len(library)} source files of its library; use text or bin"
        raise UserError("data.source", "stdlib", remedy, Code.MISSING)
    # A limit takes files in the order of their content hash; alphabetical order would favour early packages.
    tokens = join([content for _, content in (sorted(train) if config.limit else train)])
    if config.limit > len(tokens):
        remedy = f"the library has {len(tokens):,} training bytes; lower it"
        raise UserError("data.limit", f"{config.limit:,}", remedy, Code.TOO_FEW)
    tokens = tokens[: config.limit or None]
    held = sum(len(document.tokens) for document in documents)
    about = {
        "source": "stdlib",
        "sha256": content_hash(library),
        "bytes": sum(len(content) for _, content in library),
        "evaluation_bytes": held,
        "files": len(library),
        "python": platform.python_version(),
    }
    return TokenSource(tokens, documents, vocab=256, bytes_per_token=1.0, about=about)
