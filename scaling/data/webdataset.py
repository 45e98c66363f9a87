"""Tar files in the layout of webdataset: ``{"source": "webdataset", "path": "cc3m/", "side": 64}`` for pictures with
captions, ``{..., "frames": 3000}`` for sounds with theirs (WAV; other formats need the extra ``audio``).

Members that share their path up to the first dot of the file name are one sample: ``000017.jpg``, ``000017.txt``,
perhaps ``000017.cls`` (a whole number). Members with other extensions are ignored, so no pickle is ever loaded.

The webdataset library reads tars as a stream, so it cannot find the example of a step without reading all earlier ones.
Here the headers are read once, when the source is made; then a sample is two reads at known offsets, and a run resumes
from its step alone. Compressed tars (.tar.gz) have no such offsets: decompress them.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from scaling.data import _files, _tokenizer
from scaling.data._pairs import HEAD, Pairs, Pictures, Sample, allow, literals, sample_digest
from scaling.data._remarks import Remark, remark
from scaling.data._tokens import content_hash, digest
from scaling.errors import Code, UserError


@dataclass(frozen=True)
class Config(Pictures):
    path: str = ""
    """A tar, or a folder of them."""
    glob: str = "**/*.tar"
    """Glob pattern of the files in the folder."""
    image: str = "jpg;jpeg;png;webp"
    """Extensions of the picture, separated by semicolons; the first that a sample has is used."""
    sound: str = "wav;flac;ogg;mp3"
    """Extensions of the sound, which is read in the picture's place if ``frames`` is not 0."""
    text: str = "txt"
    """Extensions of the caption; empty: no captions."""
    label: str = "cls"
    """Extension of the label, read if ``classes`` is not 0."""
    end: str = "auto"
    """The tokenizer's end-of-text token: auto, or its name."""

    @property
    def media(self) -> tuple[str, str]:
        """What a sample must have besides its caption: the name of the field, and the extensions."""
        return ("sound", self.sound) if self.frames else ("image", self.image)


OPEN = 256  # tars that are open at once
Place = tuple[int, int]  # offset and size in the tar


@dataclass(frozen=True)
class Tars:
    """Samples by number; see ``scaling.data._pairs.Store``."""

    files: list[Path]
    names: list[str]
    samples: list[tuple[int, str, Place, Place | None, Place | None]]
    """(file, key, picture, caption, label)."""
    remarks: tuple[Remark, ...] = ()
    handles: dict[int, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.samples)

    def name(self, number: int) -> str:
        file, key, *_ = self.samples[number]
        return f"{self.names[file]}:{key}"

    def _bytes(self, number: int, place: Place | None, most: int | None = None) -> bytes:
        if place is None:
            return b""
        file, (offset, size) = self.samples[number][0], place
        wanted = size if most is None else min(size, most)
        if file not in self.handles:
            if len(self.handles) >= OPEN:
                self.close()
            self.handles[file] = os.open(self.files[file], os.O_RDONLY | os.O_CLOEXEC)
        content = os.pread(self.handles[file], wanted, offset)
        if len(content) != wanted:
            remedy = "was truncated after the source was made; copy it again"
            raise UserError("data.path", self.name(number), remedy, Code.CHANGED)
        return content

    def caption(self, number: int) -> bytes:
        return self._bytes(number, self.samples[number][3]).strip()

    def read(self, number: int) -> Sample:
        _, _, picture, _, label = self.samples[number]
        text = self._bytes(number, label).strip()
        # int() alone would accept "1_0" and digits of other scripts.
        value = int(text) if text.isdigit() and text.isascii() and len(text) < 10 else -1
        return Sample(self._bytes(number, picture), self.caption(number), value)

    def digest(self, number: int) -> bytes:
        picture = self.samples[number][2]
        return sample_digest(picture[1], self._bytes(number, picture, HEAD), self.caption(number))

    def close(self) -> None:
        while self.handles:
            os.close(self.handles.popitem()[1])

    def __del__(self):
        self.close()


