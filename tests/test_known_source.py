"""The source of known entropy: entropy, samples and reference against each other and against brute force."""

import hashlib
import json
import math

import numpy as np
import pytest
from refusals import refuses

from scaling import data
from scaling.data import zipf
from scaling.errors import Code, UserError

ENTROPY = 0.5159681804033731  # of the default world; a change here makes old records of it incomparable
FIRST = [[9, 22, 78, 1, 24, 55, 1, 24, 55], [1, 24, 55, 1, 24, 55, 12, 27, 84]]


def world(**fields) -> zipf.Zipf:
    return zipf.make(zipf.Config(**fields))


def decode(source: zipf.Zipf, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ranks of the contexts and targets of the whole blocks, read from the tokens alone."""
    c = source.config
    rank_of_code = np.argsort(source.codes)
    blocks = tokens[:, : tokens.shape[1] // (c.digits + 1) * (c.digits + 1)].reshape(len(tokens), -1, c.digits + 1)
    code = np.zeros(blocks.shape[:2], np.int64)
    for place in range(c.digits):
        digit = blocks[:, :, place] - place * c.base
        assert digit.min() >= 0 and digit.max() < c.base
        code = code * c.base + digit
    target = blocks[:, :, -1] - c.digits * c.base
    assert target.min() >= 0 and target.max() < c.targets
    return rank_of_code[code], target


def test_entropy_is_the_brute_force_sum():
    source = world(base=5, targets=7, exponent=0.3, peak=3.0)
    weights = [(c + 1) ** -1.3 for c in range(25)]
    total = 0.0
    for weight, row in zip(weights, source.log_table):
        assert math.fsum(math.exp(value) for value in row) == pytest.approx(1, abs=1e-12)
        total += weight / math.fsum(weights) * -math.fsum(math.exp(value) * value for value in row)
    assert source.entropy == pytest.approx(total, abs=1e-12)
    assert source.describe()["entropy"] == source.entropy < source.marginal_entropy < math.log(7)


def test_entropy_at_the_ends():
    assert world(peak=0.0).entropy == pytest.approx(math.log(zipf.Config().targets), abs=1e-12)
    assert world(peak=100.0).entropy < 0.05


def test_the_default_world_is_the_same_everywhere():
    about = world().describe()
    text = json.dumps({"source": "zipf", "version": 1, **data.resolve({"source": "zipf"})}, sort_keys=True)
    assert about["sha256"] == hashlib.sha256(text.encode()).hexdigest()
    assert about["entropy"] == pytest.approx(ENTROPY, abs=1e-9)
    first = world().batch(np.array([0, 10**12]), seed=5, context=8)["tokens"]
    assert first.tolist() == FIRST


def test_mean_of_the_reference_is_the_entropy_within_its_standard_error():
    source = world()
    found = source.evaluation(64, 400_000)
    values = found["reference"][found["mask"] == 1].astype(np.float64)
    error = values.std() / len(values) ** 0.5
    assert len(values) >= 400_000 and error < 0.003
    assert abs(values.mean() - source.entropy) < 4 * error
    assert (found["reference"][found["mask"] == 0] == 0).all()


@pytest.mark.parametrize("digits", [1, 2, 3])
def test_reference_is_the_table_at_what_the_tokens_spell(digits):
    source = world(digits=digits, base=4, targets=9)
    found = source.evaluation(20, 2000)
    contexts, targets = decode(source, found["tokens"])
    scored = found["reference"][:, found["mask"][0] == 1]
    assert found["mask"][0].tolist() == [float((position + 2) % (digits + 1) == 0) for position in range(20)]
    np.testing.assert_allclose(scored, -source.log_table[contexts, targets][:, : scored.shape[1]], rtol=1e-6)


def test_contexts_and_targets_have_their_frequencies_in_training():
    source = world(base=4, targets=5, exponent=0.5, peak=2.0)
    contexts, targets = decode(source, source.batch(np.arange(20_000), seed=9, context=59)["tokens"])
    count = contexts.size
    expected = source.frequencies[:, None] * np.exp(source.log_table) * count
    observed = np.zeros_like(expected)
    np.add.at(observed, (contexts.ravel(), targets.ravel()), 1)
    enough = expected > 5
    statistic = ((observed - expected) ** 2 / expected)[enough].sum()
    freedom = enough.sum() - 1
    assert count == 400_000 and freedom > 60
    assert abs(statistic - freedom) < 4.5 * (2 * freedom) ** 0.5
    neighbours = np.corrcoef(source.frequencies[contexts[:, :-1]].ravel(), source.frequencies[contexts[:, 1:]].ravel())
    assert abs(neighbours[0, 1]) < 4.5 / count**0.5


def test_a_longer_context_begins_with_the_shorter_one():
    source = world()
    short, long = (source.batch(np.arange(6), seed=2, context=context)["tokens"] for context in (30, 64))
    np.testing.assert_array_equal(long[:, :31], short)


def test_evaluation_shares_no_sequence_with_training():
    source = world()
    held = {row.tobytes() for row in source.evaluation(64, 60_000)["tokens"]}
    for seed in (0, 1, 2, 3):
        train = {row.tobytes() for row in source.batch(np.arange(5000), seed=seed, context=64)["tokens"]}
        assert len(train) == 5000 and not held & train


def test_documents_are_blocks_of_sequences_and_the_whole_set_is_bounded():
    source = world()
    found = source.evaluation(64, 21 * 40)
    assert found["document"].tolist() == [0] * 16 + [1] * 16 + [2] * 8 and len(found["documents"]) == 3
    assert len(source.evaluation(8)["tokens"]) == zipf.DOCUMENT * zipf.DOCUMENTS


def test_worlds_and_seeds_differ():
    assert world(world=1).entropy != world().entropy
    assert world(world=1).describe()["sha256"] != world().describe()["sha256"]
    first, second = (world().batch(np.arange(50), seed=seed, context=64)["tokens"] for seed in (0, 1))
    assert (first != second).any(axis=1).all()


def test_training_never_runs_out():
    source = world()
    assert source.unique_tokens(64) > 10**18 and source.describe()["unique_tokens"] is None


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("digits", 0),
        ("base", 1),
        ("base", 4096),
        ("targets", 1),
        ("exponent", -1.0),
        ("exponent", 11.0),
        ("peak", -0.5),
        ("peak", float("nan")),
        ("world", -1),
    ],
)
def test_wrong_worlds(field, value):
    with pytest.raises(UserError) as caught:
        data.load({"source": "zipf", field: value})
    assert caught.value.field == f"data.{field}"


def test_a_context_that_holds_no_target():
    with refuses(Code.CONFLICT, "model.context", 1) as caught:
        world().batch(np.arange(3), seed=0, context=1)
    assert "at least 2" in caught.value.remedy
    assert world().batch(np.arange(3), seed=0, context=2)["mask"].sum() == 3
