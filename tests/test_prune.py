"""Pruning: the cubic schedule, exact numbers of zeros that stay, scores of movement, and what N counts."""

import functools
from pathlib import Path
from typing import Any

import handmade
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import tiny_config
from refusals import refuses
from selection import mostly_system
from test_families import COUNTED, MESH, QuickTrainer, all_terms, batch_of, initial, quick, small, trained
from test_parents import train_all

from analysis import laws
from analysis.table import runs
from scaling import count, distill, evaluations, families, plan, prune, recipe, study
from scaling.checkpoint import Checkpoints, leaf_hashes
from scaling.errors import Code
from scaling.records import Record, canonical
from scaling.records.types import Manifest
from scaling.run import Run
from scaling.step import Trainer

STEP = 48  # tokens of a step of the tiny study
STEPS, BATCH = 12, 4
HALF = prune.Prune(sparsity=0.55, begin=0.25, end=0.75)
MOVED = prune.Prune(kind="movement", sparsity=0.55, initial=0.1, begin=0.25, end=0.75)
MATRICES = ("q", "k", "v", "o", "up", "down")


# --- the schedule and the choice


def test_the_sparsity_rises_as_a_cubic_from_begin_to_end():
    how = prune.Prune(sparsity=0.8, initial=0.2, begin=0.2, end=0.6)
    found = prune.schedule(how, jnp.asarray([0.0, 0.19, 0.2, 0.3, 0.4, 0.6, 1.0]))
    np.testing.assert_allclose(found, [0, 0, 0.2, 0.8 - 0.6 * 0.75**3, 0.8 - 0.6 / 8, 0.8, 0.8], rtol=1e-5)


def test_so_many_of_the_least_of_each_row_are_lost_of_equal_ones_the_first():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(3, 50)).astype(np.float32).round(1)  # with ties, and both signs
    rows[2] = np.where(np.arange(50) % 2, 0.0, -0.0)
    rows[1, :5] = -np.inf
    for lost in (0, 1, 17, 49, 50):
        expected = np.ones(rows.shape)
        for row, order in zip(expected, np.argsort(rows, axis=1, kind="stable")):
            row[order[:lost]] = 0
        np.testing.assert_array_equal(prune.kept(jnp.asarray(rows), lost), expected)


# --- in the step


def trainer_of(how: prune.Prune | None) -> tuple[Trainer, Any]:
    module, config = small("gpt", context=8, layers=2)
    rules = recipe.named("width", batch=BATCH, warmup_steps=2, clip=0.1)
    return QuickTrainer(prune.applied(module, how), config, rules, MESH, STEPS), config


RATES: dict[str, Any] = {"learning_rate": np.full(STEPS, 0.02, np.float32), "weight_decay": np.zeros(STEPS, np.float32)}
SHARES = np.arange(STEPS, dtype=np.float32) / STEPS


@functools.cache
def stepped(how: prune.Prune) -> tuple[Trainer, np.ndarray, list[Any]]:
    """A trainer, its batches, and the parameters before each of the steps and after the last."""
    trainer, config = trainer_of(how)
    tokens = np.stack([batch_of(trainer.family, config, BATCH, seed)["tokens"] for seed in range(STEPS)])
    state, states = trainer.init(0), []
    for step in range(STEPS):
        states.append(jax.device_get(state)["params"])
        hyper = {**RATES, "progress": np.roll(SHARES, -step), "steps": np.int32(1)}
        state, _ = trainer.chunk(state, hyper, {"tokens": np.roll(tokens, -step, 0)})
    return trainer, tokens, [*states, jax.device_get(state)["params"]]


