"""Checkpoints beyond one after another: behind the training, pruned, and at a URL."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fsspec.implementations.local import LocalFileSystem
from fsspec.registry import _registry
from refusals import refuses

from scaling.checkpoint import Checkpoints, leaf_hashes
from scaling.errors import Code


def state(value: float) -> dict[str, jax.Array]:
    return {"w": jnp.full((64, 256), value), "step": jnp.int32(value)}


def abstract() -> Any:
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), state(0))


def loaded(store: Checkpoints) -> tuple[int, float]:
    found = store.load(abstract())
    assert found is not None
    return found[0], float(found[1]["w"][0, 0])


def test_saves_behind_the_training_are_whole_none_is_skipped_and_donation_does_no_harm(tmp_path):
    """orbax's own Checkpointer would drop every save that comes while one runs."""
    store, advance = Checkpoints(tmp_path), jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)
    now = state(0)
    for step in range(1, 7):
        now = advance(now)
        store.save(step, now, wait=False)
    store.save(7, advance(now))
    assert store.steps() == [1, 2, 3, 4, 5, 6, 7]
    for step in (7, 3):
        assert loaded(store) == (step, float(step)) and store.problems == []
        store.keep(range(1, 4))


def test_a_state_leaves_the_device_once(tmp_path, monkeypatch):
    """What is hashed is what orbax writes: arrays of the host, from which every kind of state is restored."""
    from orbax.checkpoint import v1

    given, save = [], v1.save_async
    monkeypatch.setattr(v1, "save_async", lambda path, tree, **how: given.append(tree) or save(path, tree, **how))
    store = Checkpoints(tmp_path)
    store.save(3, state(3))
    assert all(type(leaf) is np.ndarray for leaf in jax.tree.leaves(given))
    found = store.load(abstract())
    assert found is not None and all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(found[1]))
    assert leaf_hashes(found[1]) == leaf_hashes(state(3)) and store.verify() == {3: ""}


def test_the_newest_few_and_the_branch_points_are_kept(tmp_path):
    store = Checkpoints(tmp_path)
    for step in (1, 2, 3, 4, 5):
        store.save(step, state(step), wait=False)
        store.keep({2}, newest=1)
    store.wait()
    assert store.steps() == [2, 4, 5]
    (tmp_path / "6.orbax-checkpoint-tmp").mkdir()  # what a killed process leaves
    store.keep({2}, newest=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2", "2.json", "5", "5.json"]


def test_as_many_as_were_asked_for_are_kept_while_there_are_fewer(tmp_path):
    store = Checkpoints(tmp_path)
    for step in (1, 2, 3, 4):
        store.save(step, state(step))
        store.keep((), newest=3)
        assert store.steps() == list(range(max(1, step - 2), step + 1))


def test_a_save_that_failed_behind_the_training_is_told_by_the_next_call(tmp_path, monkeypatch):
    store = Checkpoints(tmp_path)
    store.save(1, state(1))

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store, "_describe", full)
    store.save(2, state(2), wait=False)
    with refuses(Code.ENVIRONMENT, "checkpoint", tmp_path / "2") as caught:
        store.wait()
    assert "No space left on device" in caught.value.remedy
    store.save(3, state(3), wait=False)
    assert store._saving is not None
    store._saving.join()
    monkeypatch.undo()
    store.save(4, state(4))  # a save that must be, on leaving, is tried all the same
    assert "No space left" in store.problems[0] and store.steps() == [1, 4]
    assert loaded(store) == (4, 4.0)


class Bucket(LocalFileSystem):
    """Stands for an object store: s3:// is a directory here, and nothing of it is seen but through fsspec."""

    root = ""
    cachable = False

    @classmethod
    def _strip_protocol(cls, path: Any) -> str:
        text = os.fspath(path)
        return f"{cls.root}/{text[5:]}".rstrip("/") if text.startswith("s3://") else text


@pytest.fixture
def bucket(tmp_path, monkeypatch) -> Iterator[Path]:
    from etils.epath import backend

    (tmp_path / "store").mkdir()
    monkeypatch.setattr(Bucket, "root", str(tmp_path / "store"))
    fsspec.register_implementation("s3", Bucket, clobber=True)
    backend.fsspec_backend._get_filesystem.cache_clear()
    yield tmp_path / "store"
    backend.fsspec_backend._get_filesystem.cache_clear()
    _registry.pop("s3", None)


def test_checkpoints_at_a_url(bucket, tmp_path):
    """Where orbax writes nothing itself: written beside the record, copied, and no trace left there."""
    stage = tmp_path / "run" / "staging"
    store = Checkpoints("s3://bucket/study/run", stage=stage)
    for step in (10, 20, 30):
        store.save(step, state(step), wait=step == 30)
    assert store.steps() == [10, 20, 30] and sorted(os.listdir(bucket / "bucket/study/run"))[:2] == ["10", "10.json"]
    assert not list(stage.iterdir())
    assert loaded(Checkpoints("s3://bucket/study/run", stage=stage)) == (30, 30.0)
    for file in (bucket / "bucket/study/run/30").rglob("*"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    assert loaded(store) == (20, 20.0) and "checkpoint 30: unreadable" in store.problems[0]
    store.keep([10])
    assert store.steps() == [10] and sorted(os.listdir(bucket / "bucket/study/run")) == ["10", "10.json"]
    assert not list(stage.iterdir())


def test_a_store_without_its_client_is_named():
    with refuses(Code.ENVIRONMENT, "checkpoints", "gs://bucket/x") as caught:
        Checkpoints("gs://bucket/x")
    assert "gcsfs" in caught.value.remedy


def test_a_store_that_fails_without_a_word_is_named(monkeypatch):
    def silent(url: str) -> None:
        raise TimeoutError

    monkeypatch.setattr("etils.epath.Path", silent)
    with refuses(Code.ENVIRONMENT, "checkpoints", "s3://bucket/x") as caught:
        Checkpoints("s3://bucket/x")
    assert "TimeoutError" in caught.value.remedy
