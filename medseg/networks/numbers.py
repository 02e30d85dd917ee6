"""Numbers of a plan that a network does not have."""

from __future__ import annotations

import dataclasses

from ..errors import Refused
from ..plan import Plan
from ..plan.tables import NetworkPlan

__all__ = ["refuse_other_numbers"]

_ALWAYS = ("name", "members")


def refuse_other_numbers(plan: Plan, *used: str) -> None:
    """Refuse numbers of ``[network]`` that say something about what this network does not have.

    Parameters
    ----------
    plan : Plan
        With the network's name.
    *used : str
        Names of the numbers that the network is built from.

    Raises
    ------
    Refused
        ``bad-plan`` with the first number that is not used and not left at its default.

    Examples
    --------
    >>> plan = Plan().with_values({"network.name": "fcn8s", "network.residual": True})
    >>> refuse_other_numbers(plan, "channels", "norm", "dropout")
    Traceback (most recent call last):
    ...
    medseg.errors.Refused: the network 'fcn8s' has no 'network.residual': got True, expected False.
    """
    for entry in dataclasses.fields(NetworkPlan):
        value, default = getattr(plan.network, entry.name), getattr(NetworkPlan(), entry.name)
        if entry.name not in (*_ALWAYS, *used) and value != default:
            raise Refused(
                "bad-plan",
                f"the network '{plan.network.name}' has no 'network.{entry.name}'",
                got=value,
                expected=default,
            )
