"""Whether a change of the code changed a number: the same commands in two checkouts, and every number they print.

    python benchmarks/unchanged.py --old=PATH --new=PATH [--reference=DIR] [--experiments] [--train]

Each checkout has its own ``.venv``. Fits every published set in ``--reference`` that is there, and planted tables that
always are, under several laws; with ``--experiments`` also plans every experiment, and with ``--train`` trains the
smallest study. Numbers are compared by what they are called on the card, to 1e-9 of their size; losses bit by bit.
Ends with 1 and a list where one differs.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

TOLERANCE = 1e-9
# name of a reference file -> the flags of each fit of it
REFERENCE = {
    "chinchilla_besiroglu": [
        ["--where=excluded_by_besiroglu == 0", "--law=chinchilla"],
        ["--where=excluded_by_besiroglu == 0", "--law=chinchilla", "--objective=huber:1e-3"],
        ["--where=excluded_by_besiroglu == 0", "--law=kaplan"],
        ["--where=excluded_by_besiroglu == 0", "--law=product_floor"],
    ],
    "chinchilla_mlscalefit_isoflop": [["--where=not outlier", "--law=chinchilla"]],
    "gemstones": [["--where=subset == 'hot_100b+'", "--law=chinchilla"]],
    "gadre_overtraining": [["--dataset=c4_original", "--columns=loss=loss_c4", "--law=chinchilla"]],
    "datablations_c4_fit182": [["--law=repeats"]],
    "porian_isoflop": [["--dataset=rw", "--law=chinchilla"]],
    "marin_isoflop": [["--dataset=comma", "--where=not outlier", "--law=chinchilla"]],
}
PLANTED = [
    ("grid", ["--law=chinchilla"]),
    ("grid", ["--law=chinchilla", "--scheme=all"]),
    ("grid", ["--law=kaplan"]),
    ("grid", ["--law=chinchilla[beta=alpha]"]),
    ("grid", ["--law=chinchilla", "--weights=seeds"]),
    ("grid", ["--law=chinchilla", "--fixed=E=1.69", "--objective=student"]),
    ("grid", ["--law=product,chinchilla"]),
    ("stems", ["--law=chinchilla"]),
    ("stems", ["--law=product"]),
    ("many", ["--law=chinchilla"]),
    ("many", ["--law=power_floor", "--columns=x=C"]),
    ("many", ["--law=bnsl1", "--columns=x=C"]),
]
EXPERIMENTS = ("demo", "demo:smoke", "bert:mlm", "t5", "vit", "clip", "fusion", "moe:moe", "repeats", "lr_transfer")


def planted(folder: Path) -> None:
    """Tables with a known truth and fixed noise, as CSV."""
    rng = np.random.default_rng(0)
    for name, sizes, ratios, seeds, stems in (
        ("grid", 5, 4, 2, 0.0),
        ("stems", 5, 4, 2, 0.004),
        ("many", 12, 10, 1, 0),
    ):
        lines = ["N,D,loss,seed,stem,run"]
        for seed in range(seeds):
            for n in np.geomspace(1e7, 1e9, sizes):
                shift = stems * rng.standard_normal()
                for d in np.geomspace(2e8, 2e10, ratios):
                    loss = (1.69 + 406.4 / n**0.34 + 410.7 / d**0.28) * math.exp(shift + 0.003 * rng.standard_normal())
                    stem = f"{n:.0f}-{seed}" if stems else ""
                    lines.append(f"{float(n)!r},{float(d)!r},{float(loss)!r},{seed},{stem},{len(lines)}")
        text = "\n".join(lines) if stems else "\n".join(",".join(x.split(",")[:4]) for x in lines)
        (folder / f"{name}.csv").write_text(text + "\n")


def shell(checkout: Path, *arguments: str, cwd: Path) -> str:
    """What ``scaling`` of a checkout prints."""
    where = {**os.environ, "PYTHONPATH": str(checkout)}
    python = checkout / ".venv" / "bin" / "python"
    command = [str(python), "-c", "import sys; from scaling.cli import main; sys.exit(main())", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=where)
    return done.stdout if done.returncode == 0 else f"exit {done.returncode}: {done.stderr.strip()[-200:]}"


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every number under its path."""
    if isinstance(value, dict):
        for key, each in value.items():
            yield from leaves(each, f"{path}.{key}")
    elif isinstance(value, list):
        for i, each in enumerate(value):
            yield from leaves(each, f"{path}[{i}]")
    elif value is None or isinstance(value, bool | int | float):
        yield path, value


