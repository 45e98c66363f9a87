"""The files of a work directory as immutable typed values, validated when a file is read.

Field names are the keys of the JSON. ``record.schema.json`` is generated from these types (``scaling.records.schema``).
Fields that belong to a family, a source, a recipe or an execution are ``dict[str, JSON]`` here. Their owner validates
them when it builds its own type (``families.configure``, ``data.load``, ``recipe.Recipe``, ``Execution``).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Protocol

import msgspec
from msgspec import Meta

from scaling.records.fields import Amount, Count, Digest, Hash, RunName, WideCount, require_possible, require_printable
from scaling.records.unit import Unit
from scaling.records.value import Value

SCHEMA = 2

JSON = Any  # a JSON value; msgspec has no recursive alias

Role = Literal["fit", "seed", "holdout", "stem"]
Kind = Literal["stem", "branch", "whole"]
Status = Literal["done", "diverged", "rejected", "failed"]

# Fields that every ``Manifest.recipe`` has; readers of records rely on them.
NUMBER = (int, float)
RECIPE = {"name": str, "learning_rate": NUMBER, "batch": int, "schedule": str, "decay_fraction": NUMBER}


# --- manifest.json


class Parameters(Value):
    """Parameter counts of a configuration, see ``scaling.count.parameters``.

    ``zeros`` are pruned by the end of training. The other counts leave them out, but for those by group.
    """

    total: Count
    nonembedding: Count
    trainable: Count
    active: Count
    nonembedding_active: Count
    groups: dict[str, Count]
    zeros: Count = 0

    @property
    def dense(self) -> int:
        """All parameters, also those that are pruned."""
        return self.total + self.zeros


class Tokens(Value):
    """How much data a run sees.

    Attributes:
      D: steps x batch x context, the D of the laws. per_step: the part of D seen in one step.
      loss: number of predictions that the headline loss is a mean over. counted: what D counts, in words.
      unique: tokens that the source gives without repeating any. epochs: D / unique.
    """

    D: Count
    per_step: Count
    loss: Count
    counted: str
    unique: WideCount
    epochs: Amount

    def __post_init__(self) -> None:
        require_possible(self.unique, what="tokens")


class Flops(Value):
    """FLOPs of a run: exact training FLOPs, 6 N D, forward FLOPs per example, and training FLOPs by part.

    ``teacher``: of the forward passes of a teacher, no part of the others.
    """

    training: WideCount
    six_nd: WideCount = msgspec.field(name="6ND")
    forward_per_example: WideCount
    parts: dict[str, WideCount]
    teacher: WideCount = 0

    def __post_init__(self) -> None:
        require_possible(self.training, self.six_nd, self.forward_per_example, *self.parts.values(), self.teacher)


class DataDescription(Value, kw_only=True):
    """The content of a source, identified by its hash.

    Attributes:
      bytes: of the text; None if there is no text. unique_tokens: training tokens; None if the source is unbounded.
      entropy: nats per loss token, given ``entropy_given``; None unless it is known exactly.
      about: what else the source says about itself.
    """

    source: str
    sha256: str
    bytes: Count | None = None
    unique_tokens: WideCount | None = None
    entropy: float | None = None
    about: dict[str, JSON] = msgspec.field(default_factory=dict)

    @property
    def entropy_given(self) -> str | None:
        """What the entropy is conditioned on besides the preceding tokens, in the words of ``Unit.given``; None:
        nothing."""
        return self.about.get("entropy_given")

    @classmethod
    def of(cls, described: dict[str, JSON]) -> DataDescription:
        """From what ``Source.describe`` returns."""
        known = {field.name for field in msgspec.structs.fields(cls)} - {"about"}
        named = {name: value for name, value in described.items() if name in known}
        return cls(**named, about={name: value for name, value in described.items() if name not in known})


class Regret(Value):
    """Relative excess of the loss over that at the best learning rate and batch, with the interval of a recipe file."""

    value: float
    lo: float
    hi: float


class Environment(Value):
    """Versions, commit, devices, threads and mesh at the start of a run."""

    python: str
    jax: str | None
    flax: str | None
    optax: str | None
    orbax: str | None
    numpy: str | None
    commit: str | None
    device: str
    device_kind: str
    device_count: Count
    processes: Count
    threads: Count | None
    mesh: dict[str, Count]


class Parent(Value, kw_only=True):
    """A run whose final parameters another run starts from.

    Attributes:
      run: its name. workdir: absolute path of its work directory; None: that of the child.
      parts: {part of the child: part of the parent that it starts as}; a part is a top-level subtree of the parameters.
      identity: of its manifest. flops: its training FLOPs, without those of its own parents.
      result: sha256 of its result.json; None until the child begins, if the parent is of the same study.
    """

    run: RunName
    workdir: str | None = None
    parts: dict[str, str]
    identity: Digest
    flops: WideCount
    result: Hash | None = None

    def __post_init__(self) -> None:
        require_possible(self.flops)


class Manifest(Value, kw_only=True):
    """What a run is; written before it begins.

    Attributes:
      identity: hash of everything that can change a number; ``run`` is only a readable name.
      stem: the run that a branch starts from, at ``branch_step``; None for stems and whole runs.
      config, recipe: the family's configuration and the recipe, resolved.
      regret: None if the recipe was not tuned.
      parents: runs that it starts from. parent_flops: training FLOPs of all runs that it descends from, each once; no
        part of ``flops``.
      frozen: parts that are not trained, besides those that the family never trains.
      distill: the teacher and the weights of its loss, see ``scaling.distill``; empty without one.
      prune: which weights become zero and when, see ``scaling.prune``; empty if none do.
      adapt: how what is frozen is adapted, see ``scaling.adapt``; empty if it is not.
      terms: unit of each loss term; ``headline`` is the one that the laws are fitted to.
      environment: None until the run begins.
    """

    schema: Literal[2] = SCHEMA
    run: RunName
    study: str
    origin: Literal["trained", "imported"] = "trained"
    kind: Kind
    role: Role
    dataset: str
    identity: Digest
    stem: RunName | None = None
    branch_step: Count | None = None
    seed: Count
    family: str
    size: Count
    config: dict[str, JSON]
    recipe: dict[str, JSON]
    regret: Regret | None = None
    parents: tuple[Parent, ...] = ()
    parent_flops: WideCount = 0
    frozen: tuple[str, ...] = ()
    adapt: dict[str, JSON] = msgspec.field(default_factory=dict)
    distill: dict[str, JSON] = msgspec.field(default_factory=dict)
    prune: dict[str, JSON] = msgspec.field(default_factory=dict)
    parameters: Parameters
    steps: Count
    tokens: Tokens
    flops: Flops
    headline: str
    terms: dict[str, Unit]
    data: DataDescription
    environment: Environment | None = None

    def __post_init__(self) -> None:
        for name, kind in RECIPE.items():
            if not isinstance(self.recipe.get(name), kind) or isinstance(self.recipe[name], bool):
                raise ValueError(f"recipe.{name} is missing or of another type")
        require_printable(self.study, self.dataset, self.family, *self.terms)
        require_possible(self.parent_flops)
        if self.headline not in self.terms:
            raise ValueError(f"headline {self.headline} is not one of the terms")
        if (self.kind == "branch") != (self.stem is not None) or (self.stem is None) != (self.branch_step is None):
            raise ValueError("a branch, and nothing else, has a stem and a branch_step")

    @property
    def unit(self) -> Unit:
        """Unit of the headline loss."""
        return self.terms[self.headline]


# --- metrics.jsonl: one row per line; the key ``event`` names its type


class Row(Value, tag_field="event"):
    """Base of the rows."""


class StepRow(Row, tag="step", kw_only=True, omit_defaults=True):
    """A chunk that ended at ``step``.

    Attributes:
      loss, norm: training loss and gradient norm, means over the steps of the chunk.
      learning_rate: at its last step. tokens: D so far. seconds: of the chunk, divided
        by ``members``, and of the save before it.
      first_loss: loss of the run's first step; only in its first row.
      gradient_noise, gradient_signal: see ``Trainer.noise``; None if they were not measured.
      replaced: examples of the chunk whose sample is damaged, so that another took its place.
    """

    step: Count
    loss: float
    norm: float
    learning_rate: float
    tokens: Count
    seconds: Amount
    members: Count = 1
    first_loss: float | None = None
    gradient_noise: float | None = None
    gradient_signal: float | None = None
    replaced: Count = 0


class Marks(Value):
    """Progress of a program: settled runs, and distinct steps that have a row."""

    settled: Count
    rows: Count


class StartRow(Row, tag="start"):
    """An attempt at a program began."""

    time: str
    marks: Marks
    host: str
    pid: int
    core: str


class InterruptedRow(Row, tag="interrupted"):
    """The attempt was asked to stop, and did."""

    time: str


class FinishRow(Row, tag="finish"):
    """The attempt trained every run of the program."""

    time: str


class RetryRow(Row, tag="retry"):
    """A user asked for the program to be tried again."""

    time: str


class ErrorRow(Row, tag="error"):
    """The attempt raised an exception."""

    time: str
    reason: str


AnyRow = StepRow | StartRow | InterruptedRow | FinishRow | RetryRow | ErrorRow


# --- result.json


class Beginning(Value):
    """The beginning of a file that only grows: its number of bytes, and their sha256."""

    bytes: Count
    sha256: Hash


class Seconds(Value):
    """Device seconds of a run: training, its share of compilations, evaluation."""

    train: Amount = 0.0
    compile: Amount = 0.0
    evaluate: Amount = 0.0


class Documents(Value):
    """Summed loss and number of predictions of each evaluated document, one column per field."""

    id: tuple[str, ...]
    sum: tuple[float, ...]
    count: tuple[Count, ...]


class Positions(Value):
    """Mean loss by position in the context, one column per field; see ``evaluate.by_position``."""

    upto: tuple[Count, ...]
    count: tuple[Count, ...]
    value: tuple[float, ...]
    se: tuple[Amount | None, ...]
    excess: tuple[float, ...] | None = None
    excess_se: tuple[Amount | None, ...] | None = None


class Evaluation(Value, kw_only=True):
    """A loss term on the evaluation set, see ``evaluate.term_summary``.

    Attributes:
      value: mean, in the term's unit. count: predictions. se: standard error by document; None for one document.
      sample: the mean before correction for the sample's deviation from a source of known entropy.
    """

    value: float
    count: Count = 0
    se: Amount | None = None
    sample: float | None = None
    bits_per_byte: float | None = None
    documents: Documents | None = None
    positions: Positions | None = None


class Utilisation(Value):
    """Model FLOPs utilisation: FLOP/s over the device's peak, by the exact count and by 6 N D."""

    exact: float
    six_nd: float = msgspec.field(name="6ND")


