"""What dalle promises beyond the battery: the parent's codes, logits by position, who sees what, and the unit."""

import dataclasses
import functools
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import handmade
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from refusals import refuses
from test_families import batch_of, quick, small

from analysis.table import runs
from experiments.dalle import marginal
from scaling import count, families, parents, parts, plan, recipe, study, train
from scaling.blocks import patches
from scaling.errors import Code
from scaling.families import dalle, vq
from scaling.records import Record
from scaling.records.types import Manifest
from scaling.records.unit import Unit
from scaling.run import Run
from scaling.step import Trainer
from scaling.verbs.next import configuration as next_experiment

if TYPE_CHECKING:
    from analysis.decide.next_cells import Proposal

MODULE, CONFIG = small("dalle", layers=1, patch=4, text=5, vocab=11, codes=23, vq_layers=1, tied=False)
T, P, V, K = CONFIG.text, CONFIG.patches, CONFIG.vocab, CONFIG.codes


@functools.cache
def made() -> tuple[Any, dict[str, jax.Array]]:
    """Parameters that are all random, and a batch: nothing is compiled for them."""
    rng = np.random.default_rng(0)
    drawn = jax.tree.map(lambda leaf: rng.normal(0, 0.3, leaf.shape).astype(np.float32), parts.shapes(MODULE, CONFIG))
    batch = {**batch_of(MODULE, CONFIG, 4), "mask": np.ones((4, T), np.float32)}
    return jax.tree.map(jnp.asarray, (drawn, batch))


@quick
def read(parameters: Any, batch: dict[str, jax.Array]) -> tuple[Any, jax.Array, jax.Array]:
    """The terms of the loss, the codes, and the encoder's vectors."""
    inputs_BPX = patches.patchify(batch["image"], CONFIG.patch)
    z_BPC: Any = vq.Encoder(CONFIG.tokenizer).apply({"params": parameters["encoder"]}, inputs_BPX)
    terms = dalle.loss(parameters, batch, jax.random.key(0), CONFIG)
    return terms, dalle.tokenize(parameters, batch["image"], CONFIG), z_BPC


outputs = quick(lambda parameters, text, codes: dalle.outputs(parameters, text, codes, CONFIG))


def losses(parameters: Any, batch: dict[str, jax.Array]) -> Any:
    return read(parameters, batch)[0]


def test_codes_are_the_nearest_rows_of_the_codebook():
    parameters, batch = made()
    _, codes, z = read(parameters, batch)
    distances = np.square(np.asarray(z)[:, :, None] - np.asarray(parameters["codebook"])).sum(axis=-1)
    np.testing.assert_array_equal(codes, distances.argmin(axis=-1))
    assert codes.shape == (4, P) and len(np.unique(codes)) > 2


def test_a_model_in_bfloat16_reads_the_codes_of_float32():
    """As the trainer casts it; all of it in bfloat16 would read others."""
    config, (parameters, _) = dataclasses.replace(CONFIG, dtype="bfloat16"), made()
    image = jnp.asarray(batch_of(MODULE, CONFIG, 256)["image"])
    codes = quick(lambda parameters: dalle.tokenize(parameters, image, config))
    cast = Trainer(MODULE, config, recipe.named("width", batch=4), {"data": 1}, 1)._cast(parameters)
    exact = {part: parameters[part] for part in dalle.PARTS}
    assert {leaf.dtype for name in cast if name not in exact for leaf in jax.tree.leaves(cast[name])} == {
        jnp.dtype(config.dtype)
    }
    found = codes({part: cast[part] for part in exact})
    np.testing.assert_array_equal(found, codes(exact))
    coarse = codes(jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), exact))
    assert 0 < np.mean(np.asarray(found != coarse)) < 0.1


def test_text_predicts_no_code_and_a_picture_no_word():
    """Each term is the cross-entropy over all ids with the other kind's logits at minus infinity."""
    parameters, batch = made()
    found, codes, _ = read(parameters, batch)
    words, image = outputs(parameters, batch["tokens"], codes)
    assert words.shape == (4, T, V) and image.shape == (4, P, K)
    full = np.full((4, T + P, V + K), -np.inf)
    full[:, :T, :V], full[:, T:, V:] = words, image
    targets = np.concatenate([batch["tokens"][:, 1:], V + np.asarray(codes)], axis=1)
    chosen = np.take_along_axis(full, targets[..., None], axis=-1)[..., 0]
    nats = np.log(np.exp(full).sum(axis=-1)) - chosen
    np.testing.assert_allclose(found["text"][0], nats[:, :T], rtol=1e-5)
    np.testing.assert_allclose(found["image"][0], nats[:, T:].sum(axis=1), rtol=1e-5)


