"""The comparisons of experiments/tower.py and streams.py, on runs whose answer is written down."""

import math

import pytest

from experiments import streams
from experiments.tower import Run, compared, get_config, lines
from scaling import study


def test_towers_are_held_against_early_fusion_of_their_size_and_seed():
    """Early fusion's loss is C^-1/2; the tower's is 0.8 of it at the same D, at half the FLOPs."""
    runs, arms = [], {"early": (1.0, 1.0), "tower": (0.8, 0.5)}
    for arm, (better, cheaper) in arms.items():
        for size, seed in ((0, 0), (0, 1), (2, 0)):
            for amount in (100, 200, 400):
                c = float((size + 1) * amount)
                runs.append(Run(arm, size, seed, amount, better * c**-0.5, cheaper * c, cheaper * c + 50 * (size + 1)))
    rows = compared(runs)
    assert [row.D for row in rows] == [100, 200, 400] and all(row.pairs == 3 for row in rows)
    for row in rows[:2]:  # early needs C / 0.64
        assert row.loss.value == pytest.approx(0.8) and row.loss.lo == pytest.approx(row.loss.hi)
        assert row.out is not None and row.out.value == pytest.approx(0.5 * 0.64)
        assert row.whole is not None and row.whole.value == pytest.approx((0.5 + 50 / row.D) * 0.64)
        assert (row.inside, row.better, row.worse) == (3, 0, 0)
    assert rows[2].out is None and (rows[2].inside, rows[2].better) == (0, 3)
    assert len(lines(rows)) >= 4 and math.isfinite(rows[2].loss.value)


def test_every_tower_is_pre_trained_on_other_pictures():
    made = study.resolve(get_config())
    assert {cell.dataset for cell in made.cells} == {"pictures", "early", "tower"}
    assert made.datasets["pictures"] != made.datasets["tower"] == made.datasets["early"]
    shapes = {arm: [(c.size, c.tokens, c.seed) for c in made.cells if c.dataset == arm] for arm in ("early", "tower")}
    assert shapes["early"] == shapes["tower"] and len(shapes["tower"]) == 30


def test_streams_are_compared_at_equal_flops():
    """Two streams cost 1.3 times as much, and lose 0.8 of a power law at equal FLOPs; at the last D one has no more."""

    def run(arm: str, seed: int, d: int) -> streams.Run:
        c = (1.3 if arm == "two" else 1.0) * d
        loss = (0.8 if arm == "two" else 1.0) * (1 + 0.01 * seed) * c**-0.5
        return streams.Run(arm=arm, size=0, seed=seed, D=d, C=c, losses={"words": loss})

    rows = streams.compared(
        [run(arm, seed, d) for arm in ("one", "two") for seed in (0, 1, 2) for d in (100, 200, 400)]
    )
    assert [(row.D, row.pairs) for row in rows] == [(100, 3), (200, 3)]
    assert all(row.ratio.value == pytest.approx(0.8) and row.ratio.lo == pytest.approx(0.8) for row in rows)