class Result(Value, kw_only=True):
    """How a run ended; written last.

    Attributes:
      reason: why it is not ``done``. decayed: whether the learning rate decayed to the end of its schedule.
      train_loss: mean of the last chunk. evaluation: by term; empty if nothing was evaluated.
      tokens_per_second, mfu: None if unknown. execution: fields of ``Execution``, and the attention that ran.
      replaced: examples whose sample is damaged, so that another took its place; None if there were none.
      attempts: starts of the program, if the worker gave up on the run and wrote this result.
      parents: sha256 of the result of each of ``Manifest.parents``.
      parameters: sha256 of the hashes of its final parameters, if their checkpoint is kept.
      metrics: metrics.jsonl when the run ended; None if there was none, and in results of an older version.
    """

    schema: Literal[2] = SCHEMA
    status: Status
    reason: str | None = None
    steps: Count
    tokens: Count
    decayed: bool
    train_loss: float | None = None
    evaluation: dict[str, Evaluation] = msgspec.field(default_factory=dict)
    seconds: Seconds = Seconds()
    tokens_per_second: Amount | None = None
    mfu: Utilisation | None = None
    execution: dict[str, JSON] | None = None
    checkpoint_problems: tuple[str, ...] = ()
    replaced: Count | None = None
    attempts: Count | None = None
    parents: tuple[Hash, ...] = ()
    parameters: Hash | None = None
    metrics: Beginning | None = None
    finished: str


