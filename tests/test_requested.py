"""What a study asks for and does not get: D that coincide, models that are one, warm-ups that never end; it is said."""

import dataclasses

import numpy as np
import pytest
from refusals import refuses

from scaling import cli, distributed, plan, recipe, study
from scaling.errors import Code

STEP = 48  # tokens: 4 sequences of 12


def warnings(config, word: str) -> list[str]:
    return [text for text in plan.make(study.resolve(config)).warnings if word in text]


def test_requested_d_that_coincide_are_counted(tiny):
    config = tiny(grid=study.block("grid", "known", (0,), tokens=(1440, 1450, 2880, 2890)))
    resolved = study.resolve(config)
    assert len(resolved.cells) == 2
    (rounding,) = resolved.roundings
    assert (rounding.block, rounding.size, rounding.asked, rounding.left) == ("grid", 0, 4, 2)
    (text,) = warnings(config, "cells.grid")
    assert "4 D become 2" in text
    seeds = tiny(grid=study.block("grid", "known", (0,), tokens=(1440, 2880), seeds=(0, 1)))
    seeds.cells.again = study.block("grid", "known", (0,), tokens=(1440, 1440), seeds=(1,), role="seed")
    assert not warnings(seeds, "cells.")  # asked for twice is no rounding


def test_budgets_that_coincide_too(tiny):
    config = tiny(curve=study.block("isoflop", "known", (0,), budgets=(3e7, 3.0001e7)))
    assert len(study.resolve(config).cells) == 1 and "2 D become 1" in warnings(config, "cells.curve")[0]


def test_a_d_that_rounding_changes_much_is_said(tiny):
    config = tiny(grid=study.block("grid", "known", (0,), tokens=(70, 4800)))
    assert study.resolve(config).roundings[0].furthest == (70, 48)
    assert "D 70 becomes 48" in warnings(config, "cells.grid")[0]
    assert not warnings(tiny(grid=study.block("grid", "known", (0,), tokens=(1450, 4800))), "cells.grid")


def test_sizes_that_are_one_model_are_named(tiny):
    config = tiny(grid=study.block("grid", "known", (0, 1), tokens=(1440,)))
    assert len(study.resolve(config).cells) == 1  # the tiny study overrides every field of the ladder
    (text,) = warnings(config, "same model")
    assert "cells.grid, size 1" in text
    config.model = {"context": 12}
    assert not warnings(config, "same model") and len(study.resolve(config).cells) == 2


# DeepSpeed 8142: a warm-up of 40 steps in a cosine run of 32


@pytest.mark.parametrize(
    ("schedule", "warmup", "steps", "decays", "last"),
    [
        ("cosine", 40, 32, False, 0.8),
        ("cosine", 32, 32, False, 1.0),
        ("cosine", 31, 32, False, 1.0),
        ("cosine", 4, 32, True, None),
        ("wsd", 4, 32, True, None),
        ("constant", 4, 32, False, 1.0),
    ],
)
def test_a_run_decays_only_if_its_rate_falls(schedule, warmup, steps, decays, last):
    rules = recipe.Recipe(schedule=schedule, warmup_steps=warmup)
    assert recipe.decays(rules, steps) == decays
    end = float(recipe.rate(rules, np.array(steps - 1), steps))
    assert end == pytest.approx(last) if last is not None else end < 0.2


def test_a_plan_warns_of_a_warmup_longer_than_the_run(tiny):
    config = tiny(grid=study.block("grid", "known", (0,), tokens=(32 * STEP, 100 * STEP)))
    assert not warnings(config, "warm-up")
    config.recipe.warmup_steps = 40
    for schedule, undecayed in (("cosine", "1 end without a decay"), ("wsd", "")):
        config.recipe.schedule = schedule
        (text,) = warnings(config, "warm-up")
        assert " 40 steps " in text and " 1 cells " in text and "32 steps" in text and undecayed in text
    config.recipe.warmup_steps = 30  # wsd decays from step 22 on
    assert len(warnings(config, "warm-up")) == 1
    config.recipe.schedule = "cosine"
    assert not warnings(config, "warm-up")
    for warmup in (31, 32):  # the rate is highest at the end
        config.recipe.warmup_steps = warmup
        (text,) = warnings(config, "warm-up")
        assert " 1 cells " in text and "1 end without a decay" in text
    config.recipe.schedule = "constant"
    assert not warnings(config, "warm-up")


@pytest.mark.parametrize(("warmup", "decayed"), [(40, False), (4, True)])
def test_the_record_says_whether_it_decayed(tiny, tmp_path, warmup, decayed):
    from test_train import go, prepare

    from scaling.records import records

    config = tiny(grid=study.block("grid", "known", (0,), tokens=(32 * STEP,)))
    config.recipe.schedule, config.recipe.warmup_steps = "cosine", warmup
    for program in prepare(config, tmp_path):
        go(program, tmp_path)
    (record,) = records(tmp_path)
    assert record.result is not None and record.result.decayed == decayed


# srun -n 2 scaling run


EXPERIMENT = """
from conftest import tiny_config

def get_config(argument=""):
    config = tiny_config()
    config.mesh.data = int(argument or 1)
    return config
"""


@pytest.mark.parametrize(
    ("argument", "flags", "field", "remedies"),
    [
        ("", [], "mesh = one device: ", ("--config.mesh.data=2", "SCALING_PROCESSES=1")),
        ("2", ["--workers=2"], "workers = 2: ", ("--workers=1",)),
    ],
)
def test_several_tasks_of_srun_are_told_what_to_do(tmp_path, monkeypatch, capsys, argument, flags, field, remedies):
    (tmp_path / "exp.py").write_text(EXPERIMENT)
    slurm = {"NUM_TASKS": "2", "NODELIST": "n1"}
    for name, value in {**{f"SLURM_STEP_{name}": value for name, value in slurm.items()}, "SLURM_PROCID": "1"}.items():
        monkeypatch.setenv(name, value)
    work = tmp_path / "w"
    command = ["run", f"--config={tmp_path / 'exp.py'}:{argument}".rstrip(":"), f"--workdir={work}", *flags]
    assert cli.main(command) == cli.EXIT_USER
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and field in line and all(remedy in line for remedy in remedies)
    assert not work.exists()


def test_a_mesh_has_a_part_for_every_process():
    group = distributed.Group("n1:1", 2, 0)
    for shape in ({"data": 2}, {"data": 2, "fsdp": 3}, {"ensemble": 1, "data": 1, "tensor": 4}):
        distributed.check_mesh(group, shape)
    with refuses(Code.ENVIRONMENT, "mesh", "data 3"):
        distributed.check_mesh(group, {"data": 3})
    three = dataclasses.replace(group, processes=3)
    with refuses(Code.ENVIRONMENT, "mesh", "one device") as caught:
        distributed.check_mesh(three, {"data": 1})
    assert "--config.mesh.data=3" in caught.value.remedy and "a multiple of 3 devices" in caught.value.remedy
