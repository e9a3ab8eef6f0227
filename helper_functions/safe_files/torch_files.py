"""Files of torch.save, looked through before torch opens them: nothing in them unfolds to more than the file holds."""

import io
import os
import zipfile
from pathlib import PurePosixPath
from typing import BinaryIO, Literal

from helper_functions.safe_files.pickles import check_pickle

# What torch writes first in files of before 1.6, or of `_use_new_zipfile_serialization=False`: a pickled number.
_LEGACY_MAGIC = (0x1950A86A20F9469CFC6C).to_bytes(10, "little")
# Pickles there: the number, the protocol, the machine, the content, the order of the storages that follow.
_LEGACY_PICKLES = 5
_ENCRYPTED = 1
_ENTRIES_OF_CODE = ("constants.pkl", "model.json")
# A hundred thousand names and shapes; the numbers themselves lie beside it.
_LARGEST_PICKLE = 2**25

TorchFormat = Literal["torch", "legacy torch"]


def check_torch_file(file: BinaryIO) -> TorchFormat:
    """How a file was written, `torch` for the zip archive of today; the file is left at its beginning.

    Raises:
        ValueError: neither, or torch would execute, wait for or unfold what is in it; the message says what.
    """
    size = file.seek(0, os.SEEK_END)
    _check_memory(size)
    file.seek(0)
    head = file.read(32)
    file.seek(0)
    if head.startswith(b"PK\x03\x04"):
        _check_archive(file, size)
        found: TorchFormat = "torch"
    elif head.startswith(b"\x80") and _LEGACY_MAGIC in head:
        for _ in range(_LEGACY_PICKLES):
            check_pickle(file)
        found = "legacy torch"
    else:
        raise ValueError("not of torch.save")
    file.seek(0)
    return found


def _check_memory(size: int) -> None:
    # A file can claim zeros that no disk holds, and Linux grants memory that is not there until it is written to.
    if hasattr(os, "sysconf") and size > os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"):
        raise ValueError(f"{size:,} bytes, more than this machine's memory")


def _check_archive(file: BinaryIO, size: int) -> None:
    """torch stores its entries as they are, side by side: what is compressed, or shared between two, is none of its."""
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            if any(PurePosixPath(entry.filename).name in _ENTRIES_OF_CODE for entry in entries):
                raise ValueError("a TorchScript archive, which holds code")
            if any(entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & _ENCRYPTED for entry in entries):
                raise ValueError("a compressed archive, which torch.save does not write")
            if sum(max(entry.file_size, entry.compress_size) for entry in entries) > size:
                raise ValueError("an archive that claims more than it holds")
            # torch takes the first one that it finds, whatever stands before the name.
            pickles = [entry for entry in entries if PurePosixPath(entry.filename.lower()).name == "data.pkl"]
            if len(pickles) != 1:
                raise ValueError(f"an archive with {len(pickles)} entries data.pkl")
            if pickles[0].file_size > _LARGEST_PICKLE:
                raise ValueError(f"{pickles[0].file_size:,} bytes of pickled names")
            pickled = archive.read(pickles[0])
    # What zipfile raises where an entry is not what the archive's table says.
    except (zipfile.BadZipFile, NotImplementedError, EOFError, RuntimeError, OverflowError, OSError) as error:
        raise ValueError("a damaged archive") from error
    check_pickle(io.BytesIO(pickled))
