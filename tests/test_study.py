"""Study and plan: cells, stems, identities, prices and every way to ask for the impossible."""

import dataclasses
import importlib
from pathlib import Path

import pytest
from refusals import refuses

from experiments import demo
from scaling import count, plan, study
from scaling.errors import Code
from scaling.records import read_study


def test_cells_of_one_size_and_seed_share_a_stem(tiny):
    resolved = study.resolve(
        tiny(
            grid=study.block("grid", "known", (0, 1), tokens=(1440, 2880)),
            seeds=study.block("grid", "known", (0,), tokens=(1440,), seeds=(1,), role="seed"),
            cosine=study.block("grid", "known", (0,), tokens=(1440, 2880), recipe={"schedule": "cosine"}),
        )
    )
    made = plan.make(resolved)
    kinds = sorted(tuple(run.kind for run in program.runs) for program in made.programs)
    # The tiny study overrides every field of the ladder, so that sizes 0 and 1 are the same cells, asked for twice.
    assert kinds == [("stem", "branch"), ("stem", "branch", "branch"), ("whole",), ("whole",)]
    for program in made.programs:
        names = [run.run for run in program.runs]
        assert len(set(names)) == len(names) and program.program == names[0]
        for run in program.runs[1:]:
            assert run.manifest.stem == program.program
            assert 0 < (run.branch_step or 0) < run.steps


def test_the_stem_knows_nothing_of_d_and_a_new_d_changes_no_name(tiny):
    few = plan.make(study.resolve(tiny(grid=study.block("grid", "known", (0,), tokens=(1440,)))))
    more = plan.make(study.resolve(tiny(grid=study.block("grid", "known", (0,), tokens=(1440, 2880)))))
    assert few.programs[0].program == more.programs[0].program
    assert few.programs[0].runs[1].run in [run.run for run in more.programs[0].runs]
    other = tiny(grid=study.block("grid", "known", (0,), tokens=(1440,)))
    other.recipe.learning_rate = 0.01
    assert plan.make(study.resolve(other)).programs[0].program != few.programs[0].program
    mesh = tiny(grid=study.block("grid", "known", (0,), tokens=(1440,)))
    mesh.mesh.data, mesh.chunk = 2, 5
    assert plan.make(study.resolve(mesh)).programs[0].program == few.programs[0].program


def test_counts_and_prices_of_the_demo():
    made = plan.make(study.resolve(demo.get_config()))
    rows = made.rows()
    assert len(rows) == made.totals.cells == len({row.run for row in rows}) == 64
    fitted = [row for row in rows if row.role != "holdout"]
    assert min(row.N for row in fitted) < 7_000 and 90_000 < max(row.N for row in fitted) < 110_000
    assert len({row.N for row in fitted}) >= 5 and max(row.D for row in fitted) == 2**22
    held = [row for row in rows if row.role == "holdout"]
    largest = max(row.flops for row in fitted)
    assert len(held) >= 3 and max(row.flops for row in held) > 3 * largest
    assert any(max(f.N for f in fitted) < row.N for row in held)
    assert any(max(f.D for f in fitted) < row.D for row in held)
    beyond = [row for row in held if max(f.N for f in fitted) < row.N and max(f.D for f in fitted) < row.D]
    assert len(beyond) == 1
    for cell in made.study.cells:
        row = next(
            row
            for row in rows
            if (row.dataset, row.size, row.D, row.seed) == (cell.dataset, cell.size, cell.tokens, cell.seed)
        )
        counts = count.parameters(cell.components)
        examples = cell.tokens // cell.config.context
        assert counts["nonembedding"] == row.N and row.six_nd == 6 * row.N * row.D
        assert row.flops == examples * sum(count.training_flops(cell.components).values())
        assert cell.steps * cell.recipe.batch * cell.config.context == row.D
    # A stem is trained once: the study costs less than its cells one by one.
    assert made.totals.flops < 0.9 * sum(row.flops for row in rows)
    assert made.warnings == ()


def test_a_shape_is_compiled_once_by_the_estimate(tiny):
    made = tiny(grid=study.block("grid", "known", (0,), tokens=(1440,), seeds=(0, 1, 2)))
    first, *rest = plan.make(study.resolve(made)).programs
    assert [first.seconds - program.seconds for program in rest] == [pytest.approx(plan.REFERENCE.compile)] * 2