# --- study.json


class EvaluationOptions(Value):
    """Size of the evaluation set in loss tokens, and examples per evaluation batch."""

    tokens: Annotated[int, Meta(ge=1)]
    batch: Annotated[int, Meta(ge=1)]


class Options(Value, kw_only=True):
    """Settings of a study other than its cells; see ``study.Settings`` for their meaning."""

    chunk: Annotated[int, Meta(ge=1)]
    mesh: dict[str, Annotated[int, Meta(ge=1)]]
    execution: dict[str, JSON] = msgspec.field(default_factory=dict)
    evaluation: EvaluationOptions
    checkpoint_seconds: Amount
    keep_last: Annotated[int, Meta(ge=1)] = 2
    keep_final: bool = False
    checkpoints: str = ""
    noise_scale: bool = False


class HowItEnded(Protocol):
    """What ``Planned`` asks of a result, or of what is kept of one."""

    @property
    def status(self) -> Status: ...

    @property
    def steps(self) -> int: ...


class Planned:
    """What follows from the steps of a planned run, for its specification and for what is kept of it."""

    __slots__ = ()
    kind: Kind
    steps: int
    branch_step: int | None

    @property
    def own_steps(self) -> int:
        """Steps after the branch point; all steps for a run without a stem."""
        return self.steps - (self.branch_step or 0)

    def is_longer(self, result: HowItEnded) -> bool:
        """Whether this is a stem that was extended since it ended with this result."""
        return self.kind == "stem" and result.status == "done" and result.steps < self.steps