def differs(one: jax.Array, other: jax.Array) -> np.ndarray:
    """By position: whether any logit differs, in every example."""
    return (np.abs(np.asarray(one - other)).max(axis=-1) > 1e-6).all(axis=0)


def test_a_position_sees_what_precedes_it_and_no_word_sees_the_picture():
    parameters, batch = made()
    text, (_, codes, _) = batch["tokens"], read(parameters, batch)
    words, image = outputs(parameters, text, codes)
    for place in range(T + 1):
        moved = outputs(parameters, text.at[:, place].set((text[:, place] + 1) % V), codes)
        assert differs(words, moved[0]).tolist() == [position >= place for position in range(T)]
        assert differs(image, moved[1]).all()  # every code is told by every word, the last one too
    for place in range(P):
        moved = outputs(parameters, text, codes.at[:, place].set((codes[:, place] + 1) % K))
        assert not differs(words, moved[0]).any()
        assert differs(image, moved[1]).tolist() == [position > place for position in range(P)]


def test_padding_has_an_id_for_each_of_its_places_and_does_not_count():
    parameters, batch = made()
    mask = (jnp.arange(T) < 3).astype(jnp.float32) * jnp.ones((4, 1))
    ids = np.asarray(dalle.padded({**batch, "mask": mask}, CONFIG))
    np.testing.assert_array_equal(ids[:, :4], batch["tokens"][:, :4])
    np.testing.assert_array_equal(ids[:, 4:], np.tile(V + K + np.arange(3, T), (4, 1)))
    plain = losses(parameters, {**batch, "mask": mask})
    other = {**batch, "mask": mask, "tokens": batch["tokens"].at[:, 4:].add(-1)}  # under the padding
    again = losses(parameters, other)
    assert plain["text"][1].sum() == 4 * 3
    for term in plain:
        np.testing.assert_array_equal(plain[term][0].sum(), again[term][0].sum())


def test_the_loss_starts_at_an_eighth_of_ln_v_and_seven_of_ln_k():
    parameters, batch = made()
    found = losses({**parameters, "head": jnp.zeros_like(parameters["head"])}, batch)
    weights = {name: term.weight for name, term in families.terms(MODULE, CONFIG).items()}
    assert weights == {"image": 7 / 8, "text": 1 / 8}
    total = sum(weights[name] * float(nats.sum() / n.sum()) for name, (nats, n) in found.items())
    assert total == pytest.approx((math.log(11) + 7 * math.log(23)) / 8, abs=1e-6)


def test_heads_count_where_they_are_read_and_the_tokenizer_forward_alone():
    c, width = CONFIG, CONFIG.width
    found, own = count.parameters(dalle.components(c)), {part.name: part for part in dalle.components(c)}
    training = count.training_flops(own.values())
    assert (training["text_head"], training["image_head"]) == (6 * V * width * T, 6 * K * width * P)
    blocks = 12 * c.layers * width**2
    assert training["attention"] + training["mlp"] == 6 * blocks * (T + P) + 12 * c.layers * width * (T + P) ** 2
    encoder = {name: part for name, part in own.items() if part.group == count.TOKENIZER}
    weights = c.vq_layers * 12 * c.vq_width**2 + c.vq_width * (c.pixels + c.code_width)
    scores = 4 * c.vq_layers * c.vq_width * P**2
    assert sum(training[name] for name in encoder) == 2 * (weights + K * c.code_width) * P + scores
    held = sum(part.parameters for part in encoder.values())
    assert found["trainable"] == found["total"] - held and found["nonembedding"] == blocks + 3 * width + 2 * (
        width // c.heads
    )
    assert found["active"] == found["trainable"]


@pytest.mark.system
def test_a_frozen_table_that_is_also_the_heads_is_counted_as_it_is_traced():
    module, config = small("dalle", layers=1, patch=4, tied=True)
    found = parts.freeze(module, config, ("embedding",), batch_of(module, config))  # raises where they differ
    assert found.passed == ("embedding",) and found.first == ()


def test_the_bound_of_the_study_is_of_the_entropy_of_each_patch():
    rng = np.random.default_rng(0)
    codes = np.stack([rng.integers(0, 4, 4096), np.zeros(4096, int), rng.random(4096) < 0.1], axis=1)
    exact = (math.log(4) - 0.1 * math.log(0.1) - 0.9 * math.log(0.9)) / 3
    assert marginal(codes) == pytest.approx(exact, abs=0.01)
    few = [marginal(rng.integers(0, 4, (64, 1))) for _ in range(200)]  # without the correction 0.023 too low
    assert np.mean(few) == pytest.approx(math.log(4), abs=0.006)


# --- in a study


