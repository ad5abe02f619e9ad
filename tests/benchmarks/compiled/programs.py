"""Counts in the text of an optimized XLA program."""

import math
import re

SIZES = {
    "pred": 1, "s8": 1, "u8": 1, "f8e4m3fn": 1, "f8e5m2": 1, "s16": 2, "u16": 2, "f16": 2,
    "bf16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8, "c64": 8, "c128": 16,
}  # fmt: skip
"""Bytes of an element, by the name of its type in XLA."""

# What launches no kernel and moves no bytes.
FREE = {"parameter", "tuple", "get-tuple-element", "bitcast", "constant", "after-all"}

COLLECTIVES = ("all-reduce", "all-gather", "all-to-all", "reduce-scatter", "collective-permute")

_ARRAY = re.compile(rf"\b({'|'.join(SIZES)})\[([\d,]*)\]")
# `%name = shape opcode(%operand, …), attributes`, where the shape of a tuple has parentheses.
_INSTRUCTION = re.compile(r"\s*(?:ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*?)\)(.*)")


def bytes_of(shape: str) -> int:
    """The bytes of all arrays that a shape names.

    >>> bytes_of("f32[3,3,64]{2,1,0}"), bytes_of("(bf16[8], pred[])")
    (2304, 17)
    """
    return sum(
        SIZES[dtype] * math.prod(int(size) for size in sizes.split(",") if size)
        for dtype, sizes in _ARRAY.findall(shape)
    )


def kernels(program: str) -> list[int]:
    """The bytes of operands and results of every kernel that the program launches, in its order.

    A kernel is an instruction of the entry computation that does work; what it computes on the way
    stays in registers.
    """
    shapes, moved, parts, same = {}, [], {}, {}
    for name, shape, opcode, operands, attributes in _instructions(_entry(program)):
        shapes[name] = shape
        read = [same.get(one, one) for one in re.findall(r"%([\w.\-]+)", operands)]
        # Other names of an array, which a kernel reads once.
        if opcode == "tuple":
            parts[name] = read
        elif opcode == "get-tuple-element" and read[0] in parts:
            index = re.search(r"index=(\d+)", attributes)
            same[name] = parts[read[0]][int(index[1])] if index else name
        elif opcode == "bitcast":
            same[name] = read[0]
        elif opcode not in FREE:
            moved.append(bytes_of(shape) + sum(bytes_of(shapes.get(one, "")) for one in {*read}))
    return moved


def collectives(program: str) -> int:
    """The number of operations between devices; an asynchronous one counts once, by its start."""
    opcodes = (opcode for _, _, opcode, _, _ in _instructions(program))
    return sum(opcode.removesuffix("-start") in COLLECTIVES for opcode in opcodes)


def float_atomics(program: str) -> int:
    """The number of scatters of floats whose indices may repeat."""
    return sum(
        opcode == "scatter"
        and re.match(r"\(?(bf16|f\d)", shape) is not None
        and "unique_indices=true" not in attributes
        for _, shape, opcode, _, attributes in _instructions(program)
    )


def _entry(program: str) -> str:
    found = re.search(r"^ENTRY .*?^}", program, re.DOTALL | re.MULTILINE)
    if found is None:
        raise ValueError(f"No entry computation in the program that begins {program[:80]!r}.")
    return found.group()


def _instructions(text: str) -> list[tuple[str, str, str, str, str]]:
    """Name, shape, opcode, operands and attributes of all instructions."""
    matches = map(_INSTRUCTION.match, text.splitlines())
    return [match.groups() for match in matches if match]  # pyright: ignore[reportReturnType]
