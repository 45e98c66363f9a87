"""Checkpoints: orbax writes the arrays, this file adds what orbax does not do.

A save is synchronous, so none is skipped (orbax's ``save_async`` drops a save that comes while one runs). Beside each
checkpoint stands a sidecar with the sha256 of every leaf, written last: a checkpoint without one was cut short. A load
checks every leaf (orbax returns flipped bits without a word) and falls back to the newest older one that verifies.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from scaling.errors import UserError
from scaling.records import write_json


def leaf_hashes(state: Any) -> dict[str, str]:
    """sha256 of dtype, shape and bytes of every leaf, by path."""

    def digest(leaf: Any) -> str:
        array = np.asarray(leaf)
        header = f"{array.dtype.str}{array.shape}".encode()
        return hashlib.sha256(header + np.ascontiguousarray(array).tobytes()).hexdigest()

    flat = jax.tree_util.tree_flatten_with_path(state)[0]
    return {jax.tree_util.keystr(path): digest(leaf) for path, leaf in flat}


class Checkpoints:
    """The checkpoints of one run, by step, in ``<root>/<step>`` with ``<root>/<step>.json`` beside each."""

    def __init__(self, root: Path):
        self.root = Path(root).absolute()  # orbax takes no relative path
        self.problems: list[str] = []  # what did not verify, for the log and the record

    def steps(self) -> list[int]:
        """Steps with a complete checkpoint, ascending. Complete says nothing of intact: ``load`` verifies."""
        found = (path for path in self.root.glob("*.json") if path.stem.isdigit())
        return sorted(int(path.stem) for path in found if (self.root / path.stem).is_dir())

    def save(self, step: int, state: Any) -> None:
        """Writes the state of ``step`` and returns when it is on disk and described.

        Raises:
          UserError: the disk is full or read-only. Older checkpoints stay.
        """
        from orbax.checkpoint import v1  # 0.95 s of import that planning must not pay

        target = self.root / str(step)
        try:
            v1.save(str(target), state, overwrite=True)
        except (OSError, ValueError) as error:
            for leftover in self.root.glob(f"{step}.orbax-checkpoint-tmp*"):
                shutil.rmtree(leftover, ignore_errors=True)
            if isinstance(error, ValueError) and "RESOURCE_EXHAUSTED" not in str(error):
                raise
            reason = str(error).splitlines()[0][:200]
            raise UserError(
                "checkpoint", target, f"cannot be written ({reason}); free space, then run again"
            ) from error
        write_json(self.root / f"{step}.json", {"step": step, "leaves": leaf_hashes(state)})

    def load(self, abstract: Any, at_most: int | None = None) -> tuple[int, Any] | None:
        """(step, state) of the newest checkpoint at or before ``at_most`` that verifies, or None.

        ``abstract`` is a tree of ShapeDtypeStruct with shardings: the state is restored onto that mesh.
        """
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

        try:
            expected = json.loads((self.root / f"{step}.json").read_text())["leaves"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise _Damaged(f"sidecar unreadable ({error})") from error
        shapes = {jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_flatten_with_path(abstract)[0]}
        if shapes != set(expected):
            raise UserError("checkpoint", self.root / str(step), "is of another configuration; use another workdir")
        try:
            state = v1.load(str(self.root / str(step)), abstract)
        except Exception as error:  # orbax raises many kinds (NoEntryError, KeyError, ...) on a damaged file
            raise _Damaged(f"unreadable ({type(error).__name__})") from error
        actual = leaf_hashes(state)
        wrong = [path for path, digest in expected.items() if actual[path] != digest]
        if wrong:
            raise _Damaged(f"{len(wrong)} leaves differ from their hash, first {wrong[0]}")
        return state

    def keep(self, steps: Iterable[int]) -> None:
        """Deletes every checkpoint whose step is not named, sidecar first so that none is half there."""
        wanted = set(steps)
        for step in self.steps():
            if step not in wanted:
                (self.root / f"{step}.json").unlink(missing_ok=True)
                shutil.rmtree(self.root / str(step), ignore_errors=True)


class _Damaged(Exception):
    pass
