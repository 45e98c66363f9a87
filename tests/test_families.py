"""One battery over every family and objective, found by listing the folder; what one block or objective promises is in
test_blocks.py and test_objectives.py."""

import functools
import math
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from refusals import refuses
from selection import mostly_system

from scaling import count, device, families, inputs, recipe, settings, step
from scaling.blocks import execution
from scaling.errors import Code
from scaling.families import gpt
from scaling.step import Trainer

FAMILIES = families.names()
# Every value of a family's ``objective``, and the switches that change what is computed.
SWITCHES: dict[str, dict[str, Any]] = {
    "kv_heads": {"heads": 4, "kv_heads": 2, "width": 32},
    "experts": {"experts": 4, "top": 2, "shared": 2, "group": 32},
    "dropless": {"experts": 4, "top": 2, "shared": 2, "group": 32, "dropless": True},
    "nsp": {"nsp": True},
    "span": {"unit": "span"},
    "sound": {"sound": 24, "slice": 8},
    "restart": {"restart": 0.5, "decay": 0.9},
    # A language model that is drawn has projections of zero: frozen, it would not hear the queries.
    "stage": {"stage": "generate", "trains": "all"},
    "mask": {"mask": "mixed", "region_share": 0.0, "matching_share": 0.0},
    "streams": {"streams": "two", "regions": 3, "predicts": "class", "unit": "attribute"},
    "condition": {"condition": "text"},
    "fusion": {"fusion": "late", "mask": "prefix", "layers": 2, "vision_layers": 1},
}


def cases() -> list[tuple[str, str]]:
    found = []
    for name in FAMILIES:
        module = families.load(name)
        fields = module.Config.__dataclass_fields__
        found += [(name, objective) for objective in getattr(module, "OBJECTIVES", ("",))]
        found += [
            (name, switch) for switch in SWITCHES if switch in fields and SWITCHES[switch].keys() <= fields.keys()
        ]
    return found


CASES = cases()
# Of each family one, and the experts, whose products are of their own kind.
COUNTED = tuple(case for i, case in enumerate(CASES) if case[0] not in {name for name, _ in CASES[:i]})
COUNTED = (*COUNTED, ("gpt", "experts"))
MESH = {"data": 1, "fsdp": 1, "tensor": 1}
# A contrast's logits are cosines over the temperature: at clip's 0.07 rounding is enlarged 14 times.
TINY = {"vocab": 32, "context": 16, "image": 8, "patch": 2, "classes": 10, "temperature": 1.0, "codes": 32}
TINY |= {"mel": 8, "frames": 12, "filters": 4, "reach": 5}
TINY |= {"pictures": 2, "vision_width": 16, "vision_heads": 2, "vision_layers": 1, "latents": 4, "resampler_layers": 1}
TINY |= {"queries": 4, "language_width": 16, "language_heads": 2, "language_layers": 1}
TINY |= {"crossings": 1, "region_side": 2, "video": 2}
TINY |= {"clip_width": 8, "clip_heads": 2, "clip_layers": 1}
TINY |= {"text_width": 16, "text_heads": 2, "text_layers": 1}
# Of a family alone: the highest temperature that it takes, and few numbers of what is compared.
OWN = {"albef": {"temperature": 0.5, "project": 8}, "blip2": {"project": 8}}


def small(name: str, case: str = "", size: int = 0, **fields):
    """A family's module and a tiny configuration of it with the case's objective or switch."""
    module = families.load(name)
    known = module.Config.__dataclass_fields__
    chosen = {**SWITCHES[case]} if case in SWITCHES else {"objective": case} if case else {}
    every = {key: value for key, value in {**TINY, **OWN.get(name, {}), **fields}.items() if key in known}
    return module, families.configure(module, size, **{**every, **chosen})


