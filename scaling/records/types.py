"""What a work directory holds, as immutable typed values: one definition each, checked when a file is read.

Field names are the keys of the JSON. ``record.schema.json`` is made from these types (``scaling.records.schema``).
Fields that a family, a source, a recipe or an execution owns are ``dict[str, JSON]``: their owner checks them when it
makes its own type of them (``families.configure``, ``data.load``, ``recipe.Recipe``, ``Execution``), and this file does
not know their names.
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
# What every recipe sets, as readers of a record find it in ``Manifest.recipe``.
RECIPE = {"name": str, "learning_rate": int | float, "batch": int, "schedule": str, "decay_fraction": int | float}

# A run is a folder of that name, so it cannot be a path that leads elsewhere.
RunName = Annotated[str, Meta(pattern=r"^(?!\.\.?$)[\w.-]+$")]
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
      D: what the law is fitted in: steps x batch x context. per_step: of it, in one step.
      loss: predictions that the headline loss is the mean of. counted: what D counts, in words.
      unique: that the source gives without a repeat. epochs: D over unique.
    """

    D: Count
    per_step: Count
    loss: Count
    counted: str
    unique: Count
    epochs: Amount


class Flops(Value):
    """FLOPs of a run: exact training FLOPs, 6 N D, forward FLOPs of one example, and training FLOPs by part."""

    training: Count
    six_nd: Count = msgspec.field(name="6ND")
    forward_per_example: Count
    parts: dict[str, Count]


class DataDescription(Value, kw_only=True):
    """The content of a source, by its hash.

    Attributes:
      bytes: of the text; None where it has none. unique_tokens: of training; None where the source is unbounded.
      entropy: nats per loss token; None where it is not known exactly.
      about: what else the source tells of itself.
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
    """By which share the loss exceeds that of the best learning rate and batch, with the interval of a recipe file."""

    value: float
    lo: float
    hi: float


class Environment(Value):
    """Versions, commit, devices, threads and mesh that a run began with."""

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
      identity: of everything that can change a number; ``run`` is a name for people.
      stem: the run that a branch leaves, at ``branch_step``; None for stems and whole runs.
      config, recipe: the family's configuration and the recipe, resolved.
      regret: None where the recipe was not tuned.
      terms: unit of each loss term; ``headline`` is the one that was trained for.
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
        """Of the headline loss."""
        return self.terms[self.headline]


# --- metrics.jsonl: one row a line, of the kind that its key ``event`` says


class Row(Value, tag_field="event"):
    """Base of the rows."""


class StepRow(Row, tag="step", kw_only=True, omit_defaults=True):
    """A chunk that ended at ``step``.

    Attributes:
      loss, norm: means over the chunk's steps, of the loss in nats and the gradient's norm.
      learning_rate: of its last step. tokens: D so far. seconds: of the chunk, shared by ``members``.
      first_loss: of the run's first step, in its first row alone.
      gradient_noise, gradient_signal: see ``Trainer.noise``; None where they were not measured.
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


class Marks(Value):
    """How far a program is: settled runs, and distinct steps with a row."""

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
    """It was asked to stop, and did."""

    time: str


class FinishRow(Row, tag="finish"):
    """It trained everything."""

    time: str


class RetryRow(Row, tag="retry"):
    """Somebody asked for the program to be tried again."""

    time: str


class ErrorRow(Row, tag="error"):
    """It raised."""

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
    """Summed loss and number of predictions of each evaluated document, as columns."""

    id: tuple[str, ...]
    sum: tuple[float, ...]
    count: tuple[Count, ...]


class Positions(Value):
    """Mean loss by position in the context, as columns, see ``evaluate.by_position``."""

    upto: tuple[Count, ...]
    count: tuple[Count, ...]
    value: tuple[float, ...]
    se: tuple[Amount | None, ...]
    excess: tuple[float, ...] | None = None
    excess_se: tuple[Amount | None, ...] | None = None


class Evaluation(Value, kw_only=True):
    """A loss term on the evaluation set, see ``evaluate.term_summary``.

    Attributes:
      value: its mean, in its unit. count: predictions. se: standard error by document; None of a single document.
      sample: the mean before the sample's deviation from a known source was taken out of it.
    """

    value: float
    count: Count = 0
    se: Amount | None = None
    sample: float | None = None
    bits_per_byte: float | None = None
    documents: Documents | None = None
    positions: Positions | None = None


class Utilisation(Value):
    """Model FLOPs over the device's peak: by the exact count and by 6 N D."""

    exact: float
    six_nd: float = msgspec.field(name="6ND")


class Result(Value, kw_only=True):
    """How a run ended; written last.

    Attributes:
      reason: why it is not ``done``. decayed: whether its learning rate was lowered to the schedule's end.
      train_loss: of the last chunk. evaluation: by term; empty where nothing was evaluated.
      tokens_per_second, mfu: None where they are unknown. execution: of the compiled step, as its owner says.
      attempts: starts of the program, where the worker wrote this result in its stead.
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
    attempts: Count | None = None
    finished: str


# --- study.json


class EvaluationOptions(Value):
    """Loss tokens of the evaluation set, and examples of one of its batches."""

    tokens: Annotated[int, Meta(ge=1)]
    batch: Annotated[int, Meta(ge=1)]


class Options(Value, kw_only=True):
    """What a study sets beside its cells; see ``study.base`` for what each means."""

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
    """A run as planned; ``flops`` are those that it adds to its program's."""

    run: RunName
    kind: Kind
    role: Role
    steps: Count
    branch_step: Count | None = None
    flops: Count
    manifest: Manifest

    @property
    def own_steps(self) -> int:
        """Steps that are its own and not its stem's."""
        return self.steps - (self.branch_step or 0)


class ProgramSpec(Value):
    """A stem with its branches, or one whole run: what a worker takes under one lease.

    Attributes:
      program: the name of its first run, whose folder holds the lease and the events.
      shape: for people. seconds: estimated, of one device. data: the source's configuration.
    """

    program: RunName
    shape: str
    seconds: Amount
    flops: Count
    data: dict[str, JSON]
    options: Options
    runs: Annotated[tuple[RunSpec, ...], Meta(min_length=1)]


class LadderRow(Value):
    """A size of a study's ladder: its counts, exact training FLOPs per token, learning rate, batch and context."""

    size: Count
    N_nonembedding: Count
    N_total: Count
    flops_per_token: Amount
    learning_rate: float
    batch: Count
    context: Count


class StudyRecord(Value, kw_only=True):
    """All that workers, status and analysis know of a study.

    Attributes:
      datasets: configuration of each source. ladder: by dataset.
      tuned: what was fitted in each recipe file that cells name, by the file's identity.
    """

    schema: Literal[2] = SCHEMA
    name: str
    datasets: dict[str, dict[str, JSON]]
    options: Options
    ladder: dict[str, tuple[LadderRow, ...]]
    tuned: dict[str, dict[str, JSON]] = msgspec.field(default_factory=dict)
    programs: tuple[ProgramSpec, ...]
