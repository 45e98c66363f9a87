"""The compiled functions of one shape: initialisation, a chunk of steps, evaluation. They do no I/O."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from scaling import device, distributed, families, inputs, quantise, recipe
from scaling import mesh as meshes
from scaling.blocks.execution import Execution, using
from scaling.blocks.logical import Parameters, placing
from scaling.errors import Code, UserError

State = dict[str, Any]  # params, opt, step, key
Arrays = Mapping[str, np.ndarray]
Terms = dict[str, tuple[jax.Array, jax.Array]]  # (sum, count) by example, or by position
Hyper = Mapping[str, Any]  # learning_rate, weight_decay, steps, and progress if the family is paced: arrays
# Of a part of a batch on a CPU: positions for each core, at least, and for each core and unit of the model's width; and
# bytes of the largest array that a layer computes for it, of which some are alive at once in 2 MiB.
PART_POSITIONS, PART_WIDTHS, CACHE_BYTES = 256, 2, 3 * 2**18
AFTER = 2**32 - 1  # folded into a step's key for ``after``: beyond every index of an example, whose keys the loss has


class Placed(NamedTuple):
    """A batch of evaluation examples on the devices: its size, its arrays, and see ``Trainer.place_evaluation``."""

    size: int
    batch: dict[str, jax.Array]
    whole: dict[str, jax.Array]
    first: int


class _Caches(NamedTuple):
    """Positions that a part of a batch has at least, and examples that it has at most if it can."""

    positions: int
    examples: float


class Trainer:
    """Initialises, trains and evaluates models of one shape with compiled functions.

    Args:
      family, config: the family's module and a configuration of it.
      rules: the recipe; learning rate, decay and schedule are traced, so they are not part of the shape.
      mesh_shape: sizes of the mesh by axis.
      chunk: steps per chunk.
      how: execution settings; None for the defaults.
      freeze: top-level names of parameters that are not trained, besides those that the family does not train.

    Attributes:
      compile_seconds: seconds that calls have waited for compilation (or for the persistent cache) so far.
      attention: attention backends traced so far.
      reads, reads_whole: names of the arrays that the family reads from a batch, and from a whole evaluation set.
      together: examples of consecutive index that belong together; a part of a batch begins at a multiple of it.
      paced: whether the loss reads how far training is, so that ``hyper`` has ``progress``.
      begins_with: tokens that ``begin`` is given once parts are inherited; 0: there is nothing to do.
      partners: names of those of which each example also needs another's (``inputs.OTHER`` and the name, in ``reads``).

    Raises:
      UserError: there are too few devices for the mesh (ENVIRONMENT), the mesh or the microbatches do not divide the
        batch (CONFLICT), or the family's batch cannot be split (UNSUPPORTED).
    """

    def __init__(
        self,
        family: Any,
        config: Any,
        rules: recipe.Recipe,
        mesh_shape: dict[str, int],
        chunk: int,
        how: Execution | None = None,
        freeze: Sequence[str] = (),
    ):
        self.family, self.config, self.rules, self.steps_per_chunk = family, config, rules, chunk
        how = how or Execution()
        self.attention: set[str] = set()
        self.mesh = meshes.make(mesh_shape)
        self._asked = max(1, how.microbatches)
        meshes.check_batch(mesh_shape, rules.batch, microbatches=self._asked)
        # Values that the host reads (losses, norms) are replicated on every device, and so in every process.
        self._replicated = jax.sharding.NamedSharding(self.mesh, jax.sharding.PartitionSpec())
        spec = family.batch_spec(config)
        self.context, self.text = spec["context"], families.text(spec)
        # Other arrays of a source are never sent to the device.
        self.reads = inputs.arrays(family, spec)
        self.reads_whole = inputs.arrays(family, spec, by_example=False)
        self.partners = families.partners(family, config)
        self.reads |= {inputs.OTHER + name for name in self.partners}
        self.terms = families.terms(family, config)
        self.together = families.together(family, config)
        self.paced = families.paced(family, config)
        if self._asked > 1:
            families.require_separable_loss(family, config, "execution.microbatches", how.microbatches)
            families.require_whole_groups(family, config, rules.batch, how.microbatches)
        self.compile_seconds = self._charged = 0.0
        axes, tied = family.axes(config), getattr(config, "tied", False)
        self._axes = axes
        self._weight_bits = {part: families.weight_bits(family, config, part) for part in axes}
        params = jax.eval_shape(lambda: family.init(jax.random.key(0), config))
        # What is frozen has no gradient, no moments and no update: it is a constant of the step.
        self._held = frozenset(freeze)  # by the study: nor does ``after`` change it
        self._frozen = {*families.frozen(family, config), *freeze}
        self._exact = families.exact(family, config)
        self.begins_with = families.begins_with(family, config)
        self._descended = families.descended(family, config)
        self._caches = None if how.microbatches else self._cached(params)
        self.how = replace(how, microbatches=how.microbatches or self._in_caches(rules.batch))
        own, shaped = self._optimised(axes), self._optimised(params)
        self._optimizer = recipe.optimizer(rules, own, shaped, tied)
        self._multipliers = recipe.multipliers(own, shaped, rules, tied)
        self._decayed = recipe.decayed(own)
        shapes = jax.eval_shape(self._init, jnp.uint32(0))
        self._shardings = meshes.state_shardings(self.mesh, shapes, axes)
        self.abstract = jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            shapes,
            self._shardings,
        )
        self._compiled: dict[tuple[str, Any], Any] = {}  # by name, and tree structure of the arguments
        self._compiling = threading.Lock()

    def _in_caches(self, examples: int) -> int:
        """Parts of a batch that are fastest on a CPU: the fewest of which what a layer computes stays in a core's
        cache, and not so many that handling the weights for each costs more (experiments/LOG.md)."""
        if self._caches is None:
            return 1
        groups, rest = divmod(examples, self.together)
        most = max(1, examples * self.context // self._caches.positions)
        possible = [ways for ways in range(1, min(groups, most) + 1) if not rest and groups % ways == 0] or [1]
        return next((ways for ways in possible if examples // ways <= self._caches.examples), possible[-1])

    def _cached(self, params: Parameters) -> _Caches | None:
        """What the caches of this process's cores hold of this family; None where batches are whole."""
        alone = jax.default_backend() == "cpu" and jax.device_count() == 1
        if not alone or families.batchwise(self.family, self.config):
            return None
        width = max((min(leaf.shape[-2:]) for leaf in jax.tree.leaves(params) if leaf.ndim > 1), default=1)
        scores = max(part.scores for part in self.family.components(self.config)) // getattr(self.config, "layers", 1)
        largest = 4 * max(scores, 4 * width * self.context)  # bytes of an example's scores, or of its MLP
        cores = device.threads()
        return _Caches(cores * max(PART_POSITIONS, PART_WIDTHS * width), cores * CACHE_BYTES / largest)

    def _trained(self, tree: Mapping[str, Any]) -> Parameters:
        """The part of a tree, by top-level name, that belongs to parameters that are trained."""
        return {name: value for name, value in tree.items() if name not in self._frozen}

    def _optimised(self, tree: Mapping[str, Any]) -> Parameters:
        """The part of a tree that belongs to parameters that the optimiser moves."""
        return {name: value for name, value in self._trained(tree).items() if name not in self._descended}

    def clock(self) -> float:
        """A clock in seconds that excludes the time that this trainer spends compiling."""
        return time.perf_counter() - self.compile_seconds

    def charge(self) -> float:
        """Seconds of compilation since the last call, so that summing over runs gives the total."""
        due, self._charged = self.compile_seconds - self._charged, self.compile_seconds
        return due

    def init(self, seed: int) -> State:
        """The initial training state for ``seed``."""
        function = functools.partial(jax.jit, self._init, out_shardings=self._shardings)
        return self._call("init", function, np.uint32(seed))

    def begin(self, params: Any, tokens: np.ndarray) -> Any:
        """The parameters of the first step, from those that are drawn or inherited and ``begins_with`` tokens."""
        function = functools.partial(jax.jit, self.family.begin, out_shardings=self._shardings["params"])
        return self._call("begin", function, params, self._replicate(tokens))

    def chunk(self, state: State, hyper: Hyper, batches: Arrays) -> tuple[State, dict]:
        """Runs ``hyper["steps"]`` of the chunk's steps; see ``step_chunk``. ``state`` is donated.

        ``batches`` holds this process's rows of each batch (see ``mesh.rows``), (C, rows, ...).
        """
        place = functools.partial(meshes.put, self.mesh, meshes.BATCH, batch=self.rules.batch, axis=1)
        on_mesh = {name: place(value) for name, value in batches.items() if name in self.reads}
        given = {name: self._replicate(value) for name, value in hyper.items()}
        with jax.transfer_guard("disallow"):  # an implicit host-device transfer here is a bug
            return self._call("chunk", self._jitted_chunk, state, given, on_mesh)

    def _jitted_chunk(self) -> Any:
        return jax.jit(self.step_chunk, donate_argnums=0, out_shardings=(self._shardings, self._replicated))

    def prepare(self, example: Arrays) -> None:
        """Compiles the chunk ahead of its first call, from any thread; for ``example`` see ``memory``."""
        shapes = self._chunk_shapes(example)
        self._compile(("chunk", jax.tree.structure(shapes)), self._jitted_chunk, shapes)

    def _chunk_shapes(self, example: Arrays) -> tuple[Any, ...]:
        chunk, batch = self.steps_per_chunk, self.rules.batch
        sharding = jax.sharding.NamedSharding(self.mesh, meshes.BATCH)
        every = {**example, **{inputs.OTHER + name: example[name] for name in self.partners}}
        batches = {
            name: jax.ShapeDtypeStruct((chunk, batch, *value.shape[1:]), value.dtype, sharding=sharding)
            for name, value in every.items()
            if name in self.reads
        }
        rate = jax.ShapeDtypeStruct((chunk,), np.float32, sharding=self._replicated)
        steps = jax.ShapeDtypeStruct((), np.int32, sharding=self._replicated)
        hyper = {"learning_rate": rate, "weight_decay": rate, "steps": steps}
        return self.abstract, {**hyper, "progress": rate} if self.paced else hyper, batches

    def memory(self, example: Arrays) -> dict[str, int]:
        """Bytes that a chunk of steps needs on each device: ``state``, ``batches``, ``temporary`` and their ``total``.

        From XLA's memory analysis of the program compiled for the present backend; nothing is allocated.

        Args:
          example: a batch of the data, with any number of examples.
        """
        analysis = self._jitted_chunk().lower(*self._chunk_shapes(example)).compile().memory_analysis()
        state = analysis.alias_size_in_bytes  # donated: the new state replaces the old one in place
        arguments, outputs = analysis.argument_size_in_bytes - state, analysis.output_size_in_bytes - state
        parts = {"state": state, "batches": arguments, "temporary": analysis.temp_size_in_bytes + outputs}
        return {**parts, "total": sum(parts.values())}

    def evaluate(self, params: Any, batch: Arrays, first: int, whole: Arrays | None = None) -> Terms:
        """``evaluate_placed`` of a batch on the host; the arguments are those of ``place_evaluation``."""
        return self.evaluate_placed(params, self.place_evaluation(batch, first, whole))

    def place_evaluation(self, batch: Arrays, first: int, whole: Arrays | None = None) -> Placed:
        """Puts a batch of evaluation examples on the devices, where it may serve any number of runs.

        Args:
          batch: the whole batch in every process; each places its own rows.
          first: index of the batch's first example in the evaluation set, a multiple of ``together``.
          whole: arrays of the evaluation set without an example axis, for the family's ``metrics`` (``reads_whole``).
        """
        size = len(next(iter(batch.values())))
        own = meshes.rows(self.mesh, size)
        place = functools.partial(meshes.put, self.mesh, meshes.EVALUATION_BATCH, batch=size, axis=0)
        on_mesh = {name: place(value[own]) for name, value in batch.items() if name in self.reads}
        return Placed(size, on_mesh, {name: self._replicate(value) for name, value in (whole or {}).items()}, first)

    def evaluate_placed(self, params: Any, placed: Placed) -> Terms:
        """{term: (sum, count)} of a batch of evaluation examples; what is random depends on an example's index only."""

        def loss(params: Any, batch: dict[str, jax.Array], fixed: dict[str, jax.Array], first: jax.Array) -> Any:
            def terms(part: dict[str, jax.Array]) -> Terms:
                found = self._terms(params, part, jax.random.key(0), evaluating=True)
                return {**found, **self._metrics(params, {**part, **fixed})}

            batch, ways = _numbered(batch, first), self._in_caches(placed.size)
            if ways == 1:
                return terms(batch)
            parts = jax.lax.map(terms, _split(batch, ways, self.together))
            return jax.tree.map(lambda value: _joined(value, self.together), parts)

        function = functools.partial(jax.jit, loss, out_shardings=self._replicated)
        examples = placed.batch, placed.whole, np.uint32(placed.first)
        return self._call(f"evaluate {placed.size}", function, params, *examples)

    def noise(self, params: Any, batch: Arrays, number: int, progress: float = 1.0) -> dict[str, float]:
        """Unbiased estimates of gradient noise and signal, whose ratio is the gradient noise scale.

        ``batch`` holds this process's rows of a training batch that ``params`` have not seen. For a part of b examples,
        |g_b|^2 has expectation |G|^2 + tr(S) / b (McCandlish 2018, arXiv 1812.06162, appendix A.1). With B examples
        in the whole batch, ``noise`` = (|g_b|^2 - |g_B|^2) / (1/b - 1/B) estimates tr(S), per example, and
        ``signal`` = (B |g_B|^2 - b |g_b|^2) / (B - b) estimates |G|^2. Their ratio is biased: average each over steps
        first.

        Args:
          number: of the step. progress: the share of training done by then, for a family that is paced.

        Raises:
          UserError: the batch size cannot be split (CONFLICT), or the loss is not a mean over examples (UNSUPPORTED).
        """
        size = self.rules.batch
        families.require_separable_loss(self.family, self.config, "config.noise_scale", True)
        parts = meshes.parts(self.mesh.shape, size, self._asked, self.together)
        place = functools.partial(meshes.put, self.mesh, meshes.EVALUATION_BATCH, batch=size, axis=0)
        on_mesh = {name: place(value) for name, value in batch.items() if name in self.reads}
        paced = {"progress": self._replicate(np.float32(progress))} if self.paced else {}

        def norms(params: Any, batch: dict[str, jax.Array], number: jax.Array, paced: dict[str, jax.Array]):
            key = jax.random.fold_in(jax.random.key(1), number)

            def add(sums: tuple[Any, jax.Array], part: Any) -> tuple[Any, None]:
                gradient = self._optimised(self._backward(params, part, key, self._asked)[1])
                square = jnp.square(optax.tree.norm(gradient))
                return (jax.tree.map(jnp.add, sums[0], gradient), sums[1] + square), None

            zeros = (jax.tree.map(jnp.zeros_like, self._optimised(params)), jnp.float32(0))
            numbered = {**_numbered(batch), **paced}
            (total, squares), _ = jax.lax.scan(add, zeros, _split(numbered, parts, self.together))
            return jnp.square(optax.tree.norm(total) / parts), squares / parts

        function = functools.partial(jax.jit, norms, out_shardings=self._replicated)
        whole, part = map(float, self._call("noise", function, params, on_mesh, np.uint32(number), paced))
        small = size / parts
        noise = (part - whole) / (1 / small - 1 / size)
        return {"signal": (size * whole - small * part) / (size - small), "noise": noise}

    def _replicate(self, value: Any) -> jax.Array:
        """A small host array, replicated on every device."""
        array = np.asarray(value)
        return jax.make_array_from_callback(array.shape, self._replicated, lambda index: array[index])

    def _call(self, name: str, jitted: Callable[[], Any], *arguments: Any) -> Any:
        # Compiled ahead of time, so that compilation is timed separately and a changed shape is an error, not a
        # recompile. The key includes the tree structure, since batches may or may not have a mask.
        key = name, jax.tree.structure(arguments)
        if key not in self._compiled:
            start = time.perf_counter()
            self._compile(key, jitted, arguments)
            self.compile_seconds += time.perf_counter() - start
            distributed.barrier()  # the first collective must not time out on a process that is still compiling
        return self._compiled[key](*arguments)

    def _compile(self, key: tuple[str, Any], jitted: Callable[[], Any], arguments: tuple[Any, ...]) -> None:
        # Initialisation runs once; without optimisation it compiles in a sixth of the time (experiments/LOG.md).
        options = {"xla_backend_optimization_level": 0} if key[0].startswith("init") else None
        with self._compiling:
            if key not in self._compiled:
                self._compiled[key] = jitted().lower(*arguments).compile(options)

    def _init(self, seed: jax.Array) -> State:
        key = jax.random.key(seed)
        params = self.family.init(key, self.config)
        return {
            "params": params,
            "opt": self._optimizer.init(self._optimised(params)),
            "step": jnp.int32(0),
            "key": jax.random.key_data(key),
        }

    def step_chunk(self, state: State, hyper: dict[str, jax.Array], batches: dict[str, jax.Array]):
        """Takes ``hyper["steps"]`` <= C optimiser steps on batches with a leading step axis C; a pure function.

        The number of steps is traced, like the learning rates and decays (C,), so one executable serves runs of every
        length. Metrics beyond the last step are zero.

        Returns:
          (state, {"loss": (C,), "norm": (C,)}).
        """

        def body(index: jax.Array, carry: tuple[State, dict[str, jax.Array]]):
            state, metrics = carry
            batch = _numbered({name: value[index] for name, value in batches.items()})
            if self.paced:
                batch["progress"] = hyper["progress"][index]
            new, loss, norm = self._step(state, batch, hyper["learning_rate"][index], hyper["weight_decay"][index])
            return new, {"loss": metrics["loss"].at[index].set(loss), "norm": metrics["norm"].at[index].set(norm)}

        empty = {name: jnp.zeros(hyper["learning_rate"].shape, jnp.float32) for name in ("loss", "norm")}
        return jax.lax.fori_loop(0, hyper["steps"], body, (state, empty))

    def _step(self, state: State, batch: dict[str, jax.Array], rate: jax.Array, decay: jax.Array):
        key = jax.random.fold_in(jax.random.wrap_key_data(state["key"]), state["step"])
        loss, every, aux = self._backward(state["params"], batch, key, self.how.microbatches)
        gradient, trained = self._optimised(every), self._optimised(state["params"])
        direction, opt = self._optimizer.update(gradient, state["opt"], trained)
        updated = jax.tree.map(
            lambda p, d, scale, shrinks: p * (1 - decay * shrinks) - rate * scale * d,
            trained,
            direction,
            self._multipliers,
            self._decayed,
        )
        for name, (low, high) in families.clamped(self.family, self.config).items():
            if name in updated:
                updated[name] = jax.tree.map(lambda p, low=low, high=high: p.clip(low, high), updated[name])
        for name in self._descended:
            updated[name] = jax.tree.map(jnp.subtract, state["params"][name], every[name])
        params = self._after({**state["params"], **updated}, aux, key)
        new = {"params": params, "opt": opt, "step": state["step"] + 1, "key": state["key"]}
        return new, loss, optax.tree.norm(gradient)

    def _after(self, params: Parameters, aux: families.Aux, key: jax.Array) -> Parameters:
        """The parameters, in float32, as the family changes them after the optimiser."""
        if not hasattr(self.family, "after"):
            return params
        with placing(meshes.place(self.mesh)):
            changed = self.family.after(params, aux, jax.random.fold_in(key, AFTER), self.config)
        return {name: value if name in self._held else changed[name] for name, value in params.items()}

    def _loss(
        self, params: Any, batch: dict[str, jax.Array], key: jax.Array, *, evaluating: bool = False
    ) -> tuple[Terms, families.Aux]:
        params = self._cast(params)
        with using(self.how, self.attention, evaluating=evaluating), placing(meshes.place(self.mesh)):
            return families.loss_and_aux(self.family, params, batch, key, self.config)

    def _terms(self, params: Any, batch: dict[str, jax.Array], key: jax.Array, *, evaluating: bool = False) -> Terms:
        return self._loss(params, batch, key, evaluating=evaluating)[0]

    def _cast(self, params: Any) -> Any:
        """Parameters in the model's dtype, but those that the family has exact; the only such cast. Norms, softmax and
        losses compute in float32.

        Before it the weights of the blocks are rounded to the bits that the model has for them, if any."""
        rounded = {
            part: quantise.straight_through(params[part], self._axes[part], bits)
            for part, bits in self._weight_bits.items()
            if bits
        }
        params = {**params, **rounded}
        cast = {name: value for name, value in params.items() if name not in self._exact}
        return {**params, **jax.tree.map(lambda leaf: leaf.astype(self.config.dtype), cast)}

    def _metrics(self, params: Any, batch: dict[str, jax.Array]) -> Terms:
        """Terms that the family measures only in evaluation."""
        if not hasattr(self.family, "metrics"):
            return {}
        params = self._cast(params)
        with using(self.how, self.attention, evaluating=True), placing(meshes.place(self.mesh)):
            return self.family.metrics(params, batch, self.config)

    def _gradient(self, params: Any, batch: dict[str, jax.Array], key: jax.Array) -> tuple[jax.Array, Any]:
        """Loss of a batch (the weighted sum of the means of its terms), and its gradient with respect to what is
        trained; both summed over microbatches."""
        return self._backward(params, batch, key, self.how.microbatches)[:2]

    def _backward(
        self, params: Any, batch: dict[str, jax.Array], key: jax.Array, ways: int
    ) -> tuple[jax.Array, Any, families.Aux]:
        """``_gradient`` in so many microbatches, and what the loss hands to ``after``: of the whole batch, in the order
        of its examples."""
        trained = self._trained(params)

        def objective(trained: Any, batch: dict[str, jax.Array], key: jax.Array, counts: Any = None) -> Any:
            terms, aux = self._loss({**params, **trained}, batch, key)
            own = {name: n.sum() for name, (_, n) in terms.items()}
            divisors = {name: _divisor(n) for name, n in (counts or own).items()}
            means = {name: total.sum() / divisors[name] for name, (total, _) in terms.items()}
            weights = {name: self.terms[name].weight for name in means}
            weighted = [(mean, weights[name]) for name, mean in means.items() if weights[name]]
            loss = functools.reduce(jnp.add, [mean if weight == 1 else mean * weight for mean, weight in weighted])
            return loss, (aux, own)

        differentiated = jax.value_and_grad(objective, has_aux=True)
        if ways == 1:
            (loss, (aux, _)), gradient = differentiated(trained, batch, key)
            return loss, gradient, aux
        parts = _split(batch, ways, self.together)
        names = [name for name, term in self.terms.items() if term.weight]
        # Means are over the whole batch: one is divided at the end. Several need its counts before, of a pass of which
        # the compiler keeps no more than these.
        if len(names) > 1:
            counted = jax.lax.map(
                lambda part: {name: n.sum() for name, (_, n) in self._terms(params, part, key).items()}, parts
            )
            counts = jax.tree.map(lambda n: n.sum(), counted)
        else:
            counts = dict.fromkeys(self.terms, 1.0)

        def add(sums: Any, part: Any) -> tuple[Any, families.Aux]:
            (loss, (aux, own)), gradient = differentiated(trained, part, key, counts)
            return jax.tree.map(jnp.add, sums, (loss, gradient, own[names[0]])), aux

        zeros = (jnp.float32(0), jax.tree.map(jnp.zeros_like, trained), jnp.float32(0))
        (loss, gradient, count), aux = jax.lax.scan(add, zeros, parts)
        if len(names) == 1:
            loss, gradient = jax.tree.map(lambda sum: (sum / _divisor(count)).astype(sum.dtype), (loss, gradient))
        return loss, gradient, {name: _joined(value, self.together) for name, value in aux.items()}


