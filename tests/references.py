"""The tables of published runs: most are in the package, those without a licence lie beside the checkout or nowhere."""

from pathlib import Path

import pytest

from analysis import reference

SHARED = Path(__file__).resolve().parents[2] / "shared"
# Their repositories state no licence. Each test of truth on one of them has a planted twin, which always runs.
UNLICENSED = (
    "chinchilla_besiroglu",
    "chinchilla_mlscalefit_isoflop",
    "marin_isoflop",
    "openclip_zeroshot",
    "steplaw_dense_lr_bs",
    "steplaw_moe_lr_bs",
)
NOT_HERE = "has no licence to be in the package, and no ../shared/reference_runs is here"


def reference_file(name: str) -> Path:
    """The table ``NAME.csv``; skips the test where it is one of ``UNLICENSED`` and not at hand."""
    name = name.removesuffix(".csv")
    if name not in UNLICENSED:
        return reference.FOLDER / f"{name}.csv"
    path = SHARED / "reference_runs" / f"{name}.csv"
    if not path.exists():
        pytest.skip(f"{name} {NOT_HERE}")
    return path
