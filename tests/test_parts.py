"""Frozen parts: FLOPs equal to the traced step, no moments, nothing moves, and the same numbers however it is run."""

import itertools
import math
from pathlib import Path
from typing import Any

import handmade
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import tiny_config
from refusals import refuses
from test_families import batch_of, small

from scaling import count, families, parts, plan, recipe, study, train
from scaling.blocks import dense
from scaling.blocks.execution import Execution
from scaling.errors import Code
from scaling.records import Record
from scaling.step import Ensemble, Trainer

MESH = {"ensemble": 1, "data": 1, "fsdp": 1, "tensor": 1}
FULL = [("gpt", ""), ("gpt", "experts"), ("bert", "nsp"), ("fusion", "fusion"), ("vit", "mim")]
SOME = [
    ("gpt", "", ("embedding",)),
    pytest.param("gpt", "", ("embedding", "stack"), marks=pytest.mark.system),
    pytest.param("fusion", "fusion", ("patches", "vision"), marks=pytest.mark.system),
]


def config_of(name: str, case: str):
    return small(name, case, 0, context=64, vocab=256, image=32, patch=4)


@pytest.mark.parametrize(("name", "case", "frozen"), SOME)
def test_the_count_of_a_frozen_model_is_that_of_its_traced_step(name: str, case: str, frozen: tuple[str, ...]):
    """``freeze`` refuses a count that is not; here the step's own gradient is counted once more."""
    module, config = config_of(name, case)
    batch = batch_of(module, config, 4)
    freezing = parts.freeze(module, config, frozen, batch)
    trainer = Trainer(module, config, recipe.named("width", batch=4), MESH, 1, freeze=frozen)
    shapes = {k: jax.ShapeDtypeStruct(v.shape, v.dtype) for k, v in batch.items()}
    shapes["example"] = jax.ShapeDtypeStruct((4,), np.uint32)
    traced = count.jaxpr_flops(
        lambda p, b: trainer._gradient(p, b, jax.random.key(0)), trainer.abstract["params"], shapes
    )
    components = parts.components(module, config, freezing)
    assert traced == 4 * sum(count.executed_flops(components, 4).values())
    whole = module.components(config)
    assert count.forward_flops(components) == count.forward_flops(whole)
    assert sum(count.training_flops(components, 4).values()) < sum(count.training_flops(whole, 4).values())
    trained = jax.tree.leaves({k: v for k, v in trainer.abstract["params"].items() if k not in frozen})
    assert not set(trainer.abstract["opt"][1].mu) & set(frozen)
    assert count.parameters(components)["trainable"] == sum(math.prod(leaf.shape) for leaf in trained)


@pytest.mark.system
def test_k_is_2_before_what_is_trained_and_4_behind_it():
    module, config = config_of("gpt", "")
    batch = batch_of(module, config)

    def k(*frozen: str) -> dict[str, int]:
        made = parts.components(module, config, parts.freeze(module, config, frozen, batch))
        return {part.name: part.k for part in made if part.matmul}

    assert k("stack") == {"attention": 4, "mlp": 4, "head": 6}  # the embedding, which is the head too, is before it
    assert k("stack", "embedding") == {"attention": 2, "mlp": 2, "head": 4}  # only the norm between is trained
    assert k("embedding", "norm") == {"attention": 6, "mlp": 6, "head": 4}
    # A norm has no products, so that nothing is counted of it.
    assert parts.freeze(module, config, ("stack", "norm"), batch).passed == ("stack",)


@pytest.mark.system
@pytest.mark.parametrize(("name", "case"), FULL)
def test_every_choice_of_frozen_parts_is_counted_as_it_is_traced(name: str, case: str):
    module, config = config_of(name, case)
    names, batch = parts.names(module, config), batch_of(module, config)
    for size in (1, len(names) - 1):
        for frozen in itertools.combinations(names, size):
            parts.freeze(module, config, frozen, batch)


@pytest.mark.system
def test_a_part_that_a_gradient_passes_through_in_half_is_refused():
    """t5's decoder, where only the norm of its memory is trained: its self-attention is before that."""
    module, config = config_of("t5", "")
    with refuses(Code.UNSUPPORTED, "freeze"):
        parts.freeze(module, config, ("decoder", "embedding", "encoder", "norm"), batch_of(module, config))


def test_a_product_in_the_form_for_a_cpu_is_a_product_with_its_weight():
    weights = {name: jnp.zeros((3, 3)) for name in ("low", "high")}
    x_BTI = jnp.zeros((2, 4, 3))
    assert dense.on_cpu(x_BTI)
    found = parts.before(lambda w, x_: dense.product(dense.product(x_, w["low"]), w["high"]), weights, x_BTI)
    assert found == {"low": frozenset(), "high": {"low"}}


