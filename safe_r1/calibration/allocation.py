"""How many labels each stratum gets, and which texts are drawn.

Source:
    Neyman, "On the Two Different Aspects of the Representative Method", Journal of the Royal Statistical
    Society 97 (1934): the variance of a stratified estimate is smallest where a stratum's share of the sample
    is proportional to its size times its standard deviation.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from safe_r1.calibration.items import Item, Stratum, digest
from safe_r1.errors import ConfigError

MIN_PER_STRATUM = 8
"""Labels that every stratum gets, or all of its texts where it has fewer."""


def allocate(sizes: Sequence[int], error_shares: Sequence[float], num: int) -> list[int]:
    """Neyman allocation with a minimum for each stratum.

    Args:
        sizes: Texts of each stratum.
        error_shares: Guessed share of wrong verdicts in each, strictly between 0 and 1.
        num: Labels in all; more than there are texts is all of them.

    Returns:
        Labels of each stratum; they add up to ``num`` or to all texts.

    Raises:
        ConfigError: ``num`` is smaller than the minima together.
    """
    minima = [min(MIN_PER_STRATUM, size) for size in sizes]
    if num < sum(minima):
        raise ConfigError(
            f"--n {num}: too few for {len(sizes)} strata with at least {MIN_PER_STRATUM} labels each; give "
            f"--n {sum(minima)} or more"
        )
    num = min(num, sum(sizes))
    weights = [size * math.sqrt(share * (1 - share)) for size, share in zip(sizes, error_shares, strict=True)]

    def at(scale: float) -> list[float]:
        pairs = zip(minima, weights, sizes, strict=True)
        return [min(max(low, scale * weight), size) for low, weight, size in pairs]

    # The shares grow with the scale: bisection finds the one at which they add up.
    low = 0.0
    high = max(sizes) / min(weights)
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if sum(at(middle)) < num else (low, middle)
    return _rounded(at(high), num)


def _rounded(shares: Sequence[float], num: int) -> list[int]:
    """Integers that add up to ``num``: the largest fractions are rounded up."""
    # Bisection leaves a share that is an integer a rounding error away from it.
    whole = [math.floor(share + 1e-9) for share in shares]
    by_fraction = sorted(range(len(shares)), key=lambda place: whole[place] - shares[place])
    for place in by_fraction[: num - sum(whole)]:
        whole[place] += 1
    return whole


def draw(items: Iterable[Item], numbers: Mapping[Stratum, int], seed: int) -> list[Item]:
    """Draw from each stratum without replacement; the texts come in an order that says nothing of strata.

    The same seed with larger numbers draws the same texts and further ones.
    """
    by_stratum: dict[Stratum, list[tuple[str, Item]]] = defaultdict(list)
    for item in items:
        by_stratum[item.stratum].append((_rank(item, seed, "draw"), item))
    drawn = [
        item
        for stratum, ranked in by_stratum.items()
        for _, item in sorted(ranked, key=lambda pair: pair[0])[: numbers[stratum]]
    ]
    return sorted(drawn, key=lambda item: _rank(item, seed, "order"))


def _rank(item: Item, seed: int, purpose: str) -> str:
    return digest(purpose, str(seed), item.sample_id, str(item.repeat), item.stratum.subject)
