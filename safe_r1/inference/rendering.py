"""Renders requests for an engine; runs in Ray's workers.

Rendering is ours, and not vLLM's, so that no second BOS is added and serving gets the same tokens.
"""

import os
import pickle
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import pyarrow as pa

from safe_r1.inference.requests import Continuation, Request, Sampling
from safe_r1.models.chat import PLAIN_STOPS, load_tokenizer, render, render_opening
from safe_r1.models.registry import Variant
from safe_r1.runs import Row

_SAMPLING_PARAMS = pa.struct(
    [
        ("max_tokens", pa.int32()),
        ("temperature", pa.float64()),
        ("top_p", pa.float64()),
        ("seed", pa.int64()),
        ("stop", pa.list_(pa.string())),
        ("stop_token_ids", pa.list_(pa.int32())),
        ("structured_outputs", pa.struct([("choice", pa.list_(pa.string()))])),
    ]
)
RENDERED = pa.struct(
    [
        ("key", pa.string()),
        ("tokenized_prompt", pa.list_(pa.int32())),
        ("sampling_params", _SAMPLING_PARAMS),
        ("prompt_tokens", pa.int32()),
        ("prefix", pa.string()),
        ("max_tokens", pa.int32()),
    ]
)
"""One rendered request. The types are given, as types found by Arrow would depend on the rows."""

_ROWS_AT_ONCE = 64


class Renderer:
    """Renders and tokenizes requests. Each worker loads the tokenizer once."""

    def __init__(self, variant: Variant, sampling: Sampling, context: int, trust_remote_code: bool):
        self.variant = variant
        self.sampling = sampling
        self.context = context
        self.trust_remote_code = trust_remote_code

    def load(self) -> None:
        """Load the tokenizer into this process, with the libraries that it needs."""
        load_tokenizer(self.variant.source, self.variant.revision, self.trust_remote_code)

    def __call__(self, request: Request) -> Row:
        """The request in the form of ``RENDERED``, with what its result is read with."""
        tokenizer = load_tokenizer(self.variant.source, self.variant.revision, self.trust_remote_code)
        prompt = self.variant.prompt_format
        tokens, prefix = render(request.messages, prompt, tokenizer, names_tags=request.names_tags)
        if request.opening:
            opening = render_opening(request.opening.thought, request.opening.answer, prompt, prefix)
            tokens = [*tokens, *tokenizer(opening, add_special_tokens=False)["input_ids"]]
            prefix += opening
        if request.continuation:
            tokens = self._continued(tokens, prefix, request.continuation, request.max_tokens)
            # The result is what follows.
            prefix = ""
        # A prompt that fills the context is left to the engine, which rejects that row with both lengths.
        max_tokens = max(1, min(request.max_tokens, self.context - len(tokens)))
        params: dict[str, Any] = {
            "max_tokens": max_tokens,
            "temperature": self.sampling.temperature,
            "top_p": self.sampling.top_p,
        }
        # Greedy sampling draws nothing: its rows are the same for every seed.
        if request.continuation:
            # The likeliest of a few: sampling would add nothing but noise.
            params["temperature"] = 0.0
            params["structured_outputs"] = {"choice": list(request.continuation.choices)}
        elif self.sampling.temperature > 0:
            params["seed"] = request.seed
        # A base model ends no turn: without these it writes the next turn of the dialogue itself.
        if self.variant.style == "plain":
            params["stop"] = list(PLAIN_STOPS)
        if stop_token_ids := self.variant.prompt_format.stop_token_ids:
            params["stop_token_ids"] = list(stop_token_ids)
        return {
            "key": request.key,
            "tokenized_prompt": tokens,
            "sampling_params": params,
            "prompt_tokens": len(tokens),
            "prefix": prefix,
            "max_tokens": max_tokens,
        }

    def _continued(self, prompt: list[int], prefix: str, continuation: Continuation, room: int) -> list[int]:
        """The prompt with the completion so far and what is put behind it, cut to leave room in the context.

        What does not fit is left out at the end of the completion, as if its limit had been lower.
        """
        tokenizer = load_tokenizer(self.variant.source, self.variant.revision, self.trust_remote_code)
        text = continuation.text.removeprefix(prefix)
        # A model that spells a control token out has not written that token.
        written = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        suffix = tokenizer(continuation.suffix, add_special_tokens=False)["input_ids"]
        kept = max(0, self.context - len(prompt) - len(suffix) - room)
        return [*prompt, *written[:kept], *suffix]


class RenderBatches:
    """Reads batches of requests and renders them: the first stage in front of the engine."""

    def __init__(self, renderer: Renderer, column: str):
        """Args:
        renderer: Renders one request.
        column: The column in which the engine's stage looks for its rows.
        """
        self.renderer = renderer
        self.column = column

    def __call__(self, batch: Mapping[str, Sequence[bytes]]) -> Iterator[pa.Table]:
        """The rows of some pickled ``RequestBatch`` objects in tables of one column."""
        _leave_a_broken_process()
        for pickled in batch["batch"]:
            rows = map(self.renderer, pickle.loads(pickled).read())
            while some := list(islice(rows, _ROWS_AT_ONCE)):
                yield pa.table({self.column: pa.array(some, RENDERED)})


def _leave_a_broken_process() -> None:
    """End this worker where torch was imported in part; Ray runs the task again in another one.

    A task of a stream that was given up is cancelled, maybe in the middle of an import, and what it leaves in
    the process makes every later import of torch fail.
    """
    if "torch" not in sys.modules and any(name.startswith("torch.") for name in sys.modules):
        os._exit(1)