def test_what_cannot_be_frozen_is_refused():
    module, config = config_of("gpt", "")
    batch = batch_of(module, config)
    with refuses(Code.UNKNOWN, "freeze", "trunk"):
        parts.freeze(module, config, ("trunk",), batch)
    with refuses(Code.CONFLICT, "freeze"):
        parts.freeze(module, config, parts.names(module, config), batch)
    clip, towers = config_of("clip", "")
    with refuses(Code.UNSUPPORTED, "freeze"):
        parts.freeze(clip, towers, ("image",), batch_of(clip, towers))
    with refuses(Code.INVALID, "cells.grid.freeze", "stack"):
        study.resolve(tiny_config(grid=study.block("grid", "known", (0,), tokens=(480,), freeze="stack")))


@pytest.fixture(scope="module")
def trained():
    """A tiny gpt without its stack, after six steps; and what it was trained on."""
    module = families.load("gpt")
    config = module.Config(width=8, layers=2, heads=1, context=12, vocab=12)
    rules = recipe.named("width", batch=4, warmup_steps=2, weight_decay=0.1)
    batches = {"tokens": np.random.default_rng(0).integers(0, 12, (6, 4, 13)).astype(np.int32)}
    hyper: dict[str, Any] = {"learning_rate": np.full(6, 0.05, np.float32), "weight_decay": np.full(6, 0.1, np.float32)}
    hyper["steps"] = np.int32(6)

    def make(**how: Any) -> Trainer:
        return Trainer(module, config, rules, MESH, 6, Execution(**how), freeze=("stack",))

    plain = make()
    first = jax.tree.map(np.asarray, plain.init(0))
    state, metrics = plain.chunk(plain.init(0), hyper, batches)
    return make, (hyper, batches), first, jax.tree.map(np.asarray, state), metrics


@pytest.mark.system
def test_frozen_parts_have_no_moments_and_do_not_move(trained):
    _, _, first, after, _ = trained
    assert set(after["opt"][1].mu) == {"embedding", "norm"}
    for name in ("embedding", "norm", "stack"):
        same = all(
            np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (first["params"][name], after["params"][name])))
        )
        assert same == (name == "stack")


@pytest.mark.system
@pytest.mark.parametrize("how", [{"microbatches": 2}, {"unroll": 0}])
def test_scans_and_microbatches_give_the_same_numbers(trained, how: dict[str, int]):
    make, given, _, after, metrics = trained
    trainer = make(**how)
    state, found = trainer.chunk(trainer.init(0), *given)
    np.testing.assert_allclose(found["loss"], metrics["loss"], rtol=1e-5)
    np.testing.assert_allclose(state["params"]["embedding"], after["params"]["embedding"], rtol=2e-3, atol=1e-5)


@pytest.mark.system
def test_members_of_an_ensemble_give_the_same_numbers(trained):
    make, (hyper, batches), _, after, _ = trained
    ensemble = Ensemble(make(), 2)
    twice = {name: np.stack([value] * 2) for name, value in batches.items()}
    rates = {name: value if name == "steps" else np.stack([value] * 2) for name, value in hyper.items()}
    state = ensemble.part(ensemble.chunk(ensemble.init(np.zeros(2)), rates, twice)[0])[1]
    np.testing.assert_allclose(state["params"]["embedding"], after["params"]["embedding"], rtol=2e-3, atol=1e-5)


@pytest.mark.system
def test_a_study_freezes_inherited_parts(tmp_path: Path):
    """A child that only trains its head: an identity, a price and a record of its own."""

    def planned(**child) -> plan.Plan:
        made: Any = tiny_config(
            pretrain=study.block("grid", "known", (0,), tokens=(480,)),
            tuned=study.block("grid", "other", (0,), tokens=(480,), init_from={"*": "pretrain"}, **child),
        )
        made.data.other = {"source": "zipf", "base": 4, "targets": 8, "world": 1}
        made.recipe.schedule = "constant"
        return plan.make(study.resolve(made))

    made, whole = planned(freeze=("stack", "norm")), planned()
    manifests = [each.runs[0].manifest for each in (*made.programs, *whole.programs)]
    base, child, again, full = manifests
    assert base == again and child.identity != full.identity
    assert child.frozen == ("norm", "stack") and full.frozen == ()
    assert child.parameters.trainable == child.parameters.groups["embedding"] < full.parameters.trainable
    assert child.flops.training < full.flops.training and child.flops.six_nd == full.flops.six_nd
    rows = {row.dataset: row for row in made.rows()}
    assert rows["other"].state_bytes < rows["known"].state_bytes == 16 * base.parameters.total
    plan.write(made, tmp_path)
    for program in made.programs:
        train.execute(program, tmp_path, progress=lambda *_: None, should_stop=lambda: False)
    record = Record(tmp_path / "runs" / child.run)
    assert handmade.ended(record).status == "done" and record.manifest.frozen == child.frozen
