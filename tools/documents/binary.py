"""What is not text and is not looked into: it is called by its kind."""

from collections.abc import Iterator
from typing import BinaryIO

from tools.documents.kinds import SQLITE, UNKNOWN
from tools.documents.section import Section

_NOUNS = {
    UNKNOWN: "Binary data of an unknown kind",
    SQLITE: "SQLite database",
    "application/x-elf": "Program (ELF)",
    "application/x-mach-binary": "Program (Mach-O)",
    "application/vnd.microsoft.portable-executable": "Program (Windows)",
    "application/java-vm": "Java class",
    "application/wasm": "WebAssembly module",
    "application/msword": "Word document of the old kind (.doc)",
    "application/vnd.ms-excel": "Excel workbook of the old kind (.xls)",
    "application/vnd.ms-powerpoint": "Presentation of the old kind (.ppt)",
    "application/x-ole-storage": "Office document of the old kind, or one with a password",
    "application/vnd.apache.parquet": "Parquet table",
    "application/vnd.apache.arrow.file": "Arrow table",
    "application/x-hdf5": "HDF5 data",
    "application/x-npy": "NumPy array",
}


def describe(file: BinaryIO, kind: str) -> str:
    """What it is called."""
    return _NOUNS.get(kind) or f"{_FAMILIES.get(kind.partition('/')[0], 'Binary data')} ({kind})"


_FAMILIES = {"audio": "Audio", "video": "Video", "image": "Image", "font": "Font"}


def sections(file: BinaryIO, kind: str) -> Iterator[Section]:
    """Nothing."""
    return iter(())