@pytest.mark.parametrize("how", mostly_system([HALF, MOVED], MOVED))
def test_every_matrix_has_the_zeros_of_the_schedule_and_what_is_lost_for_good_stays_zero(how: prune.Prune):
    trainer, _, states = stepped(how)
    leaves = prune._leaves(small("gpt")[0], trainer.config)
    assert {path[-1] for path in leaves} == set(MATRICES)
    for path, leaf in leaves.items():
        masks = np.stack([prune._flat(state[prune.MASK])[path].reshape(2, -1) for state in states])
        weights = np.stack([prune._flat(state)[path].reshape(2, -1) for state in states])
        lost = [np.round(prune.schedule(how, jnp.float32(share)) * leaf.size) for share in SHARES]
        assert (masks[1:] == 0).sum(axis=2).tolist() == [[x, x] for x in lost]
        assert (weights[-1] == 0).sum(axis=1).tolist() == [round(0.55 * leaf.size)] * 2
        over = 1 + int(np.argmax(how.end <= SHARES))
        assert (masks[over:] == masks[over]).all() and not weights[over:][masks[over:] == 0].any()
        returned = ((masks[:-1] == 0) & (masks[1:] == 1)).any()
        if how.kind == "magnitude":
            assert not returned and not weights[masks == 0].any()
        else:
            assert weights[over - 1][masks[over - 1] == 0].all()  # kept behind the mask until the end


def test_what_is_lost_is_the_least_of_what_is_left():
    module, config = small("gpt", layers=2)
    family, rng = prune.applied(module, HALF), np.random.default_rng(0)
    drawn = jax.tree.map(
        lambda leaf: np.float32(rng.normal(size=leaf.shape)),
        jax.eval_shape(lambda: family.init(jax.random.key(0), config)),
    )
    before = jax.tree.map(lambda leaf: np.float32(rng.random(leaf.shape) > 0.1), drawn[prune.MASK])
    given = {**drawn, prune.MASK: before}
    after = quick(lambda p, a: family.after(p, a, jax.random.key(0), config))(
        given, {prune.PROGRESS: np.full(4, 0.5, np.float32)}
    )
    lost = round(0.55 * (1 - 0.5**3) * drawn["stack"]["q"][0].size)
    for name in MATRICES:
        weight, mask = (np.reshape(tree["stack"][name], (2, -1)) for tree in (drawn, before))
        lost = round(0.55 * (1 - 0.5**3) * weight[0].size)
        order = np.argsort(np.where(mask == 0, -1, np.abs(weight)), axis=1)
        for row in range(2):
            found = np.reshape(after["stack"][name], (2, -1))[row]
            assert not found[order[row, :lost]].any()
            np.testing.assert_array_equal(found[order[row, lost:]], weight[row, order[row, lost:]])


def test_scores_of_movement_are_the_sums_of_minus_weight_times_gradient():
    """Of the plain family at the masked weights, also where the mask hides them; neither clip nor rate has a part."""
    trainer, tokens, states = stepped(MOVED)
    plain, config = small("gpt", context=8, layers=2)

    @quick
    def gradient(parameters: Any, tokens: jax.Array) -> Any:
        return jax.grad(lambda p: plain.loss(p, {"tokens": tokens}, jax.random.key(0), config)["loss"][0].mean())(
            parameters
        )

    sums = {name: np.zeros(states[0]["stack"][name].shape) for name in MATRICES}
    for step in range(STEPS):
        own, masks = states[step], states[step][prune.MASK]["stack"]
        model = {name: own[name] for name in own if name not in prune.PARTS}
        stack = {name: leaf * masks.get(name, 1) for name, leaf in own["stack"].items()}
        found = gradient({**model, "stack": stack}, tokens[step])["stack"]
        for name in MATRICES:
            sums[name] -= own["stack"][name] * np.asarray(found[name], float)
            after = states[step + 1][prune.SCORE]["stack"][name]
            np.testing.assert_allclose(after, sums[name], rtol=2e-3, atol=2e-6, err_msg=f"{name} {step}")
    assert all(np.abs(each).max() > 1e-3 for each in sums.values())
    assert set(trainer.abstract["opt"][1].mu) == {"embedding", "norm", "stack"}


# --- every family


