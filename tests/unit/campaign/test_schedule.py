import dataclasses
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safe_r1.campaign.estimate import Estimate
from safe_r1.campaign.graph import Step, make_steps
from safe_r1.campaign.recipe import NodeGroup, load_recipe
from safe_r1.campaign.schedule import ORDERS, choose, longest_paths, priority_of
from safe_r1.campaign.simulate import Simulation, simulate


def step(name: str, gpus: int = 1, hours: float = 1.0, needs: tuple[str, ...] = ()) -> Step:
    return Step(name, name, None, "evaluate", (), needs, False, "gpu", Estimate(gpus, hours, ""))


def table(*steps: Step) -> dict[str, Step]:
    return {each.name: each for each in steps}


def group(max_nodes: int = 2, start_minutes: float = 0.0) -> dict[str, NodeGroup]:
    return {"gpu": NodeGroup(gpu="h100-80", max_nodes=max_nodes, start_minutes=start_minutes)}


def test_longest_paths():
    steps = table(step("a", hours=1), step("b", hours=5), step("c", hours=2, needs=("a",)))
    assert longest_paths(steps) == {"a": 3, "b": 5, "c": 2}


def test_the_largest_goes_first_and_lets_past_what_fits_beside_it():
    steps = table(step("small", 1), step("large", 8), step("middle", 4))
    chosen = choose(steps.values(), {"gpu": 10}, priority_of("largest", steps))
    assert [each.name for each in chosen] == ["large", "small"]


def test_nodes_start_are_shared_and_are_given_back():
    steps = table(step("a", 4, 1.0), step("b", 4, 2.0), step("c", 8, 1.0))
    found = simulate(steps, group(max_nodes=2, start_minutes=6), idle_minutes=12)
    assert found.peak_nodes == {"gpu": 2}
    assert found.makespan_hours == pytest.approx(2.1)
    assert {span.step: span.nodes for span in found.spans} == {"c": (0,), "a": (1,), "b": (1,)}
    assert found.node_hours["gpu"] == pytest.approx((1.1 + 0.2) + (2.1 + 0.2))
    assert found.gpu_hours == 4 + 8 + 8


def test_a_node_that_was_idle_too_long_has_to_start_again():
    steps = table(
        step("a", 8, 1.0),
        step("b", 1, 1.0, needs=("long",)),
        dataclasses.replace(step("long", 1, 3.0), group="cpu"),
    )
    steps = {name: steps[name] for name in ("a", "long", "b")}
    groups = group(1, start_minutes=6) | {"cpu": NodeGroup(max_nodes=1, start_minutes=0)}
    steps["long"] = dataclasses.replace(steps["long"], estimate=Estimate(0, 3.0, ""))
    assert simulate(steps, groups, idle_minutes=5).makespan_hours == pytest.approx(4.1)
    assert simulate(steps, groups, idle_minutes=500).makespan_hours == pytest.approx(4.0)


@st.composite
def graphs(draw: Any) -> dict[str, Step]:
    steps: list[Step] = []
    for number in range(draw(st.integers(1, 12))):
        needs = (
            draw(st.lists(st.sampled_from([each.name for each in steps]), unique=True, max_size=3))
            if steps
            else []
        )
        gpus = draw(st.sampled_from([1, 2, 4, 8, 16]))
        steps.append(step(f"s{number}", gpus, draw(st.floats(0.1, 4.0)), tuple(needs)))
    return table(*steps)


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(graphs(), st.integers(2, 5), st.sampled_from(ORDERS))
def test_no_simulation_breaks_its_own_rules(steps: dict[str, Step], max_nodes: int, order: Any):
    groups = group(max_nodes, start_minutes=6)
    found = simulate(steps, groups, order)
    spans = {span.step: span for span in found.spans}
    assert spans.keys() == steps.keys()
    for name, each in steps.items():
        assert all(spans[needed].ended <= spans[name].submitted + 1e-9 for needed in each.needs)
        assert spans[name].submitted <= spans[name].started
        assert spans[name].ended - spans[name].started == pytest.approx(each.estimate.hours)
    assert found.makespan_hours >= found.critical_hours - 1e-9
    assert found.makespan_hours >= found.gpu_hours / (8 * max_nodes) - 1e-9
    _check_room(found, steps, max_nodes)


def _check_room(found: Simulation, steps: Mapping[str, Step], max_nodes: int) -> None:
    for moment in [span.started for span in found.spans]:
        running = [span for span in found.spans if span.submitted <= moment < span.ended]
        assert sum(steps[span.step].estimate.gpus for span in running) <= 8 * max_nodes
        assert all(len(span.nodes) >= -(-steps[span.step].estimate.gpus // 8) for span in running)


@pytest.mark.parametrize("order", ORDERS)
def test_the_paper_ends_near_its_longest_chain(order: Any):
    recipe = load_recipe("paper")
    found = simulate(make_steps(recipe, "/out"), recipe.groups, order)
    assert found.critical_path[0] == "corpus"
    assert found.critical_path[-1] == "compare"
    assert found.critical_hours <= found.makespan_hours <= 1.3 * found.critical_hours
    assert sum(found.peak_nodes.values()) <= 64