def test_the_smoke_study_is_the_same_study_smaller():
    full, smoke = (study.resolve(demo.get_config(name)) for name in ("", "smoke"))
    assert set(smoke.datasets) == set(full.datasets)
    assert {cell.role for cell in smoke.cells} == {cell.role for cell in full.cells}
    assert sum(cell.tokens for cell in smoke.cells) < sum(cell.tokens for cell in full.cells) / 8
    with refuses(Code.UNKNOWN, "config argument", "big"):
        demo.get_config("big")


def test_isoflop_blocks_meet_their_budget(tiny):
    budget = 3e7
    config = tiny(grid=study.block("isoflop", "known", (0,), budgets=(budget,)))
    (cell,) = study.resolve(config).cells
    flops = plan.training_flops_per_token(cell) * cell.tokens
    assert flops == pytest.approx(budget, rel=0.5 / cell.steps)


def test_study_json_is_written_once_per_study(tiny, tmp_path: Path):
    made = plan.make(study.resolve(tiny()))
    plan.write(made, tmp_path)
    content = read_study(tmp_path)
    assert content.datasets["known"]["source"] == "zipf" and content.ladder["known"][0].N_nonembedding > 0
    config = tiny()
    config.name = "other"
    with refuses(Code.CONFLICT, "workdir", tmp_path):
        plan.write(plan.make(study.resolve(config)), tmp_path)


def test_what_is_written_is_read_as_it_was(tiny, tmp_path: Path):
    made = plan.make(study.resolve(tiny()))
    plan.write(made, tmp_path)
    assert read_study(tmp_path) == made.record()


def test_a_source_that_never_repeats_may_have_more_tokens_than_64_bits_hold(tmp_path: Path):
    config = study.base("pairs")
    config.family, config.data.scenes = "clip", {"source": "scenes"}
    config.cells.grid = study.block("grid", "scenes", (0,), tokens=(2**19,))
    plan.write(made := plan.make(study.resolve(config)), tmp_path)
    assert read_study(tmp_path) == made.record()
    assert max(run.manifest.tokens.unique for program in made.record().programs for run in program.runs) > 2**63


@pytest.mark.parametrize(
    ("change", "code", "field", "value"),
    [
        (lambda c: c.update({"famly": "gpt"}), Code.UNKNOWN, "config.famly", None),
        (lambda c: c.update({"family": "gtp"}), Code.UNKNOWN, "family", "gtp"),
        (lambda c: c.update({"chunk": 0}), Code.INVALID, "config.chunk", 0),
        (lambda c: c.update({"chunk": "many"}), Code.INVALID, "config.chunk", "many"),
        (lambda c: c.update({"checkpoint_seconds": -1.0}), Code.INVALID, "config.checkpoint_seconds", -1.0),
        (lambda c: c.update({"checkpoints": "here"}), Code.INVALID, "config.checkpoints", "here"),
        (lambda c: c.update({"evaluation": {"tokens": 1024, "batch": 0}}), Code.INVALID, "config.evaluation.batch", 0),
        (lambda c: c.update({"evaluation": {"token": 1024}}), Code.UNKNOWN, "config.evaluation.token", None),
        (lambda c: c.__setitem__("recipe", 32), Code.INVALID, "config.recipe", 32),
        (lambda c: c.__setitem__("mesh", 2), Code.INVALID, None, 2),
        (lambda c: c.cells.__setitem__("grid", 3), Code.INVALID, "cells.grid", 3),
        (lambda c: c.data.__setitem__("known", "zipf"), Code.INVALID, "data.known", "zipf"),
        (lambda c: c.model.update({"dept": 3}), Code.UNKNOWN, "model.dept", None),
        (lambda c: c.model.update({"vocab": 4}), Code.CONFLICT, "model.vocab", 4),
        (lambda c: c.data.update({"text": {"source": "txt"}}), Code.UNKNOWN, "source", "txt"),
        (lambda c: c.recipe.update({"name": "none"}), Code.UNKNOWN, "recipe.name", "none"),
        (lambda c: c.mesh.update({"model": 2}), Code.UNKNOWN, None, None),
        (lambda c: c.cells.grid.update({"sizes": (40,)}), Code.UNKNOWN, "size", 40),
        (lambda c: c.cells.grid.update({"sizes": ()}), Code.INVALID, "cells.grid.sizes", "()"),
        (lambda c: c.cells.grid.update({"tokens": (0,)}), Code.INVALID, "cells.grid.tokens", 0),
        (lambda c: c.cells.grid.update({"tokens": ("1e6",)}), Code.INVALID, "cells.grid.tokens", "1e6"),
        (lambda c: c.cells.grid.update({"kind": "cube"}), Code.INVALID, "cells.grid.kind", "cube"),
        (lambda c: c.cells.grid.update({"role": "test"}), Code.INVALID, "cells.grid.role", "test"),
        (lambda c: c.cells.grid.update({"dataset": "web"}), Code.UNKNOWN, "cells.grid.dataset", "web"),
        (lambda c: c.cells.grid.update({"seeds": (-1,)}), Code.INVALID, "cells.grid.seeds", -1),
        (lambda c: c.cells.update({"grid": {"dataset": "known", "d": 3}}), Code.UNKNOWN, "cells.grid.d", None),
        (lambda c: setattr(c, "cells", {}), Code.MISSING, "config.cells", None),
        (
            lambda c: (c.recipe.update({"batch": 3}), c.update({"noise_scale": True})),
            Code.CONFLICT,
            "config.noise_scale",
            3,
        ),
    ],
)
def test_a_wrong_study_is_named(tiny, change, code, field, value):
    config = tiny()
    with config.ignore_type():
        config.unlock()
        change(config)
    with refuses(code, field, value):
        study.resolve(config)


