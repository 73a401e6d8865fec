"""What the endpoints of a campaign take: tokens and money, as planned and as their runs report them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from upath import UPath

from safe_r1.runs import RunFolder


@dataclass(frozen=True)
class EndpointUse:
    """Tokens and their price.

    Attributes:
        cost: In the currency of the endpoint's prices; None where there are none.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float | None = None

    def __str__(self) -> str:
        price = "no prices set" if self.cost is None else f"{self.cost:.4g} at the prices set"
        tokens = f"{self.prompt_tokens:,} prompt and {self.completion_tokens:,} completion tokens"
        return f"{tokens} of endpoints, {price}"


def total(uses: Iterable[EndpointUse]) -> EndpointUse:
    """The sum; what has no prices adds nothing to the cost."""
    listed = list(uses)
    costs = [use.cost for use in listed if use.cost is not None]
    return EndpointUse(
        sum(use.prompt_tokens for use in listed),
        sum(use.completion_tokens for use in listed),
        sum(costs) if costs else None,
    )


def read_use(output: UPath, variant: str, runs: Sequence[str]) -> EndpointUse:
    """What a variant's runs have taken so far, by their own reports.

    Args:
        output: Folder of the campaign.
        variant: Name of the variant in the folders of runs.
        runs: Names of the stage's runs.
    """
    return total(_read_run(output, variant, name) for name in runs)


def _read_run(output: UPath, variant: str, name: str) -> EndpointUse:
    folder = RunFolder.locate(str(output / "runs"), "main", variant, name)
    reported = (folder.read_json("run.json") or {}).get("endpoint", {})
    return EndpointUse(
        reported.get("prompt_tokens", 0), reported.get("completion_tokens", 0), reported.get("cost")
    )
