"""The critical batch: the gradient noise scale of a training step, and the knee of a sweep of batches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from handmade import edited
from refusals import refuses

from analysis.card import Interval
from analysis.decide import critical_batch as batch
from scaling import families, recipe, study, train
from scaling.blocks.execution import Execution
from scaling.errors import Code
from scaling.plan import make
from scaling.records import records
from scaling.records.types import StepRow
from scaling.step import Trainer


@pytest.mark.system
def test_noise_and_signal_are_those_of_the_examples_gradients():
    family = families.load("gpt")
    config = families.configure(family, 0, width=8, layers=1, heads=1, vocab=16, context=8)
    trainer = Trainer(family, config, recipe.named("width", batch=8), {"data": 1}, 1)
    # Away from initialisation, where zero matrices hide most of the gradient.
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: rng.normal(0, 0.3, leaf.shape).astype(np.float32), trainer.abstract["params"])
    tokens = rng.integers(0, 16, (8, 9)).astype(np.int32)
    found = trainer.noise(params, {"tokens": tokens}, 0)

    def loss(params, row):
        total, count = family.loss(params, {"tokens": row[None]}, jax.random.key(0), config)["loss"]
        return total.sum() / count.sum()

    each = jax.jit(jax.vmap(jax.grad(loss), (None, 0)))(params, jnp.asarray(tokens))
    flat = np.concatenate([np.asarray(leaf).reshape(8, -1) for leaf in jax.tree.leaves(each)], 1)
    # Parts of one example: tr(S) is the unbiased sample variance of the examples' gradients, summed.
    assert found["noise"] == pytest.approx(flat.var(axis=0, ddof=1).sum(), rel=1e-4)
    assert found["signal"] + found["noise"] / 8 == pytest.approx(np.sum(flat.mean(0) ** 2), rel=1e-4)
    with refuses(Code.CONFLICT, "config.noise_scale", 3):
        Trainer(family, config, recipe.named("width", batch=3), {"data": 1}, 1).noise(params, {}, 0)
    # Microbatches split each part again, so parts are larger; the same gradients, in parts of two examples.
    split = Trainer(family, config, recipe.named("width", batch=8), {"data": 1}, 1, Execution(microbatches=2))
    pairs = flat.reshape(2, 4, -1).mean(0)
    square, whole = np.square(pairs).sum(axis=1).mean(), np.sum(flat.mean(0) ** 2)
    assert split.noise(params, {"tokens": tokens}, 0)["noise"] == pytest.approx(
        (square - whole) / (1 / 2 - 1 / 8), rel=1e-4
    )
    with refuses(Code.CONFLICT, "config.noise_scale", 8):
        Trainer(family, config, recipe.named("width", batch=8), {}, 1, Execution(microbatches=8)).noise(params, {}, 0)


@pytest.mark.system
def test_training_measures_noise_when_asked_and_is_not_changed_by_it(tiny, tmp_path):
    losses = {}
    for asked in (False, True):
        config = tiny(grid=study.block("grid", "known", (0,), tokens=(48 * 25,), recipe={"schedule": "constant"}))
        config.noise_scale = asked
        program = make(study.resolve(config)).programs[0]
        train.execute(program, tmp_path / str(asked), progress=lambda *_: None, should_stop=lambda: False)
        rows = records(tmp_path / str(asked))[0].steps()
        losses[asked] = [row.loss for row in rows]
        # Three chunks of ten steps; after the last there is no next batch.
        assert [row.gradient_noise is not None for row in rows] == [asked, asked, False]
        assert all((row.gradient_noise or 0) > 0 for row in rows[:2] if asked)
    assert losses[True] == losses[False]


def row(step: int = 1, loss: float = 1.0, **measured: float) -> StepRow:
    plain = StepRow(step=step, loss=loss, norm=1.0, learning_rate=0.01, tokens=64 * step, seconds=0.1)
    return edited(plain, **measured)


def test_the_noise_scale_is_a_ratio_of_means_with_an_interval():
    rng = np.random.default_rng(0)
    # Single measurements are worse than useless (the signal is often negative); their means are not.
    rows = [
        row(gradient_noise=8 * (1 + 0.3 * rng.standard_normal()), gradient_signal=0.1 + 0.15 * x)
        for x in rng.standard_normal(400)
    ]
    found = batch.noise_scale([*rows, row()], context=64)
    assert found is not None and found.rows == 400
    lo, hi = ends(found.interval)
    assert lo < 80 * 64 < hi and hi < 1.6 * lo
    assert batch.noise_scale([row()], 64) is None
    none = batch.noise_scale([row(gradient_noise=1.0, gradient_signal=-0.1)] * 20, 64)
    assert none == batch.NoiseScale(interval=None, rows=20)


def ends(cell: Interval | None) -> tuple[float, float]:
    """Of an interval that is closed."""
    assert cell is not None and cell.lo is not None and cell.hi is not None
    return cell.lo, cell.hi


def test_the_knee_of_a_planted_sweep_is_found():
    """Loss falls with the useful steps s / (1 + B_crit / B): S = S_min + E_min / B at every target, B_crit its knee."""
    knee, held, off = 1500.0, 0, []
    for seed in range(6):
        rng, runs = np.random.default_rng(seed), {}
        for size in (256, 512, 1024, 2048, 4096, 8192):
            for repeat in range(2):
                step = np.arange(10, 6001, 10)
                loss = 1.5 + 20 / (step / (1 + knee / size)) ** 0.6 + 0.004 * rng.standard_normal(len(step))
                runs[f"{size} {repeat}"] = (float(size), [row(int(s), float(y)) for s, y in zip(step, loss)])
        *answers, unseen = batch.sweep(runs, (2.5, 2.2, 0.1))
        assert unseen.critical is None and unseen.why == "few_batches"
        for answer in answers:
            assert answer.critical is not None
            lo, hi = ends(answer.critical)
            held += lo < knee < hi
            off.append(answer.critical.value / knee - 1)
            assert answer.runs == 12 and hi < 1.25 * lo
    assert held >= 9 and abs(np.mean(off)) < 0.002 and max(np.abs(off)) < 0.01  # 95 % intervals of twelve fits
