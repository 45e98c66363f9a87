import numpy as np
import pytest

from scaling import families, recipe
from scaling.errors import UserError


def test_a_branch_equals_its_stem_until_it_decays():
    rules = recipe.named("width", warmup_steps=10, decay_fraction=0.25)
    step = np.arange(200)
    stem, branch = recipe.rate(rules, step, None), recipe.rate(rules, step, 120)
    start = 120 - recipe.decay_steps(rules, 120)
    assert start == 90
    np.testing.assert_array_equal(stem[:start], branch[:start])
    assert np.all(np.diff(branch[start - 1 : 120]) < 0) and branch[119] > 0 and np.all(branch[120:] == 0)
    assert stem[0] == pytest.approx(0.1) and np.all(stem[9:] == 1)


def test_cosine_ends_at_its_final_fraction():
    rules = recipe.named("width", schedule="cosine", warmup_steps=10, final_fraction=0.1)
    share = recipe.rate(rules, np.arange(101), 100)
    assert share[10] == pytest.approx(1.0) and share[100] == pytest.approx(0.1)
    assert share[55] == pytest.approx(0.55, abs=1e-6)


def test_the_width_rule_scales_matrices_only():
    import jax

    gpt = families.load("gpt")
    config = families.configure(gpt, 4, tied=False)
    shapes = jax.eval_shape(lambda: gpt.init(jax.random.key(0), config))
    rules = recipe.named("width", base_width=32)
    scale = recipe.multipliers(gpt.axes(config), shapes, rules)
    assert scale["embedding"] == scale["norm"] == scale["stack"]["q_norm"] == 1.0
    assert scale["head"] == scale["stack"]["down"] == scale["stack"]["q"] == 0.5
    standard = recipe.multipliers(gpt.axes(config), shapes, recipe.named("standard"))
    assert set(jax.tree.leaves(standard)) == {1.0}
    shrinks = recipe.decayed(gpt.axes(config))
    assert shrinks["embedding"] == shrinks["norm"] == 0.0 and shrinks["stack"]["up"] == 1.0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "magic"}, r"recipe\.name = magic: unknown"),
        ({"name": "width", "lr": 1.0}, r"recipe\.lr = 1\.0: unknown field"),
        ({"name": "width", "batch": 1.5}, r"recipe\.batch = 1\.5: must be a int"),
        ({"name": "width", "batch": 0}, r"recipe\.batch = 0: must be positive"),
        ({"name": "width", "learning_rate": -1}, r"recipe\.learning_rate"),
        ({"name": "width", "schedule": "linear"}, r"recipe\.schedule = linear: choose one of wsd"),
        ({"name": "width", "decay_fraction": 1.0}, r"recipe\.decay_fraction"),
        ({"name": "width", "warmup_steps": -1}, r"recipe\.warmup_steps = -1"),
    ],
)
def test_a_wrong_recipe_is_named(fields, message):
    with pytest.raises(UserError, match=message):
        recipe.named(**fields)
