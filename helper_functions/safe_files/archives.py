"""Zip archives from anywhere, looked at before anything is unpacked."""

import zipfile
from typing import BinaryIO

_KNOWN = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ENCRYPTED = 1


def check_archive(file: BinaryIO, most: int) -> None:
    """Refuse a zip archive that holds more than `most` bytes, unpacked; the file is left at its beginning.

    Python reads no more of an entry than its declared size, so that declared sizes are what counts.

    Raises:
        ValueError, zipfile.BadZipFile: the former where it holds more, or is packed as nobody packs numbers.
    """
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
    if any(entry.compress_type not in _KNOWN or entry.flag_bits & _ENCRYPTED for entry in entries):
        raise ValueError("packed in another way")
    if sum(entry.file_size for entry in entries) > most:
        raise ValueError(f"more than {most:,} bytes")
    file.seek(0)
