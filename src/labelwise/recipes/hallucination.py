"""Anchor hallucination (arXiv 2407.07331): its ablations and sweeps, for any data."""

from __future__ import annotations

from typing import Any

from labelwise.recipes.recipe import Recipe

CHANGES: dict[str, tuple[str, dict[str, Any]]] = {
    "easy-only": ("no corrections, easy samples alone", {"anchors": "none"}),
    "nearest-easy": ("easy samples themselves as anchors", {"anchors": "easy"}),
    "mixed": ("anchors on straight lines between easy samples", {"anchors": "mixed"}),
    "without-skip": (
        "a hallucinator that learns anchors from nothing",
        {"hallucinator_skip": False},
    ),
    "all-votes": ("several anchors of an easy sample vote", {"distinct_voters": False}),
    "two-networks": ("two networks that correct for each other", {"num_networks": 2}),
    "unbalanced": ("as many easy samples of a class as are trusted", {"easy_quantile": 1}),
}
SWEEPS: dict[str, tuple[str, str, tuple[float, ...]]] = {
    "closeness": ("closeness", "λ_p", (0.5, 0.75, 1)),
    "anchors": ("anchors_per_sample", "anchors per easy sample", (1, 2, 5, 20)),
    "similarity": (
        "similarity_quantile",
        "the least valid quantile",
        (0, 0.25, 0.5, 0.75),
    ),
    "voters": ("voters", "K_a", (1, 20)),
    "similarity-weight": ("similarity_weight", "λ_s", (0, 1, 100)),
}


def recipes() -> dict[str, Recipe]:
    """The whole method, its parts one by one, and its settings one by one."""
    whole = Recipe(method="hallucination", model="auto", summary="anchor hallucination")
    found = {"hallucination": whole}
    for name, (words, settings) in CHANGES.items():
        own = {f"hallucination.{key}": value for key, value in settings.items()}
        found[f"hallucination-{name}"] = whole.changed(f"anchor hallucination: {words}", **own)
    for name, (setting, words, values) in SWEEPS.items():
        for value in values:
            found[f"hallucination-{name}-{value}"] = whole.changed(
                f"anchor hallucination: {words} = {value}",
                **{f"hallucination.{setting}": value},
            )
    return found
