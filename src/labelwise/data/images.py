"""One encoded image to plain pixels: every file mode ends as 8-bit grey or 8-bit colour."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

Content = bytes | Path | Image.Image | None
"""An image as a file's bytes, a file, an image in memory, or nothing at all (an empty cell)."""

GREY_MODES = ("1", "L", "LA", "La")
ORIENTATION_TAG = 0x0112
FULL_16_BIT = 65535


class BadImage(Exception):
    """An image that cannot be used; the text is the reason."""


def pixels(content: Content, size: int | None = None, channels: int | None = None) -> np.ndarray:
    """Decode an image to uint8 pixels (H, W) when it is grey, (H, W, 3) when it has colour.

    Transparent parts are laid over white; 16-bit grey is scaled to 8 bits; the EXIF orientation
    is applied; an animation gives its first frame. Grey is decided by the file's mode (a palette
    counts as grey when all its used colours are), never by looking at the pixels.

    Args:
        content: the image.
        size: side in pixels of the square wanted: the short side is resized to it (bicubic,
            antialiased) and the centre is cropped. None keeps the image's own size.
        channels: 1 turns colour to grey (ITU-R 601 luma), 3 grey to colour, None keeps either.

    Raises:
        BadImage: the image is missing, empty, damaged or of an unusable kind.
    """
    try:
        image = _open(content)
        if size is not None and content is not image:
            # JPEG can be decoded at 1/2, 1/4 or 1/8 scale; twice the wanted side keeps quality.
            image.draft(None, (2 * size, 2 * size))
        image.load()
        image = _plain(_upright(image))
        if channels is not None:
            image = image.convert("L" if channels == 1 else "RGB")
        if size is not None and image.size != (size, size):
            image = image.resize((size, size), Image.Resampling.BICUBIC, box=_centre(image.size))
        return np.asarray(image)
    except (BadImage, MemoryError):
        raise
    # Damaged files raise almost anything (OSError, SyntaxError, ValueError, struct.error,
    # EOFError, KeyError, DecompressionBombError): all of it is the file's fault.
    except Exception as error:
        raise BadImage(_reason(error)) from error


def upright_size(content: Content) -> tuple[int, int]:
    """Return (width, height) after EXIF orientation, reading only the header.

    Raises:
        BadImage: the header cannot be read.
    """
    try:
        image = _open(content)
        width, height = image.size
        turned = image.getexif().get(ORIENTATION_TAG, 1) in (5, 6, 7, 8)
        return (height, width) if turned else (width, height)
    except (BadImage, MemoryError):
        raise
    except Exception as error:
        raise BadImage(_reason(error)) from error


def _open(content: Content) -> Image.Image:
    if isinstance(content, Image.Image):
        return content
    if content is None:
        raise BadImage("there is no image")
    data = content.read_bytes() if isinstance(content, Path) else content
    if not data:
        raise BadImage("it is empty (0 bytes)")
    return Image.open(BytesIO(data))


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not an image, or of an unknown format"
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return str(error) or type(error).__name__


def _upright(image: Image.Image) -> Image.Image:
    # The transposing copy is made only for the few images that need one.
    if image.getexif().get(ORIENTATION_TAG, 1) == 1:
        return image
    return ImageOps.exif_transpose(image)


def _plain(image: Image.Image) -> Image.Image:
    """Return the image in mode "L" or "RGB"."""
    mode = image.mode
    see_through = mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info
    if see_through and not mode.startswith(("I", "F")):
        return _over_white(image)
    if mode in ("L", "RGB"):
        return image
    if mode == "1":
        return image.convert("L")
    if mode.startswith("I"):
        return _from_16_bit(np.asarray(image))
    if mode == "F":
        return _from_float(np.asarray(image))
    colour = image.convert("RGB")
    if mode == "P":
        red, green, blue = np.moveaxis(np.asarray(colour), 2, 0)
        if np.array_equal(red, green) and np.array_equal(red, blue):
            return colour.convert("L")
    return colour


def _over_white(image: Image.Image) -> Image.Image:
    mode = image.mode
    if mode == "La":
        image = image.convert("LA")
    clear = image.convert("RGBA")
    white = Image.new("RGBA", clear.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, clear).convert("L" if mode in GREY_MODES else "RGB")


def _from_16_bit(values: np.ndarray) -> Image.Image:
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > FULL_16_BIT:
        raise BadImage(f"its pixels reach from {low} to {high}; 8 or 16 bits can be read")
    return Image.fromarray(np.rint(values.astype(np.float32) / 257).astype(np.uint8))


def _from_float(values: np.ndarray) -> Image.Image:
    # `not (...)` so that NaN, for which every comparison is false, is refused as well.
    if not (values.min() >= 0 and values.max() <= 1):
        raise BadImage("its floating-point pixels leave the range 0 to 1")
    return Image.fromarray(np.rint(values * 255).astype(np.uint8))


def _centre(size: tuple[int, int]) -> tuple[float, float, float, float]:
    width, height = size
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    return (left, top, left + side, top + side)
