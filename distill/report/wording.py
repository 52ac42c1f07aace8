"""Numbers, lists and keys as a reader wants them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

MINUS, NONE, THIN = "−", "–", "\u00a0"  # THIN: a space at which no line breaks


def number(value: float | None, digits: int = 3, sign: bool = False) -> str:
    """Fixed digits, a true minus sign, a dash where there is no value."""
    if value is None or not math.isfinite(value):
        return NONE
    return f"{value:{'+' if sign else ''}.{digits}f}".replace("-", MINUS)


def percent(fraction: float | None, digits: int = 1, sign: bool = False) -> str:
    found = number(None if fraction is None else 100 * fraction, digits, sign)
    return found if found == NONE else f"{found}{THIN}%"


def interval(low: float, high: float, digits: int = 3) -> str:
    return f"[{number(low, digits)}, {number(high, digits)}]"


def p_value(p: float | None) -> str:
    if p is None or not math.isfinite(p):
        return NONE
    return f"<{THIN}0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def p_words(p: float) -> str:
    found = p_value(p)
    return f"p{THIN}{found}" if found.startswith("<") else f"p{THIN}={THIN}{found}"


def plain(value: Any) -> str:
    """A config value: no needless digits, words for yes, no and nothing."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return (
            f"{value:g}".replace("-", MINUS)
            if abs(value) >= 1e-3 or value == 0
            else f"{value:.0e}".replace("e-0", "e-")
        )
    if isinstance(value, list | tuple):
        return " to ".join(plain(v) for v in value) if _is_range(value) else ", ".join(plain(v) for v in value) or NONE
    if isinstance(value, dict):
        return ", ".join(f"{key} {plain(inner)}" for key, inner in value.items()) or NONE
    return str(value) if value not in ("", None) else NONE


def _is_range(value: Sequence[Any]) -> bool:
    return len(value) == 2 and all(isinstance(v, int | float) and not isinstance(v, bool) for v in value)


def listed(words: Sequence[str], last: str = "and") -> str:
    """a, b and c; or a; b; and c where a word holds a comma itself."""
    words = list(words)
    if len(words) < 2:
        return "".join(words)
    comma, end = ("; ", ";") if any("," in word for word in words) else (", ", "")
    return f"{comma.join(words[:-1])}{end} {last} {words[-1]}"


def counted(count: int, one: str, many: str = "") -> str:
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def short_ids(ids: Sequence[str]) -> str:
    """First eight characters of each run id; MLflow and this package find a run by them."""
    return ", ".join(run_id[:8] for run_id in ids)


def sentence(text: str) -> str:
    text = text.strip()
    return text if not text else f"{text[0].upper()}{text[1:]}{'' if text[-1] in '.!?:' else '.'}"


def over_seeds(values: Sequence[float], digits: int = 3) -> str:
    """Mean and standard deviation over seeds; with two, which have none to speak of, both values."""
    if not values:
        return NONE
    mean = number(statistics.fmean(values), digits)
    if len(values) == 1:
        return mean
    if len(values) == 2:
        return f"{mean} ({number(min(values), digits)} to {number(max(values), digits)})"
    return f"{mean} ± {number(statistics.stdev(values), digits)}"
