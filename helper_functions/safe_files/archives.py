"""Zip archives of NumPy and torch, checked before they are unpacked.

Attacks that numpy.load(allow_pickle=False) and torch.load(weights_only=True) let pass: a compressed archive, or one
whose entries share bytes, unpacks to thousands of times its size; a pickle of 40 bytes calls `bytearray` for gigabytes,
or `_codecs.encode` for hours in Punycode. All other callables build tensors, or torch refuses them.
"""

import io
import os
import pickletools
import zipfile
from typing import BinaryIO, Literal

UNFOLDING = (" bytearray", " encode")
# The first bytes of files from before torch 1.6, or of `_use_new_zipfile_serialization=False`: a pickled number.
LEGACY_MAGIC = (0x1950A86A20F9469CFC6C).to_bytes(10, "little")

TorchFormat = Literal["torch", "legacy torch"]


def check_archive(file: BinaryIO, most: int) -> None:
    """Refuse a zip archive that unpacks to more than `most` bytes by a ValueError; leave the file at its beginning."""
    with zipfile.ZipFile(file) as archive:
        # Python unpacks no more of an entry than its declared size.
        if sum(entry.file_size for entry in archive.infolist()) > most:
            raise ValueError(f"more than {most:,} bytes")
    file.seek(0)


def check_torch_file(file: BinaryIO) -> TorchFormat:
    """How torch.save wrote a file, which is left at its beginning; ValueError where it did not, or for an attack."""
    head = file.read(32)
    file.seek(0)
    if head.startswith(b"PK\x03\x04"):
        _check_torch_archive(file)
    elif head.startswith(b"\x80") and LEGACY_MAGIC in head:
        for _ in ("number", "protocol", "machine", "content", "order of the storages"):
            _check_pickle(file)
    else:
        raise ValueError("not of torch.save")
    file.seek(0)
    return "torch" if head.startswith(b"PK") else "legacy torch"


def _check_torch_archive(file: BinaryIO) -> None:
    """torch.save stores its entries uncompressed, side by side."""
    size = file.seek(0, os.SEEK_END)
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            if sum(entry.file_size for entry in entries) > size:
                raise ValueError("an archive that claims more than it holds")
            for entry in entries:
                if entry.filename.lower().endswith("data.pkl"):
                    _check_pickle(io.BytesIO(archive.read(entry)))
    # Raised by zipfile where an entry differs from the archive's table.
    except (zipfile.BadZipFile, NotImplementedError, EOFError, RuntimeError, OverflowError, OSError) as error:
        raise ValueError("a damaged archive") from error


def _check_pickle(file: BinaryIO) -> None:
    """Read one pickle, without building what it describes."""
    for opcode, argument, _ in pickletools.genops(file):
        if opcode.name == "GLOBAL" and argument.endswith(UNFOLDING):
            raise ValueError(f"it names {argument.replace(' ', '.')!r}, no tensor or plain value")
