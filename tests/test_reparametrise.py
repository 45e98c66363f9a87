"""The sampler's coordinates, and that its draws have converged where runs identify nothing."""

import numpy as np
import pandas as pd
import pytest

from analysis import laws
from analysis.engine.estimate import estimate, objective
from analysis.engine.inference import infer
from analysis.engine.reparametrise import Reparametrisation
from analysis.engine.sampler import sample
from analysis.engine.surface import surface_of


def table(sizes: int, reach: float, noise: float, seed: int) -> pd.DataFrame:
    law = laws.get("chinchilla")
    n, d = np.meshgrid(np.geomspace(1e8 / reach, 1e8 * reach, sizes), np.geomspace(2e9 / reach, 2e9 * reach, 3))
    frame = pd.DataFrame({"N": n.ravel(), "D": d.ravel()})
    rng = np.random.default_rng(seed)
    theta = np.array([1.69, 406.4, 410.7, 0.34, 0.28])  # arXiv 2203.15556, approach 3
    loss = law.predict(theta, frame) * np.exp(noise * rng.standard_normal(len(frame)))
    return frame.assign(loss=loss, stem=[f"{i}" for i in range(len(frame))])


@pytest.mark.parametrize("name", ["chinchilla", "product_floor", "chinchilla_outer", "shape"])
def test_there_and_back_with_the_right_jacobian(name):
    """u -> z -> u is the identity, and log |dz/du| is that of finite differences; free amplitudes apart."""
    law = laws.get(name)
    rng = np.random.default_rng(0)
    columns = {c: np.exp(rng.uniform(np.log(1e2), np.log(1e5), 20)) for c in law.columns}
    surface = surface_of(law, columns, scale=2.0)
    z = surface.to_z(np.array([[law.example[p] for p in law.names]]))
    for held in (None, "B") if "B" in law.names else (None,):
        free = np.array([c.name != held for c in law.coordinates])
        straight = Reparametrisation(surface, free)
        assert straight.active
        u = straight.to_u(z)
        back, jacobian = straight.to_z(u)
        np.testing.assert_allclose(back, z, rtol=1e-9, atol=1e-9)
        slopes = straight.slopes(z[0])
        np.testing.assert_allclose(jacobian[0], np.linalg.slogdet(slopes)[1], atol=1e-5)
        assert abs(jacobian[0]) > 0.1  # a Jacobian that was forgotten would not be seen at 0


def test_no_floor_is_nothing_to_straighten():
    surface = surface_of(laws.get("product"), {"N": np.array([1.0, 2.0]), "D": np.array([3.0, 5.0])})
    assert not Reparametrisation(surface, np.ones(surface.P, dtype=bool)).active


@pytest.mark.parametrize("seed", [0, 1])
def test_draws_have_converged_on_a_flat_valley(seed):
    """Ends of the default's intervals lie where a run ten times as long puts them, within 0.2 of a half-width. In the
    fitting coordinates they fell short by 0.28 of it on average."""
    rows = table(5, 3.0, 0.015, seed)
    y = np.log(rows["loss"].to_numpy())
    point = estimate(laws.get("chinchilla"), rows, rows["loss"], objective("auto"))
    at = infer(point, y, rows, draws=2000, seed=seed)
    long, _ = sample(at, 2000, np.random.default_rng(9), rounds=(1000, 40))
    near, far = (np.quantile(x[:, [0, 3, 4]], [0.05, 0.95], axis=0) for x in (at.z, long))
    half = (far[1] - far[0]) / 2
    assert np.abs((near - far) / half).max() < 0.25
    assert abs(float(((near[1] - near[0]) / (far[1] - far[0])).mean()) - 1) < 0.1
