"""The model card of a finished run: what it was made from, with what settings, and what came out."""

from collections.abc import Sequence
from typing import Any

from safe_r1.models.registry import Variant
from safe_r1.train.config import FinetuneConfig

_CARD = """\
---
base_model: {base}
language: [zh, en]
library_name: transformers
pipeline_tag: text-generation
tags: [safety, full-fine-tuning]
---
# {name}-safe

{base}, {how} on a safety and reasoning corpus with safe_r1. The chat template, the tokenizer and the generation settings
are those of the base model.

| | |
|---|---|
| base model | `{source}` at `{revision}` |
| corpus | `{corpus}`, sha256 `{corpus_hash}` |
| data | {num_rows:,} conversations in {num_sequences:,} sequences of {seq_len} tokens |
| steps | {num_steps} of {batch} sequences; this is the checkpoint of step {exported}, the best on validation |
| optimizer | AdamW, moments in {states}, learning rate {lr:g}, warm-up {warmup:.0%}, cosine to {min_lr:.0%} |
| seed | {seed} |
| loss on the first and the last steps | {first_loss:.3f}, {last_loss:.3f} |

| validation loss | base model | this checkpoint |
|---|---|---|
{validation}

Evaluation on CHiSafetyBench, with intervals: `python ray_jobs/evaluate.py --variant FOLDER`, beside the same for the base.
"""
_MTP_NOTE = """
The multi-token-prediction layers of the original checkpoint are not part of this one: they are not trained, and would no longer
fit the rest.
"""


def render_card(
    variant: Variant, config: FinetuneConfig, info: dict[str, Any], lines: Sequence[dict[str, Any]]
) -> str:
    """The card in Markdown.

    Args:
        info: ``run.json``.
        lines: The run's history.
    """
    data, first = info["data"], info["first_validation"]
    rows = [
        f"| {kind} | {first.get(kind, loss):.3f} | {loss:.3f} |" for kind, loss in info["validation"].items()
    ]
    card = _CARD.format(
        base=variant.source if not variant.is_local else variant.name,
        name=variant.name,
        source=variant.source,
        how="adapted by low-rank matrices that are merged" if config.lora else "fine-tuned in full",
        revision=variant.revision,
        corpus=config.corpus,
        corpus_hash=info["corpus_sha256"],
        num_rows=data["train"]["num_rows_packed"],
        num_sequences=data["train"]["num_sequences"],
        seq_len=config.pack.seq_len,
        num_steps=info["num_steps"],
        batch=config.global_batch_size,
        exported=info["exported_step"],
        states=info["plan"]["layout"]["states"],
        lr=config.optimizer.lr,
        warmup=config.optimizer.warmup_share,
        min_lr=config.optimizer.min_lr_share,
        seed=config.seed,
        first_loss=_mean(lines[:10]),
        last_loss=_mean(lines[-10:]),
        validation="\n".join(rows) or "| none | | |",
    )
    return card + (_MTP_NOTE if variant.family == "deepseek_v3" else "")


def _mean(lines: Sequence[dict[str, Any]]) -> float:
    return sum(line["loss"] for line in lines) / len(lines)
