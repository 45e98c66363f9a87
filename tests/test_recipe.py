import json

import numpy as np
import pytest
from refusals import refuses

from scaling import families, plan, recipe, study
from scaling.errors import Code
from scaling.recipe.parametrisation import by_muon
from scaling.records import write_json


def test_a_branch_equals_its_stem_until_it_decays():
    rules = recipe.named("width", warmup_steps=10, decay_fraction=0.25)
    step = np.arange(200)
    stem, branch = recipe.rate(rules, step, None), recipe.rate(rules, step, 120)
    start = 120 - recipe.decay_steps(rules, 120)
    assert start == 90
    np.testing.assert_array_equal(stem[:start], branch[:start])
    assert np.all(np.diff(branch[start - 1 : 120]) < 0) and branch[119] > 0 and np.all(branch[120:] == 0)
    assert stem[0] == pytest.approx(0.1) and np.all(stem[9:] == 1)


def test_the_square_root_decay_starts_and_ends_with_the_straight_one():
    line, root = (
        recipe.rate(recipe.named("width", warmup_steps=1, decay_shape=shape), np.arange(100), 100)
        for shape in ("linear", "sqrt")
    )
    start = 100 - recipe.decay_steps(recipe.named("width"), 100)
    assert np.all(root[:start] == 1) and np.all(root[start:] < line[start:]) and root[99] > 0
    # After j of n + 1 parts of the decay the rate is 1 - sqrt(j / (n + 1)) of the peak.
    j = np.arange(1, 31)
    np.testing.assert_allclose(root[start:], 1 - np.sqrt(j / 31), rtol=1e-6)


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
    ("fields", "field", "value", "code"),
    [
        ({"name": "magic"}, "name", "magic", Code.UNKNOWN),
        ({"lr": 1.0}, "lr", 1.0, Code.UNKNOWN),
        ({"batch": 1.5}, "batch", 1.5, Code.INVALID),
        ({"batch": True}, "batch", True, Code.INVALID),
        ({"batch": 0}, "batch", 0, Code.INVALID),
        ({"learning_rate": -1}, "learning_rate", -1.0, Code.INVALID),
        ({"learning_rate": float("inf")}, "learning_rate", "inf", Code.INVALID),
        ({"learning_rate": 10**5000}, "learning_rate", None, Code.INVALID),
        ({"schedule": "linear"}, "schedule", "linear", Code.INVALID),
        ({"decay_fraction": 1.0}, "decay_fraction", 1.0, Code.INVALID),
        ({"warmup_steps": -1}, "warmup_steps", -1, Code.INVALID),
        ({"decay_shape": "cubic"}, "decay_shape", "cubic", Code.INVALID),
        ({"optimizer": "adam", "weight_decay": 0.1}, "weight_decay", 0.1, Code.CONFLICT),
        ({"rule": "law"}, "rate_law", (), Code.MISSING),
        ({"rate_law": (1.0, 2.0)}, "rate_law", (1.0, 2.0), Code.INVALID),
        ({"rate_law": ("a", 1, 2)}, "rate_law", ("a", 1, 2), Code.INVALID),
        ({"rule": "sqrt"}, "base_rate", 0.0, Code.INVALID),
        ({"name": "sqrt", "learning_rate": 0.1}, "learning_rate", 0.1, Code.CONFLICT),
        ({"name": "step_law", "batch": 8}, "batch", 8, Code.CONFLICT),
        ({"name": "missing.json"}, "name", "missing.json", Code.MISSING),
    ],
)
def test_a_wrong_recipe_is_named(fields, field, value, code):
    with refuses(code, f"recipe.{field}", value):
        recipe.named(**{"name": "width", **fields})
    with refuses(code, f"recipe.{field}", value):
        recipe.read({"name": "standard"}, {"name": "width", **fields})


def test_sections_of_a_recipe_are_fields_by_name():
    assert recipe.read({"batch": 32}) == recipe.named("width", batch=32)
    assert recipe.read({"name": "mup"}, {}, {"batch": 2}) == recipe.named("mup", batch=2)
    for wrong in (5, "mup", ["batch"], None):
        with refuses(Code.INVALID, "config.recipe", wrong):
            recipe.read({"name": "mup"}, wrong)