def _members(path: Path, name: str) -> Iterator[tuple[str, str, Place]]:
    """(key, extension, place) of the regular files of a tar, in order."""
    last = "its beginning"
    try:
        size = path.stat().st_size
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                if member.isfile() and not member.issparse():
                    folder, _, base = member.name.rpartition("/")
                    stem, _, ending = base.partition(".")
                    last = f"{folder}/{stem}" if folder else stem
                    if member.offset_data + member.size > size:
                        raise tarfile.ReadError("unexpected end of data")
                    yield last, ending.lower(), (member.offset_data, member.size)
                del tar.members[:]  # type: ignore[attr-defined]  # the library would keep every header; our index is smaller
            # The library takes a damaged header for the end, which is a block of zeros or the end of the file.
            with open(path, "rb") as file:
                file.seek(tar.offset)
                if any(file.read(tarfile.BLOCKSIZE)):
                    raise tarfile.ReadError(f"bad header after it, at byte {tar.offset}")
    except tarfile.TarError as error:
        remedy = f"is damaged, truncated or compressed at {last} ({error}); copy it again or decompress it"
        raise UserError("data.path", f"{name}:{last}", remedy, Code.DAMAGED) from error
    except OSError as error:
        raise UserError("data.path", name, f"cannot be read ({error.strerror})", Code.DAMAGED) from error


def _tars(config: Config) -> Tars:
    found = _files.below(config.path, config.glob, "a tar file or a folder of them")
    files = found.files
    wanted = [[each for each in text.split(";") if each] for text in (config.media[1], config.text, config.label)]
    kinds = [config.media[0]] + ["text"] * bool(config.text) + ["label"] * bool(config.classes)
    samples, incomplete = [], []
    for number, (path, name) in enumerate(files):
        members_by_key: dict[str, dict[str, Place]] = {}
        for key, ending, place in _members(path, name):
            members_by_key.setdefault(key, {})[ending] = place
        for key, members in members_by_key.items():
            if not members.keys() & {each for endings in wanted for each in endings}:
                continue
            places = [next((members[each] for each in endings if each in members), None) for endings in wanted]
            lacking = [
                part
                for part in zip((config.media[0], "text", "label"), places, wanted)
                if part[0] in kinds and not part[1]
            ]
            picture, caption, label = places
            if lacking or picture is None:
                kind, _, endings = lacking[0]
                remedy = f"has no {' or '.join(endings)}, but {', '.join(members)}; repair or remove the sample"
                incomplete.append(UserError(f"data.{kind}", f"{name}:{key}", remedy, Code.MISSING))
                continue
            samples.append((number, key, picture, caption if config.text else None, label if config.classes else None))
    paths, names = zip(*files)
    remarks = (*remark("held", found.held), *allow(incomplete, config.damaged))
    return Tars(list(paths), list(names), samples, remarks)


def make(config: Config) -> Pairs:
    """Indexes the tars.

    Raises:
      UserError: there is no tar (MISSING) or no sample (TOO_FEW), a tar is damaged (DAMAGED; the message names file and
        key), or a sample lacks its picture or caption (MISSING).
    """
    tokenizer = _tokenizer.load(config.tokenizer, config.end, closed=True, specials=config.specials)
    tars = _tars(config)
    if not len(tars):
        raise UserError("data.path", config.path, f"holds no sample with {config.media[1]}", Code.TOO_FEW)
    sha256, extent = digest([np.memmap(path, np.uint8, mode="r") for path in tars.files])
    about = {
        "source": "webdataset",
        "sha256": content_hash([(name, sha256.encode()) for name in (config.media[1], config.text, config.label)]),
        "sha256_of": extent,
        "bytes": sum(path.stat().st_size for path in tars.files),
    }
    digests = [tars.digest(number) for number in range(len(tars))]
    remarks = (*tars.remarks, *literals(tars, tokenizer)) if config.text else tars.remarks
    return Pairs(tars, digests, tokenizer, config, bool(config.text), about, remarks)
