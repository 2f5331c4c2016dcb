"""Two texts are the same if they differ in nothing but spaces and the last digits of their numbers."""

import re
from pathlib import Path

DATA = Path(__file__).parent / "data"
RELATIVE, ABSOLUTE = 1e-4, 1e-5
"""What a float32 network of three layers leaves uncertain, and what is nothing beside activations of about one."""
_NUMBER = re.compile(r"(?<![\w.])[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?(?![\w])")


def differences(golden: str, present: str, most: int = 8) -> list[str]:
    """The lines that differ, each as ``line N: golden -> present``; at most so many."""
    pairs = _lines(golden), _lines(present)
    count = max(map(len, pairs))
    padded = (lines + ["(no line)"] * (count - len(lines)) for lines in pairs)
    differing = [
        f"line {number}: {before.strip()!r} -> {after.strip()!r}"
        for number, (before, after) in enumerate(zip(*padded, strict=True), 1)
        if not same(before, after)
    ]
    return differing[:most] + [f"and {len(differing) - most} more lines"] * (len(differing) > most)


def same(before: str, after: str) -> bool:
    """Whether two lines say the same."""
    skeletons = [_NUMBER.sub("#", line).split() for line in (before, after)]
    if skeletons[0] != skeletons[1]:
        return False
    return all(map(near, _NUMBER.findall(before), _NUMBER.findall(after)))


def near(before: str, after: str) -> bool:
    """Whether two numbers are the same: whole ones exactly, others within the tolerance or one unit of the last digit shown."""
    if before == after:
        return True
    units = [_unit(text) for text in (before, after)]
    if not any(units):
        return False
    x, y = float(before), float(after)
    return abs(x - y) <= max(ABSOLUTE, RELATIVE * max(abs(x), abs(y)), 1.01 * max(units))


def _unit(text: str) -> float:
    """One in the last digit of a number; 0 of a whole one."""
    digits, _, power = text.partition("e")
    decimals = len(digits.partition(".")[2])
    return 10.0 ** (int(power or 0) - decimals) if decimals or power else 0.0


def _lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip()]


def sections(text: str) -> dict[str, str]:
    """The parts of a golden file, by the titles that stand behind ``=== ``."""
    parts = re.split(r"^=== (.*)\n", text, flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def joined(parts: dict[str, str]) -> str:
    """The inverse of :func:`sections`."""
    return "".join(f"=== {title}\n{text.rstrip()}\n\n" for title, text in parts.items()).rstrip() + "\n"
