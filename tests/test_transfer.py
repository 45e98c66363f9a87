"""The experiment of transfer: a planted D_T is found, what is out of reach is said, and its cells are what it needs."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from experiments import transfer
from scaling import plan, study

SIZES = {0: 6_000, 1: 14_000, 2: 25_000, 3: 56_000}
SCRATCH, TUNED = (64_000, 128_000, 256_000, 512_000, 1_024_000), (32_000, 64_000, 128_000)


def curve(size: int, amount: float) -> float:
    return (amount / 5_000) ** -0.7 * (1 + 0.2 / (1 + size))


def table(k: float, a: float, b: float, noise: float = 0.0, draw: int = 0) -> pd.DataFrame:
    rng, rows = np.random.default_rng(draw), []
    for size, n in SIZES.items():
        for seed in range(3):
            common = {"size": size, "seed": seed, "N": n, "C_parents": 6 * n * 128_000}
            for d in SCRATCH:
                excess = curve(size, d) * math.exp(noise * rng.normal())
                rows.append({**common, "arm": "scratch", "D": d, "C": 6 * n * d, "rate": 0.01, "excess": excess})
            for d in TUNED:
                excess = curve(size, d + k * d**a * n**b) * math.exp(noise * rng.normal())
                rows.append({**common, "arm": "tuned", "D": d, "C": 6 * n * d, "rate": 0.0025, "excess": excess})
    halved = next(row for row in rows if row["arm"] == "tuned" and (row["size"], row["D"]) == (1, TUNED[-1]))
    return pd.DataFrame([*rows, {**halved, "arm": "tuned_rates", "rate": 0.00125, "excess": 1.5 * halved["excess"]}])


def test_a_planted_transfer_is_found_with_its_slopes_and_its_price(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(transfer, "rows", lambda workdir: table(500.0, 0.3, 0.25))
    answer = transfer.analyse(tmp_path)
    assert len(answer.gains) == answer.cells == 12
    for found in answer.gains:
        planted = 500.0 * found.D**0.3 * found.N**0.25
        assert found.transferred is not None and found.transferred.value == pytest.approx(planted, rel=0.01)
        assert found.beyond == found.none == 0
        assert found.once == pytest.approx((128_000 + found.D) / (found.D + planted), rel=0.01)
        assert found.repaid == pytest.approx(128_000 / planted, rel=0.01)
    assert answer.a is not None and answer.a.value == pytest.approx(0.3, abs=0.01)
    assert answer.b is not None and answer.b.value == pytest.approx(0.25, abs=0.01)
    assert answer.rates == {"tuned": {"0.5": pytest.approx(1.5)}}
    assert any("0.30 [" in line for line in transfer.lines(answer))


def test_intervals_hold_the_planted_slopes_under_noise(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Of three seeds a 95 % t interval is wide, and now and then narrow by chance: so by how often, out of 20 draws."""
    held = {"a": 0, "b": 0}
    for draw in range(20):
        monkeypatch.setattr(transfer, "rows", lambda workdir, draw=draw: table(500.0, 0.3, 0.25, 0.03, draw))
        answer = transfer.analyse(tmp_path)
        for name, cell, planted in (("a", answer.a, 0.3), ("b", answer.b, 0.25)):
            assert cell is not None and cell.lo is not None and cell.hi is not None and cell.lo < cell.hi
            held[name] += cell.lo < planted < cell.hi
    assert min(held.values()) >= 16


@pytest.mark.parametrize(("k", "beyond", "none"), [(1e5, 3, 0), (-1e-3, 0, 3)])
def test_what_is_out_of_reach_or_no_gain_is_said_and_not_fitted(
    k: float, beyond: int, none: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setattr(transfer, "rows", lambda workdir: table(k, 0.3, 0.25))
    answer = transfer.analyse(tmp_path)
    assert answer.cells == 0 and answer.a is None and answer.b is None
    assert {(found.transferred, found.once, found.repaid) for found in answer.gains} == {(None, None, None)}
    assert {(found.beyond, found.none) for found in answer.gains} == {(beyond, none)}
    assert any("too few" in line for line in transfer.lines(answer))


def test_the_curve_is_read_between_its_runs_alone():
    amounts, excess = [4.0, 1.0, 2.0], [0.25, 1.0, 0.5]
    assert transfer.equivalent(amounts, excess, 0.5) == pytest.approx(2.0)
    assert transfer.equivalent(amounts, excess, 2**-1.5) == pytest.approx(2**1.5)
    assert transfer.equivalent(amounts, excess, 1.1) == 0 and transfer.equivalent(amounts, excess, 0.2) == math.inf
    assert transfer.equivalent(amounts, [0.25, 1.0, 1.2], 0.5) == pytest.approx(2 * 2**0.5)  # a worse run is no step


@pytest.mark.parametrize("argument", ["", "smoke", "large"])
def test_each_tuned_cell_has_its_own_parent_and_the_same_data_as_from_scratch(argument: str):
    made = plan.make(study.resolve(transfer.get_config(argument)))
    cells = [spec.manifest for each in made.programs for spec in each.runs if spec.kind != "stem"]
    parents = {each.run: each for each in cells if each.dataset == "before"}
    tuned = [each for each in cells if each.dataset == "tuned"]
    for each in tuned:
        (parent,) = each.parents
        assert (parents[parent.run].size, parents[parent.run].seed) == (each.size, each.seed)
        assert each.parent_flops == parents[parent.run].flops.training
    assert len({each.data.sha256 for each in cells if each.dataset != "before"}) == 1
    sizes, amounts = ({getattr(each, name) for each in tuned} for name in ("size", "seed"))
    assert argument == "smoke" or (len(sizes) == 4 and len(amounts) == 3 and len({e.tokens.D for e in tuned}) == 3)
