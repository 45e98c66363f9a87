"""Checkpoints: orbax writes the arrays; this module verifies them and orders saves.

No save is skipped: each waits for the previous one (orbax's Checkpointer drops a save that comes during another). A
sidecar next to each checkpoint holds the sha256 of every leaf, and one over all of them. It is written last, so a
checkpoint without one is incomplete. Loading checks every leaf (orbax returns flipped bits without an error) and falls
back to the newest older checkpoint that verifies. Hashes are of whole leaves, so they do not depend on the mesh or the
number of processes.

A checkpoint may be stored at a URL. orbax writes to ``gs://`` itself. For other schemes that ``etils.epath`` supports
(``s3://`` ...), the checkpoint is first written next to the run record, then copied.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import re
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import jax
import numpy as np

from scaling import distributed
from scaling.errors import Code, UserError, is_storage
from scaling.records import canonical, read_json, write_json

# A leaf that is spread over several processes and larger than this many bytes is gathered for its hash in slices of its
# first axis (one layer of a stack at a time), so that no device must hold it whole.
GATHER_BYTES = 2**28


def leaf_hashes(state: Any) -> dict[str, str]:
    """sha256 of dtype, shape and bytes of every leaf, by path. A collective: in a group only process 0 gets them."""
    flat = jax.tree_util.tree_flatten_with_path(state)[0]
    alone = distributed.count() == 1
    return {jax.tree_util.keystr(path): _digest(leaf, [leaf] if alone else _pieces(leaf)) for path, leaf in flat}


def _on_host(state: Any) -> Any:
    """The state as NumPy arrays: all leaves are on their way before the first is waited for.

    Taken before the state is donated, and both hashed and written, so that it leaves the device once. On CPU, JAX does
    not overwrite an array that has a NumPy view: it copies instead of donating.
    """
    for leaf in jax.tree.leaves(state):
        if isinstance(leaf, jax.Array):
            leaf.copy_to_host_async()
    return jax.tree.map(np.asarray, state)


def _digest(leaf: Any, pieces: Iterable[np.ndarray]) -> str:
    digest = hashlib.sha256(f"{np.dtype(leaf.dtype).str}{tuple(leaf.shape)}".encode())
    for piece in pieces:
        digest.update(np.ascontiguousarray(piece).tobytes() if distributed.primary() else b"")
    return digest.hexdigest()


def _pieces(leaf: Any) -> Iterator[np.ndarray]:
    """The pieces of a leaf of a group's state, in order. A collective: every process must consume every piece."""
    if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable or leaf.is_fully_replicated:
        yield np.asarray(leaf)
        return
    from jax.experimental import multihost_utils

    if leaf.ndim < 2 or leaf.nbytes <= GATHER_BYTES:
        yield multihost_utils.process_allgather(leaf, tiled=True)
        return
    for index in range(leaf.shape[0]):
        yield multihost_utils.process_allgather(leaf[index], tiled=True)


