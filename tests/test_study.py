"""Study and plan: cells, stems, identities, prices and every way to ask for the impossible."""

import dataclasses
import importlib
from pathlib import Path

import pytest

from experiments import demo
from scaling import count, plan, study
from scaling.errors import UserError
from scaling.records import read_json


def test_cells_of_one_size_and_seed_share_a_stem(tiny):
    resolved = study.resolve(
        tiny(
            grid=study.block("grid", "known", (0, 1), tokens=(1440, 2880)),
            seeds=study.block("grid", "known", (0,), tokens=(1440,), seeds=(1,), role="seed"),
            cosine=study.block("grid", "known", (0,), tokens=(1440, 2880), recipe={"schedule": "cosine"}),
        )
    )
    made = plan.make(resolved)
    kinds = sorted(tuple(run["kind"] for run in program["runs"]) for program in made.programs)
    # The tiny study overrides every field of the ladder, so that sizes 0 and 1 are the same cells, asked for twice.
    assert kinds == [("stem", "branch"), ("stem", "branch", "branch"), ("whole",), ("whole",)]
    for program in made.programs:
        names = [run["run"] for run in program["runs"]]
        assert len(set(names)) == len(names) and program["program"] == names[0]
        for run in program["runs"][1:]:
            assert run["manifest"]["stem"] == program["program"]
            assert 0 < run["branch_step"] < run["steps"]


def test_the_stem_knows_nothing_of_d_and_a_new_d_changes_no_name(tiny):
    few = plan.make(study.resolve(tiny(grid=study.block("grid", "known", (0,), tokens=(1440,)))))
    more = plan.make(study.resolve(tiny(grid=study.block("grid", "known", (0,), tokens=(1440, 2880)))))
    assert few.programs[0]["program"] == more.programs[0]["program"]
    assert few.programs[0]["runs"][1]["run"] in [run["run"] for run in more.programs[0]["runs"]]
    other = tiny(grid=study.block("grid", "known", (0,), tokens=(1440,)))
    other.recipe.learning_rate = 0.01
    assert plan.make(study.resolve(other)).programs[0]["program"] != few.programs[0]["program"]
    mesh = tiny(grid=study.block("grid", "known", (0,), tokens=(1440,)))
    mesh.mesh.data, mesh.chunk = 2, 5
    assert plan.make(study.resolve(mesh)).programs[0]["program"] == few.programs[0]["program"]


def test_counts_and_prices_of_the_demo():
    made = plan.make(study.resolve(demo.get_config()))
    rows = made.rows()
    assert len(rows) == made.totals["cells"] == len({row["run"] for row in rows}) == 64
    fitted = [row for row in rows if row["role"] != "holdout"]
    assert min(row["N"] for row in fitted) < 7_000 and 90_000 < max(row["N"] for row in fitted) < 110_000
    assert len({row["N"] for row in fitted}) >= 5 and max(row["D"] for row in fitted) == 2**22
    held = [row for row in rows if row["role"] == "holdout"]
    largest = max(row["flops"] for row in fitted)
    assert len(held) >= 3 and max(row["flops"] for row in held) > 3 * largest
    assert any(row["N"] > max(f["N"] for f in fitted) for row in held)
    assert any(row["D"] > max(f["D"] for f in fitted) for row in held)
    beyond = [row for row in held if row["N"] > max(f["N"] for f in fitted) and row["D"] > max(f["D"] for f in fitted)]
    assert len(beyond) == 1
    for cell in made.study.cells:
        row = next(
            row
            for row in rows
            if (row["dataset"], row["size"], row["D"], row["seed"]) == (cell.dataset, cell.size, cell.tokens, cell.seed)
        )
        counts = count.parameters(cell.components)
        examples = cell.tokens // cell.config.context
        assert row["N"] == counts["nonembedding"] and row["6ND"] == 6 * row["N"] * row["D"]
        assert row["flops"] == examples * sum(count.training_flops(cell.components).values())
        assert row["D"] == cell.steps * cell.recipe.batch * cell.config.context
    # A stem is trained once: the study costs less than its cells one by one.
    assert made.totals["flops"] < 0.9 * sum(row["flops"] for row in rows)
    assert made.warnings == ()


def test_a_shape_is_compiled_once_by_the_estimate(tiny):
    made = tiny(grid=study.block("grid", "known", (0,), tokens=(1440,), seeds=(0, 1, 2)))
    first, *rest = plan.make(study.resolve(made)).programs
    assert [first["seconds"] - program["seconds"] for program in rest] == [pytest.approx(plan.CPU_COMPILE_SECONDS)] * 2