@pytest.mark.parametrize(("name", "case"), mostly_system(COUNTED))
def test_a_pruned_family_is_the_family_at_first_and_counted_as_it(name: str, case: str):
    module, config = small(name, case)
    family = prune.applied(module, MOVED)
    drawn, batch = initial(family, config, 0.0), batch_of(module, config, 4)
    own = {part: value for part, value in drawn.items() if part not in prune.PARTS}
    assert set(drawn) - set(own) == set(prune.PARTS)
    assert set(families.beside(family, config)) == {*prune.PARTS, *families.beside(module, config)}
    assert jax.tree.structure(family.axes(config), is_leaf=lambda x: isinstance(x, tuple)) == jax.tree.structure(drawn)
    for term, pair in all_terms(module, own, batch, config).items():
        for plain, pruned in zip(pair, all_terms(family, drawn, batch, config)[term]):
            np.testing.assert_array_equal(plain, pruned)
    traced = count.jaxpr_flops(lambda p: family.loss(p, batch, jax.random.key(0), config), drawn)
    assert traced == 4 * sum(count.forward_flops(family.components(config), 4).values())
    aux = jax.eval_shape(lambda p: family.loss_and_aux(p, batch, jax.random.key(0), config)[1], drawn)
    assert count.jaxpr_flops(lambda p, a: family.after(p, a, jax.random.key(0), config), drawn, aux) == 0


@pytest.mark.system
@pytest.mark.parametrize(
    ("name", "case"), [("gpt", "experts"), ("vq", "ema")]
)  # of stacked axes, and with an ``after``
def test_a_family_ends_with_as_many_zeros_as_it_counts_resumes_and_moves(name: str, case: str, tmp_path: Path):
    module, config = small(name, case, context=8, layers=1)
    family = prune.applied(module, MOVED)
    trainer, batches, hyper, (whole, _) = trained(family, config, batch_of(module, config), 12)
    state, _ = trainer.chunk(trainer.init(0), {**hyper, "steps": np.int32(5)}, batches)
    store = Checkpoints(tmp_path)
    store.save(5, state)
    found = store.load(trainer.abstract)
    assert found is not None
    rest = {**{key: np.roll(value, -5) for key, value in hyper.items()}, "steps": np.int32(7)}
    state, _ = trainer.chunk(found[1], rest, {key: np.roll(value, -5, 0) for key, value in batches.items()})
    assert leaf_hashes(state) == leaf_hashes(whole)
    parameters, first = jax.device_get(whole["params"]), jax.device_get(trainer.init(0)["params"])
    weights = {path: prune._flat(parameters)[path] for path in prune._leaves(module, config)}
    assert sum(int((leaf == 0).sum()) for leaf in weights.values()) == families.zeros(family, config)[0] > 0
    for (path, old), (_, new) in zip(*map(jax.tree_util.tree_leaves_with_path, (first, parameters))):
        assert path[0].key in families.frozen(module, config) or (old != new).any(), jax.tree_util.keystr(path)


@pytest.mark.system
def test_masks_and_scores_are_not_rounded_and_weights_that_are_few_bits_stay_zero():
    module, config = small("gpt", weight_bits=3)
    trainer = QuickTrainer(prune.applied(module, MOVED), config, recipe.named("width", batch=BATCH), MESH, 1)
    rng = np.random.default_rng(0)
    drawn = jax.tree.map(lambda leaf: np.float32(rng.normal(size=leaf.shape)), trainer.abstract["params"])
    used = quick(trainer._cast)(drawn)
    for part in prune.PARTS:
        np.testing.assert_array_equal(used[part]["stack"]["q"], drawn[part]["stack"]["q"])
    assert not np.array_equal(used["stack"]["q"], drawn["stack"]["q"])


# --- what is refused