def config(**cells: Any) -> Any:
    """Two tokenizers of 16 patches a picture, and a child of one of them, all tiny."""
    made: Any = study.base("codes")
    made.family, made.recipe.batch, made.recipe.warmup_steps, made.chunk = "dalle", 4, 4, 10
    made.model = {"patch": 8, "layers": 1, "width": 8, "heads": 1, "codes": 8, "vq_width": 8, "vq_heads": 1}
    made.model["vq_layers"], made.model["tied"] = 1, False
    made.data.scenes = made.data.pictures = {"source": "scenes"}
    made.evaluation = {"tokens": 6 * 64, "batch": 32}
    shape = {"patch": 8, "layers": 1, "width": 8, "heads": 1, "codes": 8}
    made.cells.tokenizer = study.block(
        "grid", "pictures", (1,), tokens=(64 * 10,), seeds=(7, 8), family="vq", model=shape
    )
    made.cells.update({"grid": child(), **cells})
    return made


def child(seed: int = 7, dataset: str = "scenes", tokens: int = 88 * 10, **fields: Any) -> Any:
    start = {part: {"block": "tokenizer", "size": 1, "seed": seed} for part in dalle.PARTS}
    return study.block("grid", dataset, (0,), tokens=(tokens,), **{"init_from": start, **fields})


def manifests(made: plan.Plan, dataset: str) -> list[Manifest]:
    every = [spec.manifest for program in made.programs for spec in program.runs if spec.kind != "stem"]
    return sorted((each for each in every if each.dataset == dataset), key=lambda each: each.seed)


def test_a_study_of_two_families_names_the_tokenizer_in_the_unit_of_the_codes():
    further: Any = config(other=child(8, "second"), handed=child(0, "third", init_from={"*": "grid"}))
    further.data.second = further.data.third = {"source": "scenes"}
    made = plan.make(study.resolve(further))
    (first, second), (grid,) = manifests(made, "pictures"), manifests(made, "scenes")
    (other,), (handed,) = manifests(made, "second"), manifests(made, "third")
    assert [first.family, grid.family] == ["vq", "dalle"] and grid.config["patch"] == 8
    assert grid.parents[0].run == first.run and grid.parents[0].parts == {part: part for part in dalle.PARTS}
    assert grid.parent_flops == first.flops.training and grid.tokens.D == 88 * 10
    assert grid.terms == {"image": Unit(per=f"code of {first.identity[:12]}", given="the text"), "text": Unit()}
    # Another tokenizer is another unit, of the codes alone; one that is handed on by a run of dalle is the same.
    assert other.terms["image"] == Unit(per=f"code of {second.identity[:12]}", given="the text") != grid.terms["image"]
    assert other.terms["text"] == grid.terms["text"] and handed.terms == grid.terms
    assert handed.parents[0].run == grid.run and handed.parent_flops == grid.flops.training + first.flops.training


START = {"block": "tokenizer", "size": 1, "seed": 7}
BOTH = {"encoder": START, "codebook": START}
REFUSED: list[tuple[dict[str, Any], Code, str]] = [
    ({"init_from": {}}, Code.MISSING, "cells.grid.init_from"),
    ({"init_from": {"encoder": START}}, Code.MISSING, "cells.grid.init_from"),
    ({"init_from": {**BOTH, "codebook": {**START, "seed": 8}}}, Code.CONFLICT, "cells.grid.init_from"),
    ({"model": {"vq_layers": 2}}, Code.CONFLICT, "model.vq_layers"),
    ({"model": {"vq_heads": 2}}, Code.CONFLICT, "model.vq_heads"),  # of equal shapes but for those of heads
    ({"model": {"vq_activation": "gelu"}}, Code.CONFLICT, "model.vq_activation"),  # and of equal shapes in all
    ({"model": {"vq_weight_bits": 4}}, Code.CONFLICT, "model.vq_weight_bits"),
    ({"model": {"patch": 4}}, Code.CONFLICT, "model.patch"),
    ({"model": {"codes": 9}}, Code.CONFLICT, "model.codes"),
]


@pytest.mark.parametrize(("fields", "code", "field"), REFUSED)
def test_a_tokenizer_that_is_not_there_or_of_another_shape_is_refused(fields: dict, code: Code, field: str):
    with refuses(code, field) as caught:
        study.resolve(config(grid=child(**fields)))
    assert "\n" not in str(caught.value)


def test_a_parent_of_another_family_and_two_families_on_one_data_set_are_refused():
    text = study.block("grid", "scenes", (0,), tokens=(480,), family="gpt", model={"context": 12})
    with refuses(Code.MIXED, "config.data", "scenes"):
        study.resolve(config(text=text))
    other: Any = config(text=text, grid=child(init_from={**BOTH, "encoder": "text"}))
    other.cells.text.dataset = "captions"
    other.data.captions = {"source": "scenes"}
    with refuses(Code.UNKNOWN, "family", "pixelcnn"):
        study.resolve(config(grid=child(family="pixelcnn")))
    with refuses(Code.CONFLICT, "cells.grid.init_from.encoder", "a run of gpt"):
        study.resolve(other)


