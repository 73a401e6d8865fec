"""The plan of a campaign as text: what ``--dry-run`` prints."""

from collections.abc import Mapping

from safe_r1.campaign.endpoint_use import total
from safe_r1.campaign.graph import Step
from safe_r1.campaign.recipe import CampaignRecipe
from safe_r1.campaign.schedule import ORDERS
from safe_r1.campaign.simulate import simulate
from safe_r1.campaign.volume import CampaignVolume, peak_volume


def to_text(recipe: CampaignRecipe, steps: Mapping[str, Step]) -> str:
    """The jobs with what they take, then makespan, critical path, GPU-hours, cost and peak of nodes."""
    lines = [
        recipe.description,
        "",
        f"{'job':44} {'group':16} {'GPUs':>4} {'seqs':>4} {'tok/s':>6} {'hours':>6} {'GPU-h':>6} {'$':>7}"
        "  after",
        *(_job_line(step, recipe.groups[step.group].usd_per_gpu_hour) for step in steps.values()),
        "",
    ]
    # All orders are simulated, to show whether another one would end earlier.
    runs = {order: simulate(steps, recipe.groups, order) for order in ORDERS}
    best = runs["largest"]
    usd = sum(step.gpu_hours * recipe.groups[step.group].usd_per_gpu_hour for step in steps.values())
    peak = ", ".join(f"{number} {name}" for name, number in best.peak_nodes.items() if number)
    orders = ", ".join(f"{order} {run.makespan_hours:.2f} h" for order, run in runs.items())
    lines += [
        f"GPU-hours  {best.gpu_hours:,.0f}, about ${usd:,.0f}",
        f"makespan   {best.makespan_hours:.2f} h, nodes starting included; orders: {orders}",
        f"longest    {best.critical_hours:.2f} h: {' → '.join(best.critical_path)}",
        f"nodes      {peak or 'none'} at the peak",
        _volume_line(peak_volume(recipe, steps, best)),
    ]
    uses = {name: step.estimate.endpoint for name, step in steps.items() if step.estimate.endpoint}
    lines += [f"endpoint   {name}: {use}" for name, use in uses.items()]
    if len(uses) > 1:
        lines.append(f"endpoints  {total(uses.values())}")
    for name, stage in recipe.stages.items():
        if methods := stage.searches:
            attacker = "; what the attacker takes is not counted" if {*methods} - {"bon"} else ""
            lines.append(
                f"attacks    {name}: {', '.join(methods)} with the most calls of the model{attacker}"
            )
    return "\n".join(lines)


def _volume_line(volume: CampaignVolume) -> str:
    writing = f" ({', '.join(volume.steps)})" if volume.steps else ""
    return (
        f"volume     {volume.total:,.0f} GiB at the most, after {volume.at_hours:.1f} h: "
        f"{volume.models:,.0f} models, {volume.corpus:,.1f} corpus, {volume.results:,.0f} checkpoints, "
        f"exports and results, {volume.running:,.0f} of jobs that run{writing}"
    )


def _job_line(step: Step, usd_per_gpu_hour: float) -> str:
    usd = step.gpu_hours * usd_per_gpu_hour
    after = ", ".join(step.needs[:2])
    if len(step.needs) > 2:
        after = f"{after} and {len(step.needs) - 2} more"
    # Sequences that each of its engines decodes at once.
    seqs = step.estimate.max_num_seqs or ""
    # Output tokens of all its engines.
    speed = f"{step.estimate.tokens_per_s:,.0f}" if step.estimate.tokens_per_s else ""
    return (
        f"{step.name:44} {step.group:16} {step.estimate.gpus:4} {seqs:>4} {speed:>6} "
        f"{step.estimate.hours:6.2f} {step.gpu_hours:6.1f} {usd:7,.0f}  {after}"
    )