def _divisor(count: jax.Array | float) -> jax.Array:
    """Of a sum, for its mean: of a batch in which no example has what a term counts, such as its task, 0, not 0 / 0."""
    return jnp.where(count > 0, count, 1.0)


def _numbered(batch: dict[str, jax.Array], first: jax.Array | int = 0) -> dict[str, jax.Array]:
    """The batch with the index of each example, by which families key what is random (``objectives.index``)."""
    size = len(next(iter(batch.values())))
    return {**batch, "example": jnp.arange(size, dtype=jnp.uint32) + jnp.uint32(first)}


def _split(batch: dict[str, jax.Array], ways: int, together: int = 1) -> dict[str, jax.Array]:
    """Equal parts of a batch, (ways, B / ways, ...).

    Every ways-th group of examples that belong together goes to the same part, so each device splits its own examples,
    and none moves. A number of the whole batch is every part's.
    """

    def split(value: jax.Array) -> jax.Array:
        if not value.ndim:
            return jnp.broadcast_to(value, (ways,))
        groups = value.reshape(-1, ways, together, *value.shape[1:]).swapaxes(0, 1)
        return groups.reshape(ways, -1, *value.shape[1:])

    return {name: split(value) for name, value in batch.items()}


def _joined(value: jax.Array, together: int) -> jax.Array:
    """What the parts of a batch give, (ways, B / ways, ...), in the order of the batch, (B, ...): undoes ``_split``."""
    groups = value.reshape(len(value), -1, together, *value.shape[2:]).swapaxes(0, 1)
    return groups.reshape(-1, *value.shape[2:])