class RunSpec(Planned, Value, kw_only=True):
    """A run as planned.

    Attributes:
      flops: what it adds to its program: a branch does not count its stem.
      keep: whether other runs start from it, so that its final checkpoint is kept.
    """

    run: RunName
    kind: Kind
    role: Role
    steps: Count
    branch_step: Count | None = None
    flops: WideCount
    keep: bool = False
    manifest: Manifest

    def __post_init__(self) -> None:
        require_possible(self.flops)


class ProgramSpec(Value):
    """A stem with its branches, or one whole run: the unit of work that a worker leases.

    Attributes:
      program: name of its first run, whose folder holds the lease and the events.
      shape: family and size, for display. seconds: estimate for one device. data: the source's configuration.
    """

    program: RunName
    shape: str
    seconds: Amount
    flops: WideCount
    data: dict[str, JSON]
    options: Options
    runs: Annotated[tuple[RunSpec, ...], Meta(min_length=1)]

    def __post_init__(self) -> None:
        require_possible(self.flops)

    @property
    def parents(self) -> tuple[str, ...]:
        """Names of the runs of the same study that it starts from."""
        own = (each for spec in self.runs for each in spec.manifest.parents if each.workdir is None)
        return tuple(dict.fromkeys(each.run for each in own))


class LadderRow(Value):
    """One size of a study's ladder: parameter counts, exact training FLOPs per token, learning rate, batch, context."""

    size: Count
    N_nonembedding: Count
    N_total: Count
    flops_per_token: Amount
    learning_rate: float
    batch: Count
    context: Count


class StudyRecord(Value, kw_only=True):
    """A planned study: all that workers, status and analysis read about it.

    Attributes:
      datasets: configuration of each source. ladder: sizes of the ladder, by dataset.
      tuned: the fit of each recipe file that cells use, by the file's identity.
      price_per_hour: of one device, in any currency; 0 if the study names none.
      sha256: of the file up to this field, see ``records.write_study``; None once read, and in files without.
    """

    schema: Literal[2] = SCHEMA
    name: str
    datasets: dict[str, dict[str, JSON]]
    options: Options
    ladder: dict[str, tuple[LadderRow, ...]]
    tuned: dict[str, dict[str, JSON]] = msgspec.field(default_factory=dict)
    price_per_hour: Amount = 0.0
    programs: tuple[ProgramSpec, ...]
    sha256: Hash | None = None

    def __post_init__(self) -> None:
        require_printable(self.name, *self.datasets, *(program.shape for program in self.programs))


# --- evaluations/IDENTITY.json

FEWEST_BITS, MOST_BITS = 2, 16  # of a rounded weight


class Quantisation(Value, kw_only=True):
    """How weights were rounded after training (``scaling.quantise``): to so many bits, and how many of them.

    Attributes:
      scales: one for each output channel of the rounded weights. kept: parameters that were not rounded.
    """

    bits: Annotated[int, Meta(ge=FEWEST_BITS, le=MOST_BITS)]
    weights: Count
    scales: Count
    kept: Count


class EvaluationRecord(Value, kw_only=True):
    """A checkpoint of a finished run, evaluated by itself; it changes nothing of the run's result.

    Attributes:
      identity: of the run's manifest. step: of the checkpoint. result: sha256 of the run's result.json.
      parameters: sha256 of the hashes of the checkpoint's parameters.
      dataset: name of the data set, or how the data was given. data: what it is. options: size of the evaluation set.
      dtype: of the computation. quantisation: None if no weight was rounded. bytes: of the parameters as stored so.
      forward_flops: per example; the same whatever the bits, as rounded weights are multiplied in ``dtype``.
      terms: unit of each loss term. evaluation: by term.
      shots: answered examples before each question, if the terms are those of ``evaluate.choices``.
      reproduces: whether losses are the result's, bit by bit; None if it evaluated something else. execution: as there.
    """

    schema: Literal[2] = SCHEMA
    run: RunName
    identity: Digest
    step: Count
    result: Hash
    parameters: Hash
    dataset: str
    data: DataDescription
    options: EvaluationOptions
    dtype: str
    quantisation: Quantisation | None = None
    bytes: Count
    forward_flops: WideCount
    headline: str
    terms: dict[str, Unit]
    shots: Count | None = None
    evaluation: dict[str, Evaluation]
    reproduces: bool | None = None
    environment: Environment
    execution: dict[str, JSON]
    seconds: Amount
    finished: str

    def __post_init__(self) -> None:
        require_printable(self.dataset, self.dtype, self.headline, *self.terms)
        if self.headline not in self.terms or self.headline not in self.evaluation:
            raise ValueError(f"headline {self.headline} is not one of the terms")
