"""The source of text that reads a file or folder, told by its content."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from scaling.data import _files, _formats, _prepare
from scaling.errors import Code, UserError

Fields = dict[str, str]
DIRECT = {"parquet": "parquet", "arrow": "parquet", "records": "arrayrecord"}  # the source of a kind of table
LOOKED_AT = 200  # files of a folder whose content is looked at


def recognise(path: Path) -> Fields:
    """The configuration of the source, for ``data.load``, which then checks all of it.

    Raises:
      UserError: there is nothing to read (MISSING), or it needs another form first (UNSUPPORTED).
    """
    root = path.expanduser()
    if not root.exists():
        raise UserError("path", path, "is not there; give a file or folder of text, or of tokens", Code.MISSING)
    place = str(root.resolve())
    if root.is_file():
        return _of_file(root, place)
    if any((root / name).is_file() for name in (_prepare.MANIFEST, _prepare.PROGRESS)):
        return {"source": "prepared", "path": place}
    if (root / "train.bin").is_file():
        return {"source": "bin", "path": place}
    return _of_folder(root, place)


def _of_file(path: Path, place: str) -> Fields:
    if path.suffix == ".bin" or _llmc(path):
        return {"source": "bin", "path": place}
    found = _formats.recognise(path, path.name)
    if found == _formats.Format("text"):
        return {"source": "text", "path": place}
    if found.kind in DIRECT:
        return {"source": DIRECT[found.kind], "path": place}
    raise _unprepared(path, str(found))


def _of_folder(root: Path, place: str) -> Fields:
    names = [file.relative_to(root).as_posix() for file in _files.matching(root, "**/*", "path")]
    names = [name for name in names if not any(part.startswith(".") for part in Path(name).parts)]
    taken, _ = _files.apart(names, "")
    sizes: Counter[tuple[str, str]] = Counter()
    refused = None
    for name in taken[:: max(1, len(taken) // LOOKED_AT)]:
        try:
            found = _formats.recognise(root / name, name)
        except UserError as error:
            refused = refused or error
            continue
        sizes[str(found), Path(name).suffix] += (root / name).stat().st_size
    if not sizes.total():
        raise refused or UserError("path", root, "holds no file with text in it", Code.MISSING)
    (kind, suffix), _ = sizes.most_common(1)[0]
    if kind == "text":
        return {"source": "text", "path": place} | ({} if suffix == ".txt" else {"glob": f"**/*{suffix}"})
    if kind in DIRECT:
        return {"source": DIRECT[kind], "path": place}
    raise _unprepared(root, kind)


def _unprepared(path: Path, kind: str) -> UserError:
    remedy = f"holds {kind}: `scaling data prepare {path} --out=tokens` first, then give tokens"
    return UserError("path", path, remedy, Code.UNSUPPORTED)


def _llmc(path: Path) -> bool:
    with open(path, "rb") as file:
        return int.from_bytes(file.read(4), "little") in _formats.LLMC
