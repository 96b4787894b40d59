"""A claim is a number with bounds: what an experiment says, so that a machine can check it."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

__all__ = [
    "Claim",
    "ClaimCheck",
    "applies",
    "at_least",
    "at_most",
    "check_claim",
    "claim_text",
    "within",
]


class Claim(NamedTuple):
    """`low <= metrics[metric] <= high`, for runs whose configuration matches `when`.

    Args:
      metric: a name among the metrics that `run` returns.
      low: lower bound, inclusive; `-inf` for none.
      high: upper bound, inclusive; `inf` for none.
      source: where the expected number comes from: paper, table and value.
      when: configuration fields that must have these values for the claim to apply, dotted names
        for nested ones; empty: always.

    Example:
      >>> claim_text(Claim("test_nll", -math.inf, 8.7, "Chung et al. 2014, table 2"))
      'test_nll <= 8.7'
    """

    metric: str
    low: float
    high: float
    source: str
    when: Mapping[str, Any] = {}


class ClaimCheck(NamedTuple):
    """Whether a claim holds, and a sentence that says so with the numbers.

    Args:
      holds: True where the metric is inside the bounds.
      text: one line for people.

    Example:
      >>> ClaimCheck(True, "nll <= 8.7 holds: 8.59").holds
      True
    """

    holds: bool
    text: str


def at_most(metric: str, high: float, *, source: str, when: Mapping[str, Any] | None = None) -> Claim:
    """Claims `metric <= high`.

    Args:
      metric: name of the metric.
      high: the upper bound, inclusive.
      source: where the number comes from.
      when: configuration fields for which the claim is made.

    Returns:
      the claim.

    Example:
      >>> claim = at_most("test_nll", 8.7, source="paper", when={"cell": "gru"})
      >>> claim_text(claim)
      'test_nll <= 8.7 where cell = gru'
    """
    return Claim(metric, -math.inf, high, source, when or {})


def at_least(metric: str, low: float, *, source: str, when: Mapping[str, Any] | None = None) -> Claim:
    """Claims `metric >= low`.

    Args:
      metric: name of the metric.
      low: the lower bound, inclusive.
      source: where the number comes from.
      when: configuration fields for which the claim is made.

    Returns:
      the claim.

    Example:
      >>> claim_text(at_least("accuracy", 0.99, source="paper"))
      'accuracy >= 0.99'
    """
    return Claim(metric, low, math.inf, source, when or {})


def within(
    metric: str,
    expected: float,
    tolerance: float,
    *,
    source: str,
    when: Mapping[str, Any] | None = None,
) -> Claim:
    """Claims `|metric - expected| <= tolerance`.

    Args:
      metric: name of the metric.
      expected: the expected value.
      tolerance: the largest accepted distance from it, not negative.
      source: where the number comes from.
      when: configuration fields for which the claim is made.

    Returns:
      the claim.

    Raises:
      ValueError: `tolerance` is negative.

    Example:
      >>> claim_text(within("exponent", 0.9, 0.1, source="paper"))
      '0.8 <= exponent <= 1'
    """
    if not tolerance >= 0:
        raise ValueError(f"`tolerance` must be at least 0, got {tolerance}")
    return Claim(metric, expected - tolerance, expected + tolerance, source, when or {})


def claim_text(claim: Claim) -> str:
    """Writes a claim as an inequality.

    Args:
      claim: the claim.

    Returns:
      for example `test_nll <= 8.7 where cell = gru`.

    Example:
      >>> claim_text(Claim("loss", 0.5, 2.0, "paper"))
      '0.5 <= loss <= 2'
    """
    text = claim.metric
    if claim.low == -math.inf:
        text = f"{text} <= {claim.high:.6g}"
    elif claim.high == math.inf:
        text = f"{text} >= {claim.low:.6g}"
    else:
        text = f"{claim.low:.6g} <= {text} <= {claim.high:.6g}"
    conditions = ", ".join(f"{name} = {_short(value)}" for name, value in claim.when.items())
    return f"{text} where {conditions}" if conditions else text


def _short(value: Any) -> Any:
    """Long lists by their first and last values."""
    if isinstance(value, list | tuple) and len(value) > 3:
        return f"[{value[0]}, ..., {value[-1]}]"
    return value


def applies(claim: Claim, config: Mapping[str, Any]) -> bool:
    """Says whether a claim is made about runs of this configuration.

    Args:
      claim: the claim.
      config: a configuration as nested dicts (what `config.json` holds).

    Returns:
      True where every field in `claim.when` has the value given there.

    Raises:
      ValueError: `claim.when` names a field the configuration does not have.

    Example:
      >>> claim = at_most("nll", 8.7, source="paper", when={"data.name": "jsb"})
      >>> applies(claim, {"data": {"name": "jsb"}}), applies(claim, {"data": {"name": "nott"}})
      (True, False)
    """
    for name, expected in claim.when.items():
        value: Any = config
        for part in name.split("."):
            if not isinstance(value, Mapping) or part not in value:
                raise ValueError(
                    f"`when` of the claim on {claim.metric!r} must name fields of the "
                    f"configuration {sorted(config)}, got {name!r}"
                )
            value = value[part]
        if value != expected:
            return False
    return True


def check_claim(claim: Claim, metrics: Mapping[str, Any]) -> ClaimCheck:
    """Compares a claim with the metrics of a run.

    A metric that is missing or is not a number (NaN included) never counts as holding.

    Args:
      claim: the claim; `when` plays no part here (see `applies`).
      metrics: what `run` returned.

    Returns:
      `(holds, text)`.

    Example:
      >>> check_claim(at_most("nll", 8.7, source="paper"), {"nll": 8.59})
      ClaimCheck(holds=True, text='nll <= 8.7 holds: 8.59 (paper)')
    """
    text = claim_text(claim)
    if claim.metric not in metrics:
        got = ", ".join(sorted(metrics)) or "nothing"
        return ClaimCheck(False, f"{text} cannot be checked: the result has {got}")
    value = metrics[claim.metric]
    if isinstance(value, bool) or not isinstance(value, int | float):
        return ClaimCheck(False, f"{text} cannot be checked: {claim.metric} is {value!r}")
    holds = claim.low <= value <= claim.high
    verdict = "holds" if holds else "DOES NOT HOLD"
    return ClaimCheck(holds, f"{text} {verdict}: {value:.6g} ({claim.source})")