def test_a_program_is_compiled_for_the_fields_that_are_not_traced():
    static = set(recipe.static(recipe.record(recipe.named("step_law", momentum=0.9))))
    assert static == {
        *("parametrisation", "optimizer", "base_width", "batch"),
        *("beta1", "beta2", "epsilon", "clip", "momentum"),
    }


def test_the_step_law_is_the_published_one():
    """Li 2025, arXiv 2503.04715: lr = 1.79 N^-0.713 D^0.307, batch = 0.58 D^0.571 tokens."""
    got = recipe.resolve(recipe.named("step_law"), 1e9, 1e11, 2048)
    assert got.learning_rate == pytest.approx(1.79 * 1e9**-0.713 * 1e11**0.307)
    assert got.learning_rate == pytest.approx(1.62e-3, rel=0.01) and got.schedule == "cosine"
    assert got.batch == 512  # 0.58e11^0.571 tokens is 541 sequences; a power of two
    assert recipe.resolve(got, 1e9, 1e11, 2048) == got


def test_the_square_root_rule_grows_batch_with_d_and_the_rate_with_batch():
    rules = recipe.named("sqrt", base_rate=0.01, base_batch=16, base_tokens=10**6)
    got = recipe.resolve(rules, 1e5, 16e6, 64)
    assert (got.batch, got.learning_rate) == (64, 0.02)
    assert recipe.resolve(got, 1e5, 10**6, 64).batch == 16
    # Without base_tokens the batch is as given, and only the rate follows it.
    swept = recipe.resolve(recipe.named("sqrt", base_tokens=0, batch=4, base_rate=0.02), 1e5, 1e6, 64)
    assert (swept.batch, swept.learning_rate) == (4, 0.01)


def test_a_record_grows_only_by_what_is_set():
    old = recipe.record(recipe.named("width"))
    assert "rule" not in old and "base_depth" not in old and old["clip"] == 1.0
    rules = recipe.named("step_law")
    text = json.loads(json.dumps(recipe.record(rules)))
    assert recipe.Recipe(**text) == rules


def test_a_rule_of_d_gives_each_d_its_stem_and_a_fixed_one_shares_it(tiny):
    def programs(**fields):
        config = tiny(grid=study.block("grid", "known", (0,), tokens=(1440, 5760)))
        config.recipe.batch = 4
        if fields:
            config.recipe = {"warmup_steps": 4, **fields}
        return plan.make(study.resolve(config)).programs

    assert [len(program.runs) for program in programs()] == [3]
    made = programs(name="sqrt", base_tokens=1440, base_batch=4)
    assert [[run.kind for run in program.runs] for program in made] == [["stem", "branch"]] * 2
    settings = {run.manifest.tokens.D: run.manifest.recipe for p in made for run in p.runs[1:]}
    assert [settings[d]["batch"] for d in sorted(settings)] == [4, 8]
    assert settings[max(settings)]["learning_rate"] == pytest.approx(0.02 * 2**0.5)


def test_a_recipe_file_is_a_recipe_by_its_path(tmp_path, tiny):
    path = tmp_path / "tuned.json"
    law = {"name": "width", "rule": "law", "rate_law": [2.0, -0.5, 0.1], "base_width": 16}
    draw = [0.02, 0.0, 0.0, np.log(2.0), -0.5, 0.1, 0.0, 0.0, 0.0]
    fit = {"point": draw, "draws": [draw, draw], "level": 0.95, "batch_law": None}
    write_json(path, {"schema": 1, "kind": "recipe", "recipe": law, "fit": fit})
    rules = recipe.named(str(path), warmup_steps=4)
    assert rules.rate_law == (2.0, -0.5, 0.1) and rules.name == "width" and len(rules.tuned) == 12
    config = tiny()
    config.recipe = {"name": str(path), "batch": 4, "warmup_steps": 4}
    cell = study.resolve(config).cells[0]
    parameters = plan.make(study.resolve(config)).rows()[0].N
    assert cell.recipe.learning_rate == pytest.approx(2.0 * parameters**-0.5 * cell.tokens**0.1, rel=0.01)
    # Fixed again by hand, it is still known which tuned recipe it left.
    assert recipe.named(str(path), rule="fixed", learning_rate=0.3).tuned == rules.tuned
    held = {"schema": 1, "kind": "recipe", "recipe": law, "fit": fit}
    for wrong in (
        {},
        {"schema": 1, "kind": "recipe", "recipe": {}},
        {**held, "recipe": [law]},
        {**held, "fit": {**fit, "point": draw[:3]}},
        {**held, "fit": {**fit, "draws": "many"}},
    ):
        text = json.dumps(wrong)
        (tmp_path / "other.json").write_text(text)
        with refuses(Code.DAMAGED, "recipe.name", tmp_path / "other.json"):
            recipe.named(str(tmp_path / "other.json"))


