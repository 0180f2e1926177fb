"""Pictures: their size and kind. Nothing that a camera wrote into them, such as where it was."""

from collections.abc import Iterator
from typing import BinaryIO

from PIL import Image

from tools.documents.section import Section
from tools.documents.text import counted

_FORMATS = {
    "image/png": "PNG",
    "image/jpeg": "JPEG",
    "image/gif": "GIF",
    "image/webp": "WEBP",
    "image/bmp": "BMP",
    "image/tiff": "TIFF",
    "image/x-icon": "ICO",
    "image/avif": "AVIF",
}
_MODES = {
    "1": "black and white", "L": "grey", "LA": "grey with transparency", "P": "palette", "RGB": "colour",
    "RGBA": "colour with transparency", "CMYK": "colour (CMYK)", "I;16": "grey, 16 bit",
}  # fmt: skip


def describe(file: BinaryIO, kind: str) -> str:
    """Width, height, colours and frames. The picture itself is not decoded."""
    if kind not in _FORMATS:
        return f"Image ({kind})"
    # Only the one format that the file was found to be: Pillow knows dozens, and some of them run programs.
    with Image.open(file, formats=[_FORMATS[kind]]) as image:
        frames = getattr(image, "n_frames", 1)
        moving = f", {counted(frames, 'frame')}" if frames > 1 else ""
        colours = _MODES.get(image.mode, f"mode {image.mode}")
        return f"{_FORMATS[kind]} image, {image.width} x {image.height} pixels, {colours}{moving}"


def sections(file: BinaryIO, kind: str) -> Iterator[Section]:
    """Nothing: a picture has no text."""
    return iter(())
