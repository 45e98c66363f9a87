"""LoRA, adapters and prompts: counted as traced, the parent's loss before the first step, and nothing else moves."""

import shutil
from pathlib import Path
from typing import Any

import handmade
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import tiny_config
from refusals import refuses
from test_families import batch_of, quick, small
from test_parents import train_all

from scaling import adapt, count, parts, plan, study
from scaling.blocks import added
from scaling.errors import Code
from scaling.recipe.parametrisation import by_muon
from scaling.records import Record, canonical
from scaling.records.types import ProgramSpec
from scaling.run import Run

STEP = 48  # tokens of a step of the tiny study
EVERY = ("q", "k", "v", "o", "up", "down")
LORA = {"kind": "lora", "rank": 2, "alpha": 4.0, "weights": EVERY}
ADAPTER = {"kind": "adapter", "rank": 3}
PROMPT = {"kind": "prompt", "length": 5}
KINDS = {"lora": LORA, "adapter": ADAPTER, "prompt": PROMPT}


def config(**adapted: dict[str, Any]) -> Any:
    """A run, and children of it that are tuned as is said, each on a data set of its name."""
    start = {"tokens": (STEP * 10,), "init_from": {"*": "pretrain"}}
    blocks = {name: study.block("grid", name, (0,), **{**start, **fields}) for name, fields in adapted.items()}
    made: Any = tiny_config(pretrain=study.block("grid", "known", (0,), tokens=(STEP * 20,)), **blocks)
    for name in blocks:
        made.data[name] = {"source": "zipf", "base": 4, "targets": 8, "world": 1}
    made.recipe.schedule = "constant"
    made.recipe.learning_rate = 0.02
    return made


# --- the products


@pytest.mark.parametrize(
    ("equation", "weight", "split"), [("btd,dhk->bhtk", (4, 2, 3), 1), ("bhtk,hkd->btd", (2, 3, 4), 2)]
)
def test_a_low_rank_product_is_that_with_the_sum_of_the_weights(equation: str, weight: tuple[int, ...], split: int):
    rng = np.random.default_rng(0)
    inside, outside = weight[:split], weight[split:]
    w, a, b = (rng.normal(size=shape) for shape in (weight, (*inside, 2), (2, *outside)))
    x_ = rng.normal(size=(2, 5, 4) if split == 1 else (2, 2, 5, 3))
    given = {name: jnp.asarray(each) for name, each in (("w", w), ("w_lora_a", a), ("w_lora_b", b))}
    found = added.product(equation, jnp.asarray(x_), given, "w")
    np.testing.assert_allclose(found, np.einsum(equation, x_, w + np.tensordot(a, b, 1)), rtol=2e-5, atol=1e-5)


def test_what_is_drawn_has_the_bounds_of_its_source():
    """A: uniform within 1 / sqrt(fan-in), the Kaiming bound sqrt(6 / ((1 + 5) fan-in)); B zero; alpha / rank."""
    gpt, model = small("gpt", width=64, heads=4)
    how = adapt.Lora(rank=64, alpha=16.0, weights=("down",))
    leaves = quick(lambda key: adapt._draw(key, adapt._Adapted(gpt, how).leaves(model)))(jax.random.key(0))["stack"]
    first, second = (np.asarray(leaves[each]) for each in added.lora("down"))
    bound = 256**-0.5
    largest = float(np.abs(first).max())
    assert not second.any() and largest <= bound and largest > 0.99 * bound
    assert first.std() == pytest.approx(bound / 3**0.5, rel=0.02)
    merged = adapt._merged({}, {name: jnp.ones(2) for name in added.lora("q")}, how)
    assert merged["q_lora_a"][0] == 1 and merged["q_lora_b"][0] == 16 / 64


@pytest.mark.parametrize("how", [adapt.Lora(weights=("q", "o", "down")), adapt.Adapter()])
def test_what_is_added_is_neither_rounded_nor_orthogonalised(how: adapt.Adapt):
    """Neither half of a product of low rank: ``weight_bits`` are of the weights that it is added to."""
    module, model = small("gpt")
    axes = adapt.applied(module, how).axes(model)
    assert not any(by_muon(names) for names in axes[adapt.PART]["stack"].values())
    assert by_muon(axes["stack"]["q"])


