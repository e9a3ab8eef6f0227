"""Pickles of tensors, looked through before anything reads them: what they call, and how much they unfold."""

import pickletools
from typing import BinaryIO

import torch

# All of torch's that a file of dense tensors and plain values needs. Others make gigabytes of a few bytes, such as
# bytearray, or copies of tensors that stand for one number a trillion times.
CALLABLE = {
    "collections OrderedDict", "collections Counter", "__builtin__ set", "builtins set",
    "torch Size", "torch device", "torch.storage UntypedStorage",
    "torch._utils _rebuild_tensor", "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_tensor_v3",
    "torch._utils _rebuild_parameter", "torch._utils _rebuild_parameter_with_state",
}  # fmt: skip
# More than ten thousand tensors take, and some seconds' work.
MOST_STEPS = 1_000_000
# Values in a tuple, those in its tuples included. It is hashed where it is a key, and tuples of the same tuples
# unfold a hundred bytes into more than can ever be hashed.
LARGEST_TUPLE = 100_000
# What takes one value off the stack and changes the one below it.
_INTO_THE_ONE_BELOW = ("APPEND", "BUILD")


def check_pickle(file: BinaryIO) -> None:
    """Read one pickle, from where the file stands to its end, without building what it describes.

    Raises:
        ValueError: it names anything but tensors and plain values, or unfolds to far more than it takes; or is none.
    """
    walk = _Walk()
    try:
        for number, (opcode, argument, _) in enumerate(pickletools.genops(file)):
            if number == MOST_STEPS:
                raise ValueError(f"more than {MOST_STEPS:,} pickled values")
            walk.step(opcode.name, argument)
    except (IndexError, KeyError) as error:
        raise ValueError("a damaged pickle") from error


class _Walk:
    """The unpickler's stack with the size of each value, as far as hashing it goes, in its place."""

    def __init__(self) -> None:
        self.stack: list[int] = []
        self.marks: list[list[int]] = []
        self.memo: dict[int, int] = {}

    def step(self, name: str, argument: object) -> None:
        stack = self.stack
        if name == "GLOBAL":
            _check_global(str(argument))
            stack.append(1)
        elif name == "MARK":
            self.marks.append(stack)
            self.stack = []
        elif name in ("TUPLE", "APPENDS", "SETITEMS"):
            self.stack = self.marks.pop()
            if name == "TUPLE":
                self._push(stack)
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            count = int(name[-1])
            self.stack = stack[:-count]
            self._push(stack[-count:])
        elif name in ("REDUCE", "NEWOBJ"):
            self.stack = stack[:-2]
            self._push(stack[-2:])
        elif name in _INTO_THE_ONE_BELOW:
            stack.pop()
        elif name == "SETITEM":
            del stack[-2:]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(self.memo[argument])
        elif name in ("BINPUT", "LONG_BINPUT"):
            self.memo[argument] = stack[-1]
        elif name == "BINPERSID":
            stack[-1] = 1
        elif name not in ("PROTO", "STOP"):
            stack.append(1)

    def _push(self, parts: list[int]) -> None:
        size = 1 + sum(parts)
        if size > LARGEST_TUPLE:
            raise ValueError(f"a tuple of more than {LARGEST_TUPLE:,} values")
        self.stack.append(size)


def _check_global(name: str) -> None:
    module, _, attribute = name.partition(" ")
    storage = module in ("torch", "torch.cuda") and attribute.endswith("Storage")
    dtype = module == "torch" and isinstance(getattr(torch, attribute, None), torch.dtype)
    if name not in CALLABLE and not storage and not dtype:
        raise ValueError(f"it names {'.'.join((module, attribute))!r}, no tensor or plain value")
