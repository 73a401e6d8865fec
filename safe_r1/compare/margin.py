"""The ``--margin`` of the command line: percentage points, in ``compare`` and in ``gate`` alike."""

from safe_r1.errors import ConfigError

_UNIT = "pp"


def read_margin(text: str) -> float:
    """A margin in percentage points.

    A bare number between 0 and 1 is refused: comparisons took fractions once, of which 0.03 was 3 points.
    With the unit behind it, as in ``0.5pp``, it is what it says.

    Raises:
        ConfigError: It is no number of points, or could be a fraction.
    """
    number = text.strip()
    try:
        points = float(number.removesuffix(_UNIT))
    except ValueError:
        points = -1.0
    if not 0 <= points < 100:
        raise ConfigError(f"--margin {text}: expected percentage points from 0 to less than 100, e.g. 3")
    if 0 < points < 1 and not number.endswith(_UNIT):
        raise ConfigError(
            f"--margin {text}: the unit is percentage points. If this is a fraction, as `compare` once took "
            f"it, give {100 * points:g}; if it is less than one point, give {number}{_UNIT}"
        )
    return points