def batch_of(module, config, size: int = 4, seed: int = 0) -> dict[str, np.ndarray]:
    """Random data of the kind that ``batch_spec`` asks for."""
    spec, rng = module.batch_spec(config), np.random.default_rng(seed)
    batch = {}
    if "vocab" in spec:
        batch["tokens"] = rng.integers(0, spec["vocab"], (size, families.text(spec) + 1)).astype(np.int32)
    if "text" in spec:  # captions, each with its end
        end, inside = spec["vocab"] - 1, np.arange(spec["text"] + 1) < spec["text"]
        batch["tokens"] = np.where(inside, batch["tokens"] % end, end).astype(np.int32)
    if "image" in spec:
        batch["image"] = rng.integers(0, 256, (size, spec["image"], spec["image"], 3)).astype(np.uint8)
    if "pictures" in spec:  # each at a mark, the first of them behind some text
        count, tokens = spec["pictures"], np.where(batch["tokens"] == spec["mark"], 0, batch["tokens"])
        tokens[:, 1 : -1 : spec["context"] // count] = spec["mark"]
        shape = (size, count, spec["side"], spec["side"], 3)
        batch |= {"tokens": tokens, "pictures": rng.integers(0, 256, shape).astype(np.uint8)}
    if "video" in spec:
        shape = (size, spec["video"], spec["image"], spec["image"], 3)
        batch["video"] = rng.integers(0, 256, shape).astype(np.uint8)
    if "regions" in spec:
        count, side = spec["regions"], spec["region_side"]
        batch["region"] = rng.integers(0, 256, (size, count, side, side, 3)).astype(np.uint8)
        batch["box"] = rng.uniform(0, 1, (size, count, 5)).astype(np.float32)
    if "region_classes" in spec:
        batch["region_class"] = rng.integers(0, spec["region_classes"], (size, spec["regions"])).astype(np.int32)
    if "graph" in spec:  # nodes of one token each, of all kinds in turn
        node = np.arange(spec["text"])
        batch["graph"] = np.tile(spec["graph"] * (1 + node) + node % spec["graph"], (size, 1)).astype(np.int32)
    for name in ("question", "answer"):  # each with its end
        if name in spec:
            words = rng.integers(0, spec["vocab"] - 1, (size, spec[name]))
            batch[name] = np.where(np.arange(spec[name]) < spec[name] - 1, words, spec["vocab"] - 1).astype(np.int32)
    if "sound" in spec:
        batch["sound"] = rng.integers(0, 256, (size, spec["sound"])).astype(np.uint8)
    if "mel" in spec:
        batch["mel"] = rng.normal(0, 0.5, (size, spec["frames"], spec["mel"])).astype(np.float32)
    if "points" in spec:
        batch["points"] = rng.normal(0, 1, (size, spec["context"], spec["points"])).astype(np.float32)
    if "classes" in spec:
        batch["label"] = rng.integers(0, spec["classes"], size).astype(np.int32)
    others = inputs.partner(np.arange(size), size)
    return {**batch, **{inputs.OTHER + name: batch[name][others] for name in families.partners(module, config)}}


def plain_loss(module, parameters, batch, config, key: int = 1):
    total, examples = next(iter(module.loss(parameters, batch, jax.random.key(key), config).values()))
    return total.sum() / examples.sum()


# Half of the time of a compilation; what is compiled here runs once or twice.
# The same program, compiled in half of the time. What runs long is compiled as a run is.
QUICK: dict[str, Any] = {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}
quick = functools.partial(jax.jit, compiler_options=QUICK)
mean_loss = quick(plain_loss, static_argnums=(0, 3, 4))


@functools.partial(quick, static_argnums=(0, 3))
def all_terms(module, parameters, batch, config):
    """By example: a term may come by position too."""
    found = module.loss(parameters, batch, jax.random.key(1), config)
    return jax.tree.map(lambda each: each.reshape(len(each), -1).sum(axis=1), found)


def initial(module, config, noise: float = 0.0):
    """Parameters, with noise added where nothing shall be zero; one compilation for all shapes."""

    def draw():
        parameters = module.init(jax.random.key(0), config)
        return jax.tree.map(lambda w: w + noise * jax.random.normal(jax.random.key(2), w.shape), parameters)

    return quick(draw)()


class QuickTrainer(Trainer):
    """Compiles as ``quick`` does."""

    def _compile(self, key: tuple[str, Any], jitted: Callable[[], Any], arguments: tuple[Any, ...]) -> None:
        self._compiled[key] = jitted().lower(*arguments).compile(QUICK)


def trained(module, config, batch, steps: int, made: type[Trainer] = QuickTrainer, **fields):
    rules = recipe.named("width", warmup_steps=5, batch=len(next(iter(batch.values()))), **fields)
    trainer = made(module, config, rules, MESH, steps)
    batches = {name: np.repeat(value[None], steps, 0) for name, value in batch.items()}
    hyper = {
        "learning_rate": np.float32(rules.learning_rate) * recipe.rate(rules, np.arange(steps), None),
        "weight_decay": np.zeros(steps, np.float32),
        "steps": np.int32(steps),
    }
    if trainer.paced:
        hyper["progress"] = np.arange(steps, dtype=np.float32) / steps
    return trainer, batches, hyper, trainer.chunk(trainer.init(0), hyper, batches)


@pytest.mark.parametrize("tied", mostly_system([True, False], True))
@pytest.mark.parametrize("size", mostly_system([0, 11], 11))
@pytest.mark.parametrize(("name", "case"), mostly_system(CASES, *COUNTED))
def test_analytic_counts_equal_the_traced_program(name: str, case: str, size: int, tied: bool):
    module, config = small(name, case, size, tied=tied, context=64, vocab=256, image=32, patch=4)
    if not tied and "tied" not in config.__dataclass_fields__:
        pytest.skip("has no tied head")
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), config))
    parts = module.components(config)
    assert len({part.name for part in parts}) == len(parts)
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes)) == count.parameters(parts)["total"]
    batch = {k: jax.ShapeDtypeStruct(v.shape, v.dtype) for k, v in batch_of(module, config, 3).items()}
    traced = count.jaxpr_flops(lambda p, b: module.loss(p, b, jax.random.key(0), config), shapes, batch)
    assert traced == 3 * sum(count.forward_flops(parts, 3).values())
    terms = families.terms(module, config)

    def trained_loss(p, b):
        found = module.loss(p, b, jax.random.key(0), config)
        return sum(total.sum() / n.sum() for term, (total, n) in found.items() if terms[term].weight)

    # Each product has two gradients, but for one whose input is the data itself.
    gradient = count.jaxpr_flops(jax.grad(trained_loss), shapes, batch)
    assert gradient == 3 * sum(count.executed_flops(parts, 3).values())
    if hasattr(module, "after"):  # products are the loss's, where they are counted
        _, aux = jax.eval_shape(lambda p, b: module.loss_and_aux(p, b, jax.random.key(0), config), shapes, batch)
        assert count.jaxpr_flops(lambda p, aux: module.after(p, aux, jax.random.key(0), config), shapes, aux) == 0


