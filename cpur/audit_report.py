"""An audit in words, and as JSON."""

import json
from dataclasses import asdict
from typing import Any

from cpur.aces_log import Aces
from cpur.audit import Audit
from cpur.ladder import Explanation


def as_json(audit: Audit, aces: Aces | None = None) -> str:
    """The audit as one JSON object; of an ACES log the accuracies and the ACR are those of the three logs together."""
    values: dict[str, Any] = asdict(audit)
    if aces:
        together = asdict(aces)
        values |= {"certified_model": {key: values[key] for key in ("acr", "certified_accuracy")}}
        values |= {key: together.pop(key) for key in ("acr", "certified_accuracy")} | {"aces": together}
    return json.dumps(values, indent=2)


def as_text(audit: Audit, aces: Aces | None = None) -> str:
    """The audit in plain sentences."""
    lines = [
        audit.file,
        f"sigma {_levels(audit.sigma)}, from {audit.sigma_from}",
        f"{audit.rows} rows, {audit.abstentions} abstentions" + _hours(audit.hours),
        "",
        "certified accuracy in percent, at radius",
        _accuracies(audit.certified_accuracy),
    ]
    if audit.acr is not None:
        lines.append(f"average certified radius {audit.acr:.4f}, largest radius {audit.max_radius:g}")
    lines += [*_ties(audit), *_statistics(audit)]
    if audit.rescored:
        what = "rounded down" if "floored" in audit.rescored else f"at alpha = {audit.rescored['alpha']:g}"
        lines += [
            "",
            f"scored again {what}: ACR {audit.rescored['acr']:.4f}",
            _accuracies(audit.rescored["certified_accuracy"]),
        ]
        if audit.rescored["most"]["certified_accuracy"] != audit.rescored["certified_accuracy"]:
            lines += [
                "or, with the most hits that print the same",
                _accuracies(audit.rescored["most"]["certified_accuracy"]),
            ]
    if aces:
        lines += ["", *_aces(aces)]
    lines += [f"\nnote: {note}" for note in audit.notes]
    lines += [f"\nPROBLEM: {problem}" for problem in audit.problems]
    return "\n".join(lines)


def _accuracies(accuracies: dict[str, float]) -> str:
    shown = {r: share for r, share in accuracies.items() if share > 0} or accuracies
    return "  " + "  ".join(f"{r}: {100 * share:.2f}" for r, share in shown.items())


def _levels(sigma: float | list[float]) -> str:
    return ", ".join(f"{level:g}" for level in sigma) if isinstance(sigma, list) else f"{sigma:g}"


def _hours(hours: float | None) -> str:
    return "" if hours is None else f", {hours:.2f} hours"


def _ties(audit: Audit) -> list[str]:
    if not audit.ties:
        return []
    ties = ", ".join(f"{count} at {r}" for r, count in audit.ties.items())
    return [f"right with exactly a reported radius, where rounding may have lifted them: {ties}"]


def _statistics(audit: Audit) -> list[str]:
    if not audit.explanations:
        return []
    if not audit.alpha_consistent:
        best = max(audit.explanations, key=lambda one: one.share)
        return [f"no n and alpha that were tried explain all radii; by alpha, {_by_alpha(audit, best.n)}"]
    pairs = " or ".join(
        f"n = {n:,} with alpha = {', '.join(f'{one.alpha:g}' for one in _explaining(audit, n))}"
        for n in audit.n_consistent
    )
    lines = [f"{pairs} explains all radii; the largest that can be certified is {audit.ceiling:.6g}"]
    if audit.alpha_excluded:
        lines += [f"radii explained by alpha, {_by_alpha(audit, n)}" for n in audit.n_consistent]
    if len(audit.n_consistent) > 1:
        lines.append("the radii do not tell n; --n narrows it down")
    if audit.rounded_up:
        lines.append(f"{audit.rounded_up} radii are printed larger than what the samples certify: they were rounded up")
    return lines


def _explaining(audit: Audit, n: int) -> list[Explanation]:
    return [one for one in audit.explanations if one.n == n and one.share == 1 and one.alpha in audit.alpha_consistent]


def _by_alpha(audit: Audit, n: int) -> str:
    shares = ", ".join(f"{one.alpha:g}: {100 * one.share:.1f}%" for one in audit.explanations if one.n == n)
    return f"n = {n:,}: {shares}"


def _aces(aces: Aces) -> list[str]:
    return [
        "with selection and core model (ACES), certified accuracy in percent, at radius",
        _accuracies(aces.certified_accuracy),
        f"  at 0, where an abstaining selector needs both models to be right: {100 * aces.strict_at_0:.2f}",
        f"natural accuracy {100 * aces.natural_accuracy:.2f}%, average certified radius {aces.acr:.4f}, "
        f"certified model selected for {100 * aces.selection_rate:.2f}%",
    ]
