"""On paper: time, memory and communication of large runs, from the family's own counts.

    python benchmarks/roofline.py            # writes benchmarks/roofline.md, in a second

Nothing here is measured. The FLOPs are ``scaling.count``'s, the same that every run record holds; what is assumed about
machines and about the program is ``ASSUMPTIONS`` and ``CHIPS`` below, and printed beside the numbers.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from scaling import count, families
from scaling.families import gpt

CONTEXT, VOCAB = 4096, 50304
# width, layers, heads: 12 L D^2 parameters besides embedding and head; and tokens in a step.
MODELS = {
    "1B": (2048, 20, 16, 2**22),
    "7B": (4096, 34, 32, 2**22),
    "70B": (8192, 86, 64, 2**24),
}
DEVICES = (8, 256, 4096)


@dataclass(frozen=True)
class Chip:
    """``flops``: dense bf16 a second; ``memory`` bytes and ``bandwidth`` bytes a second of its HBM; ``near`` bytes a
    second that a device takes from the others of its node of ``node`` devices, ``far`` what it takes from outside (its
    own network adapter). On a TPU there is no node: every axis of the mesh is one of the torus, at ``near``."""

    flops: float
    memory: float
    bandwidth: float
    near: float
    far: float
    node: int


NEAR, FAR, TORUS = 450e9, 50e9, 180e9
CHIPS = {
    "H100": Chip(989e12, 80e9, 3.35e12, NEAR, FAR, 8),
    "H200": Chip(989e12, 141e9, 4.8e12, NEAR, FAR, 8),
    "v5p": Chip(459e12, 95e9, 2.765e12, TORUS, TORUS, 1),
}
SHARE, USABLE, STATE = 0.75, 0.9, 16
# One device, GPT-2's shapes: width, layers, heads at 1024 positions and a tied head; 131k tokens a step.
ALONE = {"124M": (768, 12, 12), "350M": (1024, 24, 16), "1.3B": (2048, 24, 16)}
ALONE_TOKENS, ALONE_CONTEXT = 2**17, 1024
ASSUMPTIONS = f"""\
- Model: family gpt, {CONTEXT} positions, vocabulary {VOCAB:,}, own head; FLOPs by `scaling.count` (attention in full).
- Step: the tokens named below, or one sequence a device where that is more.
- Compute: {SHARE:.0%} of the dense bf16 peak in matrix products; every layer's forward pass is done twice
  (`execution.remat=full`), which MFU does not count.
- Memory: {STATE} bytes a parameter (float32 weights, gradient, two moments) over fsdp x tensor; of each sequence
  every layer's input in bf16 and, for one layer, 34 x width numbers a position (bf16, over tensor); two gathered layers
  in bf16; logits of 256 positions (`loss_chunk`). {USABLE:.0%} of the HBM is usable. The batch is taken in as few parts
  (`execution.microbatches`) as fit.
- fsdp: weights gathered in bf16 before the forward and before the backward pass and gradients scattered in float32,
  for every part of the batch. data: one all-reduce of float32 gradients a step. tensor: six
  all-reduces a layer (two because of remat) of a sequence's activations in bf16.
- Bandwidth to one device, GB/s: H100 and H200 {NEAR / 1e9:.0f} in a node of 8 (NVLink 4, one direction) and one adapter
  of {FAR / 1e9:.0f} (400 Gb/s) to other nodes: an axis that has g devices in each node takes g adapters' worth. Tensor
  is the innermost axis, then fsdp, then data. v5p: {TORUS / 1e9:.0f} along each axis of the torus, both directions.
- Time: the smaller figure has weights and gradients wholly hidden behind the compute, the larger one adds them;
  tensor's are never hidden. The optimiser's pass over its state is added at the HBM's speed.
- One device: no remat. Of each layer 34 x width bytes a position (bf16, arXiv 2205.05198, without scores) pass through
  HBM four times: written and read in the forward pass, they and their gradients in the backward pass. Whole logits pass
  six times in bf16 (written and read, read again, their gradient written and read by two products); a kernel that fuses
  the head with its loss would keep them on the chip, and with `loss_chunk` they are computed twice. Nothing overlaps.