# Parameters of size 0 by group: what a matrix product reads counts in N, but for a head to classes, tokens or pixels.
GROUPS = [
    ("fusion", "text", {"embedding": 304, "position": 256, "patch": 3072, "attention": 2048, "mlp": 4096}, 9328),
    ("vit", "class", {"position": 256, "patch": 3072, "head": 512, "attention": 2048, "mlp": 4096}, 9328),
    ("clip", "", {"position": 256, "patch": 3072, "projection": 512, "embedding": 304}, 16096),
    ("simclr", "", {"position": 256, "patch": 3072, "projection": 768, "head": 0, "mlp": 4096}, 10096),
    ("bert", "nsp", {"position": 32, "head": 32, "attention": 2048, "mlp": 4096}, 6256),
]


@pytest.mark.parametrize(("name", "case", "groups", "n"), GROUPS)
def test_every_parameter_is_counted_by_group(name: str, case: str, groups: dict[str, int], n: int):
    fields = {"patch": 8} if name != "bert" else {"nsp": True}
    module = families.load(name)
    config = families.configure(module, 0, **fields)
    found = count.parameters(module.components(config))
    assert {group: found["groups"].get(group, 0) for group in groups} == groups
    left_out = sum(found["groups"].get(group, 0) for group in ("embedding", "position", "head"))
    assert found["nonembedding"] == n == found["total"] - left_out


