"""The compiled functions of one shape: initialisation, a chunk of steps, evaluation. Pure of files and of time."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from scaling import families, recipe
from scaling import mesh as meshes

State = dict[str, Any]


class Trainer:
    """The compiled functions of one shape: init, chunk, evaluate.

    Attributes:
      compile_seconds: spent so far on compilation (or on reading the persistent cache).
    """

    def __init__(self, family: Any, config: Any, rules: recipe.Recipe, mesh_shape: dict[str, int], chunk: int):
        self.family, self.config, self.rules, self.steps_per_chunk = family, config, rules, chunk
        self.mesh = meshes.make(mesh_shape)
        meshes.check_batch(self.mesh, rules.batch)
        spec = family.batch_spec(config)
        self.context = spec["context"]
        # What the family reads of a batch; a source may hold more, which then never reaches the device.
        self.reads = {"tokens", "mask"} if "vocab" in spec else set()
        self.reads |= {name for name, field in (("image", "image"), ("label", "classes")) if field in spec}
        self.terms = families.terms(family, config)
        self.compile_seconds = 0.0
        axes = family.axes(config)
        self._optimizer = recipe.OPTIMIZERS[rules.optimizer](rules)
        shapes = jax.eval_shape(self._init, jnp.uint32(0))
        self._multipliers = recipe.multipliers(axes, shapes["params"], rules)
        self._decayed = recipe.decayed(axes)
        self._shardings = meshes.state_shardings(self.mesh, shapes, axes)
        self.abstract = jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            shapes,
            self._shardings,
        )
        self._compiled: dict[str, Any] = {}

    def init(self, seed: int) -> State:
        """The state of ``seed`` before its first step."""
        function = functools.partial(jax.jit, self._init, out_shardings=self._shardings)
        return self._call("init", function, jnp.uint32(seed))

    def chunk(self, state: State, hyper: dict[str, Any], batches: dict[str, np.ndarray]) -> tuple[State, dict]:
        """Runs ``hyper["steps"]`` of the chunk's steps; see ``step_chunk``. ``state`` is donated."""
        sharding = jax.sharding.NamedSharding(self.mesh, meshes.BATCH)
        on_mesh = {name: jax.device_put(value, sharding) for name, value in batches.items() if name in self.reads}
        function = functools.partial(jax.jit, self.step_chunk, donate_argnums=0, out_shardings=(self._shardings, None))
        return self._call("chunk", function, state, hyper, on_mesh)

    def evaluate(self, params: Any, batch: dict[str, np.ndarray], number: int) -> dict[str, Any]:
        """{term: (sum_B, count_B)} of the ``number``-th evaluation batch, under a key fixed by the number."""
        sharding = jax.sharding.NamedSharding(self.mesh, meshes.EVALUATION_BATCH)
        on_mesh = {name: jax.device_put(value, sharding) for name, value in batch.items() if name in self.reads}

        def loss(params: Any, batch: dict[str, jax.Array], number: jax.Array) -> Any:
            return self.family.loss(params, batch, jax.random.fold_in(jax.random.key(0), number), self.config)

        return self._call("evaluate", functools.partial(jax.jit, loss), params, on_mesh, jnp.uint32(number))

    def _call(self, name: str, jitted: Callable[[], Any], *arguments: Any) -> Any:
        # Compiled ahead of time, so that compilation is timed apart and a changed shape is an error, not a recompile.
        if name not in self._compiled:
            start = time.perf_counter()
            # Initialisation runs once: unoptimised, it compiles in a third of the time.
            options = {"xla_backend_optimization_level": 0} if name == "init" else None
            self._compiled[name] = jitted().lower(*arguments).compile(options)
            self.compile_seconds += time.perf_counter() - start
        return self._compiled[name](*arguments)

    def _init(self, seed: jax.Array) -> State:
        key = jax.random.key(seed)
        params = self.family.init(key, self.config)
        return {
            "params": params,
            "opt": self._optimizer.init(params),
            "step": jnp.int32(0),
            "key": jax.random.key_data(key),
        }

    def step_chunk(self, state: State, hyper: dict[str, jax.Array], batches: dict[str, jax.Array]):
        """Pure: ``hyper["steps"]`` <= C optimiser steps on batches with a leading step axis C.

        The number of steps is traced like the learning rates and decays (C,), so one executable serves every length of
        run; a shorter chunk leaves the rest of its metrics zero. Returns (state, {"loss": (C,), "norm": (C,)}).
        """

        def body(index: jax.Array, carry: tuple[State, dict[str, jax.Array]]):
            state, metrics = carry
            batch = {name: value[index] for name, value in batches.items()}
            new, loss, norm = self._step(state, batch, hyper["learning_rate"][index], hyper["weight_decay"][index])
            return new, {"loss": metrics["loss"].at[index].set(loss), "norm": metrics["norm"].at[index].set(norm)}

        empty = {name: jnp.zeros(hyper["learning_rate"].shape, jnp.float32) for name in ("loss", "norm")}
        return jax.lax.fori_loop(0, hyper["steps"], body, (state, empty))

    def _step(self, state: State, batch: dict[str, jax.Array], rate: jax.Array, decay: jax.Array):
        key = jax.random.fold_in(jax.random.wrap_key_data(state["key"]), state["step"])

        def objective(params: Any) -> jax.Array:
            terms = self.family.loss(params, batch, key, self.config)
            means = [(total.sum() / count.sum(), self.terms[name].weight) for name, (total, count) in terms.items()]
            return functools.reduce(
                jnp.add, [mean * weight if weight != 1 else mean for mean, weight in means if weight]
            )

        loss, gradient = jax.value_and_grad(objective)(state["params"])
        direction, opt = self._optimizer.update(gradient, state["opt"], state["params"])
        params = jax.tree.map(
            lambda p, d, scale, shrinks: p * (1 - decay * shrinks) - rate * scale * d,
            state["params"],
            direction,
            self._multipliers,
            self._decayed,
        )
        new = {"params": params, "opt": opt, "step": state["step"] + 1, "key": state["key"]}
        return new, loss, optax.tree.norm(gradient)
