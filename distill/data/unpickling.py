"""Read a pickle from a stranger: plain values and numpy numbers come out, nothing is ever run.

A pickle names the functions that rebuild its objects, and a hostile one names `os.system`. Here a name is looked up in
a short table and nowhere else. Even numpy's own functions are replaced by stand-ins, because a forged dtype state would
make the real ones read memory that is not theirs. Old (`numpy.core`) and new (`numpy._core`) module paths are both
known.

A pickle is also a program that can fill the memory: nine bytes with a large memo index take 4 GB. So the opcodes are
looked through before anything is built (pickle_check.py), and what calls take is counted while they are made.
"""

from __future__ import annotations

import functools
import io
import math
import os
import pickle
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from distill.data.pickle_check import Refused, check_opcodes
from distill.errors import UserError
from distill.files import read_bytes

# Byte order, kind (bool, int, unsigned, float), item size. Strings and structured types have no place in an annotation.
_NUMBER_TYPE = re.compile(r"[<>=|]?(b1|[iu][1248]|f[248])")
_STRUCT_CODES = {"b1": "?", "i1": "b", "i2": "h", "i4": "i", "i8": "q", "u1": "B", "u2": "H", "u4": "I", "u8": "Q"}
_STRUCT_CODES |= {"f2": "e", "f4": "f", "f8": "d"}
LARGEST = 2_000_000_000  # bytes; a million labels of 68 points
_NONE = object()  # an argument that is not there
# bytes that are counted for a call, beside the data: what it takes, or the equivalent of its time
_DTYPE, _EMPTY_ARRAY, _STATE, _ARRAY, _AXIS, _ENCODED = 200, 300, 200, 600, 60, 64
_LONGEST_EMPTY = 1_000_000  # sides of an array without numbers, which no data bounds


@functools.cache  # there are some fifty
def _number_type(text: str) -> tuple[np.dtype, Callable[[bytes], tuple] | None]:
    if text in ("O", "O8", "|O"):
        return np.dtype(object), None
    if not _NUMBER_TYPE.fullmatch(text):
        raise Refused(f"names the numpy type {text[:20]!r}; expected numbers")
    real = np.dtype(text)
    return real, struct.Struct((">" if real.str[0] == ">" else "<") + _STRUCT_CODES[real.str[1:]]).unpack


class _Dtype:
    """Stand-in for numpy.dtype under construction: `real` is a number type, or object, and nothing else.

    `unpack` turns the bytes of one number into a 1-tuple; None for object.
    """

    __slots__ = ("real", "unpack")

    def __init__(self, text: Any):
        if not isinstance(text, str):
            raise Refused(f"names a {type(text).__name__} as a numpy type; expected numbers")
        self.real, self.unpack = _number_type(text)

    def __setstate__(self, state: Any) -> None:
        # (version, byte order, subtype, names, fields, item size, alignment, flags); only the byte order is believed.
        if not isinstance(state, tuple) or len(state) < 2 or state[1] not in ("<", ">", "=", "|"):
            raise Refused("holds a malformed numpy type")
        if self.real.kind != "O" and state[1] in "<>":
            self.real, self.unpack = _number_type(state[1] + self.real.str[1:])


class _Array(np.ndarray):
    """An ndarray whose pickled state is checked before numpy reads it."""

    __slots__ = ("known",)
    known: _Rebuilt  # which counts the bytes that a state copies

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise Refused("holds a malformed numpy array")
        _, shape, dtype, fortran, data = state
        real = _real(dtype)
        if real.kind == "O":
            if not isinstance(data, list) or len(data) != _count(shape):
                raise Refused("holds a numpy array whose shape does not fit its data")
        else:
            data = _raw(data, _count(shape) * real.itemsize)
        self.known.take(_count(shape) * real.itemsize + _STATE * (1 + len(shape)))
        super().__setstate__((1, shape, real, bool(fortran), data))  # type: ignore[arg-type]


class _Function:
    """A stand-in that can be called by a pickle, but not altered by one (BUILD would set attributes of a plain one)."""

    __slots__ = ("call",)

    def __init__(self, call):
        self.call = call

    def __call__(self, a=_NONE, b=_NONE, c=_NONE, d=_NONE, e=_NONE):  # *args would copy a tuple of millions
        return self.call(*(value for value in (a, b, c, d, e) if value is not _NONE))

    def __setstate__(self, state: Any) -> None:
        raise Refused("tries to alter a function")


class _Scalar(_Function):
    """numpy's `scalar(dtype, bytes)`, as a Python number; there may be millions, so the usual case comes first."""

    __slots__ = ()

    def __init__(self):
        super().__init__(None)

    def __call__(self, dtype: Any, data: Any = b"") -> Any:  # type: ignore[override]
        try:
            return dtype.unpack(data)[0]
        except (AttributeError, TypeError, struct.error):
            real = _real(dtype)
            if real.kind == "O":
                raise Refused("holds a numpy scalar of type object; expected numbers") from None
            return dtype.unpack(_raw(data, real.itemsize))[0]


def _real(dtype: Any) -> np.dtype:
    if not isinstance(dtype, _Dtype):
        raise Refused("holds a numpy value without a numpy type")
    return dtype.real


