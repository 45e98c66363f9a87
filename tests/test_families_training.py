"""Every family in training: by heart, as an ensemble, without a dead part, and resumed."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from selection import mostly_system
from test_families import CASES, batch_of, mean_loss, quick, small, trained

from scaling import families
from scaling.checkpoint import Checkpoints, leaf_hashes
from scaling.step import Trainer


@pytest.mark.parametrize(("name", "case"), mostly_system(CASES))
def test_eight_examples_are_learnt_by_heart(name: str, case: str):
    # The 48 numbers of a patch cannot be told by the 16 of the smallest width.
    wide: dict[str, Any] = {"width": 64, "decoder_width": 64} if case in ("mim", "simmim") else {}
    wide |= {"width": 64} if name == "dit" else {}
    # Views of noise are alike only where they are the whole picture, and cosines must tell 16 of them apart.
    wide |= {"temperature": 0.1, "crop": 1.0, "jitter": 0.0} if name == "simclr" else {}
    # Around a language model that was drawn, whose logits cannot be far from equal.
    wide |= {"trains": "all"} if name in ("blip2", "flamingo") else {}
    module, config = small(name, case, context=8, image=8, patch=4, layers=1, **wide)
    batch = batch_of(module, config, 8)
    # mlm has one loss an example here, the others several: it takes longer (0.13 of the first loss after 1000 steps).
    steps = 1000 if case in ("mlm", "nsp") or name == "streams" else 600
    _, _, _, (state, metrics) = trained(module, config, batch, steps, Trainer)
    first, losses = float(metrics["loss"][0]), np.asarray(metrics["loss"])
    # What is hidden changes from step to step, so the mean of the last ones; every example is known by what is seen.
    # Diffusion also asks when all is hidden: which of the eight it is costs ln 8 / 8 nats a token at best, and is slow.
    share = 0.5 if case == "diffusion" else 0.25
    assert losses[-50:].mean() < share * first
    assert float(mean_loss(module, state["params"], batch, config, key=77)) < (share + 0.1) * first


@functools.cache
def twenty_steps(name: str, case: str):
    """One compilation for the tests of members and of resumption; the state is not to be donated."""
    module, config = small(name, case, context=8, layers=1)
    return trained(module, config, batch_of(module, config), 20)


@pytest.mark.parametrize(("name", "case"), mostly_system(CASES))
def test_members_of_an_ensemble_equal_single_runs(name: str, case: str):
    trainer, batches, hyper, (state, metrics) = twenty_steps(name, case)
    states = quick(jax.vmap(trainer._init))(jnp.arange(3, dtype=jnp.uint32))
    rates = jnp.stack([jnp.asarray(hyper["learning_rate"]) * scale for scale in (1.0, 0.5, 0.25)])
    members = jax.vmap(trainer.step_chunk, (0, {**dict.fromkeys(hyper), "learning_rate": 0}, None))
    together, many = quick(members)(states, {**hyper, "learning_rate": rates}, batches)
    np.testing.assert_allclose(many["loss"][0], metrics["loss"], rtol=1e-4)
    first = jax.tree.map(lambda leaf: leaf[0], together["params"])
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-3), first, state["params"])
    assert float(jnp.abs(many["loss"][1] - many["loss"][0]).max()) > 1e-3


@pytest.mark.parametrize(("name", "case"), mostly_system(CASES, ("gpt", "")))
def test_every_trained_part_has_moved_after_ten_steps(name: str, case: str):
    """In every layer: two zeros in a row, such as a gate and the projection behind it, would never move."""
    trainer, batches, hyper, _ = twenty_steps(name, case)
    state, _ = trainer.chunk(trainer.init(0), {**hyper, "steps": np.int32(10)}, batches)
    before, after = (jax.device_get(each)["params"] for each in (trainer.init(0), state))
    # What a family changes after the step is not trained, and has moved too.
    frozen = () if hasattr(trainer.family, "after") else families.frozen(trainer.family, trainer.config)
    for (path, old), (_, new) in zip(*map(jax.tree_util.tree_leaves_with_path, (before, after))):
        moved = np.reshape(old != new, (len(old) if old.ndim > 2 else 1, -1)).any(axis=1)
        assert not moved.any() if path[0].key in frozen else moved.all(), jax.tree_util.keystr(path)


@pytest.mark.parametrize(("name", "case"), mostly_system(CASES, ("gpt", "")))
def test_a_resumed_run_ends_with_the_same_bits(name: str, case: str, tmp_path):
    """Seven steps, a checkpoint, and the rest from what is read of it."""
    trainer, batches, hyper, (whole, metrics) = twenty_steps(name, case)
    state, before = trainer.chunk(trainer.init(0), {**hyper, "steps": np.int32(7)}, batches)
    store = Checkpoints(tmp_path)
    store.save(7, state)
    found = store.load(trainer.abstract)
    assert found is not None and found[0] == 7
    rest = {**{name: np.roll(value, -7) for name, value in hyper.items()}, "steps": np.int32(13)}
    state, after = trainer.chunk(found[1], rest, {name: np.roll(value, -7, 0) for name, value in batches.items()})
    assert leaf_hashes(state) == leaf_hashes(whole)
    losses = np.concatenate([np.asarray(before["loss"])[:7], np.asarray(after["loss"])[:13]])
    np.testing.assert_array_equal(losses, metrics["loss"])


# Configurations whose losses are not those of the family's first code, and the fields that their records lack.