def test_the_smoke_study_is_the_same_study_smaller():
    full, smoke = (study.resolve(demo.get_config(name)) for name in ("", "smoke"))
    assert set(smoke.datasets) == set(full.datasets)
    assert {cell.role for cell in smoke.cells} == {cell.role for cell in full.cells}
    assert sum(cell.tokens for cell in smoke.cells) < sum(cell.tokens for cell in full.cells) / 8
    with pytest.raises(UserError, match="config argument = big"):
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
    content = read_json(tmp_path / "study.json")
    assert content["datasets"]["known"]["source"] == "zipf" and content["ladder"]["known"][0]["N_nonembedding"] > 0
    config = tiny()
    config.name = "other"
    with pytest.raises(UserError, match="holds the study tiny"):
        plan.write(plan.make(study.resolve(config)), tmp_path)


def test_manifests_obey_the_schema(tiny):
    import json

    import jsonschema

    schema = json.loads((Path(__file__).parents[1] / "scaling" / "records" / "record.schema.json").read_text())
    made = plan.make(study.resolve(tiny()))
    for run in made.programs[0]["runs"]:
        jsonschema.validate(run["manifest"], {**schema, "$ref": "#/$defs/manifest"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update({"famly": "gpt"}), r"config\.famly = gpt: unknown field"),
        (lambda c: c.update({"family": "gtp"}), r"family = gtp: unknown"),
        (lambda c: c.update({"chunk": 0}), r"config\.chunk = 0"),
        (lambda c: c.model.update({"dept": 3}), r"model\.dept = 3: unknown field"),
        (lambda c: c.model.update({"vocab": 4}), r"model\.vocab = 4: dataset known has tokens up to 16"),
        (lambda c: c.data.update({"text": {"source": "txt"}}), r"source = txt"),
        (lambda c: c.recipe.update({"name": "none"}), r"recipe\.name = none: unknown"),
        (lambda c: c.mesh.update({"model": 2}), r"config\.mesh\.model = 2"),
        (lambda c: c.cells.grid.update({"sizes": (40,)}), r"size = 40: the ladder of gpt has sizes 0 to"),
        (lambda c: c.cells.grid.update({"sizes": ()}), r"cells\.grid\.sizes = \(\): must not be empty"),
        (lambda c: c.cells.grid.update({"tokens": (0,)}), r"cells\.grid\.tokens = 0: must be a positive"),
        (lambda c: c.cells.grid.update({"tokens": ("1e6",)}), r"cells\.grid\.tokens = 1e6"),
        (lambda c: c.cells.grid.update({"kind": "cube"}), r"cells\.grid\.kind = cube"),
        (lambda c: c.cells.grid.update({"role": "test"}), r"cells\.grid\.role = test"),
        (lambda c: c.cells.grid.update({"dataset": "web"}), r"cells\.grid\.dataset = web: choose one of known"),
        (lambda c: c.cells.grid.update({"seeds": (-1,)}), r"cells\.grid\.seeds = -1"),
        (lambda c: c.cells.update({"grid": {"dataset": "known", "d": 3}}), r"cells\.grid\.d = 3: unknown field"),
        (lambda c: setattr(c, "cells", {}), r"config\.cells = \{\}"),
        (
            lambda c: (c.recipe.update({"batch": 3}), c.update({"noise_scale": True})),
            r"config\.noise_scale = 3: a batch",
        ),
    ],
)
def test_a_wrong_study_is_named(tiny, change, message):
    config = tiny()
    config.unlock()
    change(config)
    with pytest.raises(UserError, match=message):
        study.resolve(config)


def test_repeats_must_be_asked_for(tiny, tmp_path: Path):
    for index in range(40):
        (tmp_path / f"{index}.txt").write_text(f"{index} " * 400)
    config = tiny(grid=study.block("grid", "small", (0,), tokens=(10**6,)))
    config.data = {"small": {"source": "text", "path": str(tmp_path)}}
    with pytest.raises(UserError, match=r"tokens without repeats; lower D or set config\.repeats"):
        study.resolve(config)
    config.repeats = True
    (cell,) = study.resolve(config).cells
    assert cell.tokens == pytest.approx(10**6, abs=48)


def test_a_holdout_needs_a_stem_of_its_own(tiny):
    blocks = {
        "grid": study.block("grid", "known", (0,), tokens=(1440,)),
        "held": study.block("grid", "known", (0,), tokens=(2880,), role="holdout"),
    }
    with pytest.raises(UserError, match="shares its stem with fitted cells"):
        study.resolve(tiny(**blocks))
    blocks["held"].seeds = (7,)
    assert {cell.role for cell in study.resolve(tiny(**blocks)).cells} == {"fit", "holdout"}


def test_the_first_dataset_is_the_primary_one():
    made = plan.make(study.resolve(demo.get_config("smoke")))
    assert list(made.to_json()["datasets"]) == ["stdlib", "known"]


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
        ("repeats", [("causal", "diffusion"), ("large", "large-diffusion")]),
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
