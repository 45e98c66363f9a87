"""The code blocks of README.md and docs/: how they are found, and the files that they are run on."""

from __future__ import annotations

import gzip
import itertools
import json
import re
import shutil
from pathlib import Path
from typing import NamedTuple

import handmade
import numpy as np

from scaling.records import write_json
from scaling.records.types import Parameters

ROOT = Path(__file__).parents[1]
LOGS = ROOT / "tests" / "fixtures" / "logs"
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


class Block(NamedTuple):
    """A block of code: the page, its kind (``shell`` where it is indented) and its text."""

    page: str
    kind: str
    text: str


def blocks(page: Path) -> list[Block]:
    """Every block of a page, in its order: fenced ones, and lines indented by four after an empty line."""
    name, found, text = str(page.relative_to(ROOT)), [], page.read_text()
    for match in FENCED.finditer(text):
        found.append((match.start(), Block(name, match[1], match[2])))
        text = text[: match.start()] + re.sub(r"[^\n]", "~", match[0]) + text[match.end() :]
    for match in re.finditer(r"(?<=\n\n)((?:    .*\n)+)", text):
        found.append((match.start(), Block(name, "shell", re.sub(r"^    ", "", match[1], flags=re.MULTILINE))))
    return [block for _, block in sorted(found)]


def commands(block: Block) -> list[str]:
    """The commands of a shell block, without their comments; a line that ends with a backslash goes on."""
    lines = block.text.replace("\\\n", " ").splitlines()
    return [re.sub(r" +# .*", "", line).strip() for line in lines if line.strip()]


def table(path: Path, *, rows: int = 6, seed: int = 0, header: str = "N,D,loss", unit: float = 1.0) -> None:
    """Runs of Chinchilla's law with 0.3 % noise, four values of D a size."""
    rng, lines = np.random.default_rng(seed), [header]
    for n in np.geomspace(2e7, 1e9, rows):
        for d in n * np.array([5.0, 15.0, 40.0, 120.0]):
            loss = (1.69 + 406.4 * n**-0.34 + 410.7 * d**-0.28) * np.exp(0.003 * rng.standard_normal())
            lines.append(f"{n:.0f},{d / unit:.8g},{loss:.6f}")
    path.write_text("\n".join(lines) + "\n")


def budgets(path: Path, saving: float, seed: int) -> None:
    """C and loss of compute-optimal runs that need ``saving`` of the compute of the base."""
    rng, lines = np.random.default_rng(seed), ["C,loss"]
    for c in np.geomspace(1e17, 1e20, 6):
        loss = (1.75 + 1376 * (c / saving) ** -0.16) * np.exp(0.002 * rng.standard_normal())
        lines.append(f"{c:.4g},{loss:.6f}")
    path.write_text("\n".join(lines) + "\n")


def rounded(path: Path) -> None:
    """What `scaling run --evaluate --bits` writes: losses of runs as they are and in few bits, and what that costs."""
    rng, lines = np.random.default_rng(0), ["run,N,D,bits,loss,delta,delta_se"]
    for n in np.geomspace(1e5, 1e7, 4):
        for ratio in (10.0, 40.0, 160.0):
            loss, name = 1.69 + 406.4 * n**-0.34 + 410.7 * (ratio * n) ** -0.28, f"{n:.0f}-{ratio:.0f}"
            lines.append(f"{name},{n:.0f},{ratio * n:.0f},32,{loss:.6f},,")
            for bits in (6, 4, 3):
                delta = 4.0 * ratio**0.5 * np.exp(-bits / 0.8) * np.exp(0.05 * rng.standard_normal())
                lines.append(f"{name},{n:.0f},{ratio * n:.0f},{bits},{loss + delta:.6f},{delta:.6f},{delta / 20:.6f}")
    path.write_text("\n".join(lines) + "\n")


def answered(path: Path) -> None:
    """What `scaling run --evaluate --shots=3` writes: the loss of answers and the share of wrong choices, of runs."""
    rng, lines = np.random.default_rng(0), ["run,N,D,shots,loss,se,error,chance,val_loss"]
    for n in np.geomspace(1e5, 1e7, 4):
        for ratio in (10.0, 40.0, 160.0):
            loss = (1.69 + 406.4 * n**-0.34 + 410.7 * (ratio * n) ** -0.28) * np.exp(0.001 * rng.standard_normal())
            error = 0.75 - 2.5 * np.exp(-0.8 * loss) + 0.002 * rng.standard_normal()
            name, own = f"{n:.0f}-{ratio:.0f}", f"{n:.0f},{ratio * n:.0f}"
            lines.append(f"{name},{own},,{loss:.6f},0.001,,,")
            lines.append(f"{name},{own},3,{0.8 * loss:.6f},0.001,{error:.6f},0.75,{loss:.6f}")
    path.write_text("\n".join(lines) + "\n")


def pruned(workdir: Path) -> None:
    """A finished study of the page on pruning: four sizes at three D, dense and at three sparsities."""
    rng, made = np.random.default_rng(0), []
    for n, d, sparsity in itertools.product(
        (8_000, 32_000, 128_000, 512_000), (2**18, 2**19, 2**20), (0, 0.5, 0.75, 0.875)
    ):
        zeros, name = int(sparsity * n), f"gpt-{n}-{d}-{sparsity}"
        left = {"nonembedding": n - zeros, "nonembedding_active": n - zeros, "groups": {"embedding": 100, "mlp": n}}
        total = dict.fromkeys(("total", "trainable", "active"), n + 100 - zeros)
        about = handmade.manifest(
            name,
            n=n,
            d=d,
            size=n // 8_000,
            parameters=Parameters(**left, **total, zeros=zeros),
            prune={"sparsity": sparsity, "weights": n} if sparsity else {},
        )
        loss = 1.5 + (5.0 * (1 - sparsity) ** 0.4 + 10.0) * (n - zeros) ** -0.3 + 60.0 * d**-0.35
        handmade.write(workdir, about, handmade.result(loss * float(np.exp(0.002 * rng.standard_normal()))))
        made.append(about)
    write_json(workdir / "study.json", handmade.study(*(handmade.program(about) for about in made)))


def place(folder: Path) -> None:
    """Writes every file that the pages name, but work directories and cards."""
    table(folder / "runs.csv")
    table(folder / "other.csv", seed=1)
    table(folder / "mine.csv", header="params,tokens,val_loss", unit=1e9)
    rounded(folder / "bits.csv")
    answered(folder / "shots.csv")
    budgets(folder / "base.csv", 1.0, 0)
    budgets(folder / "change.csv", 0.8, 1)
    (folder / "experiments").symlink_to(ROOT / "experiments")
    shutil.copytree(LOGS / "tensorboard", folder / "tensorboard")
    shutil.copy(LOGS / "nanogpt" / "train.log", folder / "nanogpt.log")
    shutil.copy(LOGS / "wandb" / "chart.csv", folder / "chart.csv")
    (folder / "facts.csv").write_text("run,N,tokens_per_step\nsimple,31M,8192\ntensors,74M,8192\n")
    corpus(folder)


def corpus(folder: Path) -> None:
    """Text to train on, text to prepare, and a tokenizer of single bytes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "corpus.txt").write_text("".join(f"This is line {i} of a text. " for i in range(60_000)))
    (folder / "books").mkdir()
    for i in range(60):
        (folder / "books" / f"{i}.txt").write_text(f"This is book {i}. " * 40)
    rows = "\n".join(json.dumps({"text": f"document {i} of more " * 20}) for i in range(40))
    (folder / "more.jsonl.gz").write_bytes(gzip.compress(rows.encode(), mtime=0))