# --- what is counted

HARD = [
    ("gpt", "experts", adapt.Adapter(rank=3)),
    ("bert", "nsp", adapt.Prompt(length=3)),
    ("t5", "", adapt.Lora(rank=2, weights=("q", "cross_q", "cross_k", "o", "down"))),
    ("whisper", "", adapt.Lora(rank=2, weights=("q", "cross_q", "cross_k", "o", "down"))),
    ("fusion", "fusion", adapt.Lora(rank=2, parts=("stack",), whole=("projection",))),
]


def counted(name: str, case: str, how: adapt.Adapt) -> dict[str, count.Component]:
    """Its components, whose FLOPs ``parts.freeze`` holds against the traced gradient, exactly."""
    module, model = small(name, case)
    family = adapt.applied(module, how)
    freezing = adapt.freeze(module, model, how, batch_of(module, model))
    return {part.name: part for part in parts.components(family, model, freezing)}


@pytest.mark.system
@pytest.mark.parametrize(("name", "case", "how"), HARD)
def test_every_family_is_counted_as_its_step_is_traced(name: str, case: str, how: adapt.Adapt):
    module, model = small(name, case)
    found = counted(name, case, how)
    own = {part.name for part in module.components(model)}
    assert {found[part].k for part in own if found[part].matmul} <= {2, 4} | ({6} if how.whole else set())
    assert {part.k for part in found.values() if part.group == adapt.PART} == {6}
    if name == "fusion":
        k = {part: found[part].k for part in ("vision_mlp", "projection", "mlp", "head")}
        assert k == {"vision_mlp": 2, "projection": 6, "mlp": 4, "head": 4}


@pytest.mark.system
def test_unrolled_layers_spare_the_gradients_of_the_first_ones_input():
    """All else is counted alike: of two layers, the products with q, k, v and of their A, and the gradient of keys."""
    module, model = small("gpt", "", layers=2)
    how = adapt.Lora(rank=2)
    found, family = counted("gpt", "", how), adapt.applied(module, how)
    params = jax.eval_shape(lambda: family.init(jax.random.key(0), model))
    held = {name: params[name] for name in params if name != adapt.PART}

    def loss(trained: Any, held: Any, batch: Any) -> jax.Array:
        total, n = family.loss({**held, **trained}, batch, jax.random.key(0), model)["loss"]
        return total.sum() / n.sum()

    traced = count.jaxpr_flops(jax.grad(loss), {adapt.PART: params[adapt.PART]}, held, batch_of(module, model, 2))
    time, width, queries = model.context, model.width, ("q", "k", "v")
    spared = 2 * time * width * (width * len(queries) + 2 * 2) + 2 * time * time * width
    assert traced == 2 * (sum(count.training_flops(found.values(), 2).values()) - spared)


# --- what is refused


@pytest.mark.parametrize(
    ("adapted", "code", "field"),
    [
        ({"kind": "lorra"}, Code.UNKNOWN, "adapt.kind"),
        ({"rank": 2}, Code.UNKNOWN, "adapt.kind"),
        ({"kind": "lora", "length": 3}, Code.UNKNOWN, "adapt.length"),
        ({"kind": "lora", "rank": 0}, Code.INVALID, "adapt.rank"),
        ({"kind": "lora", "alpha": 0.0}, Code.INVALID, "adapt.alpha"),
        ({"kind": "lora", "weights": ()}, Code.INVALID, "adapt.weights"),
        ({"kind": "lora", "weights": ("q", "q")}, Code.INVALID, "adapt.weights"),
        ({"kind": "lora", "weights": ("q", 3)}, Code.INVALID, "adapt.weights"),
        ({"kind": "lora", "weights": "qv"}, Code.INVALID, "adapt.weights"),
        ({"kind": "prompt", "length": -1}, Code.INVALID, "adapt.length"),
        ("lora", Code.INVALID, "adapt"),
    ],
)
def test_what_cannot_be_meant_is_refused(adapted: object, code: Code, field: str):
    with refuses(code, field):
        adapt.read("adapt", adapted)


