"""For tests of figures and reports: a planted study of two data sets with records, fits and a seal; parts of a page."""

import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import ClassVar

import numpy as np
from handmade import edited, options
from handmade import program as program_spec

from analysis.check.approaches import compare_approaches
from analysis.decide.forecast import seal
from analysis.fitting import fit
from analysis.table.runs import load
from scaling.records import Record, write_json
from scaling.records.types import (
    DataDescription,
    Environment,
    Evaluation,
    Flops,
    Kind,
    Manifest,
    Parameters,
    Positions,
    Result,
    Role,
    Seconds,
    StepRow,
    StudyRecord,
    Tokens,
)
from scaling.records.unit import NATS_PER_TOKEN

K, M = 2**10, 2**20
WIDTHS = (16, 24, 32, 48, 64, 88)
FITTED, TOKENS = 5, (128 * K, 256 * K, 512 * K, M)
TRUTH = {"stdlib": (1.0, 20.0, 100.0, 0.40, 0.45, None), "known": (0.62, 26.0, 60.0, 0.45, 0.42, 0.62)}
# Beyond the ladder in N, in D twice, and in both; (size, D, seed).
HOLDOUTS = ((5, 512 * K, 100), (2, 4 * M, 100), (3, 4 * M, 100), (5, 1536 * K, 101))
SCHEDULE = {"schedule": "wsd", "decay_fraction": 0.2, "decay_steps": 0}
ENVIRONMENT = Environment(
    python="3.11.9",
    jax="0.10.2",
    flax=None,
    optax=None,
    orbax=None,
    numpy=None,
    commit="c0ffee",
    device="cpu",
    device_kind="cpu",
    device_count=1,
    processes=1,
    threads=1,
    mesh={},
)


