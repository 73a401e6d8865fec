"""The ingress's client of a model's replica: text in progress, whole replies, errors, cancellation."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from safe_r1.config import EngineConfig, GenerationConfig
from safe_r1.models.registry import VARIANTS
from safe_r1.serve.base import Chunk, SamplingParams
from safe_r1.serve.deltas import DeltaReceiver, DeltaSender
from safe_r1.serve.deployment import DeploymentSpec
from safe_r1.serve.engine import ServedModel
from safe_r1.serve.engine_call import ChoiceReply, Delta, EngineReply, EngineRequest
from safe_r1.serve.errors import ApiError

PARAMS = SamplingParams(seed=7, max_tokens=20, temperature=0.0)
TEXT = "首先，我不能帮助你做这件事。"


def whole(text: str, finish_reason: str, num_tokens: int) -> EngineReply:
    return EngineReply((ChoiceReply(Delta(0, 0, text), finish_reason),), num_tokens)


class FakeResponse:
    """What a call of a deployment's handle gives."""

    def __init__(self, reply: Coroutine[None, None, EngineReply]):
        self._task = asyncio.ensure_future(reply)
        self.is_cancelled = False

    def __await__(self) -> Any:
        return self._task.__await__()

    def cancel(self) -> None:
        self.is_cancelled = True


class FakeReplica:
    """Handle and replica in one; ``reply`` says what the engine does."""

    def __init__(self, reply: Callable[[EngineRequest], Coroutine[None, None, EngineReply]]):
        self._reply = reply
        self.calls: list[tuple[EngineRequest, FakeResponse]] = []
        self.complete = self

    def remote(self, request: EngineRequest) -> FakeResponse:
        response = FakeResponse(self._reply(request))
        self.calls.append((request, response))
        return response


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Callable[[FakeReplica], ServedModel]:
    monkeypatch.setattr("safe_r1.serve.engine.load_tokenizer", lambda *arguments: None)
    spec = DeploymentSpec(VARIANTS["demo"], EngineConfig(max_model_len=64, max_num_seqs=2), "cpu")

    def make(replica: FakeReplica) -> ServedModel:
        handle: Any = replica
        return ServedModel(spec, handle, GenerationConfig(), DeltaReceiver("127.0.0.1"))

    return make


async def chunks(model: ServedModel, *, stream: bool) -> list[Chunk]:
    return [chunk async for chunk in model.complete([1, 2, 3], PARAMS, ["停"], stream=stream)]


@pytest.mark.parametrize("lost", [None, 0, 5, len(TEXT) - 1, "all"])
def test_a_stream_is_the_whole_text_whatever_is_lost_on_the_way(
    serve: Callable[[FakeReplica], ServedModel], lost: int | str | None
):
    async def reply(request: EngineRequest) -> EngineReply:
        assert request.sink
        sender = DeltaSender()
        for start, char in enumerate(TEXT):
            if start != lost and lost != "all":
                sender.send(request.sink, Delta(0, start, char))
                await asyncio.sleep(0.002)
        return whole(TEXT, "stop", 9)

    model = serve(FakeReplica(reply))
    found = asyncio.run(chunks(model, stream=True))
    assert "".join(chunk.text for chunk in found) == TEXT
    last = found[-1]
    assert (last.finish_reason, last.prompt_tokens, last.completion_tokens) == ("stop", 3, 9)
    assert all(chunk.finish_reason is None for chunk in found[:-1])
    assert (len(found) > 1) == (lost not in (0, "all"))


def test_a_whole_answer_is_one_reply(serve: Callable[[FakeReplica], ServedModel]):
    async def reply(request: EngineRequest) -> EngineReply:
        return whole(TEXT, "length", 20)

    replica = FakeReplica(reply)
    assert asyncio.run(chunks(serve(replica), stream=False)) == [Chunk(TEXT, "length", 3, 20)]
    [(request, _)] = replica.calls
    assert request.sink is None
    assert request.tokens == [1, 2, 3]
    assert request.stop == ["停"]
    # Greedy decoding draws nothing.
    assert (request.body["max_tokens"], request.body["seed"]) == (20, None)


@pytest.mark.parametrize("stream", [False, True])
def test_what_the_engine_rejects_is_an_error_of_the_request(
    serve: Callable[[FakeReplica], ServedModel], stream: bool
):
    async def reply(request: EngineRequest) -> EngineReply:
        return EngineReply(error="stop cannot be empty")

    with pytest.raises(ApiError, match="stop cannot be empty") as raised:
        asyncio.run(chunks(serve(FakeReplica(reply)), stream=stream))
    assert raised.value.status == 400


@pytest.mark.parametrize("stream", [False, True])
def test_a_replica_that_dies_is_a_503(serve: Callable[[FakeReplica], ServedModel], stream: bool):
    from ray.exceptions import ActorDiedError

    async def reply(request: EngineRequest) -> EngineReply:
        raise ActorDiedError

    with pytest.raises(ApiError) as raised:
        asyncio.run(chunks(serve(FakeReplica(reply)), stream=stream))
    assert (raised.value.status, raised.value.code) == (503, "engine_unavailable")


def test_a_client_that_goes_away_ends_the_completion(serve: Callable[[FakeReplica], ServedModel]):
    async def reply(request: EngineRequest) -> EngineReply:
        assert request.sink
        DeltaSender().send(request.sink, Delta(0, 0, "首"))
        await asyncio.sleep(60)
        raise AssertionError("nobody cancelled it")

    replica = FakeReplica(reply)
    model = serve(replica)

    async def run() -> None:
        stream = model.complete([1], PARAMS, [], stream=True)
        assert (await anext(stream)).text == "首"
        await stream.aclose()  # pyright: ignore[reportAttributeAccessIssue]
        await asyncio.sleep(0)

    asyncio.run(run())
    [(_, response)] = replica.calls
    assert response.is_cancelled
