"""The figures and the report, on a work directory with a planted law: what they say, what they hide, and where."""

import math
from pathlib import Path

import numpy as np

from analysis.approaches import compare_approaches
from analysis.fit import fit
from analysis.forecast import seal
from analysis.runs import load
from scaling.records import Record, write_json

K, M = 2**10, 2**20
WIDTHS = (16, 24, 32, 48, 64, 88)
FITTED, TOKENS = 5, (128 * K, 256 * K, 512 * K, M)
TRUTH = {"stdlib": (1.0, 20.0, 100.0, 0.40, 0.45, None), "known": (0.62, 26.0, 60.0, 0.45, 0.42, 0.62)}
# Beyond the ladder in N, in D twice, and in both; (size, D, seed).
HOLDOUTS = ((5, 512 * K, 100), (2, 4 * M, 100), (3, 4 * M, 100), (5, 1536 * K, 101))


def manifest(run, dataset, size, d, *, kind="branch", role="fit", seed=0, stem=None):
    width, depth, batch, context = WIDTHS[size], 2, 16, 64
    body, head = 12 * depth * width**2, 256 * width
    groups = {"embedding": head, "attention": body // 3, "mlp": body - body // 3, "norm": 5 * width, "head": head}
    n, steps = body + 5 * width, d // (batch * context)
    per_token = 6 * (n + head) + 6 * depth * context * width
    return {
        "schema": 1, "run": run, "study": "demo", "origin": "trained", "kind": kind, "role": role, "dataset": dataset,
        "identity": "0" * 12, "stem": stem, "branch_step": None if stem is None else int(0.8 * steps), "seed": seed,
        "family": "gpt", "size": size, "config": {"width": width, "depth": depth, "context": context},
        "recipe": {"name": "width", "learning_rate": 0.03 * 16 / width, "batch": batch, "schedule": "wsd"},
        "parameters": {"total": n + 2 * head, "nonembedding": n, "trainable": n, "active": n, "groups": groups},
        "steps": steps, "tokens": {"D": d, "per_step": batch * context, "loss": d, "unique": d, "epochs": 1.0},
        "flops": {"training": per_token * d, "6ND": 6 * n * d, "forward_per_example": 1, "parts": {}},
        "loss_unit": "nats/token", "headline": "loss",
        "data": {"source": dataset, "sha256": "ab" * 32, "bytes": 11_800_000, "entropy": TRUTH[dataset][5]},
        "environment": {"python": "3.11.9", "jax": "0.10.2", "device": "cpu", "threads": 1, "commit": "c0ffee"},
    }  # fmt: skip


def law(dataset, n, d):
    e, a, b, alpha, beta, _ = TRUTH[dataset]
    return e + a * n**-alpha + b * d**-beta


def train(workdir, m, stem_noise, rng):
    """Writes a finished record of this manifest: its loss from the planted law, 0.3 % noise, and its metrics."""
    record = Record(Path(workdir) / "runs" / m["run"])
    record.begin(m)
    n, d, start = m["parameters"]["nonembedding"], m["tokens"]["D"], m["branch_step"] or 0
    steps = np.unique(np.linspace(start + 20, m["steps"], 12).astype(int))
    drop = 0.97 if m["kind"] == "branch" else 1.0
    record.append(
        {"step": int(s), "loss": law(m["dataset"], n, s * 1024) * drop ** ((s - start) / m["steps"]) + 1.5 * s**-0.6,
         "tokens": int(s) * 1024, "seconds": 0.1}
        for s in steps
    )  # fmt: skip
    value = law(m["dataset"], n, d) * math.exp(stem_noise + 0.003 * rng.standard_normal())
    term = {"value": value, "se": 0.002, "count": 131072, "bits_per_byte": None, "sample": value}
    done = m["kind"] != "stem"
    record.finish(
        {"status": "done", "reason": None, "steps": m["steps"], "tokens": d, "decayed": done,
         "train_loss": value, "evaluation": {"loss": term} if done else {},
         "seconds": {"train": 3.0, "compile": 8.0, "evaluate": 0.5}, "tokens_per_second": 1e5, "mfu": None,
         "finished": "2026-01-01T00:00:00+0000"}
    )  # fmt: skip


def build(workdir, *, trained=True):
    """A study of two data sets like the demo's: 5 sizes x 4 D, seeds at 2 sizes, 4 held-out cells on the first."""
    rng, programs = np.random.default_rng(7), []

    def program(dataset, size, amounts, seed, role):
        stem = f"{dataset}-gpt{size}-s{seed}-stem"
        manifests = [manifest(stem, dataset, size, max(amounts) * 4 // 5, kind="stem", role="stem", seed=seed)]
        for d in amounts:
            manifests.append(
                manifest(f"{dataset}-gpt{size}-s{seed}-D{d}", dataset, size, d, role=role, seed=seed, stem=stem)
            )
        runs = [{"run": m["run"], "kind": m["kind"], "role": m["role"], "steps": m["steps"], "manifest": m}
                for m in manifests]  # fmt: skip
        programs.append({"program": stem, "shape": f"gpt {size}", "runs": runs})
        noise = 0.002 * rng.standard_normal()
        for m in manifests if trained else []:
            train(workdir, m, noise, rng)

    for dataset in TRUTH:
        for size in range(FITTED):
            program(dataset, size, TOKENS, 0, "fit")
        for size in (1, 3):
            program(dataset, size, TOKENS, 1, "seed")
    for size, d, seed in HOLDOUTS:
        program("stdlib", size, (d,), seed, "holdout")
    datasets = {"stdlib": {"source": "stdlib"}, "known": {"source": "zipf"}}
    write_json(workdir / "study.json", {"schema": 1, "name": "demo", "datasets": datasets, "programs": programs})
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