def manifest(run, dataset, size, d, *, kind: Kind = "branch", role: Role = "fit", seed=0, stem=None):
    width, depth, batch, context = WIDTHS[size], 2, 16, 64
    body, head = 12 * depth * width**2, 256 * width
    groups = {"embedding": head, "attention": body // 3, "mlp": body - body // 3, "norm": 5 * width, "head": head}
    n, steps = body + 5 * width, d // (batch * context)
    per_token = 6 * (n + head) + 6 * depth * context * width
    return Manifest(
        run=run,
        study="demo",
        kind=kind,
        role=role,
        dataset=dataset,
        identity="0" * 12,
        stem=stem,
        branch_step=None if stem is None else int(0.8 * steps),
        seed=seed,
        family="gpt",
        size=size,
        config={"width": width, "depth": depth, "context": context},
        recipe={"name": "width", "learning_rate": 0.03 * 16 / width, "batch": batch, **SCHEDULE},
        parameters=Parameters(
            total=n + 2 * head, nonembedding=n, trainable=n, active=n, nonembedding_active=n, groups=groups
        ),
        steps=steps,
        tokens=Tokens(D=d, per_step=batch * context, loss=d, counted="tokens", unique=d, epochs=1.0),
        flops=Flops(training=per_token * d, six_nd=6 * n * d, forward_per_example=1, parts={}),
        headline="loss",
        terms={"loss": NATS_PER_TOKEN},
        data=DataDescription(source=dataset, sha256="ab" * 32, bytes=11_800_000, entropy=TRUTH[dataset][5]),
        environment=ENVIRONMENT,
    )


def law(dataset, n, d):
    e, a, b, alpha, beta, _ = TRUTH[dataset]
    return e + a * n**-alpha + b * d**-beta


def train(workdir, m, stem_noise, rng):
    """Writes a finished record of this manifest: its loss from the planted law, 0.3 % noise, and its metrics."""
    record = Record(Path(workdir) / "runs" / m.run)
    record.begin(m)
    n, d, start = m.parameters.nonembedding, m.tokens.D, m.branch_step or 0
    steps = np.unique(np.linspace(start + 20, m.steps, 12).astype(int))
    drop = 0.97 if m.kind == "branch" else 1.0
    record.append(
        *(
            StepRow(
                step=int(s),
                loss=float(law(m.dataset, n, s * 1024) * drop ** ((s - start) / m.steps) + 1.5 * s**-0.6),
                tokens=int(s) * 1024,
                norm=1.0,
                learning_rate=0.01,
                seconds=0.1,
            )
            for s in steps
        )
    )
    value = law(m.dataset, n, d) * math.exp(stem_noise + 0.003 * rng.standard_normal())
    known = m.data.entropy is not None
    positions = Positions(  # to 64: from 33
        upto=(1, 2, 64),
        count=(2048, 2048, 65536),
        value=(value + 1, value + 0.5, value),
        se=(0.003,) * 3,
        excess=(0.9, 0.5, 0.1) if known else None,
        excess_se=(0.001,) * 3 if known else None,
    )
    term = Evaluation(value=value, se=0.002, count=131072, sample=value, positions=positions)
    done = m.kind != "stem"
    record.finish(
        Result(
            status="done",
            steps=m.steps,
            tokens=d,
            decayed=done,
            train_loss=value,
            evaluation={"loss": term} if done else {},
            seconds=Seconds(train=3.0, compile=8.0, evaluate=0.5),
            tokens_per_second=1e5,
            finished="2026-01-01T00:00:00+0000",
        )
    )


def build(workdir, *, trained=True, unit=NATS_PER_TOKEN):
    """A study of two data sets like the demo's: 5 sizes x 4 D, seeds at 2 sizes, 4 held-out cells on the first."""
    rng, programs = np.random.default_rng(7), []

    def program(dataset, size, amounts, seed, role):
        stem = f"{dataset}-gpt{size}-s{seed}-stem"
        made = [manifest(stem, dataset, size, max(amounts) * 4 // 5, kind="stem", role="stem", seed=seed)]
        for d in amounts:
            made.append(
                manifest(f"{dataset}-gpt{size}-s{seed}-D{d}", dataset, size, d, role=role, seed=seed, stem=stem)
            )
        made = [edited(m, terms={"loss": unit}) for m in made]
        programs.append(program_spec(*made, shape=f"gpt {size}"))
        noise = 0.002 * rng.standard_normal()
        for m in made if trained else []:
            train(workdir, m, noise, rng)

    for dataset in TRUTH:
        for size in range(FITTED):
            program(dataset, size, TOKENS, 0, "fit")
        for size in (1, 3):
            program(dataset, size, TOKENS, 1, "seed")
    for size, d, seed in HOLDOUTS:
        program("stdlib", size, (d,), seed, "holdout")
    datasets = {"stdlib": {"source": "stdlib"}, "known": {"source": "zipf"}}
    study = StudyRecord(name="demo", datasets=datasets, options=options(), ladder={}, programs=tuple(programs))
    write_json(workdir / "study.json", study)
    return workdir


def analyse(workdir, laws=("chinchilla", "product", "kaplan"), names=("nonembedding", "total")):
    for dataset in TRUTH:
        for n in names:
            runs = load(workdir, dataset=dataset, n=n)
            for name in laws:
                found = fit(runs, name)
                found.save(workdir / "fits" / f"{dataset}-{name}-{n}.json")
                if name == "chinchilla":
                    result = compare_approaches(runs, found)
                    write_json(workdir / "fits" / f"{dataset}-approaches-{n}.json", result)
    seal(workdir)


class Page(HTMLParser):
    """Checks that every element is closed in order, and collects ids, references and the text of the page."""

    VOID: ClassVar = {"meta", "br", "link", "img", "input", "hr", "path", "use", "rect", "image"}

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.ids, self.links, self.words = [], [], [], [], []
        self.scripts = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.ids += [v for k, v in attrs if k == "id"]
        self.links += [v for k, v in attrs if k in ("src", "href", "xlink:href", "srcset", "data")]
        self.links += [m for k, v in attrs for m in re.findall(r"url\(([^)]*)\)", v or "")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data):
        if not {"style", "script"} & set(self.open):
            self.words.append(data)
        if self.open and self.open[-1] == "script":
            self.scripts.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())
