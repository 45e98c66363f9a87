"""Decodes pictures of every mode to RGB, 8 bits: its range and transparency are those of the file, upright as shown.

Grey levels of 16 bits are scaled to 8. Floating-point pictures that stay within 0 and 1 are shares of white, others
levels up to 255; anything beyond is refused, as are integers of 32 bits beyond 255, whose white no file states. What is
transparent shows a stated background, and EXIF's orientation is applied. Only a picture of a size that Pillow takes for
an attack, and one that it cannot decode, are errors: what decoders merely warn of (EXIF that is cut short, a palette
with transparency) does no harm to the pixels.
"""

from __future__ import annotations

import io
import warnings
from typing import Any

import numpy as np

from scaling.data._extras import need
from scaling.errors import Code, UserError

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
"""Formats that are decoded. Not all that Pillow supports, since some of those run external programs."""
BACKGROUNDS = ("white", "black", "grey")
_ORIENTATION = 0x0112  # EXIF's tag
_TURNS = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}


def decode(picture: bytes, side: int, where: str, background: str = "white") -> np.ndarray:
    """Decodes a picture to (side, side, 3) uint8: its central square, scaled with an antialiasing filter.

    Args:
      picture: encoded bytes.
      where: file and key, for the message.
      background: one of ``BACKGROUNDS``, seen where the picture is transparent.

    Raises:
      UserError: the picture is damaged, of an unsupported format or range, or larger than Pillow considers safe
        (DAMAGED).
    """
    pillow = need("PIL.Image", where)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", pillow.DecompressionBombWarning)
            with pillow.open(io.BytesIO(picture), formats=FORMATS) as image:
                image.draft("RGB", (side, side))  # JPEG: decoded at the smallest scale that is at least this large
                image.load()
                rgb = _upright(pillow, image, _rgb(pillow, image, background))
            width, height = rgb.size
            square = min(width, height)
            left, top = (width - square) // 2, (height - square) // 2
            box = (left, top, left + square, top + square)
            return np.asarray(rgb.resize((side, side), pillow.Resampling.BICUBIC, box), np.uint8)
    except UserError:
        raise
    except Exception as error:  # Pillow's plugins raise nearly anything: SyntaxError, struct.error, zlib.error ...
        reason = str(error).split("\n")[0][:120] or type(error).__name__
        # From None: many are OSErrors, which a worker would take for a problem of the machine.
        remedy = f"is not a readable picture ({reason}); repair or remove it, or allow for it with data.damaged"
        raise UserError("data.image", where, remedy, Code.DAMAGED) from None


def _upright(pillow: Any, image: Any, rgb: Any) -> Any:
    """The picture as its EXIF says that it is shown; as stored if that cannot be read. TIFF is turned when loaded."""
    try:
        turn = _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # as in ``decode``
        turn = None
    return rgb.transpose(pillow.Transpose[turn]) if turn else rgb


def _rgb(pillow: Any, image: Any, background: str) -> Any:
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        return _scaled(pillow, image, background)
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        layer = image.convert("RGBA")
        if layer.getchannel("A").getextrema()[0] < 255:
            return pillow.alpha_composite(pillow.new("RGBA", layer.size, background), layer).convert("RGB")
    return image.convert("RGB")


def _scaled(pillow: Any, image: Any, background: str) -> Any:
    """A picture of one channel with more than 8 bits."""
    levels = np.asarray(image).astype(np.float64)
    low, high = levels.min(), levels.max()
    white = 255.0
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
        white = 65535.0
    elif image.mode == "F" and high <= 1:
        white = 1.0
    if not (low >= 0 and high <= white):  # also where a value is NaN
        raise ValueError(f"its levels go from {low:.6g} to {high:.6g}; white is {white:.0f}")
    grey = pillow.fromarray(np.round(levels * (255 / white)).astype(np.uint8)).convert("RGB")
    hidden = image.info.get("transparency")  # the one level that is transparent, in PNG
    if isinstance(hidden, int) and (levels == hidden).any():
        shown = pillow.fromarray(np.where(levels == hidden, 0, 255).astype(np.uint8))
        return pillow.composite(grey, pillow.new("RGB", grey.size, background), shown)
    return grey
