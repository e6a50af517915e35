"""Read a noise process from text such as ``symmetric:0.5``."""

from __future__ import annotations

from labelwise.discovery import discover, find
from labelwise.errors import UserError
from labelwise.noise.process import NoiseProcess


def processes() -> dict[str, type[NoiseProcess]]:
    """All noise processes by name."""
    return discover("labelwise.noise", NoiseProcess)


def parse(text: str) -> NoiseProcess:
    """Return the process that `text`, of the form ``KIND:RATE``, describes.

    Raises:
        UserError: the kind is unknown, or the rate is missing, not a number or outside [0, 1).
    """
    kind, colon, rate_text = (part.strip() for part in text.partition(":"))
    process = find("noise", kind, "labelwise.noise", NoiseProcess)  # type: ignore[type-abstract]
    if not colon or not rate_text:
        raise UserError(f"noise {text!r} has no rate. Write KIND:RATE, such as {kind}:0.2.")
    number, percent = rate_text.removesuffix("%").strip(), rate_text.endswith("%")
    try:
        rate = float(number)
    except ValueError:
        raise UserError(
            f"noise rate {rate_text!r} in {text!r} is not a number. Write a fraction in [0, 1), "
            f"such as {kind}:0.2."
        ) from None
    if percent:
        raise UserError(f"noise rate {rate_text!r} in {text!r}: write {kind}:{rate / 100:g}.")
    return process(rate)