def test_no_experiment_file_is_written_for_a_study_of_two_families(tmp_path: Path):
    two: Any = config(grid=study.block("grid", "scenes", (0,), tokens=(640,), family="vq"))  # neither has a parent
    two.cells.text = study.block("grid", "captions", (0,), tokens=(480,), family="gpt", model={"context": 12})
    two.data.captions = {"source": "scenes"}
    plan.write(plan.make(study.resolve(two)), tmp_path)
    with refuses(Code.UNSUPPORTED, "workdir", tmp_path):
        next_experiment(tmp_path, proposal=cast("Proposal", None))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, plan.Plan]:
    """A study, in full: two tokenizers, a child of each, and a grandchild of the first."""
    handed = child(0, "third", tokens=88 * 4, init_from={"*": "grid"})
    further: Any = config(grid=child(tokens=88 * 20), other=child(8, tokens=88 * 30), handed=handed)
    further.data.third, further.keep_final = {"source": "scenes"}, True
    made, workdir = plan.make(study.resolve(further)), tmp_path_factory.mktemp("dalle")
    plan.write(made, workdir)
    for program in made.programs:
        train.execute(program, workdir, progress=lambda *_: None, should_stop=lambda: False)
    return workdir, made


@pytest.mark.system
def test_a_child_has_its_parents_tokenizer_to_the_bit_and_two_are_never_fitted_together(
    trained: tuple[Path, plan.Plan],
):
    workdir, made = trained
    (grid,) = (each for each in made.programs if each.runs[-1].manifest.tokens.D == 88 * 20)
    spec = grid.runs[-1]
    run, (parent,) = Run(spec, grid, workdir), spec.manifest.parents
    state = run.initial()
    (maker,) = (each for each in made.programs for one in each.runs if one.run == parent.run)
    theirs = Run(maker.runs[-1], maker, workdir)
    kept = theirs.checkpoints.load(theirs.trainer.abstract)
    assert kept is not None
    for part in dalle.PARTS:
        for mine, own in zip(*(jax.tree.leaves(each["params"][part]) for each in (state, kept[1]))):
            np.testing.assert_array_equal(mine, own)
    drawn = run.trainer.init(0)["params"]
    assert not np.array_equal(drawn["codebook"], state["params"]["codebook"])
    np.testing.assert_array_equal(drawn["embedding"], state["params"]["embedding"])
    # Before the first step both terms are those of a uniform choice.
    first = run.evaluate(state)
    assert first["image"].value == pytest.approx(math.log(8), abs=1e-5)
    assert first["text"].value == pytest.approx(math.log(19), abs=1e-5)
    result = Record(workdir / "runs" / spec.run).result
    assert result is not None and result.status == "done" and list(result.evaluation) == ["image", "text"]
    assert len(runs.load(workdir, dataset="scenes", term="text").table) == 2
    with refuses(Code.MIXED, "loss"):
        runs.load(workdir, dataset="scenes")


@pytest.mark.system
def test_however_a_child_comes_by_its_tokenizer_its_codes_have_one_unit(
    trained: tuple[Path, plan.Plan], tmp_path: Path
):
    """Of the same study or another, from the tokenizer's own run or by way of a child, or of a child's child."""
    workdir, made = trained
    grid = next(each for each in manifests(made, "scenes") if each.tokens.D == 88 * 20)
    (handed,) = manifests(made, "third")
    maker = grid.parents[0]
    unit = Unit(per=f"code of {maker.identity[:12]}", given="the text")
    assert [each.terms["image"] for each in (grid, handed)] == [unit, unit]
    for run, named in {maker.run: dalle.PARTS, grid.run: ("*",), handed.run: ("*",)}.items():
        elsewhere: Any = config(grid=child(init_from={part: {"workdir": str(workdir), "run": run} for part in named}))
        del elsewhere.cells.tokenizer
        resolved = study.resolve(elsewhere)
        (own,) = manifests(plan.make(resolved), "scenes")
        assert own.terms["image"] == unit and own.parents[0].run == run
        # A child of that child, in a third place; and where the record of a run between them is gone.
        gone = handmade.edited(own, parents=(handmade.edited(own.parents[0], workdir=str(tmp_path)),))
        children = []
        for manifest in (own, gone):
            parent = parents.Outside(str(tmp_path), own.run, "0" * 64, manifest)
            start = parents.Start("encoder", "encoder", parent)
            children.append(dataclasses.replace(resolved.cells[0], start=(start,)))
        assert parents.origin(children[0], "encoder", lambda cell: "") == maker.identity
        with refuses(Code.MISSING, "init_from", run):
            parents.origin(children[1], "encoder", lambda cell: "")
