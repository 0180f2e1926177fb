"""Picture files as they come in: nobody trusts them, so that they are looked at before they are decoded."""

import struct
import warnings
import zlib
from base64 import b64decode
from hashlib import sha256
from io import BytesIO

import numpy
from msgspec import Struct
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL.Image import Transpose

from models.backend import InvalidRequest
from models.messages import Image

MAX_BYTES = 20 * 1024 * 1024
"""Of one file."""
MAX_PIXELS = 25_000_000
"""Of one picture: more than most cameras make. Decoding takes up to 25 bytes for each."""
MAX_RATIO = 200
"""Of the longer side to the shorter, as Qwen2-VL has it: with far thinner ones, llama.cpp ends the process."""
MAX_SCANS = 100
"""Of a progressive JPEG, which needs ten. Each scan goes over all pixels, and a file may have thousands."""

_FORMATS = ("PNG", "JPEG", "WEBP", "GIF")
_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}
"""What undoes each orientation of EXIF; from 5 on, width and height change places."""
_FAULTS = (
    OSError,
    SyntaxError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    EOFError,
    MemoryError,
    struct.error,
    zlib.error,
)
"""What Pillow may raise over a file that is broken."""


class PictureFile(Struct, frozen=True):
    """A picture that may be decoded: its head has been read, its pixels not yet."""

    data: bytes
    name: str
    """What to call it in an error, such as `Picture 2`."""
    key: str
    """The SHA-256 of the data."""
    width: int
    height: int
    """In pixels, upright."""
    orientation: int
    """EXIF's number, 1 to 8."""

    def pixels(self) -> NDArray[numpy.uint8]:
        """Red, green and blue of each pixel, in the shape (height, width, 3). What is transparent lies on white.

        Raises:
            InvalidRequest: the file is broken.
        """
        try:
            with warnings.catch_warnings(action="ignore"), _opened(self.data) as image:
                return numpy.asarray(_upright(_opaque(image), self.orientation))
        except _FAULTS as error:
            raise _unreadable(self.name) from error


def look(image: Image, number: int, max_pixels: int = MAX_PIXELS) -> PictureFile:
    """The picture of a message, without its pixels; `number` counts a request's pictures from 1.

    Raises:
        InvalidRequest: too large, too thin, or no PNG, JPEG, WebP or GIF. Names the picture and the limit.
    """
    name = f"Picture {number}"
    data = b64decode(image.data)
    if len(data) > MAX_BYTES:
        raise _refused(f"{name} has {len(data)} bytes; at most {MAX_BYTES} are allowed.")
    width, height, orientation = _head(name, data, max_pixels)
    if width * height > max_pixels:
        raise _refused(f"{name} has {width} x {height} pixels; at most {max_pixels} are allowed.")
    if max(width, height) > MAX_RATIO * min(width, height):
        raise _refused(f"{name} has {width} x {height} pixels; one side may be {MAX_RATIO} times the other at most.")
    if orientation >= 5:
        width, height = height, width
    return PictureFile(data, name, sha256(data).hexdigest(), width, height, orientation)


def _head(name: str, data: bytes, max_pixels: int) -> tuple[int, int, int]:
    """Width, height and orientation as they stand in the file."""
    try:
        with warnings.catch_warnings(action="ignore"), _opened(data) as image:
            # The method of the class: that of a PNG would decode it, in search of EXIF behind the pixels.
            orientation = Pillow.Image.getexif(image).get(_ORIENTATION, 1)
            return *image.size, orientation if orientation in _UPRIGHT else 1
    except Pillow.DecompressionBombError as error:
        raise _refused(f"{name} has too many pixels; at most {max_pixels} are allowed.") from error
    except _FAULTS as error:
        raise _unreadable(name) from error


def _opened(data: bytes) -> Pillow.Image:
    image = Pillow.open(BytesIO(data), formats=_FORMATS)
    # Inside a scan, a byte FF is followed by 00: these two begin a scan, or stand in a preview.
    if image.format == "JPEG" and data.count(b"\xff\xda") > MAX_SCANS:
        raise ValueError("too many scans")
    return image


def _opaque(image: Pillow.Image) -> Pillow.Image:
    if image.mode.startswith("I"):  # 16 bits of grey: Pillow would cut off what is brighter than 255.
        return image.convert("I").point(lambda grey: grey * (1 / 256)).convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    layer = image.convert("RGBA")
    return Pillow.alpha_composite(Pillow.new("RGBA", layer.size, "white"), layer).convert("RGB")


def _upright(image: Pillow.Image, orientation: int) -> Pillow.Image:
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


def _unreadable(name: str) -> InvalidRequest:
    return _refused(f"{name} cannot be read; it must be a whole PNG, JPEG, WebP or GIF.")


def _refused(text: str) -> InvalidRequest:
    return InvalidRequest(text, "messages", "invalid_image")
