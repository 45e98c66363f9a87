"""Accelerators: peak rate, memory and list price of each. Standard library only.

Peaks are dense bf16 FLOP/s. Sources of peaks and memory: NVIDIA's data sheets of A100, H100 and H200 (without sparsity)
and Google Cloud's pages on the architecture of each TPU. A price is what one device cost an hour on demand as part of
the instance that is named, in US dollars, on the day it was read; nobody with a contract or a cluster pays it, so
``config.price_per_hour`` and ``scaling status --price`` come before it. Where no price is given here, only those count.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Price:
    """A list price.

    Attributes:
      per_hour: US dollars for one device. source: instance, region and where it was read. read: the day, as ISO date.
    """

    per_hour: float
    source: str
    read: str


@dataclass(frozen=True)
class Device:
    """A kind of accelerator.

    Attributes:
      name: for ``plan --device``; empty if it has none, since variants differ in memory.
      kinds: what jax's ``device_kind`` begins with.
      peak: dense bf16 FLOP/s. memory: bytes; None if variants differ.
      price: None if the user has to give it.
    """

    name: str
    kinds: tuple[str, ...]
    peak: float
    memory: float | None
    price: Price | None = None


def _aws(instance: str, dollars: float, where: str, read: str) -> Price:
    """The price of one of the eight GPUs of an instance."""
    return Price(dollars / 8, f"AWS {instance} on demand, us-east-1, {where}", read)


_LIST = "github.com/datareceipts/data-receipts, 109-gpu-pricing"
DEVICES = (
    Device("", ("NVIDIA A100",), 312e12, None),
    Device(
        "a100-40gb",
        ("NVIDIA A100-SXM4-40GB",),
        312e12,
        40e9,
        _aws("p4d.24xlarge", 21.957642, _LIST, "2026-11-09"),
    ),
    Device(
        "a100-80gb",
        ("NVIDIA A100-SXM4-80GB",),
        312e12,
        80e9,
        _aws("p4de.24xlarge", 27.44705, _LIST, "2026-11-09"),
    ),
    Device("h100-80gb", ("NVIDIA H100",), 989e12, 80e9, _aws("p5.48xlarge", 55.04, _LIST, "2026-11-09")),
    Device("", ("NVIDIA H100 PCIe",), 756e12, None),
    Device("", ("NVIDIA H100 NVL",), 835e12, None),
    Device(
        "h200-141gb",
        ("NVIDIA H200",),
        989e12,
        141e9,
        _aws("p5en.48xlarge", 63.296, "github.com/dstackai/dstack/pull/4110", "2026-08-06"),
    ),
    Device("", ("NVIDIA H200 NVL",), 835e12, None),
    Device("v4", ("TPU v4",), 275e12, 32e9),
    Device("v5e", ("TPU v5 lite", "TPU v5e"), 197e12, 16e9),
    Device("v5p", ("TPU v5", "TPU v5p"), 459e12, 95e9),
    Device("v6e", ("TPU v6 lite", "TPU v6e"), 918e12, 32e9),
)


def find(kind: str) -> Device | None:
    """The accelerator of a ``device_kind``, by its longest known beginning; None if it is not in the table."""
    known = [(len(start), device) for device in DEVICES for start in device.kinds if kind.startswith(start)]
    return max(known, key=lambda pair: pair[0])[1] if known else None
