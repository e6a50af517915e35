"""Read a noise process from text such as ``symmetric:0.5``."""

from __future__ import annotations

from labelwise.discovery import discover, find
from labelwise.noise.process import NoiseProcess


def processes() -> dict[str, type[NoiseProcess]]:
    """All noise processes by name."""
    return discover("labelwise.noise", NoiseProcess)


def parse(text: str) -> NoiseProcess:
    """Return the process that `text` describes.

    Args:
        text: ``KIND:RATE`` for most (``openset:RATE:SOURCE``, ``matrix:FILE``, ``human:COLUMN``);
            each process reads what follows its name.

    Raises:
        UserError: the kind is unknown, or what follows it is missing or cannot be used.
    """
    kind, _, argument = (part.strip() for part in text.partition(":"))
    process = find("noise", kind, "labelwise.noise", NoiseProcess)  # type: ignore[type-abstract]
    return process.from_text(argument)
