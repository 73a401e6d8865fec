"""Compares two results without structure by their value, with math-verify.

An equality that it finds is checked by inserting numbers for variables, since it rounds to six places at any
size.
"""

import re
from typing import Any

_EQUALS = re.compile(r"(?<![\\<>!])=(?!=)")
# Of the larger of two numbers.
_TOLERANCE = 1e-5


def is_same_value(key: str, found: str) -> bool:
    """Whether two results without structure have the same value."""
    from math_verify import verify

    sides = [len(_EQUALS.split(text)) for text in (key, found)]
    if sides == [2, 2]:
        same = _is_same_equation(key, found)
        if same is not None:
            return same
    if sides[0] == 1 and sides[1] > 1:
        found = _EQUALS.split(found)[-1].strip()
    if key.endswith(r"\%") != found.endswith(r"\%"):
        # Who is asked for a percentage gives it with or without the sign.
        bare = key.removesuffix(r"\%"), found.removesuffix(r"\%")
        if is_same_value(*bare):
            return True
    first, second = parse(key), parse(found)
    if first is None or second is None:
        return False
    if verify(first, second, timeout_seconds=None):
        return _agree_in_numbers(first, second)
    return _are_same_constants(first, second)


def parse(text: str) -> Any:
    """The value of a LaTeX text as a whole; None where it is no mathematics."""
    from latex2sympy2_extended import NormalizationConfig, normalize_latex
    from math_verify.parser import parse_latex_cached

    config = NormalizationConfig(
        basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none"
    )
    try:
        return parse_latex_cached(normalize_latex(text, config=config))
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - the parser raises anything on what models write
        return None


def _is_same_equation(key: str, found: str) -> bool | None:
    """Whether two equations say the same, one a multiple of the other; None where they are no equations."""
    from sympy import Eq, simplify

    first, second = parse(key), parse(found)
    if not (isinstance(first, Eq) and isinstance(second, Eq)):
        return None
    if first.free_symbols != second.free_symbols:
        return False
    sides: list[Any] = [first.lhs, first.rhs, second.lhs, second.rhs]
    ratio = simplify((sides[0] - sides[1]) / (sides[2] - sides[3]))
    return bool(ratio.is_number and ratio.is_finite and ratio != 0)


def _are_same_constants(first: Any, second: Any) -> bool:
    """Whether two closed forms, without decimals and variables, agree in forty digits."""
    from sympy import Expr, Float

    is_closed = all(
        isinstance(each, Expr) and each.is_number and not each.has(Float) for each in (first, second)
    )
    if not is_closed:
        return False
    try:
        difference = (first - second).evalf(40, maxn=400)
        size = first.evalf(15)
        return bool(size.is_finite and abs(difference) <= abs(size) * 1e-30)
    except (TypeError, ValueError, ArithmeticError):
        return False


def _agree_in_numbers(first: Any, second: Any) -> bool:
    """False where two expressions differ for some values of their variables; True where they have none."""
    from sympy import Expr, Rational

    if not (isinstance(first, Expr) and isinstance(second, Expr)):
        return True
    symbols = sorted(first.free_symbols | second.free_symbols, key=str)
    inserted: Any = {symbol: Rational(13 + 4 * place, 7) for place, symbol in enumerate(symbols)}
    try:
        numbers = [each.subs(inserted).doit() for each in (first, second)]
        values = [complex(number.evalf(30)) for number in numbers]
    except (TypeError, ValueError, OverflowError, ArithmeticError):
        return True
    largest = max(map(abs, values))
    if largest == 0 or not largest < float("inf"):
        return _ratio_is_one(*numbers)
    return abs(values[0] - values[1]) <= _TOLERANCE * largest


def _ratio_is_one(first: Any, second: Any) -> bool:
    """The same for numbers outside the range of floats; True where there is no ratio."""
    ratio = (first / second).evalf(15) if second != 0 else None
    if ratio is None or not ratio.is_number or not ratio.is_finite:
        return bool(first == second)
    return bool(abs(ratio - 1) <= _TOLERANCE)