def test_a_recipe_without_a_name_is_the_default_one(tiny):
    named, short = tiny(), tiny()
    short.recipe = {"batch": 4, "warmup_steps": 4}
    assert study.resolve(short).cells == study.resolve(named).cells


def test_repeats_must_be_asked_for(tiny, tmp_path: Path):
    for index in range(40):
        (tmp_path / f"{index}.txt").write_text(f"{index} " * 400)
    config = tiny(grid=study.block("grid", "small", (0,), tokens=(10**6,)))
    config.data = {"small": {"source": "text", "path": str(tmp_path)}}
    with refuses(Code.CONFLICT, "cells.grid.tokens"):
        study.resolve(config)
    config.repeats = True
    (cell,) = study.resolve(config).cells
    assert cell.tokens == pytest.approx(10**6, abs=48)


def test_a_holdout_needs_a_stem_of_its_own(tiny):
    blocks = {
        "grid": study.block("grid", "known", (0,), tokens=(1440,)),
        "held": study.block("grid", "known", (0,), tokens=(2880,), role="holdout"),
    }
    with refuses(Code.CONFLICT, "seeds", 0):
        study.resolve(tiny(**blocks))
    blocks["held"].seeds = (7,)
    assert {cell.role for cell in study.resolve(tiny(**blocks)).cells} == {"fit", "holdout"}


def test_the_first_dataset_is_the_primary_one():
    made = plan.make(study.resolve(demo.get_config("smoke")))
    assert list(made.record().datasets) == ["stdlib", "known"]


def test_a_cell_is_data(tiny):
    cell = study.resolve(tiny()).cells[0]
    with pytest.raises(dataclasses.FrozenInstanceError):
        cell.__setattr__("seed", 3)


@pytest.mark.parametrize(
    ("name", "arms"),
    [
        ("bert", [("mlm", "diffusion", "causal"), ("large", "large-causal")]),
        ("moe", [("moe", "dense", "gqa"), ("large", "large-dense")]),
        ("fusion", [("early", "late", "frozen", "joint"), ("large", "large-late")]),
        ("repeats", [("causal", "diffusion"), ("fresh", "fresh-diffusion"), ("large", "large-diffusion")]),
    ],
)
def test_arms_of_a_comparison_share_sizes_tokens_seeds_and_data(name, arms):
    module = importlib.import_module(f"experiments.{name}")
    assert set(module.ARMS) == {arm for group in arms for arm in group}
    for group in arms:
        made = [study.resolve(module.get_config(arm)) for arm in group]
        cells = [[(c.dataset, c.size, c.tokens, c.seed, c.role) for c in each.cells] for each in made]
        assert all(each == cells[0] for each in cells) and len(cells[0]) >= 18
        assert len({str(each.datasets) for each in made}) == 1 and len({each.name for each in made}) == len(group)
        seeds = {(size, seed) for _, size, _, seed, _ in cells[0]}
        assert len({size for size, _ in seeds}) >= 4 and sum(seed == 1 for _, seed in seeds) == 2
