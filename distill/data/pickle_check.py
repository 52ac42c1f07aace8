"""A look through the opcodes of a pickle, before anything is built from it: does it fit into its own size?

Names of opcodes are those of `pickletools`. Runs of the usual small ones are skipped by one regular expression, the
rest is walked through one by one.
"""

from __future__ import annotations

import re
import struct

LONGEST_NUMBER = 64  # characters of a number that is written out
LONGEST_INTEGER = 16  # bytes of a binary one
ROOM = 32_000_000  # bytes that any pickle may take, beyond TIMES its own size
TIMES = 12  # pairs of small integers, as protocol 4 writes them, count as 11.2
SMALL_INDEX = 2**20  # a memo up to here takes 16 MB


class Refused(Exception):
    """Why a pickle is not read; becomes the end of a UserError's sentence: "it ..."."""


# Opcodes without an argument, with one of a fixed size, and the numbers of numpy scalars, which are 1 to 8 bytes
_SMALL = re.compile(
    rb"(?:[()\]0-2NRabelot\x81\x85-\x89\x92-\x94]|[Khq].|M..|[jJ]....|G.{8}|r..[\x00-\x0f]\x00"
    rb"|[CU](?:\x01.|\x02..|\x04.{4}|\x08.{8})|\x80.)*+",
    re.DOTALL,
)
# opcode -> how its length is written
_LENGTHS = dict.fromkeys((b"C", b"U", b"\x8a", b"\x8c"), "<B")
_LENGTHS |= dict.fromkeys((b"B", b"T", b"X", b"\x8b"), "<I") | dict.fromkeys((b"\x8d", b"\x8e", b"\x96"), "<Q")
_LINES = {b"c": 2, b"i": 2, b"V": 1, b"S": 1, b"I": 1, b"L": 1, b"F": 1, b"p": 1, b"g": 1, b"P": 1}
# Bytes of memory that small objects take, with their places on the stack and in a list. Those that real labels consist
# of (places in the memo, four or eight bytes, integers) are bounded by the file's size alone: up to 18 times it.
_COSTS = {b"]": 96, b"l": 96, b"t": 64, b"\x85": 64, b"\x86": 64, b"\x87": 64, b"F": 60, b"\x94\x94": 32}
_COSTS |= dict.fromkeys((b"S", b"T", b"U", b"V", b"X", b"\x8c", b"\x8d", b"\x96", b"C\x02", b"C\x03"), 80)
_COSTS |= dict.fromkeys((b"N", b"2", b")", b"\x88", b"\x89"), 34)
_DICTIONARIES = (b"}", b"d", b"s", b"u", b"\x8f", b"\x90", b"\x91")


def check_opcodes(data: bytes) -> int:
    """How many bytes the calls of the pickle may take: what its small objects leave of TIMES its size and ROOM.

    Raises Refused where they leave nothing, and for an index, a length or a number beyond what the file can need; also
    for dictionaries and sets, whose keys can be chosen to collide. Raises ValueError where the bytes are no pickle.
    """
    # opcodes, and bytes of numbers and names that look so: a few in a hundred
    left = TIMES * len(data) + ROOM - sum(data.count(code) * cost for code, cost in _COSTS.items())
    if left < 0:
        raise Refused(f"would make lists, tuples and texts of far more than its {len(data):,} bytes")
    position = _SMALL.match(data).end()
    while position < len(data):
        code = data[position : position + 1]
        if code == b".":  # the end; what follows is not read
            break
        if code in _DICTIONARIES:
            raise Refused("holds a dictionary or a set, which an annotation has no use for")
        if code == b"r":
            _check_index(struct.unpack_from("<I", data, position + 1)[0], data)
            position += 5
        elif code == b"\x95":
            _check_length(struct.unpack_from("<Q", data, position + 1)[0], data, position + 9)
            position += 9
        elif code in _LENGTHS:
            length = struct.unpack_from(_LENGTHS[code], data, position + 1)[0]
            position += 1 + struct.calcsize(_LENGTHS[code])
            _check_length(length, data, position)
            if code in (b"\x8a", b"\x8b") and length > LONGEST_INTEGER:
                raise Refused(f"holds an integer of {length} bytes")
            position += length
        elif code in _LINES:
            position = _skip_lines(data, position, code)
        else:
            raise ValueError(code)
        position = _SMALL.match(data, position).end()
    return left


def _check_index(index: int, data: bytes) -> None:
    if index > max(SMALL_INDEX, len(data)):
        raise Refused(f"uses the memo index {index:,} in a file of {len(data):,} bytes")


def _check_length(length: int, data: bytes, position: int) -> None:
    if length > len(data) - position:
        raise ValueError("truncated")


def _skip_lines(data: bytes, position: int, code: bytes) -> int:
    start = position + 1
    for _ in range(_LINES[code]):
        position = data.index(b"\n", position + 1)
    if code in (b"I", b"L", b"F", b"p", b"g"):
        if position - start > LONGEST_NUMBER:
            raise Refused(f"holds a number of {position - start:,} characters")
        if code == b"p":
            _check_index(int(data[start:position]), data)
    return position + 1