class Checkpoints:
    """The checkpoints of one run, by step, in ``<root>/<step>`` with ``<root>/<step>.json`` beside each.

    Args:
      root: a directory or a URL.
      stage: a directory shared by all processes, used if orbax cannot write to ``root``.

    Raises:
      UserError: the URL cannot be reached (ENVIRONMENT).
    """

    def __init__(self, root: str | Path, stage: Path | None = None):
        self.problems: list[str] = []  # checkpoints that did not verify, for the log and the record
        self._saving: threading.Thread | None = None
        self._failure: tuple[int, Exception] | None = None
        scheme, url, _ = str(root).partition("://")
        self.root: Any = _remote(str(root)) if url else Path(root).absolute()  # orbax takes no relative path
        self._stage = Path(stage).absolute() if stage is not None and url and scheme != "gs" else None

    def steps(self) -> list[int]:
        """Steps with a complete checkpoint, ascending. Whether it is intact, only ``load`` verifies."""
        if not distributed.primary():
            return distributed.agree()
        try:
            names = {path.name for path in self.root.iterdir()}
        except (FileNotFoundError, NotADirectoryError):
            names = set()
        return distributed.agree(sorted(int(name) for name in names if name.isdigit() and f"{name}.json" in names))

    def save(self, step: int, state: Any, *, wait: bool = True) -> None:
        """Writes the state of ``step``, after any earlier save has finished.

        Args:
          wait: return only when checkpoint and sidecar are on disk. Otherwise write in the background, in which case
            the next call raises a failure of this one. Either way the caller may donate the state at once.

        Raises:
          UserError: the disk is full or read-only (ENVIRONMENT). Older checkpoints are kept.
        """
        from orbax.checkpoint import v1  # the import takes 0.95 s, which planning should not pay

        try:
            self.wait()
        except UserError as problem:
            if not wait:
                raise
            self.problems.append(str(problem))  # this save may succeed where the earlier one ran out of space
        if distributed.count() == 1:
            state = _on_host(state)
            hashing = functools.partial(leaf_hashes, state)
        else:  # no process has all of the state, and a hash needs all processes
            digests = leaf_hashes(state)
            hashing = digests.copy
        try:
            response = v1.save_async(str(self._local(step)), state, overwrite=True)
        except Exception as error:
            self._refuse(step, error)

        def finish() -> None:
            try:
                response.result()
                if distributed.primary():
                    self._describe(step, hashing())
            except Exception as error:
                self._failure = (step, error)

        self._saving = threading.Thread(target=finish, name=f"checkpoint-{step}")
        self._saving.start()
        if wait:
            self.wait()

    def wait(self) -> None:
        """Waits until no save is running.

        Raises:
          UserError: the last save failed; see ``save``.
        """
        if self._saving is not None:
            self._saving.join()
            self._saving = None
        if self._failure is not None:
            (step, error), self._failure = self._failure, None
            self._refuse(step, error)

    def _local(self, step: int) -> Any:
        """Where orbax writes and reads the checkpoint of a step."""
        return (self._stage or self.root) / str(step)

    def _describe(self, step: int, hashes: dict[str, str]) -> None:
        sidecar = {"step": step, "leaves": hashes, "sha256": _of_all(hashes)}
        if isinstance(self.root, Path):
            write_json(self.root / f"{step}.json", sidecar)
            return
        if self._stage is not None:
            _copy(self._local(step), self.root / str(step))
            shutil.rmtree(self._local(step), ignore_errors=True)
        (self.root / f"{step}.json").write_text(json.dumps(sidecar, indent=1) + "\n")

    def _refuse(self, step: int, error: Exception) -> NoReturn:
        """Cleans up after a failed save, and raises."""
        self._clean()
        if not isinstance(error, OSError) and not is_storage(error):
            raise error
        reason = _first_line(error)
        remedy = f"cannot be written ({reason}); free space, then run again"
        raise UserError("checkpoint", self.root / str(step), remedy, Code.ENVIRONMENT) from error

    def _clean(self) -> None:
        """Removes leftovers of interrupted saves, and the hashes of checkpoints that are gone."""
        if not distributed.primary():
            return
        for place in (self.root, self._stage):
            for leftover in place.glob("*.orbax-checkpoint-tmp*") if place is not None else ():
                _remove(leftover)
        for sidecar in self.root.glob("*.json"):
            if sidecar.stem.isdigit() and not (self.root / sidecar.stem).exists():
                sidecar.unlink(missing_ok=True)

    def load(self, abstract: Any, at_most: int | None = None) -> tuple[int, Any] | None:
        """(step, state) of the newest checkpoint at or before ``at_most`` that verifies, or None.

        ``abstract`` is a tree of ShapeDtypeStruct with shardings: the state is restored onto that mesh.

        Raises:
          UserError: the newest was written by another configuration (CHANGED).
        """
        self.wait()
        for step in reversed(self.steps()):
            if at_most is not None and step > at_most:
                continue
            try:
                return step, self._verified(step, abstract)
            except _Damaged as problem:
                self.problems.append(f"checkpoint {step}: {problem}; using an older one")
        return None

    def _verified(self, step: int, abstract: Any) -> Any:
        from orbax.checkpoint import v1

        expected = self._agreed_hashes(step)
        shapes = {jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_flatten_with_path(abstract)[0]}
        if shapes != set(expected):
            remedy = "is of another configuration; use another workdir"
            raise UserError("checkpoint", self.root / str(step), remedy, Code.CHANGED)
        state = self._read(step, lambda path: v1.load(path, abstract))
        self._compare(state, expected)
        return state

    def _agreed_hashes(self, step: int) -> dict[str, str]:
        """The hashes in a sidecar, in every process. Raises _Damaged if it cannot be read."""
        expected = distributed.agree(self._expected(step) if distributed.primary() else None)
        if isinstance(expected, str):
            raise _Damaged(expected)
        return expected

    def _read(self, step: int, read: Callable[[str], Any]) -> Any:
        """What ``read`` returns for the local path of a checkpoint. Raises _Damaged if any process cannot read it."""
        problem, state = None, None
        try:
            if self._stage is not None and distributed.primary():
                _copy(self.root / str(step), self._local(step))
        except Exception as error:  # the client of the store may raise anything
            problem = f"cannot be fetched ({type(error).__name__})"
        distributed.barrier()
        try:
            state = read(str(self._local(step)))
        except Exception as error:  # orbax raises many kinds (NoEntryError, KeyError, ...) on a damaged file
            problem = problem or f"unreadable ({type(error).__name__})"
        bad = distributed.anyone(problem is not None)
        if self._stage is not None and distributed.primary():
            shutil.rmtree(self._local(step), ignore_errors=True)
        if bad:
            raise _Damaged(problem or "unreadable in another process")
        return state

    def _compare(self, state: Any, expected: Mapping[str, str]) -> None:
        """Raises _Damaged unless every leaf of a state has the hash that is expected of it."""
        actual = leaf_hashes(state)
        wrong = distributed.agree([path for path in actual if actual[path] != expected.get(path)])
        if wrong:
            raise _Damaged(f"{len(wrong)} leaves differ from their hash, first {wrong[0]}")

    def digest(self, step: int) -> str:
        """sha256 of the hashes of the parameters of a step, which is complete. In a group only process 0 calls it."""
        return _parameters_digest(self._hashes(step))

    def parameters(self, step: int, abstract: Mapping[str, Any], digest: str | None = None) -> Mapping[str, Any]:
        """Parts of the parameters of a step, each leaf checked against its hash; nothing else is read.

        Args:
          abstract: shapes and shardings of the parts, by name: they are restored onto that mesh.
          digest: what ``digest`` was when the run ended; None if that was not recorded.

        Raises:
          UserError: there is no such checkpoint (MISSING), it has another digest (CHANGED), or leaves cannot be read
            or differ from their hashes (DAMAGED).
        """
        from orbax.checkpoint import v1

        place = self.root / str(step)
        if step not in self.steps():
            raise UserError("checkpoint", place, "is not there; train its run again", Code.MISSING)

        def read(path: str) -> Any:
            skipped = jax.tree.map(lambda _: v1.PLACEHOLDER, v1.metadata(path).metadata)
            restored = v1.load(path, {**skipped, "params": {**skipped["params"], **abstract}})["params"]
            return {"params": {part: restored[part] for part in abstract}}

        try:
            expected = self._agreed_hashes(step)
            if digest is not None and _parameters_digest(expected) != digest:
                raise UserError("checkpoint", place, "does not hold what its run ended with", Code.CHANGED)
            state = self._read(step, read)
            self._compare(state, expected)
        except _Damaged as error:
            raise UserError("checkpoint", place, f"{error}; train its run again", Code.DAMAGED) from error
        return state["params"]

    def _expected(self, step: int) -> dict[str, str] | str:
        """The hashes in a sidecar, or a message that says why it cannot be read, whatever the reason."""
        try:
            return self._hashes(step)
        except UserError as error:
            return f"sidecar unreadable ({error.problem})"
        except (OSError, ValueError, KeyError, TypeError) as error:
            return f"sidecar unreadable ({_first_line(error)})"

    def _hashes(self, step: int) -> dict[str, str]:
        path = self.root / f"{step}.json"
        sidecar = read_json(path) if isinstance(path, Path) else json.loads(path.read_text())
        hashes = dict(sidecar["leaves"])
        if sidecar.get("sha256", _of_all(hashes)) != _of_all(hashes):  # those of older versions have none
            raise ValueError("its hashes differ from their own hash")
        return hashes

    def verify(self) -> dict[int, str]:
        """What is wrong with each checkpoint that has a sidecar, by step; empty if its leaves have their hashes.

        The leaves are read as NumPy arrays, so that any machine can, whatever mesh they were written from.

        Raises:
          UserError: the machine lets them not be read, which tells nothing about them (ENVIRONMENT).
        """
        from orbax.checkpoint import v1

        problems = {}
        for step in sorted(int(path.stem) for path in self.root.glob("*.json") if path.stem.isdigit()):
            try:
                expected = self._hashes(step)
            except UserError as error:
                if error.code is Code.ENVIRONMENT:
                    raise
                problems[step] = f"sidecar {error.problem}"
                continue
            except FileNotFoundError:
                continue  # deleted since, by a worker
            except (KeyError, TypeError, ValueError):
                problems[step] = "sidecar is damaged"
                continue
            try:
                shapes = v1.metadata(str(self.root / str(step))).metadata
                state = v1.load(
                    str(self.root / str(step)), jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), shapes)
                )
            except Exception as error:  # orbax raises many kinds on a damaged file
                if is_storage(error):
                    remedy = f"cannot be read ({_first_line(error)}); try again"
                    raise UserError("checkpoint", self.root / str(step), remedy, Code.ENVIRONMENT) from error
                problems[step] = f"unreadable ({type(error).__name__})"
                continue
            # Named tuples come back as dictionaries, so that the paths are written otherwise.
            actual = {_words(path): digest for path, digest in leaf_hashes(state).items()}
            wrong = [path for path, digest in expected.items() if actual.get(_words(path)) != digest]
            problems[step] = f"{len(wrong)} leaves differ from their hash, first {wrong[0]}" if wrong else ""
        return problems

    def keep(self, steps: Iterable[int], newest: int = 0) -> None:
        """Deletes all complete checkpoints except ``steps`` and the ``newest`` few.

        The sidecar goes first, so that no checkpoint looks complete without its files. One that is still being written
        is not complete yet."""
        present = self.steps()
        wanted = {*steps, *present[max(0, len(present) - newest) :]}
        if self._saving is None:
            self._clean()
        if distributed.primary():
            for step in present:
                if step not in wanted:
                    (self.root / f"{step}.json").unlink(missing_ok=True)
                    _remove(self.root / str(step))


