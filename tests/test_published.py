"""The registry of published laws: complete, sourced, marked, and never from memory."""

import json
import math

import numpy as np
import pytest

from analysis import laws
from analysis.laws import published
from scaling.errors import UserError


@pytest.mark.parametrize("name", sorted(published.REGISTRY))
def test_every_entry_has_a_law_a_source_and_a_mark(name):
    entry = published.get(name)
    law = laws.get(entry.law)
    assert set(entry.params) <= set(law.names)
    assert entry.mark in ("read", "reproduced", "read, reproduced")
    assert entry.source and entry.where and len(entry.arxiv) == 10
    for key, value in entry.params.items():
        p = law.params[law.index(key)]
        assert math.isfinite(value) and p.lower <= value <= p.upper
    assert all(lo <= entry.params[k] <= hi for k, (lo, hi) in entry.intervals.items())
    assert json.loads(json.dumps(entry.as_json()))["params"] == dict(entry.params)


def test_only_complete_entries_predict():
    cell = {"N": np.array([7e10]), "D": np.array([1.4e12])}
    by_hand = math.exp(0.5267228) + math.exp(6.0073404) * 7e10**-0.33917084 + math.exp(6.0179186) * 1.4e12**-0.2849083
    assert published.get("hoffmann2022").predict(cell)[0] == pytest.approx(by_hand, rel=1e-12)
    with pytest.raises(UserError, match="only a is published"):
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


def test_an_unknown_name_lists_the_known():
    with pytest.raises(UserError, match="besiroglu2024"):
        published.get("kaplan2020")
