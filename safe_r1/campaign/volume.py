"""Room that a campaign takes on the volume over its simulated time: models, corpus, checkpoints, exports."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from safe_r1.campaign.graph import Step
from safe_r1.campaign.recipe import CampaignRecipe, StageConfig
from safe_r1.campaign.simulate import Simulation
from safe_r1.judge.factory import engine_model
from safe_r1.models.registry import DEFAULT_JUDGE, Variant, get_variant

# Tokenizers, and layers that are not loaded, such as R1's second prediction.
_FILES_PER_WEIGHTS = 1.05
# Completions, verdicts and reports of one evaluation.
_EVALUATION_GIB = 0.5


@dataclass(frozen=True)
class CampaignVolume:
    """The volume at the moment at which it holds most, in GiB.

    Attributes:
        models: Published models, the judge and the teacher, each once.
        corpus: The corpus and its packed tokens.
        results: What jobs that are over have left: checkpoints, exported models, evaluations.
        running: What the jobs that run write at most.
        at_hours: The moment, from the campaign's start.
        steps: Jobs that run then and write checkpoints.
    """

    models: float
    corpus: float
    results: float
    running: float
    at_hours: float
    steps: tuple[str, ...]

    @property
    def total(self) -> float:
        """Sum of all parts."""
        return self.models + self.corpus + self.results + self.running


def peak_volume(recipe: CampaignRecipe, steps: Mapping[str, Step], simulation: Simulation) -> CampaignVolume:
    """The most that the volume holds at one time.

    Models are counted from the beginning: nothing removes one from the cache.

    Args:
        recipe: The recipe.
        steps: As of ``make_steps``.
        simulation: Their simulated times.
    """
    models = {
        model.source: _FILES_PER_WEIGHTS * model.weights_gib()
        for step in steps.values()
        for model in _models_of(step, recipe.stages[step.stage])
    }
    uses = [step.estimate.volume for step in steps.values() if step.estimate.volume]
    corpus = max((use.corpus for use in uses), default=0.0)
    moments = (
        _at(span.started, steps, simulation, models=sum(models.values()), corpus=corpus)
        for span in simulation.spans
    )
    return max(moments, key=lambda moment: moment.total)


def _at(
    hours: float, steps: Mapping[str, Step], simulation: Simulation, *, models: float, corpus: float
) -> CampaignVolume:
    results = 0.0
    running: dict[str, float] = {}
    for span in simulation.spans:
        volume = steps[span.step].estimate.volume
        if span.ended <= hours:
            results += volume.kept if volume else _EVALUATION_GIB
        elif volume and span.started <= hours:
            running[span.step] = volume.written
    return CampaignVolume(models, corpus, results, sum(running.values()), hours, tuple(running))


def _models_of(step: Step, stage: StageConfig) -> Iterator[Variant]:
    """Published models that a job reads; the exported ones are results of the campaign."""
    if stage.job == "corpus" and stage.flags.get("teacher") == "llm":
        yield DEFAULT_JUDGE
    if step.variant is None:
        return
    variant = get_variant(step.variant)
    if not (stage.models_of or variant.endpoint or variant.is_given or variant.is_local):
        yield variant
    if stage.job == "evaluate" and (judge := engine_model(stage.judge(step.variant))):
        yield judge