@pytest.mark.parametrize(("name", "case"), CASES)
def test_axes_name_every_dimension_of_every_parameter(name: str, case: str):
    module, config = small(name, case)
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), config))
    ranks = jax.tree.map(
        lambda names, shape: len(names) == len(shape.shape),
        module.axes(config),
        shapes,
        is_leaf=lambda value: isinstance(value, tuple),
    )
    assert all(jax.tree.leaves(ranks))


@pytest.mark.parametrize(("name", "case"), mostly_system(CASES, ("gpt", "")))
def test_loss_starts_where_it_must_and_gradients_are_finite(name: str, case: str):
    module, config = small(name, case, tied=False, trains="all")  # what is inherited starts elsewhere
    parameters = initial(module, config)
    batch = batch_of(module, config, 8)
    terms, found = families.terms(module, config), all_terms(module, parameters, batch, config)
    measured = (
        jax.eval_shape(lambda p: module.metrics(p, batch, config), parameters) if "metrics" in dir(module) else {}
    )
    assert set(terms) == {*found, *measured}
    for term, (total, examples) in found.items():
        start = math.log(8) if name == "clip" and terms[term].weight else terms[term].start
        assert total.shape == examples.shape == (8,) and total.dtype == examples.dtype == jnp.float32
        if start is not None:
            assert float(total.sum() / examples.sum()) == pytest.approx(start, abs=1e-5)
        if terms[term].count is not None and not terms[term].uneven:
            assert (np.asarray(examples) == terms[term].count).all()
    loss, gradient = quick(jax.value_and_grad(lambda p: plain_loss(module, p, batch, config)))(parameters)
    if case == "mim":
        assert float(loss) == pytest.approx(11 / 12, rel=1e-4)  # (X - 1) / X, of patches of X = 12 normalised numbers
    if case == "simmim":
        assert float(loss) == pytest.approx(0.83, abs=0.02)  # between a uniform and a normal number of unit variance
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(gradient))
    assert any(float(jnp.abs(leaf).max()) > 0 for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize(("name", "case"), mostly_system(CASES, ("gpt", "")))
def test_loss_tokens_are_what_the_term_says(name: str, case: str):
    module, config = small(name, case, context=64)
    batch = batch_of(module, config, 4)
    found = all_terms(module, initial(module, config), batch, config)
    text = families.text(module.batch_spec(config))
    described = families.terms(module, config)
    for name, term in ((name, described[name]) for name in found):
        examples = np.asarray(found[name][1])
        if term.uneven:
            assert examples.mean() == pytest.approx(term.count or term.share * text)
        else:
            assert np.all(examples == (term.count or round(term.share * text)))


REVISED = [
    ("albef", "", 1),
    ("bert", "mlm", 2),
    ("bert", "diffusion", 3),
    ("bert", "nsp", 3),
    ("blip2", "", 1),
    ("blip2", "stage", 1),
    ("clip", "", 2),
    ("dalle", "", 1),
    ("dit", "", 1),
    ("dit", "condition", 1),
    ("flamingo", "", 1),
    ("fusion", "text", 2),
    ("gpt", "", 1),
    ("gpt", "experts", 2),
    ("prior", "", 1),
    ("regression", "", 1),
    ("simclr", "", 1),
    ("streams", "", 1),
    ("streams", "streams", 1),
    ("t5", "", 2),
    ("tacotron", "", 1),
    ("videobert", "", 1),
    ("vit", "class", 3),
    ("vit", "mim", 3),
    ("vit", "rotation", 3),
    ("vlt5", "", 1),
    ("vq", "ema", 1),
    ("vq", "codebook", 1),
    ("whisper", "", 1),
]


@pytest.mark.parametrize(("name", "case", "revision"), REVISED)
def test_a_configuration_whose_losses_have_changed_says_so_and_no_other(name: str, case: str, revision: int):
    module, config = small(name, case)
    assert families.revision(module, config) == ({} if revision == 1 else {"revision": revision})
    recorded = settings.fields_of(config)
    assert not {"target", "decoder_width", "dropless", "evaluation_capacity"} & recorded.keys()
    assert module.Config(**recorded) == config


def test_every_family_is_revised_or_not():
    assert {name for name, _, _ in REVISED} == set(FAMILIES)


@pytest.mark.parametrize(("name", "case"), mostly_system(CASES))
def test_how_a_batch_is_split_changes_no_loss(name: str, case: str, monkeypatch):
    """Neither the size of the evaluation's batches nor microbatches: what is random is keyed by example. Without a
    number of them they are of two examples here, in training and in evaluation."""
    module, config = small(name, case, layers=1)
    terms, batch = families.terms(module, config), batch_of(module, config, 8)
    if any(term.batchwise and term.weight for term in terms.values()):
        pytest.skip("examples are each other's negatives; such a batch is not split")
    parameters, rules = initial(module, config, 0.1), recipe.named("width", batch=8)
    numbered, found = {**batch, "example": np.arange(8, dtype=np.uint32)}, []
    monkeypatch.setattr(device, "threads", lambda: 1)
    monkeypatch.setattr(step, "PART_POSITIONS", 2 * module.batch_spec(config)["context"])
    monkeypatch.setattr(step, "PART_WIDTHS", 0)
    monkeypatch.setattr(step, "CACHE_BYTES", 1)
    for ways in (1, 4 if families.batchwise(module, config) else 0):
        trainer = QuickTrainer(module, config, rules, MESH, 1, execution.Execution(microbatches=ways))
        assert trainer.how.microbatches == ways or trainer.how.microbatches == min(4, 8 // trainer.together)
        found.append(quick(trainer._gradient)(parameters, numbered, jax.random.key(0)))
    (whole, gradient), (parts, sums) = found
    assert float(parts) == pytest.approx(float(whole), rel=2e-6)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=2e-6), sums, gradient)
    once, first = trainer.evaluate(parameters, batch, 0), 4 if trainer.together > 1 else 3  # groups stay whole
    again = trainer.evaluate(parameters, {name: value[first:] for name, value in batch.items()}, first)
    for term, pair in ((name, pair) for name, pair in once.items() if not terms[name].batchwise):
        for value, other in zip(pair, again[term]):
            np.testing.assert_allclose(other, value[first:], rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize(("name", "case"), mostly_system(CASES))
def test_scanned_layers_equal_unrolled_layers(name: str, case: str):
    module, config = small(name, case, layers=3)
    parameters = initial(module, config, 0.2)
    batch, values = batch_of(module, config), []
    for most in (0, 8):
        with execution.using(execution.Execution(unroll=most)):
            # A fresh function each time: the compiled one would not see that the execution has changed.
            values.append(quick(jax.value_and_grad(lambda p: plain_loss(module, p, batch, config)))(parameters))
    (scanned, scanned_gradient), (unrolled, gradient) = values
    assert float(scanned) == pytest.approx(float(unrolled), rel=2e-5)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-4), scanned_gradient, gradient)