def _parameters_digest(hashes: Mapping[str, str]) -> str:
    own = {path: digest for path, digest in hashes.items() if _words(path)[0] == "params"}
    return hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()


def _of_all(hashes: dict[str, str]) -> str:
    """A hash of the names and hashes of all leaves: a damaged name must not pass for another configuration."""
    return hashlib.sha256(canonical(hashes).encode()).hexdigest()


def _words(path: str) -> tuple[str, ...]:
    return tuple(re.findall(r"\w+", path))


def _remote(url: str) -> Any:
    """The path of a URL, created if missing."""
    try:
        from etils import epath

        root = epath.Path(url)
        if distributed.primary():
            root.mkdir(parents=True, exist_ok=True)
    except Exception as error:  # ImportError, or whatever the client of the store raises
        remedy = f"cannot be used ({_first_line(error)}); install gcsfs or s3fs, and check access"
        raise UserError("checkpoints", url, remedy, Code.ENVIRONMENT) from error
    return root


def _first_line(error: Exception) -> str:
    """The first line of an error's message, or its type if the message is empty."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def _remove(path: Any) -> None:
    if isinstance(path, Path):
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(FileNotFoundError):
            path.rmtree()


def _copy(source: Any, target: Any) -> None:
    """Copies a directory; source or target may be remote."""
    target.mkdir(parents=True, exist_ok=True)
    for path in source.iterdir():
        if path.is_dir():
            _copy(path, target / path.name)
            continue
        with path.open("rb") as reader, (target / path.name).open("wb") as writer:
            shutil.copyfileobj(reader, writer, 2**24)


class _Damaged(Exception):
    pass
