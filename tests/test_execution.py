"""How a step is executed changes its cost, not its numbers: recomputation, microbatches, chunked logits, backends."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from refusals import refuses
from selection import mostly_system
from test_families import batch_of, initial, quick, small

from scaling import cli, count, device, families, plan, recipe, study
from scaling.blocks import attention, dense, head
from scaling.blocks.execution import Execution, using
from scaling.errors import Code
from scaling.families import gpt
from scaling.step import Ensemble, Trainer

CONFIG = families.configure(gpt, 0, vocab=32, context=12)
MASK = np.arange(12) < np.array([[12], [5], [9], [1]])


def trainer(how: Execution, steps: int = 1, **fields) -> Trainer:
    return Trainer(gpt, CONFIG, recipe.named("width", batch=4, **fields), {}, steps, how)


@functools.cache
def gradient(how: Execution):
    """Loss and gradient of a batch whose examples have unequal numbers of targets, and what attention ran."""
    made = trainer(how)
    batch = {**batch_of(gpt, CONFIG), "mask": MASK.astype(np.float32)}
    found = quick(made._gradient)(initial(gpt, CONFIG, 0.1), batch, jax.random.key(0))
    return found, made.attention


WAYS = [
    Execution(microbatches=2),
    Execution(loss_chunk=5),  # two chunks and a rest of 2
    Execution(remat="full"),
    Execution(remat="dots", unroll=0),
    Execution(attention="xla"),
]


@pytest.mark.parametrize("how", mostly_system(WAYS, WAYS[1]), ids=lambda how: str(dataclasses.asdict(how)))
def test_every_execution_gives_the_same_loss_and_gradient(how: Execution):
    (loss, plain), ran = gradient(Execution())
    (found, other), other_ran = gradient(how)
    assert float(found) == pytest.approx(float(loss), rel=1e-6)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), other, plain)
    assert ran == {"own"} and other_ran == ({"xla"} if how.attention == "xla" else {"own"})


@pytest.mark.system
def test_microbatches_do_what_the_batch_does_and_no_more():
    batch = {k: jax.ShapeDtypeStruct(v.shape, v.dtype) for k, v in batch_of(gpt, CONFIG).items()}
    shapes, key = jax.eval_shape(lambda: gpt.init(jax.random.key(0), CONFIG)), jax.random.key(0)
    texts = [
        str(jax.jit(trainer(how)._gradient).lower(shapes, batch, key).compile().as_text())
        for how in (Execution(), Execution(microbatches=2))
    ]
    # The pass that counts the targets leaves no product behind.
    assert texts[0].count(" dot(") == texts[1].count(" dot(") > 10


COUNTED = [("gpt", ""), ("gpt", "experts"), ("bert", "nsp"), ("t5", ""), ("vit", "mim")]


@pytest.mark.parametrize(("name", "case"), mostly_system(COUNTED, ("gpt", "experts")))
def test_the_count_of_products_is_known_for_every_execution(name: str, case: str):
    module, config = small(name, case, context=24)
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), config))
    batch = {k: jax.ShapeDtypeStruct(v.shape, v.dtype) for k, v in batch_of(module, config, 3).items()}
    terms, parts = families.terms(module, config), module.components(config)

    def flops(how: Execution) -> tuple[int, int]:
        def loss(p, b):
            with using(how):
                found = module.loss(p, b, jax.random.key(0), config)
            return sum(total.sum() / n.sum() for term, (total, n) in found.items() if terms[term].weight)

        return count.jaxpr_flops(loss, shapes, batch), count.jaxpr_flops(jax.grad(loss), shapes, batch)

    forward, executed = 3 * sum(count.forward_flops(parts).values()), 3 * sum(count.executed_flops(parts).values())
    by_part = count.forward_flops(parts)
    vocabulary = 3 * by_part["head"] if "vocab" in module.batch_spec(config) else 0
    assert flops(Execution(loss_chunk=5)) == (forward, executed + vocabulary)  # its logits are computed twice
    layers = 3 * sum(flops for name, flops in by_part.items() if name not in ("head", "nsp_head", "patch"))
    # Of a layer, all but the last product before a residual is computed twice: nothing's gradient needs that one.
    again, full = flops(Execution(remat="full"))
    assert again == forward and executed + layers / 2 < full <= executed + layers
    if (name, case) == ("gpt", ""):
        assert full == executed + layers - 3 * by_part["mlp"] // 2
    assert executed < flops(Execution(remat="dots"))[1] < full


def test_chunked_logits_are_never_whole():
    x_BTD = jax.ShapeDtypeStruct((2, 64, 8), jnp.float32)
    weight, targets = jax.ShapeDtypeStruct((4096, 8), jnp.float32), jax.ShapeDtypeStruct((2, 64), jnp.int32)

    def temporary(chunk: int) -> int:
        with using(Execution(loss_chunk=chunk)):
            made = jax.jit(jax.grad(lambda x, w, t: head.vocabulary(x, w, t, tied=True).sum(), (0, 1)))
            seen = made.lower(x_BTD, weight, targets).compile().memory_analysis()
            assert seen is not None
            return seen.temp_size_in_bytes

    logits = 2 * 64 * 4096 * 4
    assert temporary(0) > logits and temporary(8) < logits / 2


@pytest.mark.system
def test_the_weight_of_a_bfloat16_head_is_summed_in_float32():
    x_BTD = jax.random.normal(jax.random.key(0), (2, 64, 8)).astype(jnp.bfloat16)
    weight = jax.random.normal(jax.random.key(1), (8, 16)) / 3
    targets = jax.random.randint(jax.random.key(2), (2, 64), 0, 16)

    def slope(chunk: int, x_BTD: jax.Array) -> np.ndarray:
        def loss(weight: jax.Array) -> jax.Array:
            return head.vocabulary(x_BTD, weight.astype(x_BTD.dtype), targets, tied=False).sum()

        with using(Execution(loss_chunk=chunk)):
            return np.asarray(jax.grad(loss)(weight))

    exact = slope(0, x_BTD.astype(jnp.float32))
    worst = [np.abs(slope(chunk, x_BTD) - exact).max() for chunk in (0, 1)]
    assert worst[1] < 3 * worst[0]


class TestAttention:
    q, k, v = (jax.random.normal(jax.random.key(i), (1, 2, 256, 16)) for i in range(3))

    def test_what_cannot_run_here_is_refused_with_the_reason(self):
        for name, wanted in (("cudnn", "GPU"), ("splash", "TPU")):
            with using(Execution(attention=name)), refuses(Code.ENVIRONMENT, "execution.attention", name) as caught:
                attention.attend(self.q, self.k, self.v)
            assert wanted in caught.value.remedy
        with pytest.raises(ValueError, match="mask casual: choose one of causal, bidirectional, prefix"):
            attention.attend(self.q, self.k, self.v, "casual")

    @pytest.mark.parametrize("causal", [True, False])
    def test_splash_computes_what_ours_does(self, causal: bool):
        ours = attention.BACKENDS["own"](self.q, self.k, self.v, causal, None)
        found = attention._splash(self.q, self.k, self.v, causal, None, interpret=True)
        np.testing.assert_allclose(found, ours, atol=2e-3)
        assert float(jnp.abs(ours - self.v).max()) > 0.5

    def test_splash_compiles_for_a_tpu(self):
        slope = jax.jit(jax.grad(lambda q: attention._splash(q, self.k, self.v, True, None).sum()))
        assert "tpu_custom_call" in slope.trace(self.q).lower(lowering_platforms=("tpu",)).as_text()

    def test_a_mask_and_shared_heads_mean_the_same_to_every_backend(self):
        keep = jnp.arange(256)[None] < 200
        k, v = self.k[:, :1], self.v[:, :1]
        for mask in attention.MASKS:
            found = {}
            for name in ("own", "xla"):
                with using(Execution(attention=name)):
                    found[name] = attention.attend(self.q, k, v, mask, prefix=9, keep_BS=keep)
            np.testing.assert_allclose(found["xla"], found["own"], atol=1e-5)

    def test_auto_takes_the_fast_one_where_it_can_run(self, monkeypatch):
        q = self.q.astype(jnp.bfloat16)
        monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
        assert attention._choose("auto", q, q, masked=False) == "cudnn"
        assert attention._choose("auto", q, q, masked=True) == attention._choose("cudnn", q, q, masked=True) == "own"
        assert attention._choose("auto", self.q, self.q, masked=False) == "own"  # float32
        with refuses(Code.ENVIRONMENT, "execution.attention", "cudnn") as caught:
            attention._choose("cudnn", self.q, self.q, masked=False)
        assert "bfloat16" in caught.value.remedy
        monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
        assert attention._choose("auto", self.q, self.q, masked=False) == "splash"
        assert attention._choose("auto", self.q[:, :, :100], self.k, masked=False) == "own"


def test_execution_is_recorded_and_no_part_of_identity(tiny):
    config = tiny()
    before = plan.make(study.resolve(config))
    config.execution.remat, config.execution.microbatches = "full", 2
    after = plan.make(study.resolve(config))
    assert [run.run for run in after.programs[0].runs] == [run.run for run in before.programs[0].runs]
    assert Execution.from_dict(after.programs[0].options.execution) == Execution(remat="full", microbatches=2)


@pytest.mark.parametrize(
    ("field", "value", "code", "names"),
    [
        ("remat", "some", Code.INVALID, "none, dots, full"),
        ("attention", "flash", Code.INVALID, "auto, own, xla"),
        ("microbatches", -1, Code.INVALID, "0"),
        ("loss_chunk", -1, Code.INVALID, "0"),
        ("fast", 1, Code.UNKNOWN, "remat"),
    ],
)
def test_an_impossible_execution_is_named(tiny, field: str, value: object, code: Code, names: str):
    config = tiny()
    with config.unlocked():
        config.execution[field] = value
    with refuses(code, f"execution.{field}", value) as caught:
        study.resolve(config)
    assert names in caught.value.remedy


def test_one_trainer_serves_data_with_a_mask_and_data_without():
    made, params, batch = trainer(Execution()), initial(gpt, CONFIG, 0.1), batch_of(gpt, CONFIG)
    nats, count = made.evaluate(params, batch, 0)["loss"]
    masked, counted = made.evaluate(params, {**batch, "mask": MASK.astype(np.float32)}, 0)["loss"]
    np.testing.assert_allclose(masked, np.where(MASK, nats, 0), rtol=1e-5)
    assert count.sum() == 4 * 12 and counted.sum() == MASK.sum()


PARTS = [
    (32, 32, 128, 16),  # of 0.5 MiB of scores; 8 would have 1
    (96, 32, 128, 16),
    (256, 32, 128, 8),  # of two widths of positions: 16 would be of one
    (32, 30, 128, 10),
    (32, 8, 1024, 8),
    (32, 16, 64, 2),
    (16, 16, 64, 1),  # has 0.5 MiB as it is
]


@pytest.mark.parametrize(("width", "batch", "context", "ways"), PARTS)
def test_a_batch_on_a_core_has_parts_that_stay_in_its_cache(width, batch, context, ways, monkeypatch):
    """Of three quarters of a MiB, if they have 256 positions and two widths; one part on a mesh, and if asked."""
    heads = {96: 6, 16: 2}.get(width, 4)
    config = families.configure(gpt, 0, width=width, heads=heads, layers=2, vocab=32, context=context)

    def parts(how: Execution, cores: int = 1) -> int:
        monkeypatch.setattr(device, "threads", lambda: cores)
        return Trainer(gpt, config, recipe.named("width", batch=batch), {}, 1, how).how.microbatches

    assert parts(Execution()) == ways and parts(Execution(microbatches=1)) == 1
    assert parts(Execution(), 4 * ways) == 1
    monkeypatch.setattr(jax, "device_count", lambda: 2)
    assert parts(Execution()) == 1


def test_microbatches_must_divide_the_batch():
    with refuses(Code.CONFLICT, "execution.microbatches", 3):
        trainer(Execution(microbatches=3))


@pytest.mark.system
def test_a_member_of_an_ensemble_is_a_single_run():
    steps, members = 4, 3
    made = trainer(Execution(), steps, warmup_steps=2, clip=0.5)
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 32, (members, steps, 4, 13)).astype(np.int32)
    rates = np.linspace(0.002, 0.01, members, dtype=np.float32)[:, None] * np.ones(steps, np.float32)
    together = Ensemble(made, members)
    hyper = {"learning_rate": rates, "weight_decay": rates, "steps": 3}
    state, metrics = together.chunk(together.init(np.arange(members)), hyper, {"tokens": tokens})
    for member in range(members):
        hyper = {"learning_rate": rates[member], "weight_decay": rates[member], "steps": np.int32(3)}
        single, own = made.chunk(made.init(member), hyper, {"tokens": tokens[member]})
        np.testing.assert_allclose(metrics["loss"][member], own["loss"], rtol=1e-6)
        np.testing.assert_allclose(metrics["norm"][member], own["norm"], rtol=1e-5)
        taken = together.part(state)[member]
        assert jax.tree.map(lambda leaf: leaf.sharding, taken) == jax.tree.map(lambda leaf: leaf.sharding, single)
        jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-6), taken["params"], single["params"])
        assert int(taken["step"]) == 3
    jax.tree.map(np.testing.assert_array_equal, together.join(together.part(state)), state)
    with refuses(Code.ENVIRONMENT, "ensemble", 0):
        Ensemble(made, 0)


class TestMemory:
    @pytest.mark.system
    def test_every_shape_is_compared_with_the_device(self, tiny, monkeypatch):
        made = plan.make(study.resolve(tiny()))
        seen = plan.check_memory(made, "v5e")
        assert seen.device == "v5e" and seen.bytes == device.MEMORY["v5e"] and len(seen.shapes) == 1
        (row,) = seen.shapes
        assert row.state >= 12 * row.N_total and row.temporary > 0
        assert row.stem == row.state  # held while a branch trains
        assert row.total == row.state + row.stem + row.batches + row.temporary < 1e8
        present = plan.check_memory(made)
        assert present.bytes > row.total and present.shapes == seen.shapes
        monkeypatch.setitem(device.MEMORY, "v5e", row.total - 1)
        with refuses(Code.ENVIRONMENT, "memory", "gpt 0 on known, batch 4"):
            plan.check_memory(made, "v5e")

    def test_a_call_of_the_device_takes_about_ten_seconds(self):
        h200 = device.peak("NVIDIA H200")
        small, large = 6 * 124e6 * 2**15, 6 * 1.3e9 * 2**19  # FLOPs of a step: 32k tokens, 0.5M tokens
        assert device.steps_at_once(50, small, h200) == 50 and device.steps_at_once(500, small, h200) == 162
        assert device.steps_at_once(50, large, h200) == 1 == device.steps_at_once(50, 1e20, h200)
        assert device.steps_at_once(50, large, None) == 50  # a CPU, whose speed is not known

    def test_a_gpu_gives_the_share_that_jax_takes(self, monkeypatch):
        monkeypatch.delenv("XLA_PYTHON_CLIENT_MEM_FRACTION", raising=False)
        assert device.memory("h100-80gb") == ("h100-80gb", 60e9)
        monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", ".9")
        assert device.memory("h100-80gb")[1] == 72e9 and device.memory("v5p")[1] == 95e9
        with refuses(Code.UNKNOWN, "device", "abacus") as caught:
            device.memory("abacus")
        assert "a100-40gb" in caught.value.remedy

    @pytest.mark.system
    def test_the_command_refuses_in_one_line(self, tmp_path, capsys, monkeypatch):
        config = tmp_path / "mine.py"
        config.write_text(
            "from conftest import tiny_config\n\n\ndef get_config(argument=''):\n    return tiny_config()\n"
        )
        assert cli.main(["plan", f"--config={config}", "--device=v5e"]) == 0
        assert "memory of v5e, 16 GB usable; compiled for cpu" in capsys.readouterr().out
        monkeypatch.setitem(device.MEMORY, "v5e", 1e3)
        assert cli.main(["plan", f"--config={config}", "--check_memory", "--device=v5e"]) == 2
        said = capsys.readouterr()
        assert said.out == "" and len(said.err.splitlines()) == 1 and "v5e gives 1e-06" in said.err


HIDES = {
    "causal": ("causal", 0, None),
    "prefix": ("prefix", 3, None),
    "hidden": ("bidirectional", 0, np.arange(6) < np.array([[6], [4], [0]])),  # the last example sees nothing
}
WITH = [("causal", "remat"), ("causal", "scan"), ("prefix", "plain"), ("hidden", "ensemble")]


class TestFormsForACpu:
    """Products with weights and attention have a form that a CPU runs faster: the same numbers, as many products."""

    def slope(self, mask: str, way: str):
        """Value and gradient of a layer of attention and MLP whose heads share keys, run twice with its weights."""
        kind, prefix, keep_BS = HIDES[mask]

        def layer(x_BTD: jax.Array, w: dict[str, jax.Array]) -> jax.Array:
            q_BHTK, kv_BHTK = (dense.product(x_BTD, w[name]).reshape(3, 6, 4, 2).swapaxes(1, 2) for name in ("q", "kv"))
            k_BHTK, v_BHTK = jnp.split(kv_BHTK, 2, axis=1)
            mixed = attention.attend(q_BHTK, k_BHTK, v_BHTK, kind, prefix=prefix, keep_BS=keep_BS)
            x_BTD = x_BTD + mixed.swapaxes(1, 2).reshape(3, 6, 8)
            return x_BTD + dense.product(jnp.tanh(dense.product(x_BTD, w["up"])), w["down"])

        def loss(w: dict[str, jax.Array], x_BTD: jax.Array) -> jax.Array:
            if way == "scan":
                return jnp.sin(jax.lax.scan(lambda x, _: (layer(x, w), None), x_BTD, length=2)[0]).sum()
            again = jax.checkpoint(layer) if way == "remat" else layer
            return jnp.sin(again(again(x_BTD, w), w)).sum()

        found = jax.value_and_grad(loss, (0, 1))
        return jax.vmap(found, (0, None)) if way == "ensemble" else found

    @pytest.mark.parametrize(("mask", "way"), mostly_system(WITH, ("hidden", "ensemble")))
    def test_it_gives_the_numbers_of_the_plain_form(self, mask: str, way: str, monkeypatch: pytest.MonkeyPatch):
        shapes = {"q": (8, 8), "kv": (8, 8), "up": (8, 16), "down": (16, 8)}
        members = (2,) if way == "ensemble" else ()
        random = np.random.default_rng(0)
        w = {name: random.normal(0, 0.3, (*members, *shape)).astype(np.float32) for name, shape in shapes.items()}
        x_BTD = jax.random.normal(jax.random.key(0), (3, 6, 8))

        def found():
            slope = self.slope(mask, way)
            return quick(slope)(w, x_BTD), count.jaxpr_flops(slope, w, x_BTD)

        assert dense.on_cpu(x_BTD) and not dense.on_cpu(x_BTD.astype(jnp.bfloat16))
        fast, products = found()
        monkeypatch.setattr(dense, "on_cpu", lambda x_: False)
        plain, expected = found()
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), fast, plain)
        assert products == expected > 0

    @pytest.mark.parametrize("width", [attention.NARROW, attention.NARROW + 1])
    def test_sums_over_queries_are_the_same_of_any_head(self, width: int):
        x_BHTS, y_BHTK = (jax.random.normal(jax.random.key(0), (2, 3, 5, last)) for last in (7, width))
        expected = np.einsum("bhts,bhtk->bhsk", x_BHTS, y_BHTK)
        np.testing.assert_allclose(quick(attention._over_queries)(x_BHTS, y_BHTK), expected, atol=1e-5)
