"""What a study has cost: device hours by kind of device, and their price."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from scaling import devices
from scaling.records.value import Value


class Spend(Value, kw_only=True):
    """What the study has used of one kind of device.

    Attributes:
      device_kind: as JAX names it; None for runs whose manifest does not tell.
      hours: device hours: seconds of runs times the devices of their mesh.
      per_hour: price of a device hour; None if nobody gave one. cost: hours x per_hour.
      origin: who gave the price: the caller, the study (``config.price_per_hour``), or the table of ``devices``, in US
        dollars. listed: source and date of a price of that table.
    """

    device_kind: str | None
    hours: float
    per_hour: float | None = None
    cost: float | None = None
    origin: Literal["given", "study", "list"] | None = None
    listed: str | None = None


class Prices:
    """Prices of a device hour.

    Args:
      given: by the caller, by the beginning of the device's kind; "" stands for every device. The longest one counts.
      study: ``config.price_per_hour``, for devices that ``given`` does not name; 0 if the study names none. For what
        neither names there is the table of ``devices``.
    """

    def __init__(self, given: Mapping[str, float], study: float):
        self._given, self._study = given, study

    def spend(self, kind: str | None, hours: float) -> Spend:
        """Hours on one kind of device, priced if a price is known."""
        fitting = [start for start in self._given if (kind or "").startswith(start)]
        known = None if kind is None else devices.find(kind)
        if fitting:
            price = self._given[max(fitting, key=len)]
            return Spend(device_kind=kind, hours=hours, per_hour=price, cost=hours * price, origin="given")
        if self._study:
            return Spend(device_kind=kind, hours=hours, per_hour=self._study, cost=hours * self._study, origin="study")
        if known is None or known.price is None:
            return Spend(device_kind=kind, hours=hours)
        price, listed = known.price.per_hour, f"{known.price.source}, {known.price.read}"
        return Spend(device_kind=kind, hours=hours, per_hour=price, cost=hours * price, origin="list", listed=listed)


def cost_left(spend: Sequence[Spend], spent: float, left: float) -> float | None:
    """Cost of the remaining work at the mean price of a second so far; None if it is not known.

    Args:
      spent, left: seconds of runs.
    """
    costs = [each.cost for each in spend if each.cost is not None]
    if not left:
        return 0.0
    if not costs or len(costs) < len(spend) or not spent:
        return None
    return sum(costs) * left / spent