def fitted(text: str) -> dict[str, Any]:
    """The numbers of cards, called alike for schema 1 and 2 of them; an error stays as it is."""
    if text.startswith("exit"):
        raise SystemExit(text)
    found = json.loads(text)
    out: dict[str, Any] = {}
    for i, card in enumerate(found["fits"] if found.get("kind") == "fits" else [found]):
        derived = {k: v for k, v in (card["derived"] or {}).items() if v}
        rows = card["runs"]
        columns = rows["columns"] if isinstance(rows, dict) else None
        residual = columns["residual_log"] if columns else [row["residual_log"] for row in rows]
        objective = {k: card["objective"][k] for k in ("delta", "value", "rms_log_residual")}
        schemes = {k: v["intervals"] for k, v in (card.get("schemes") or {}).items()}
        kept = {
            "params": card["params"],
            "derived": derived,
            "objective": objective,
            "noise": {k: v for k, v in card["noise"].items() if k != "groups"},
            "optima": card["optima"],
            "residual": residual,
            "schemes": schemes,
            "df": card.get("scheme", card.get("interval"))["df"],
            "warnings": len(card["warnings"]),
            "sha": int(card["data"]["sha256"][:8], 16),
        }
        out |= {f"{i}{path}": value for path, value in leaves(kept)}
    return out


def planned(text: str) -> dict[str, Any]:
    """Cells of a plan: what is trained, not how long it takes."""
    if text.startswith("exit"):
        raise SystemExit(text)
    names = ("run", "N", "N_total", "D", "steps", "batch", "learning_rate", "seed", "flops", "6ND", "epochs")
    rows = {row["run"]: [row[name] for name in names] for row in json.loads(text)["cells"]}
    return {name: tuple(row) for name, row in rows.items()}


def trained(checkout: Path, folder: Path) -> dict[str, Any]:
    """Evaluation losses of the smallest study, by run, to the bit."""
    workdir = folder / f"smoke-{abs(hash(checkout))}"
    shell(checkout, "run", "--config=demo:smoke", f"--workdir={workdir}", "--workers=1", cwd=folder)
    out = {}
    for path in sorted(workdir.glob("runs/*/result.json")):
        result = json.loads(path.read_text())
        out |= {f"{path.parent.name} {k}": v["value"].hex() for k, v in result["evaluation"].items()}
    return out


def compare(name: str, old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Lines about what differs."""
    lines = [f"{name}: {key} only in one" for key in sorted(set(old) ^ set(new))]
    for key in set(old) & set(new):
        a, b = old[key], new[key]
        if isinstance(a, float) and isinstance(b, float | int):
            if not math.isclose(a, b, rel_tol=TOLERANCE, abs_tol=1e-15):
                lines.append(f"{name}: {key} {a!r} -> {b!r}")
        elif a != b:
            lines.append(f"{name}: {key} {a!r} -> {b!r}")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--old", type=Path, required=True)
    parser.add_argument("--new", type=Path, required=True)
    parser.add_argument("--reference", type=Path)
    parser.add_argument("--experiments", action="store_true")
    parser.add_argument("--train", action="store_true")
    options = parser.parse_args()
    checkouts, wrong, count = [options.old.resolve(), options.new.resolve()], [], 0
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        planted(folder)
        cases = [(folder / f"{name}.csv", flags) for name, flags in PLANTED]
        for name, several in REFERENCE.items() if options.reference else ():
            path = options.reference / f"{name}.csv"
            cases += [(path.resolve(), flags) for flags in several] if path.exists() else []
        for path, flags in cases:
            old, new = (fitted(shell(each, "fit", str(path), *flags, "--json", cwd=folder)) for each in checkouts)
            count += len(old)
            wrong += compare(f"{path.stem} {' '.join(flags)}", old, new)
            print(f"{path.stem} {' '.join(flags)}: {len(old)} numbers, {len(wrong)} differences so far", flush=True)
        for name in EXPERIMENTS if options.experiments else ():
            flags = ["plan", f"--config={name}", "--json"]
            old, new = (planned(shell(each, *flags, cwd=folder)) for each in checkouts)
            count += len(old)
            wrong += compare(f"plan {name}", old, new)
            print(f"plan {name}: {len(old)} cells, {len(wrong)} differences so far", flush=True)
        if options.train:
            old, new = (trained(each, folder) for each in checkouts)
            count += len(old)
            wrong += compare("demo:smoke", old, new)
            print(f"demo:smoke: {len(old)} losses, {len(wrong)} differences so far", flush=True)
    print("\n".join(wrong[:200]))
    print(f"{count} numbers compared, {len(wrong)} differ")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