@pytest.mark.parametrize(
    ("name", "how", "code", "field"),
    [
        ("gpt", adapt.Lora(weights=("cross_q",)), Code.UNKNOWN, "adapt.weights"),
        ("gpt", adapt.Lora(parts=("trunk",)), Code.UNKNOWN, "adapt.parts"),
        ("gpt", adapt.Lora(whole=("trunk",)), Code.UNKNOWN, "adapt.whole"),
        ("t5", adapt.Prompt(), Code.CONFLICT, "adapt.parts"),
        ("vit", adapt.Prompt(), Code.UNSUPPORTED, "adapt.kind"),
        *((name, adapt.Lora(), Code.UNSUPPORTED, "adapt") for name in ("clip", "vq", "dit", "tacotron")),
    ],
)
def test_what_a_family_lacks_is_refused(name: str, how: adapt.Adapt, code: Code, field: str):
    module, model = small(name)
    with refuses(code, field):
        adapt.applied(module, how).components(model)
        adapt.frozen(module, model, how)


def test_only_what_is_inherited_is_adapted_and_nothing_is_frozen_besides():
    alone = config(lora={"adapt": LORA, "init_from": {}})
    del alone.cells["pretrain"]
    with refuses(Code.CONFLICT, "init_from", "embedding"):
        study.resolve(alone)
    with refuses(Code.CONFLICT, "cells.lora.freeze"):
        study.resolve(config(lora={"adapt": LORA, "freeze": ("embedding",)}))


@pytest.mark.system
def test_arms_are_told_apart_and_an_adapted_parent_is_not_taken_for_a_plain_one():
    mixed = config(lora={"adapt": LORA})
    mixed.cells.other = study.block(
        "grid", "lora", (0,), tokens=(STEP * 20,), init_from={"*": "pretrain"}, adapt=ADAPTER
    )
    with refuses(Code.MIXED, value="lora"):
        study.resolve(mixed)
    chain = config(lora={"adapt": LORA}, after={"init_from": {"*": "lora"}})
    with refuses(Code.CONFLICT, "cells.after.init_from.*"):
        study.resolve(chain)
    chain.cells.after.adapt = LORA
    (last,) = (cell for cell in study.resolve(chain).cells if cell.dataset == "after")
    assert {each.part for each in last.start} == {"adapt", "embedding", "norm", "stack"}


# --- trained from a parent


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> tuple[plan.Plan, Path]:
    """A study of a run, a child of each kind, and one that goes on from a prompt."""
    fields: dict[str, dict[str, Any]] = {name: {"adapt": how} for name, how in KINDS.items()}
    fields["prompt"]["tokens"] = (STEP * 20,)
    fields["again"] = {"adapt": PROMPT, "init_from": {"*": "prompt"}}
    made = plan.make(study.resolve(config(**fields)))
    workdir = tmp_path_factory.mktemp("tuned")
    plan.write(made, workdir)
    train_all((program(made, "known"), program(made, "prompt")), workdir)  # the others tell all without being trained
    return made, workdir


def program(made: plan.Plan, dataset: str) -> ProgramSpec:
    return next(each for each in made.programs if each.runs[0].manifest.dataset == dataset)