@pytest.mark.parametrize(("name", "case"), mostly_system(CASES))
def test_bfloat16_computes_close_to_float32(name: str, case: str):
    module, config = small(name, case)
    batch = batch_of(module, config)
    parameters = initial(module, config, 0.1)
    exact = float(mean_loss(module, parameters, batch, config))
    rough = jax.tree.map(lambda w: w.astype(jnp.bfloat16), parameters)
    traced = str(jax.make_jaxpr(lambda p: module.loss(p, batch, jax.random.key(1), config))(rough))
    products = re.findall(r":(\w+)\[[\d,]*\] = dot_general", traced)
    assert products.count("bf16") > len(products) / 2  # no float32 of the data or a constant takes over
    assert 1e-7 < abs(float(mean_loss(module, rough, batch, config)) / exact - 1) < 0.03


def test_a_wrong_configuration_is_named():
    with refuses(Code.UNKNOWN, "size", 99):
        families.configure(gpt, 99)
    with refuses(Code.UNKNOWN, "model.depth", 3):
        families.configure(gpt, 0, depth=3)
    with refuses(Code.INVALID, "model.tied", 1):
        families.configure(gpt, 0, tied=1)
    with refuses(Code.CONFLICT, "model.width", 16):
        families.configure(gpt, 0, heads=3)
    with refuses(Code.UNKNOWN, "family", "resnet") as caught:
        families.load("resnet")
    assert "gpt" in caught.value.remedy