class Ensemble:
    """Runs of one shape that differ in seed, learning rate, decay or D, trained by one compiled program.

    It is the chunk function of a single run under ``jax.vmap``, so a member's numbers equal those of a single run up to
    rounding. States, rates and batches have a leading axis K of members, split over the mesh's ensemble axis. Members
    may be at different steps; each state holds its own.

    Raises:
      UserError: the mesh's ensemble axis does not divide the members (ENVIRONMENT).
    """

    def __init__(self, trainer: Trainer, members: int):
        ways = trainer.mesh.shape["ensemble"]
        if members < 1 or members % ways:
            raise UserError("ensemble", members, f"must be a multiple of mesh.ensemble = {ways}", Code.ENVIRONMENT)
        self.trainer, self.members = trainer, members
        self._shapes = jax.eval_shape(jax.vmap(trainer._init), jax.ShapeDtypeStruct((members,), np.uint32))
        axes = trainer.family.axes(trainer.config)
        self._shardings = meshes.state_shardings(trainer.mesh, self._shapes, axes, ensemble=True)
        self._rates = jax.sharding.NamedSharding(trainer.mesh, jax.sharding.PartitionSpec("ensemble"))

    def init(self, seeds: np.ndarray) -> State:
        """The initial states for ``seeds`` (K,)."""
        function = functools.partial(jax.jit, jax.vmap(self.trainer._init), out_shardings=self._shardings)
        return self.trainer._call(f"init {self.members}", function, np.asarray(seeds, np.uint32))

    def chunk(self, state: State, hyper: Hyper, batches: Arrays) -> tuple[State, dict]:
        """Takes the next ``hyper["steps"]`` steps of every member, as ``Trainer.step_chunk``. ``state`` is donated.

        Args:
          hyper: learning_rate and weight_decay (K, C); steps, one number, or one for each member (K,), in which case
            members that finish early wait for the others.
          batches: (K, C, B, ...).

        Returns:
          The states and {"loss": (K, C), "norm": (K, C)}.
        """
        trainer = self.trainer
        spec = jax.sharding.NamedSharding(trainer.mesh, jax.sharding.PartitionSpec("ensemble", *meshes.BATCH))
        on_mesh = {name: jax.device_put(value, spec) for name, value in batches.items() if name in trainer.reads}
        steps = trainer._replicate(np.asarray(hyper["steps"], np.int32))
        rates = {name: jax.device_put(value, self._rates) for name, value in hyper.items() if name != "steps"}
        given = (0, {**dict.fromkeys(rates, 0), "steps": 0 if steps.ndim else None}, 0)
        member = jax.vmap(trainer.step_chunk, given, spmd_axis_name="ensemble")
        shardings = (self._shardings, trainer._replicated)
        function = functools.partial(jax.jit, member, donate_argnums=0, out_shardings=shardings)
        with jax.transfer_guard("disallow"):
            name = f"chunk {self.members} {steps.ndim}"
            return trainer._call(name, function, state, {**rates, "steps": steps}, on_mesh)

    def join(self, states: Sequence[State]) -> State:
        """Stacks states of single runs into the state of the ensemble."""
        function = functools.partial(
            jax.jit,
            lambda states: jax.tree.map(lambda *leaves: jnp.stack(leaves), *states),
            out_shardings=self._shardings,
        )
        return self.trainer._call(f"join {self.members}", function, list(states))

    def part(self, state: State) -> list[State]:
        """Splits the ensemble's state into states of single runs, to evaluate, save or continue each alone."""
        single = jax.tree.map(lambda leaf: leaf.sharding, self.trainer.abstract)
        function = functools.partial(
            jax.jit,
            lambda state: [jax.tree.map(lambda leaf, k=k: leaf[k], state) for k in range(self.members)],
            out_shardings=[single] * self.members,
        )
        return self.trainer._call(f"part {self.members}", function, state)