@pytest.mark.parametrize("family", families.names())
@pytest.mark.parametrize("optimizer", recipe.OPTIMIZERS)
def test_every_optimizer_and_parametrisation_takes_every_family(family, optimizer):
    import jax

    module = families.load(family)
    config = families.configure(module, 4)
    axes, shapes = module.axes(config), jax.eval_shape(lambda: module.init(jax.random.key(0), config))
    for parametrisation in recipe.PARAMETRISATIONS:
        rules = recipe.named("width", parametrisation=parametrisation, optimizer=optimizer, base_width=8)
        tied = getattr(config, "tied", False)
        direct = recipe.optimizer(rules, axes, shapes, tied)
        state = jax.eval_shape(direct.init, shapes)
        directions, after = jax.eval_shape(direct.update, shapes, state, shapes)
        assert jax.tree.map(lambda x: x.shape, directions) == jax.tree.map(lambda x: x.shape, shapes)
        assert jax.tree.structure(after) == jax.tree.structure(state)
        scales = set(jax.tree.leaves(recipe.multipliers(axes, shapes, rules, tied)))
        # Size 4 is wider than the base, and no part shallower: but under standard some learn more slowly, none faster.
        assert scales == {1.0} if parametrisation == "standard" else min(scales) < 1.0 == max(scales)
        if optimizer == "muon":
            paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(state)]
            matrices = sum("'muon'" in path and ".mu[" in path for path in paths)
            assert matrices == sum(by_muon(names) for names in _leaves(axes)) >= 6


@pytest.mark.system
def test_muon_orthogonalises_each_layer_and_leaves_the_rest_to_adam():
    import jax

    module = families.load("gpt")
    config = families.configure(module, 0, width=16, heads=2, tied=False, vocab=32)
    axes, shapes = module.axes(config), jax.eval_shape(lambda: module.init(jax.random.key(0), config))
    rng = np.random.default_rng(0)
    gradient = jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape).astype(np.float32), shapes)
    direct = recipe.optimizer(recipe.named("muon"), axes, shapes)
    direction, _ = jax.jit(lambda g: direct.update(g, direct.init(g), g))(gradient)
    for name, matrix in (("q", (16, 16)), ("o", (16, 16)), ("up", (16, 64)), ("down", (64, 16))):
        for layer in range(2):
            got = np.asarray(direction["stack"][name][layer]).reshape(matrix)
            # Five steps of Newton and Schulz bring singular values near 1, not to it; the size is that of muon's RMS.
            values = np.linalg.svd(got)[1] / (0.2 * max(matrix) ** 0.5)
            assert values.min() > 0.5 and values.max() < 1.35
            assert np.sum(got * np.asarray(gradient["stack"][name][layer]).reshape(matrix)) > 0  # uphill
    # The first step of Adam is the sign; with Nesterov's look ahead it is b1 / (1 + b1) + 1 of it.
    for name in ("embedding", "head", "norm"):
        np.testing.assert_allclose(np.abs(direction[name]), 1 + 0.9 / 1.9, rtol=1e-3)


def _leaves(axes):
    return [names for value in axes.values() for names in (_leaves(value) if isinstance(value, dict) else [value])]
