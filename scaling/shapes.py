"""What the cells of a study share that differ in seed only: counts, FLOPs and inputs, computed once for all seeds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from scaling import count, data, distill, families, naming, parents, parts, prune, settings
from scaling.distill import Teacher
from scaling.prune import Prune
from scaling.records.types import JSON, DataDescription, Manifest, Parameters
from scaling.records.unit import Unit
from scaling.study import Cell, Study

# Bytes per parameter: itself, its gradient and two moments of the optimiser, in float32; itself alone if it is frozen.
STATE_BYTES, FROZEN_BYTES = 16, 4


@dataclass(frozen=True)
class Shape:
    """What cells share that differ in seed only.

    Attributes:
      parts, forward: training FLOPs by component, and forward FLOPs, per example. per_token: training FLOPs.
      scores: attention scores per example of a training step.
      unique: tokens of the source without a repeat. loss: predictions per example.
      further: forward FLOPs per example of a teacher, no part of the others.
      evaluated: loss tokens of the source per example, by which the evaluation set is measured.
    """

    config: dict[str, JSON]
    spec: Mapping[str, int]
    counts: Parameters
    parts: Mapping[str, int]
    forward: int
    per_token: float
    scores: float
    units: dict[str, Unit]
    counted: str
    unique: int
    loss: float
    evaluated: float
    further: int = 0


_Key = tuple[int, int, str, parts.Freezing, Teacher | None, Prune | None]


class Shapes:
    """The shapes of a study and descriptions of its data, each made once: a large study has many seeds."""

    def __init__(self, study: Study):
        self.study = study
        self.described = {name: source.describe() for name, source in study.sources.items()}
        self.data = {name: DataDescription.of(described) for name, described in self.described.items()}
        self._shapes: dict[tuple[_Key, tuple[tuple[str, str], ...]], Shape] = {}
        self._digests: dict[int, str] = {}

    def of(self, cell: Cell) -> Shape:
        """The shape of a cell, by the very objects of its configuration and recipe, which its study holds."""
        terms = families.terms(cell.module, cell.config).values()
        made_by = {part: parents.origin(cell, part, self.digest) for part in {term.made_by for term in terms} - {""}}
        own = id(cell.config), id(cell.recipe), cell.dataset, cell.freezing, cell.teacher, cell.pruning
        key = own, tuple(made_by.items())
        if key not in self._shapes:
            self._shapes[key] = self._make(cell, made_by)
        return self._shapes[key]

    def digest(self, cell: Cell) -> str:
        """The identity of a cell, by the very object, which its study or a child in it holds."""
        if id(cell) not in self._digests:
            evaluation = self.study.options.evaluation
            self._digests[id(cell)] = naming.digest(cell, self.described, evaluation, self.digest)
        return self._digests[id(cell)]

    def flops(self, cell: Cell) -> int:
        """Training FLOPs of a whole cell."""
        return sum(self.of(cell).parts.values()) * cell.steps * cell.recipe.batch

    def _make(self, cell: Cell, made_by: Mapping[str, str]) -> Shape:
        components, source = cell.components, self.study.sources[cell.dataset]
        spec, terms = cell.module.batch_spec(cell.config), families.terms(cell.module, cell.config)
        fitted = next(iter(terms.values()))
        trained = count.training_flops(components, cell.recipe.batch)
        return Shape(
            config=settings.fields_of(cell.config),
            spec=spec,
            counts=cell.counts,
            parts=trained,
            forward=sum(count.forward_flops(components, cell.recipe.batch).values()),
            per_token=sum(trained.values()) / spec["context"],
            scores=count.training_scores(components),
            units=families.units(cell.module, cell.config, self.study.options.evaluation.batch, made_by),
            counted=families.counted(cell.module, cell.config),
            unique=data.unique(source, spec),
            loss=fitted.count or _loss_tokens(source, families.text(spec), fitted.share, whole=not fitted.uneven),
            evaluated=fitted.count or _loss_tokens(source, families.text(spec), 1.0),
            further=families.further(cell.module, cell.config),
        )


def state_bytes(manifest: Manifest) -> int:
    """Bytes of a run's parameters, gradients and moments, and of what lies beside its model."""
    counts, teacher = manifest.parameters, manifest.distill.get(distill.PART, {}).get("parameters", 0)
    frozen = counts.total - counts.trainable + teacher
    trained = (counts.trainable + counts.zeros) * STATE_BYTES
    return trained + frozen * FROZEN_BYTES + prune.state_bytes(manifest.prune)


def _loss_tokens(source: Any, text: int, share: float, *, whole: bool = True) -> float:
    """Predictions per example: ``share`` of its loss tokens, ``whole`` in each or in the mean; the mean if the source's
    examples differ."""
    if hasattr(source, "loss_tokens"):
        return share * source.loss_tokens(text)
    mask = source.batch(np.zeros(1, np.int64), seed=0, context=text).get("mask")
    total = share * (text if mask is None else int(mask.sum()))
    return round(total) if whole else total
