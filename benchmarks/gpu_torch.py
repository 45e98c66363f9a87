"""The peer of gpu.py: GPT-2 124M in torch as nanoGPT trains it, on one GPU. Needs torch and nothing else.

    python benchmarks/gpu_torch.py [--batch=32] [--small]

The recipe is nanoGPT's: bfloat16 autocast, scaled_dot_product_attention, torch.compile, fused AdamW, clipping at 1,
TF32 products, tied head, vocabulary 50,304, 1024 positions, no dropout. Prints one line of JSON. Where there is no
torch, or no GPU without --small, it says so and exits 0.

RESULT: not run on a GPU yet; none was at hand when this was written.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import Any

LAYERS, WIDTH, HEADS, CONTEXT, VOCAB = 12, 768, 12, 1024, 50304
SMALL = (1, 16, 2, 32, 64)


def model(torch: Any, layers: int, width: int, heads: int, context: int, vocab: int) -> Any:
    """GPT-2: learned positions, LayerNorm before each block, GELU of four widths, tied head."""
    nn, F = torch.nn, torch.nn.functional

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.norms = nn.ModuleList([nn.LayerNorm(width, bias=False) for _ in range(2)])
            self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
            self.up, self.down = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)

        def forward(self, x: Any) -> Any:
            size, time_, _ = x.shape
            parts = self.qkv(self.norms[0](x)).split(width, dim=2)
            q, k, v = (part.view(size, time_, heads, width // heads).transpose(1, 2) for part in parts)
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.out(mixed.transpose(1, 2).reshape(size, time_, width))
            return x + self.down(F.gelu(self.up(self.norms[1](x))))

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.tokens, self.places = nn.Embedding(vocab, width), nn.Embedding(context, width)
            self.blocks = nn.ModuleList([Block() for _ in range(layers)])
            self.norm = nn.LayerNorm(width, bias=False)
            for weight in self.parameters():
                if weight.dim() > 1:
                    nn.init.normal_(weight, std=0.02)

        def forward(self, tokens: Any, targets: Any) -> Any:
            x = self.tokens(tokens) + self.places(torch.arange(tokens.shape[1], device=tokens.device))
            for block in self.blocks:
                x = block(x)
            logits = F.linear(self.norm(x), self.tokens.weight)
            return F.cross_entropy(logits.view(-1, vocab), targets.reshape(-1))

    return Model()


def measure(torch: Any, batch: int, small: bool) -> dict[str, Any]:
    """Tokens a second of the training step."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    layers, width, heads, context, vocab = SMALL if small else (LAYERS, WIDTH, HEADS, CONTEXT, VOCAB)
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high")
    net = model(torch, layers, width, heads, context, vocab).to(device)
    parameters = sum(weight.numel() for weight in net.parameters())
    optimizer = torch.optim.AdamW(
        net.parameters(), lr=6e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=device == "cuda"
    )
    run = net if small else torch.compile(net)
    tokens = torch.randint(0, vocab, (batch, context + 1), device=device)

    def step() -> Any:
        with torch.autocast(device, dtype=torch.bfloat16, enabled=not small):
            loss = run(tokens[:, :-1], tokens[:, 1:])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss

    def steps(number: int) -> float:
        for _ in range(number - 1):
            step()
        return step().item()  # waits for the device

    start = time.perf_counter()
    loss = steps(3)
    warm = time.perf_counter() - start
    count, each, start = 0, 1 if small else 10, time.perf_counter()
    while count < 2 or time.perf_counter() - start < (0.1 if small else 10.0):
        loss, count = steps(each), count + each
    seconds = (time.perf_counter() - start) / count
    speed = batch * context / seconds
    # N without positions, as nanoGPT counts it.
    flops = 6 * (parameters - context * width) + 12 * layers * width * context
    return {
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "batch": batch,
        "parameters": parameters,
        "ms_a_step": seconds * 1e3,
        "tokens_a_second": speed,
        "TFLOP/s": flops * speed / 1e12,
        "warm_up_seconds": warm,
        "loss": loss,
    }


def main(arguments: list[str] | None = None) -> int:
    """Prints one line of JSON; exits 0 also where it cannot run, and says why."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--small", action="store_true", help="tiny shape, without torch.compile: shows that it works")
    options = parser.parse_args(arguments)
    try:
        import torch  # type: ignore[import-not-found]
    except ImportError:
        print(json.dumps({"skipped": "no torch in this environment"}))
        return 0
    if not (options.small or torch.cuda.is_available()):
        print(json.dumps({"skipped": "no GPU"}))
        return 0
    print(json.dumps(measure(torch, 4 if options.small else options.batch, options.small)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