- Sources: NVIDIA's data sheets of H100 and H200 (SXM), Google Cloud's page on TPU v5p."""


@dataclass(frozen=True)
class Estimate:
    """One step on a mesh: seconds, bytes on a device, bytes that a device receives, microbatches."""

    compute: float
    hidden: float
    exposed: float
    update: float
    memory: float
    received: float
    turns: int

    @property
    def best(self) -> float:
        """Seconds with all communication hidden that can be."""
        return max(self.compute, self.hidden) + self.exposed + self.update

    @property
    def worst(self) -> float:
        """Seconds with none hidden."""
        return self.compute + self.hidden + self.exposed + self.update


def shape(model: str) -> gpt.Config:
    """The configuration of a model by name."""
    width, layers, heads, _ = MODELS[model]
    return families.configure(gpt, 0, width=width, layers=layers, heads=heads, vocab=VOCAB, context=CONTEXT, tied=False)


def step_tokens(model: str, devices: int) -> int:
    """Tokens of one step: the model's, or one sequence a device."""
    return max(MODELS[model][3], devices * CONTEXT)


def bandwidth(chip: Chip, size: int, inside: int) -> float:
    """Bytes a second that a device gets along an axis of ``size`` whose neighbours are ``inside`` devices apart."""
    together = max(1, min(size, chip.node // inside))  # of the axis, in one node
    return chip.near if together >= size or chip.node == 1 else min(chip.near, together * chip.far)


def estimate(model: str, chip: Chip, data: int, fsdp: int, tensor: int) -> Estimate | str:
    """One step of a model on a mesh, or why that cannot be."""
    config, batch = shape(model), step_tokens(model, data * fsdp * tensor) // CONTEXT
    if batch % (data * fsdp):
        return f"{batch} sequences do not divide over {data * fsdp}"
    parts = gpt.components(config)
    parameters = count.parameters(parts)["total"]
    devices, sequences = data * fsdp * tensor, batch // (data * fsdp)
    training, forward = sum(count.training_flops(parts).values()), sum(count.forward_flops(parts).values())
    compute = batch * (training + forward) / (devices * chip.flops * SHARE)
    layer = parameters / config.layers
    tokens = CONTEXT * config.width * 2  # bytes of one sequence's activations
    each = tokens * (config.layers + 34 / tensor) + 256 * VOCAB * 4 / tensor
    fixed = STATE * parameters / (fsdp * tensor) + 2 * 2 * layer / tensor
    turns = next(
        (
            n
            for n in range(1, sequences + 1)
            if sequences % n == 0 and fixed + each * sequences / n <= chip.memory * USABLE
        ),
        0,
    )
    if not turns:
        return f"{(fixed + each) / 1e9:,.0f} GB does not fit"
    memory = fixed + each * sequences / turns
    weights = parameters / tensor * (fsdp - 1) / fsdp * turns * (2 + 2 + 4)
    gradients = 2 * 4 * parameters / (fsdp * tensor) * (data - 1) / data
    activations = 6 * config.layers * 2 * tokens * (tensor - 1) / tensor * sequences
    hidden = weights / bandwidth(chip, fsdp, tensor) + gradients / bandwidth(chip, data, tensor * fsdp)
    update = 2 * STATE * parameters / (fsdp * tensor) / chip.bandwidth
    exposed = activations / bandwidth(chip, tensor, 1)
    return Estimate(compute, hidden, exposed, update, memory, weights + gradients + activations, turns)


@dataclass(frozen=True)
class Alone:
    """Seconds of one step on one device: products, the layers' activations, logits, the optimiser; and its FLOPs."""

    compute: float
    activations: float
    logits: float
    again: float
    update: float
    flops: float


def alone(model: str, chip: Chip) -> Alone:
    """One step of a model of ``ALONE`` on one device. ``again``: seconds to compute the logits a second time."""
    width, layers, heads = ALONE[model]
    config = families.configure(gpt, 0, width=width, layers=layers, heads=heads, vocab=VOCAB, context=ALONE_CONTEXT)
    parts, sequences = gpt.components(config), ALONE_TOKENS // ALONE_CONTEXT
    flops = sequences * sum(count.training_flops(parts).values())
    return Alone(
        compute=flops / (chip.flops * SHARE),
        activations=4 * 34 * width * layers * ALONE_TOKENS / chip.bandwidth,
        logits=6 * 2 * VOCAB * ALONE_TOKENS / chip.bandwidth,
        again=sequences * count.forward_flops(parts)["head"] / (chip.flops * SHARE),
        update=2 * STATE * count.parameters(parts)["total"] / chip.bandwidth,
        flops=flops,
    )


def _alone_table() -> list[str]:
    lines = [
        "## One H200",
        "",
        f"Tied head, vocabulary {VOCAB:,}, {ALONE_CONTEXT} positions, {ALONE_TOKENS // 1024}k tokens a step. MFU by "
        "`scaling.count` (attention in full): with whole logits; with logits in chunks, computed twice; and with a "
        "fused kernel, which this package has not.",
        "",
        "| model | products, s | activations, s | logits, s | optimiser, s | MFU, whole | in chunks | fused |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for model in ALONE:
        found, peak = alone(model, CHIPS["H200"]), CHIPS["H200"].flops
        fused = found.compute + found.activations + found.update
        ways = (fused + found.logits, fused + found.again, fused)
        lines.append(
            f"| {model} | {found.compute:.3g} | {found.activations:.3g} | {found.logits:.3g} | {found.update:.3g} | "
            f"{' | '.join(f'{found.flops / peak / seconds:.0%}' for seconds in ways)} |"
        )
    return [*lines, ""]


def meshes(devices: int) -> list[tuple[int, int, int]]:
    """Meshes (data, fsdp, tensor) worth a row: all data, all fsdp, fsdp in a node, and both with 8 or 2 by tensor."""
    found = [(devices, 1, 1), (1, devices, 1), (devices // 8, 8, 1), (1, devices // 2, 2), (1, devices // 8, 8)]
    if devices > 64:
        found += [(devices // 64, 64, 1), (devices // 256, 32, 8)]
    return list(dict.fromkeys(found))


def document() -> str:
    """The text of roofline.md."""
    lines = ["# Rooflines", "", "Written by `python benchmarks/roofline.py`. Nothing here is measured.", ""]
    lines += ["## Assumptions", "", ASSUMPTIONS, "", *_alone_table()]
    for model, (width, layers, heads, batch) in MODELS.items():
        parts = gpt.components(shape(model))
        counts = count.parameters(parts)
        per_token = sum(count.training_flops(parts).values()) / CONTEXT
        lines += [
            f"## {model}",
            "",
            f"Width {width}, {layers} layers, {heads} heads: {counts['nonembedding'] / 1e9:.3g}e9 parameters without "
            f"embedding and head, {counts['total'] / 1e9:.3g}e9 with. {per_token:.3e} training FLOPs a token, "
            f"{per_token / 6 / counts['nonembedding']:.2f} x 6N; {batch / 2**20:.0f}M tokens a step. "
            f"Days: of 20 tokens a parameter, {20 * counts['nonembedding'] / 1e9:,.0f}e9.",
            "",
            "| devices | data x fsdp x tensor | parts | GB a device | s a step | MFU | days | GB received | compute, s "
            "| weights and gradients, s | tensor, s |",
            "|---|---|---|---|---|---|---|---|---|---|---|",
        ]
        for devices in DEVICES:
            for name, chip in CHIPS.items():
                for mesh in meshes(devices):
                    label = f"| {devices} {name} | {' x '.join(map(str, mesh))} |"
                    found = estimate(model, chip, *mesh)
                    if isinstance(found, str):
                        lines.append(f"{label} {found} |" + " |" * 8)
                        continue
                    tokens = step_tokens(model, devices)
                    ideal = tokens * per_token / (devices * chip.flops)
                    days = 20 * counts["nonembedding"] / tokens * found.best / 86400
                    lines.append(
                        f"{label} {found.turns} | {found.memory / 1e9:.3g} | {found.best:.3g} to {found.worst:.3g} | "
                        f"{ideal / found.worst:.0%} to {ideal / found.best:.0%} | {days:.3g} | "
                        f"{found.received / 1e9:,.0f} | {found.compute:.3g} | {found.hidden:.3g} | "
                        f"{found.exposed:.3g} |"
                    )
        lines.append("")
    return "\n".join(lines)


def main() -> int:
    """Writes roofline.md."""
    (Path(__file__).parent / "roofline.md").write_text(document())
    return 0


if __name__ == "__main__":
    sys.exit(main())
