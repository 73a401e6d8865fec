"""Chat requests to the service and to ``vllm serve``, whole and streamed, with some requests in flight.

The bare server runs before and after the service. Where its two runs differ by more than 15 % the machine was
disturbed, and there is no ratio.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from tests.bench.service_load import ChatLoad, run_load

Measured = dict[str, dict[str, float]]
"""What the clients of one server saw, by mode and requests in flight, such as ``streamed 8``."""

MAX_DIFFERENCE = 0.15
"""Share by which the two runs of the bare server may differ."""

_FIGURES = ("tokens_per_s", "first_ms_p50")


def measure_chat(url: str, model: str, load: ChatLoad, in_flight: Sequence[int]) -> Measured:
    """Measure a server in all ways; short requests before them warm it up."""
    warm_up = ChatLoad(load.dialogues, max_tokens=4, seconds=0.0)
    asyncio.run(run_load(url, model, warm_up, max(in_flight), stream=True))
    return {
        f"{mode} {number}": asyncio.run(
            run_load(url, model, load, number, stream=mode == "streamed")
        ).summary()
        for mode in ("whole", "streamed")
        for number in in_flight
    }


def compare_chat(before: Measured, ours: Measured, after: Measured) -> dict[str, dict[str, Any]]:
    """Both sides' figures, and their ratios: ours to the mean of the two bare runs."""
    return {
        way: {"bare before": before[way], "service": ours[way], "bare after": after[way]}
        | {
            f"ratio of {name}": ratio(before[way][name], ours[way][name], after[way][name])
            for name in _FIGURES
            if name in ours[way]
        }
        for way in ours
    }


def ratio(before: float, ours: float, after: float) -> float | str:
    """Our figure to the mean of the bare ones, or why there is none."""
    difference = abs(before - after) / min(before, after)
    if difference > MAX_DIFFERENCE:
        return f"none: the bare runs differ by {100 * difference:.0f} %"
    return round(2 * ours / (before + after), 3)


def table(compared: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown of ``compare_chat``."""
    head = "| in flight | bare, tokens/s | service | ratio | bare, first text ms | service | ratio |"
    lines = [head, "|---|--:|--:|--:|--:|--:|--:|"]
    for way, sides in compared.items():
        cells = [way]
        for name in _FIGURES:
            if name in sides["service"]:
                bare = f"{sides['bare before'][name]:g}, {sides['bare after'][name]:g}"
                cells += [bare, f"{sides['service'][name]:g}", str(sides[f"ratio of {name}"])]
            else:
                cells += ["", "", ""]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
