"""Examples that belong together, as those that share the capacity of experts: no part of a batch cuts their group."""

import jax.numpy as jnp
import numpy as np
import pytest
from refusals import refuses

from scaling import families, plan, study, train
from scaling.errors import Code
from scaling.families import gpt
from scaling.records import records
from scaling.step import _split


def test_microbatches_hold_whole_groups_in_their_order():
    index = jnp.arange(24)
    parts = np.asarray(_split({"example": index}, 3, 4)["example"])
    assert parts.tolist() == [
        [0, 1, 2, 3, 12, 13, 14, 15],
        [4, 5, 6, 7, 16, 17, 18, 19],
        [8, 9, 10, 11, *range(20, 24)],
    ]
    assert np.asarray(_split({"example": index}, 3)["example"])[1].tolist() == [1, 4, 7, 10, 13, 16, 19, 22]


def test_what_would_cut_a_group_is_refused_before_anything_trains(tiny):
    config = families.configure(gpt, 0, experts=4)  # 1,024 tokens: 16 examples of 64
    assert families.together(gpt, config) == 16 and families.together(gpt, families.configure(gpt, 0)) == 1
    assert families.together(gpt, families.configure(gpt, 0, experts=4, context=2048)) == 1
    families.require_whole_groups(gpt, config, 32, 2)
    with refuses(Code.CONFLICT, "execution.microbatches", 2):
        families.require_whole_groups(gpt, config, 16, 2)
    made = tiny()
    made.model.experts, made.model.group = 2, 24  # two examples of 12
    made.execution = {"microbatches": 2}
    study.resolve(made)
    made.execution = {"microbatches": 4}
    with refuses(Code.CONFLICT, "execution.microbatches", 4):
        study.resolve(made)
    made.execution, made.noise_scale = {"microbatches": 1}, True
    study.resolve(made)
    made.model.group = 48
    with refuses(Code.CONFLICT, "config.noise_scale", 4):
        study.resolve(made)


@pytest.mark.system
def test_the_batch_of_an_evaluation_changes_no_loss_of_experts_nor_their_identity(tiny, tmp_path):
    found = []
    for batch in (32, 5):
        config = tiny()
        config.model.experts, config.model.top, config.model.capacity, config.model.group = 4, 1, 0.5, 36
        config.evaluation.batch = batch
        program = plan.make(study.resolve(config)).programs[0]
        train.execute(program, tmp_path / str(batch), progress=lambda *_: None, should_stop=lambda: False)
        found.append({record.path.name: record.result.evaluation for record in records(tmp_path / str(batch))})
    whole, cut = found
    assert whole.keys() == cut.keys() and len(whole) >= 2
    for name, terms in whole.items():
        if terms:  # a stem has none
            assert set(terms) == {"loss", "balance", "dropped", "dropped_evaluation"}
            assert 0 < terms["dropped_evaluation"].value < terms["dropped"].value < 1 <= terms["balance"].value + 1e-6
            for term, value in terms.items():
                assert cut[name][term].value == pytest.approx(value.value, rel=2e-6)