def _count(shape: Any) -> int:
    if not isinstance(shape, tuple) or len(shape) > 32 or not all(type(n) is int and n >= 0 for n in shape):
        raise Refused("holds a numpy array with a malformed shape")
    if 0 in shape and max(shape) > _LONGEST_EMPTY:
        raise Refused("holds a numpy array with a malformed shape")
    return math.prod(shape)


def _is_permutation(axes: Any, count: int) -> bool:
    # nested tuples, which can be made to compare for ever, are never compared
    return isinstance(axes, tuple) and all(type(n) is int for n in axes) and sorted(axes) == list(range(count))


def _raw(data: Any, size: int) -> bytes:
    if isinstance(data, str):  # bytes pickled by Python 2
        data = data.encode("latin1")
    if not isinstance(data, bytes | bytearray) or len(data) != size:
        raise Refused("holds a numpy value whose bytes do not fit its type")
    return bytes(data)


class _Rebuilt:
    """The functions that a pickle may call, by their names in it; they may not take more than `most` bytes together.

    Five bytes of a pickle make a call, and can hand the same megabyte to thousands of them. Numbers are not counted
    here, but in pickle_check.py.
    """

    def __init__(self, most: int):
        self.left = most
        self.ndarray = _Function(self._never)  # a name to pass on, not to call
        self.table: dict[tuple[str, str], _Function] = {
            ("numpy", "ndarray"): self.ndarray,
            ("numpy", "dtype"): _Function(self._dtype),
            ("_codecs", "encode"): _Function(self._encode),
            ("__builtin__", "bytes"): _Function(self._bytes),
        }
        for core in ("numpy.core", "numpy._core"):
            self.table[f"{core}.multiarray", "scalar"] = _Scalar()
            self.table[f"{core}.multiarray", "_reconstruct"] = _Function(self._reconstruct)
            self.table[f"{core}.numeric", "_frombuffer"] = _Function(self._frombuffer)

    def take(self, count: int) -> None:
        self.left -= count
        if self.left < 0:
            raise Refused("calls numpy, or copies its own data, more often than an annotation does")

    def _dtype(self, text: Any, align: Any = False, copy: Any = True) -> _Dtype:
        self.take(_DTYPE)
        return _Dtype(text)

    def _reconstruct(self, subtype: Any, shape: Any, kind: Any) -> _Array:
        if subtype is not self.ndarray:
            raise Refused("rebuilds a numpy array of an unknown class")
        self.take(_EMPTY_ARRAY)
        array = np.ndarray.__new__(_Array, (0,), np.int8)  # __setstate__ gives it shape, type and data
        array.known = self
        return array

    def _frombuffer(self, data: Any, dtype: Any, shape: Any, order: Any, axis_order: Any = None) -> np.ndarray:
        """How protocol 5 spells an array; axis_order: how the axes of a transposed one lie in memory."""
        real = _real(dtype)
        size = _count(shape) * real.itemsize
        if order == "K" and _is_permutation(axis_order, len(shape)):
            order = "C"
        elif order not in ("C", "F") or axis_order is not None:
            raise Refused("holds a malformed numpy array")
        if real.kind == "O":
            raise Refused("holds a malformed numpy array")
        self.take(size + _ARRAY + _AXIS * len(shape))
        array = np.frombuffer(_raw(data, size), real).reshape(shape, order=order)
        return array.transpose(axis_order) if axis_order is not None else array

    def _encode(self, text: Any, encoding: Any = "latin1") -> bytes:
        """How protocols 0 to 2 spell a bytes object."""
        if not isinstance(text, str) or encoding != "latin1":
            raise Refused("calls _codecs.encode for something else than bytes")
        self.take(len(text) + _ENCODED)
        return text.encode("latin1")

    def _bytes(self, *args: Any) -> bytes:
        """How protocols 0 to 2 spell an empty bytes object."""
        if args:
            raise Refused("calls bytes with arguments")
        return b""

    def _never(self, *args: Any) -> Any:
        raise Refused("makes a numpy array without data")


class _Unpickler(pickle.Unpickler):
    def __init__(self, data: bytes, most: int):
        super().__init__(io.BytesIO(data), encoding="latin1")
        self._known = _Rebuilt(most).table

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self._known[module, name]
        except KeyError:
            raise Refused(f"names '{module}.{name}', which an annotation has no use for; nothing was run") from None

    def persistent_load(self, pid: Any) -> Any:
        raise Refused("refers to an object outside the file")


def load(path: str | os.PathLike) -> Any:
    """The object in a pickle of lists, tuples, strings, numbers and numpy scalars or arrays (protocols 0 to 5).

    Numpy scalars come out as Python numbers of the same value.

    Raises UserError, having run nothing, where the file names any other global (the sentence names it), would take
    much more memory than its own size (pickle_check.TIMES and ROOM), cannot be read, or is truncated.
    """
    path = Path(path)
    data = read_bytes(path, "Annotation file", LARGEST)
    try:
        return _Unpickler(data, most=check_opcodes(data)).load()
    except Refused as reason:
        raise UserError(f"Annotation file '{path}' is refused: it {reason}.") from None
    except Exception as error:  # garbage makes the unpickler raise nearly anything
        raise UserError(f"Annotation file '{path}' is truncated or not a pickle ({type(error).__name__}).") from None