@pytest.mark.system
def test_a_child_is_described_and_its_parent_is_what_it_was(tuned: tuple[plan.Plan, Path]):
    made, _ = tuned
    manifests = {name: program(made, name).runs[0].manifest for name in ("known", *KINDS)}
    plain = plan.make(study.resolve(config(lora={})))
    assert program(plain, "known").runs[0].manifest == manifests["known"] and not manifests["known"].adapt
    assert len({each.identity for each in manifests.values()} | {program(plain, "lora").runs[0].run}) == 5
    width, time, total = 8, 12, manifests["known"].parameters.total
    norms = 4 * width  # two of the stream, of queries and keys, as wide as one head is here
    low = 2 * (4 * 2 * width + 2 * 5 * width)  # rank 2: four square weights, and two of the MLP
    own = {"lora": low, "adapter": 2 * 2 * 3 * width + norms, "prompt": 5 * width}
    for name, manifest in manifests.items():
        if name == "known":
            continue
        assert canonical(manifest.adapt) == canonical({**KINDS[name], "parts": (), "whole": ()})
        assert manifest.parameters.groups["adapt"] == own[name] == manifest.parameters.total - total
        assert manifest.parameters.trainable == own[name] + (width if name == "adapter" else 0)  # its last norm
        assert manifest.steps * STEP == manifest.tokens.D  # a prompt is no data
        assert manifest.parent_flops == manifests["known"].flops.training
    forward = {name: manifest.flops.forward_per_example for name, manifest in manifests.items()}
    on = [2 * 12 * width**2 * positions + 4 * width * positions**2 for positions in (time, time + 5)]
    assert forward["prompt"] - forward["known"] == on[1] - on[0]


@pytest.mark.system
@pytest.mark.parametrize("name", KINDS)
def test_before_the_first_step_it_is_its_parent_and_after_ten_all_that_is_trained_has_moved(
    tuned: tuple[plan.Plan, Path], name: str
):
    made, workdir = tuned
    parent, own = program(made, "known"), program(made, name)
    (spec,) = own.runs
    # The child's program on its parent's data.
    manifest = handmade.edited(spec.manifest, data=parent.runs[0].manifest.data, dataset="known")
    seen = handmade.edited(spec, manifest=manifest)
    run = Run(seen, handmade.edited(parent, runs=(seen,)), workdir)
    state = run.initial()
    value = run.evaluate(state)
    known = handmade.ended(Record(workdir / "runs" / parent.runs[0].run)).evaluation
    assert (canonical(value) == canonical(known)) == (name != "prompt")
    trained = {"adapt", "norm"} if name == "adapter" else {"adapt"}
    assert set(state["opt"][1].mu) == trained
    before = jax.device_get(state["params"])
    if name == "prompt":
        table = np.asarray(before["embedding"])
        rows = table / np.sqrt(np.square(table).mean(axis=1, keepdims=True) + 1e-6)
        prompt_KD = np.asarray(before["adapt"]["stack"]["prompt"])
        assert np.abs(prompt_KD[:, None] - rows[None]).max(axis=2).min(axis=1).max() < 1e-5
    run = Run(spec, own, workdir)
    step = quick(run.trainer.step_chunk)
    state = step(run.initial(), run.hyper(0, 10), {"tokens": run.batches(0, 10)["tokens"]})[0]
    for (path, old), (_, new) in zip(*map(jax.tree_util.tree_leaves_with_path, (before, state["params"]))):
        assert np.any(old != np.asarray(new)) == (path[0].key in trained), jax.tree_util.keystr(path)


@pytest.mark.system
def test_a_child_that_is_interrupted_ends_as_an_undisturbed_one(tuned: tuple[plan.Plan, Path], tmp_path: Path):
    """A prompt, which is the hardest: what it begins from is read of the data."""
    made, workdir = tuned
    own = program(made, "prompt")
    (spec,) = own.runs
    parent = spec.manifest.parents[0].run
    shutil.copytree(workdir / "runs" / parent, tmp_path / "runs" / parent)
    stops = train_all((own,), tmp_path, stop_after=1)
    found = [handmade.ended(Record(place / "runs" / spec.run)) for place in (workdir, tmp_path)]
    assert stops >= 1 and canonical(found[0].evaluation) == canonical(found[1].evaluation)


@pytest.mark.system
def test_a_prompt_that_is_inherited_is_not_drawn_again(tuned: tuple[plan.Plan, Path]):
    made, workdir = tuned
    own, parent = program(made, "again"), program(made, "prompt").runs[0]
    run = Run(own.runs[0], own, workdir)
    known = handmade.ended(Record(workdir / "runs" / parent.run)).evaluation
    assert canonical(run.evaluate(run.initial())) == canonical(known)