@pytest.mark.parametrize(
    ("written", "code", "field"),
    [
        ({"sparsity": 1.0}, Code.INVALID, "prune.sparsity"),
        ({"kind": "random"}, Code.INVALID, "prune.kind"),
        ({"rate": 0.5}, Code.UNKNOWN, "prune.rate"),
        ({"begin": 0.5, "end": 0.5}, Code.CONFLICT, "prune.begin"),
        ({"sparsity": 0.5, "initial": 0.5}, Code.CONFLICT, "prune.initial"),
        ("magnitude", Code.INVALID, "prune"),
    ],
)
def test_what_cannot_be_meant_is_refused(written: object, code: Code, field: str):
    with refuses(code, field):
        prune.read("prune", written)


def config(**fields: Any) -> Any:
    """A dense run of two lengths, pruned runs of the same data, and one that starts from the dense."""
    half, grid = {"sparsity": 0.5, "end": 0.7}, {"tokens": (STEP * 20,)}
    made: Any = tiny_config(
        dense=study.block("grid", "known", (0,), **grid),
        half=study.block("grid", "known", (0,), **grid, **{"prune": half, **fields}),
        tuned=study.block(
            "grid",
            "tuned",
            (0,),
            seeds=(1,),
            **grid,
            init_from={"*": {"block": "dense", "seed": 0}},
            prune={**half, "kind": "movement"},
        ),
    )
    made.data.tuned = {"source": "zipf", "base": 4, "targets": 8}
    made.keep_final = True
    return made


def test_a_study_refuses_what_is_not_trained_or_too_short_or_has_no_blocks():
    for field, value in (("freeze", ("embedding",)), ("adapt", {"kind": "lora"})):
        with refuses(Code.CONFLICT, "cells.half.prune"):
            study.resolve(config(**{field: value, "init_from": {"*": "dense"}}))
    with refuses(Code.CONFLICT, "cells.half.prune.end", 0.99):
        study.resolve(config(prune={"end": 0.99}))
    with refuses(Code.CONFLICT, "cells.half.prune.sparsity", 0.999):
        study.resolve(config(prune={"sparsity": 0.999, "end": 0.7}))
    with refuses(Code.UNKNOWN, "cells.half.init_from"):
        study.resolve(config(init_from={"prune_mask": "dense"}))
    module, model = small("gpt")
    bare = type(module)("bare")
    vars(bare).update({**vars(module), "frozen": lambda config: ("stack",)})
    with refuses(Code.UNSUPPORTED, "prune"):
        prune.check("prune", HALF, bare, model, 100)


# --- a study


def test_a_token_meets_the_zeros_of_the_experts_that_it_is_sent_to():
    module, model = small("gpt", "experts")  # two of four
    leaves = prune._leaves(module, model).values()
    zeros, active = families.zeros(prune.applied(module, MOVED), model)
    routed = sum(leaf.rows * MOVED.zeros(leaf.size) for leaf in leaves if "experts" in leaf.axes)
    assert zeros - active == routed // 2 > 0


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[plan.Plan, Path]:
    made = plan.make(study.resolve(config()))
    workdir = tmp_path_factory.mktemp("prune")
    plan.write(made, workdir)
    train_all(made.programs, workdir)
    return made, workdir


def named(made: plan.Plan, dataset: str, *, pruned: bool) -> Manifest:
    every = [spec.manifest for each in made.programs for spec in each.runs if spec.kind != "stem"]
    return next(each for each in every if each.dataset == dataset and bool(each.prune) == pruned)


