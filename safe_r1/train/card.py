"""Model card of a finished run: base model, corpus, settings and validation losses."""

from collections.abc import Mapping, Sequence
from typing import Any

from safe_r1.models.registry import Variant
from safe_r1.models.remote import MODELSCOPE, is_uri
from safe_r1.redaction import hide_credentials
from safe_r1.train.config import FinetuneConfig
from safe_r1.train.history import StepRecord

RunInfo = dict[str, Any]
"""Content of ``run.json``."""

_CARD = """\
---
base_model: {base}
language: [zh, en]
library_name: transformers
pipeline_tag: text-generation
tags: [safety, full-fine-tuning]
---
# {name}-safe

{base}, {how} on a safety and reasoning corpus with safe_r1. The chat template, the tokenizer and the
generation settings are those of the base model.

| | |
|---|---|
| base model | `{source}` at `{revision}` |
| corpus | `{corpus}`, sha256 `{corpus_hash}` |
| data | {num_rows:,} conversations in {num_sequences:,} sequences of {seq_len} tokens |
| steps | {num_steps} of {batch} sequences; exported: step {exported}, {why} |
| optimizer | AdamW, moments in {states}, learning rate {lr:g}, warm-up {warmup:.0%}, cosine to {min_lr:.0%} |
| seed | {seed} |
| loss on the first and the last steps | {first_loss:.3f}, {last_loss:.3f} |

| validation loss | base model | this checkpoint |
|---|---|---|
{validation}

Evaluate on CHiSafetyBench, with confidence intervals: `python ray_jobs/evaluate.py --variant FOLDER`, and
the same for the base model.
"""
_MTP_NOTE = """
The multi-token-prediction layers of the original checkpoint are not included: they were not trained and
would no longer match the other layers.
"""
_REASONS = {
    "validation": "with the lowest validation loss",
    "safety": "which did best in small evaluations of refusal and over-refusal",
}
# The first and the last loss are means over this many steps.
_AVERAGED_STEPS = 10


def _base_model(variant: Variant) -> str:
    """What hubs call the model that was trained; of a folder or a URI its name."""
    if variant.is_local or is_uri(variant.source):
        return variant.name
    return variant.source.removeprefix(MODELSCOPE)


def render_card(
    variant: Variant, config: FinetuneConfig, info: RunInfo, records: Sequence[StepRecord]
) -> str:
    """The model card in Markdown.

    Args:
        variant: The model that was trained.
        config: Settings of the run.
        info: Content of ``run.json``.
        records: The run's history, without step 0.
    """
    train = info["data"]["train"]
    card = _CARD.format(
        base=_base_model(variant),
        name=variant.name,
        source=hide_credentials(variant.source),
        how="adapted by low-rank matrices that are merged" if config.lora else "fine-tuned in full",
        revision=variant.revision,
        corpus=hide_credentials(config.corpus),
        corpus_hash=info["corpus_sha256"],
        num_rows=train["num_rows_packed"],
        num_sequences=train["num_sequences"],
        seq_len=config.pack.seq_len,
        num_steps=info["num_steps"],
        batch=config.global_batch_size,
        exported=info["exported_step"],
        why=_REASONS[config.save.keep_best],
        states=info["plan"]["layout"]["states"],
        lr=config.optimizer.lr,
        warmup=config.optimizer.warmup_share,
        min_lr=config.optimizer.min_lr_share,
        seed=config.seed,
        first_loss=_mean_loss(records[:_AVERAGED_STEPS]),
        last_loss=_mean_loss(records[-_AVERAGED_STEPS:]),
        validation=_validation_rows(info["first_validation"], info["validation"]),
    )
    return card + (_MTP_NOTE if variant.family == "deepseek_v3" else "")


def _validation_rows(first: Mapping[str, float], exported: Mapping[str, float]) -> str:
    rows = [f"| {kind} | {first.get(kind, loss):.3f} | {loss:.3f} |" for kind, loss in exported.items()]
    return "\n".join(rows) or "| none | | |"


def _mean_loss(records: Sequence[StepRecord]) -> float:
    return sum(record["loss"] for record in records) / len(records)  # pyright: ignore[reportTypedDictNotRequiredAccess]