# A family, fields of its Config and the kind of mistake, which is the first field's.
WRONG = [
    ("albef", {"temperature": 1.0}, Code.INVALID),
    ("albef", {"alpha": 1.5}, Code.INVALID),
    ("albef", {"ramp": 0.0}, Code.INVALID),
    ("albef", {"queue": -1}, Code.INVALID),
    ("bert", {"objective": "clm"}, Code.INVALID),
    ("bert", {"unit": "letter"}, Code.INVALID),
    ("bert", {"rate": 1.0}, Code.INVALID),
    ("bert", {"nsp": True, "objective": "diffusion"}, Code.CONFLICT),
    ("bert", {"span": 0.5}, Code.INVALID),
    ("t5", {"context": 1}, Code.INVALID),
    ("t5", {"rate": 0.0}, Code.INVALID),
    ("vit", {"patch": 5}, Code.CONFLICT),
    ("vit", {"rate": 1.0, "objective": "mim"}, Code.CONFLICT),
    ("vit", {"objective": "colour"}, Code.INVALID),
    ("vit", {"target": "edges", "objective": "mim"}, Code.INVALID),
    ("vit", {"decoder_width": 10, "decoder_heads": 4}, Code.CONFLICT),
    ("blip2", {"stage": "second"}, Code.INVALID),
    ("blip2", {"temperature": 0.0}, Code.INVALID),
    ("blip2", {"language_width": 20}, Code.CONFLICT),
    ("blip2", {"vision_width": 20}, Code.CONFLICT),
    ("clip", {"patch": 5}, Code.CONFLICT),
    ("clip", {"sound": 33}, Code.CONFLICT),
    ("simclr", {"crop": 0.0}, Code.INVALID),
    ("simclr", {"temperature": 0.0}, Code.INVALID),
    ("clip", {"temperature": 0.0}, Code.INVALID),
    ("clip", {"temperature": float("nan")}, Code.INVALID),
    ("dalle", {"codes": 0}, Code.INVALID),
    ("dalle", {"vq_activation": "sine"}, Code.INVALID),
    ("dalle", {"vq_width": 20, "vq_heads": 3}, Code.CONFLICT),
    ("dit", {"predicts": "score"}, Code.INVALID),
    ("dit", {"width": 18, "heads": 1}, Code.CONFLICT),
    ("dit", {"patch": 4, "field": 6}, Code.CONFLICT),
    ("dit", {"condition": "sound"}, Code.INVALID),
    ("dit", {"condition": "text", "field": 8}, Code.CONFLICT),
    ("dit", {"text_width": 20}, Code.CONFLICT),
    ("dit", {"sentinels": 2}, Code.INVALID),
    ("flamingo", {"trains": "gates"}, Code.INVALID),
    ("flamingo", {"every": 3}, Code.CONFLICT),
    ("flamingo", {"vision_width": 20}, Code.CONFLICT),
    ("fusion", {"fusion": "middle"}, Code.INVALID),
    ("fusion", {"mask": "bidirectional"}, Code.INVALID),
    ("fusion", {"vision_layers": 2, "fusion": "late"}, Code.CONFLICT),
    ("fusion", {"frozen": True}, Code.CONFLICT),
    ("fusion", {"objective": "joint", "mask": "prefix"}, Code.CONFLICT),
    ("prior", {"drop": 1.5}, Code.INVALID),
    ("prior", {"clip_width": 20}, Code.CONFLICT),
    ("regression", {"dims": 0}, Code.INVALID),
    ("tacotron", {"width": 18}, Code.CONFLICT),
    ("tacotron", {"reach": 4}, Code.CONFLICT),
    ("tacotron", {"filters": 0}, Code.INVALID),
    ("streams", {"streams": "three"}, Code.INVALID),
    ("streams", {"unit": "word"}, Code.INVALID),
    ("streams", {"region_share": 0.75}, Code.CONFLICT),
    ("streams", {"predicts": "class"}, Code.CONFLICT),
    ("streams", {"mask": "mixed", "streams": "two"}, Code.CONFLICT),
    ("streams", {"conditional": False, "region_share": 0.0}, Code.CONFLICT),
    ("streams", {"conditional": False, "mask": "mixed"}, Code.CONFLICT),
    ("streams", {"matching_share": 0.0, "region_share": 0.0, "streams": "two"}, Code.CONFLICT),
    ("streams", {"vision_width": 21, "streams": "two"}, Code.CONFLICT),
    ("streams", {"crossings": 2, "streams": "two"}, Code.CONFLICT),
    ("videobert", {"masks": "either"}, Code.INVALID),
    ("videobert", {"alignment": 0.0}, Code.INVALID),
    ("videobert", {"unit": "clip"}, Code.INVALID),
    ("videobert", {"vq_width": 20, "vq_heads": 3}, Code.CONFLICT),
    ("vlt5", {"text": 2}, Code.INVALID),
    ("vlt5", {"vqa_share": 0.75}, Code.CONFLICT),
    ("vq", {"objective": "gumbel"}, Code.INVALID),
    ("vq", {"codes": 0}, Code.INVALID),
    ("vq", {"decay": 1.5}, Code.INVALID),
    ("vq", {"restart": 0.1, "objective": "codebook"}, Code.CONFLICT),
    ("whisper", {"frames": 7}, Code.CONFLICT),
    ("whisper", {"mel": 0}, Code.INVALID),
    ("whisper", {"width": 18, "heads": 2}, Code.CONFLICT),
    ("gpt", {"kv_heads": 3}, Code.CONFLICT),
    ("gpt", {"top": 3, "experts": 2}, Code.CONFLICT),
    ("gpt", {"top": 3, "experts": 4}, Code.CONFLICT),
    ("gpt", {"experts": -1}, Code.INVALID),
    ("gpt", {"capacity": 0.0, "experts": 2}, Code.INVALID),
]


@pytest.mark.parametrize(("name", "fields", "code"), WRONG)
def test_a_wrong_switch_is_named(name: str, fields: dict[str, Any], code: Code):
    field, value = next(iter(fields.items()))
    with refuses(code, f"model.{field}", value):
        families.configure(families.load(name), 0, **fields)


def test_a_while_loop_has_no_count():
    square = jnp.ones((2, 2))
    with pytest.raises(ValueError, match="no static trip count"):
        count.jaxpr_flops(lambda x: jax.lax.while_loop(lambda c: c.sum() < 9, lambda c: c @ c, x), square)
    assert count.jaxpr_flops(lambda x: jax.lax.scan(lambda c, _: (c @ c, None), x, length=5)[0], square) == 5 * 2 * 8
    images, kernels = jnp.ones((1, 3, 8, 8)), jnp.ones((5, 3, 3, 3))
    assert count.jaxpr_flops(lambda x, w: jax.lax.conv(x, w, (1, 1), "SAME"), images, kernels) == 2 * 5 * 64 * 27
