"""The files of a work directory as immutable typed values, validated when a file is read.

Field names are the keys of the JSON. ``record.schema.json`` is generated from these types (``scaling.records.schema``).
Fields that belong to a family, a source, a recipe or an execution are ``dict[str, JSON]`` here. Their owner validates
them when it builds its own type (``families.configure``, ``data.load``, ``recipe.Recipe``, ``Execution``).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from scaling.records.unit import Unit
from scaling.records.value import Value

SCHEMA = 2

JSON = Any  # a JSON value; msgspec has no recursive alias

Role = Literal["fit", "seed", "holdout", "stem"]
Kind = Literal["stem", "branch", "whole"]
Status = Literal["done", "diverged", "rejected", "failed"]

Count = Annotated[int, Meta(ge=0)]
Amount = Annotated[float, Meta(ge=0)]
# Fields that every ``Manifest.recipe`` has; readers of records rely on them.
RECIPE = {"name": str, "learning_rate": int | float, "batch": int, "schedule": str, "decay_fraction": int | float}

# A run's name is the name of its folder, so it must not be a path that leads elsewhere, nor too long for one.
# (``$`` alone would admit a line feed at the end.)
RunName = Annotated[str, Meta(pattern=r"^(?!\.\.?$)[\w.-]{1,200}(?!\n)$")]
Digest = Annotated[str, Meta(pattern=r"^[0-9a-f]{12}$")]


# --- manifest.json


class Parameters(Value):
    """Parameter counts of a configuration, see ``scaling.count.parameters``."""

    total: Count
    nonembedding: Count
    trainable: Count
    active: Count
    nonembedding_active: Count
    groups: dict[str, Count]


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
    unique: Count
    epochs: Amount


class Flops(Value):
    """FLOPs of a run: exact training FLOPs, 6 N D, forward FLOPs per example, and training FLOPs by part."""

    training: Count
    six_nd: Count = msgspec.field(name="6ND")
    forward_per_example: Count
    parts: dict[str, Count]


class DataDescription(Value, kw_only=True):
    """The content of a source, identified by its hash.

    Attributes:
      bytes: of the text; None if there is no text. unique_tokens: training tokens; None if the source is unbounded.
      entropy: nats per loss token; None unless it is known exactly.
      about: what else the source says about itself.
    """

    source: str
    sha256: str
    bytes: Count | None = None
    unique_tokens: Count | None = None
    entropy: float | None = None
    about: dict[str, JSON] = msgspec.field(default_factory=dict)

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


class Manifest(Value, kw_only=True):
    """What a run is; written before it begins.

    Attributes:
      identity: hash of everything that can change a number; ``run`` is only a readable name.
      stem: the run that a branch starts from, at ``branch_step``; None for stems and whole runs.
      config, recipe: the family's configuration and the recipe, resolved.
      regret: None if the recipe was not tuned.
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
      learning_rate: at its last step. tokens: D so far. seconds: of the chunk, divided by ``members``.
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


class RunSpec(Value, kw_only=True):
    """A run as planned; ``flops`` is what it adds to its program: a branch does not count its stem."""

    run: RunName
    kind: Kind
    role: Role
    steps: Count
    branch_step: Count | None = None
    flops: Count
    manifest: Manifest

    @property
    def own_steps(self) -> int:
        """Steps after the branch point; all steps for a run without a stem."""
        return self.steps - (self.branch_step or 0)


class ProgramSpec(Value):
    """A stem with its branches, or one whole run: the unit of work that a worker leases.

    Attributes:
      program: name of its first run, whose folder holds the lease and the events.
      shape: family and size, for display. seconds: estimate for one device. data: the source's configuration.
    """

    program: RunName
    shape: str
    seconds: Amount
    flops: Count
    data: dict[str, JSON]
    options: Options
    runs: Annotated[tuple[RunSpec, ...], Meta(min_length=1)]


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
    """

    schema: Literal[2] = SCHEMA
    name: str
    datasets: dict[str, dict[str, JSON]]
    options: Options
    ladder: dict[str, tuple[LadderRow, ...]]
    tuned: dict[str, dict[str, JSON]] = msgspec.field(default_factory=dict)
    programs: tuple[ProgramSpec, ...]