def test_n_counts_what_is_not_zero_and_the_identity_holds_the_pruning():
    made = plan.make(study.resolve(config()))
    dense, half = named(made, "known", pruned=False), named(made, "known", pruned=True)
    size = sum(half.parameters.groups[group] for group in ("attention", "mlp"))
    assert half.prune["weights"] == size and half.prune["zeros"] == half.parameters.zeros == size // 2
    for name in ("total", "nonembedding", "trainable", "active", "nonembedding_active"):
        assert getattr(half.parameters, name) == getattr(dense.parameters, name) - size // 2, name
    assert half.parameters.groups == dense.parameters.groups and half.parameters.dense == dense.parameters.total
    assert half.flops.training == dense.flops.training and half.flops.six_nd < dense.flops.six_nd
    assert half.identity != dense.identity and half.stem is None and dense.stem is not None
    others = [config(prune={"sparsity": 0.5, "end": 0.7, **each}) for each in ({"kind": "movement"}, {"begin": 0.1})]
    found = {named(plan.make(study.resolve(each)), "known", pruned=True).identity for each in others}
    assert len({half.identity, *found}) == 3
    rows = {row.run: row for row in made.rows()}
    assert rows[half.run].state_bytes == rows[dense.run].state_bytes + 4 * size
    assert rows[named(made, "tuned", pruned=True).run].state_bytes == rows[dense.run].state_bytes + 12 * size
    assert any("sparsity" in text for text in made.warnings)


@pytest.mark.system
def test_a_run_has_the_zeros_that_it_counts_and_its_table_the_columns_of_the_law(finished: tuple[plan.Plan, Path]):
    made, workdir = finished
    for dataset in ("known", "tuned"):
        own = named(made, dataset, pruned=True)
        program = next(each for each in made.programs if own.run in {spec.run for spec in each.runs})
        run = Run(next(spec for spec in program.runs if spec.run == own.run), program, workdir)
        held = run.checkpoints.load(run.trainer.abstract)
        assert held is not None
        stack = held[1]["params"]["stack"]
        assert sum(int((np.asarray(stack[name]) == 0).sum()) for name in MATRICES) == own.parameters.zeros
        model = {part: value for part, value in held[1]["params"].items() if part not in prune.PARTS}
        batch, given = {"tokens": np.arange(13)[None]}, (jax.random.key(0), run.trainer.config)
        plain, both = (
            families.load("gpt").loss(model, batch, *given),
            run.trainer.family.loss(held[1]["params"], batch, *given),
        )
        np.testing.assert_array_equal(plain["loss"][0], both["loss"][0])  # without its mask it is the same model
        answer = evaluations.Finished(workdir, program, run.spec).evaluate(evaluations.Question())
        assert answer.reproduces and answer.bytes == 4 * own.parameters.dense
        few = evaluations.Finished(workdir, program, run.spec).evaluate(evaluations.Question(bits=4)).quantisation
        assert few is not None and few.weights + few.kept == own.parameters.dense
    table = runs.load(workdir, dataset="known").table
    sparse, dense = (named(made, "known", pruned=each).parameters for each in (True, False))
    assert table["sparsity"].tolist() == [0.5 * (n < dense.nonembedding) for n in table["N"]]
    assert set(table["N"]) == {sparse.nonembedding, dense.nonembedding}
    assert set(table["N_dense"]) == {dense.nonembedding}
    assert {"N", "sparsity", "D"} == set(laws.get("sparsity").columns) - {"loss"} and "N_zeros" not in table


@pytest.mark.system
def test_an_interrupted_pruned_child_ends_as_an_undisturbed_one(finished: tuple[plan.Plan, Path], tmp_path: Path):
    made, workdir = finished
    assert train_all(made.programs, tmp_path, stop_after=1) >= 2
    for manifest in (named(made, "known", pruned=True), named(made, "tuned", pruned=True)):
        ended = [handmade.ended(Record(place / "runs" / manifest.run)) for place in (workdir, tmp_path)]
        assert canonical(ended[0].evaluation) == canonical(ended[1].evaluation)
        assert ended[0].parameters == ended[1].parameters is not None


def test_a_student_is_pruned_and_its_teacher_is_not():
    module, model = small("gpt", layers=1)
    taught = distill.applied(module, distill.Distill(), distill.Teacher("gpt", small("gpt", size=1, layers=1)[1]))
    assert {path[0] for path in prune._leaves(taught, model)} == {"stack"}
    assert families.beside(prune.applied(taught, MOVED), model) == ("teacher", *prune.PARTS)
