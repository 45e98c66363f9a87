"""The registry of published laws: complete, sourced, marked, and never from memory."""

import math

import msgspec
import numpy as np
import pytest
from refusals import refuses

from analysis import laws
from analysis.card import Interval
from analysis.laws import published
from scaling.errors import Code


@pytest.mark.parametrize("name", sorted(published.REGISTRY))
def test_every_entry_has_a_law_a_source_and_a_mark(name):
    entry = published.get(name)
    law = laws.get(entry.law)
    assert set(entry.params) <= set(law.names)
    assert entry.source and entry.where and len(entry.arxiv) == 10
    for key, value in entry.params.items():
        p = law.params[law.index(key)]
        assert math.isfinite(value) and p.lower <= value <= p.upper
    assert all(lo <= entry.params[k] <= hi for k, (lo, hi) in entry.intervals.items())
    # of the right types, the mark among them, and as plain JSON
    assert msgspec.json.decode(msgspec.json.encode(entry), type=published.Published) == entry


def test_only_complete_entries_predict():
    cell = {"N": np.array([7e10]), "D": np.array([1.4e12])}
    by_hand = math.exp(0.5267228) + math.exp(6.0073404) * 7e10**-0.33917084 + math.exp(6.0179186) * 1.4e12**-0.2849083
    assert published.get("hoffmann2022").predict(cell)[0] == pytest.approx(by_hand, rel=1e-12)
    with refuses(Code.UNSUPPORTED, "published", "porian2024-rw-tuned"):
        published.get("porian2024-rw-tuned").predict({"C": np.array([1e20])})


def test_tokens_per_parameter_of_besiroglu():
    law, theta = laws.get("chinchilla"), list(published.get("besiroglu2024").params.values())
    n, d = law.optimum(theta, [1e21, 5.76e23])
    # 21.4 and 17.9 from the optimum's unrounded coefficients; the printed standard-error table gives 1.6 % less
    np.testing.assert_allclose((d / n)[0], [21.4, 17.9], rtol=0.05)
    n, d = law.optimum([1.81724, 477.84, 2143.86, 0.34731, 0.36718], [1e21, 5.76e23])
    np.testing.assert_allclose((d / n)[0], [21.4, 17.9], rtol=0.05)


def test_laws_in_one_column_find_their_published_exponents():
    assert {p.name for p in published.of("growth")} >= {"porian2024-rw-tuned", "steplaw2025-batch"}
    assert {p.name for p in published.of("chinchilla")} == {"hoffmann2022", "besiroglu2024", "mcleish2025"}


def test_an_unknown_name_is_refused():
    with refuses(Code.UNKNOWN, "published", "kaplan2020"):
        published.get("kaplan2020")


# --- beside a fit made here


def cell(value: float, lo: float | None, hi: float | None) -> Interval:
    return Interval(value=value, lo=lo, hi=hi)


def test_either_interval_may_exclude_the_other_value_and_what_was_held_is_left_out():
    (found,) = published.beside("best_lr", {"p": cell(-0.8, -1.1, -0.5), "q": cell(0.3, 0.3, 0.3)})
    assert found.name == "steplaw2025-lr" and set(found.params) == {"p"}
    p = found.params["p"]
    assert (p.published, p.interval, p.here) == (-0.713, (-0.774, -0.655), -0.8)
    assert p.outside_published and not p.outside_here
    (narrow,) = published.beside("best_lr", {"p": cell(-0.8, -0.85, -0.75)})
    assert narrow.params["p"].outside_published and narrow.params["p"].outside_here
    (open_below,) = published.beside("best_lr", {"p": cell(-0.7, None, -0.65)})
    assert not open_below.params["p"].outside_here


def test_under_another_tokenizer_only_what_does_not_depend_on_it_is_compared():
    fitted = {"E": cell(1.8, 1.7, 1.9), "alpha": cell(0.35, 0.3, 0.4)}
    assert all(set(p.params) == {"E", "alpha"} for p in published.beside("chinchilla", fitted))
    assert all(set(p.params) == {"alpha"} for p in published.beside("chinchilla", fitted, same_loss=False))
    repeated = {"A": cell(500.0, 400.0, 600.0), "R_D": cell(15.0, 10.0, 20.0), "R_N": cell(5.0, 4.0, 6.0)}
    (muennighoff,) = published.beside("repeats", repeated, same_loss=False)
    assert set(muennighoff.params) == {"R_D", "R_N"}
    batch = {"k": cell(0.6, 0.5, 0.7), "a": cell(0.57, 0.5, 0.6)}
    (found,) = published.beside("growth:D", batch, same_loss=False)
    assert set(found.params) == {"a"}
