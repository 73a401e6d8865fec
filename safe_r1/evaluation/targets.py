"""Chooses the target of a plan."""

from safe_r1.evaluation.endpoint_target import EndpointTarget
from safe_r1.evaluation.engine_target import EngineTarget
from safe_r1.evaluation.given_target import GivenTarget
from safe_r1.evaluation.plan import EvaluationPlan
from safe_r1.evaluation.target import Target


def make_target(plan: EvaluationPlan) -> Target:
    """The target of a plan; connects to nothing."""
    if plan.variant.is_given:
        return GivenTarget(plan)
    endpoint = plan.variant.endpoint
    return EndpointTarget(plan, endpoint) if endpoint else EngineTarget(plan)
