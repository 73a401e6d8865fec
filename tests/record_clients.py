"""Records what the clients of today send: ``python tests/record_clients.py tests/data/client_requests.json``.

Needs an environment of its own with langchain-openai, llama-index-llms-openai-like and inspect_ai, which want
other versions of the openai library than each other; a client that is not installed keeps what was recorded
before. lm-evaluation-harness is in the environment of this project's benchmarks.
"""

# The clients are not in the environment that types are checked in.
# pyright: reportMissingImports=false, reportCallIssue=false

import importlib.metadata
import json
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal

QUESTION = "为什么要遵守交通规则？"
TURNS: list[Any] = [{"role": "user", "content": QUESTION}]
_ANSWER = '{"a": "x"}'
_USAGE = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
_ENVELOPE = {"id": "x", "created": 0, "model": "m"}


class Recorder:
    """A server that keeps each request, and answers so that clients go on.

    Attributes:
        requests: Path and body of each.
    """

    def __init__(self) -> None:
        self.requests: list[tuple[str, dict[str, Any]]] = []
        recorder = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                recorder.requests.append((self.path, body))
                is_stream = bool(body.get("stream"))
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream" if is_stream else "application/json")
                self.end_headers()
                objects = _answer(self.path, is_stream, body.get("n") or 1)
                texts = [json.dumps(each) for each in objects]
                ended = [*(f"data: {text}\n\n" for text in texts), "data: [DONE]\n\n"]
                self.wfile.write("".join(ended if is_stream else texts).encode())

            def log_message(self, format: str, *args: Any) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{server.server_port}/v1"
        threading.Thread(target=server.serve_forever, daemon=True).start()


def _answer(path: str, is_stream: bool, num_choices: int) -> list[dict[str, Any]]:
    """The events of a stream, or the one object of a whole answer."""
    if path.endswith("/responses"):
        response = _response()
        completed = {"type": "response.completed", "sequence_number": 0, "response": response}
        return [completed] if is_stream else [response]
    if path.endswith("/chat/completions"):
        message = {"role": "assistant", "content": _ANSWER}
        if is_stream:
            choice = {"index": 0, "delta": message, "finish_reason": "stop"}
            return [{**_ENVELOPE, "object": "chat.completion.chunk", "choices": [choice]}]
        choices = [{"index": n, "message": message, "finish_reason": "stop"} for n in range(num_choices)]
        return [{**_ENVELOPE, "object": "chat.completion", "choices": choices, "usage": _USAGE}]
    choice = {"index": 0, "text": _ANSWER, "finish_reason": "stop", "logprobs": None}
    return [{**_ENVELOPE, "object": "text_completion", "choices": [choice], "usage": _USAGE}]


def _response() -> dict[str, Any]:
    text = {"type": "output_text", "text": _ANSWER, "annotations": []}
    message = {"type": "message", "id": "m", "role": "assistant", "status": "completed", "content": [text]}
    usage = {"input_tokens": 1, "output_tokens": 1, "total_tokens": 2}
    details = {
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens_details": {"reasoning_tokens": 0},
    }
    return {
        "id": "r",
        "object": "response",
        "created_at": 0,
        "model": "m",
        "status": "completed",
        "output": [message],
        "parallel_tool_calls": False,
        "tool_choice": "auto",
        "tools": [],
        "usage": usage | details,
    }


Calls = Iterator[tuple[str, Callable[[], object]]]


def openai_calls(url: str) -> Calls:
    """The openai library: what is not given is not sent."""
    import openai
    from pydantic import BaseModel

    class Choice(BaseModel):
        a: Literal["x", "y"]

    client = openai.OpenAI(base_url=url)
    chat, responses = client.chat.completions, client.responses
    base: dict[str, Any] = {"model": "m", "messages": TURNS}
    yield "openai chat", lambda: chat.create(**base, max_tokens=6)
    options: Any = {"include_usage": True}
    yield (
        "openai chat streamed",
        lambda: list(chat.create(**base, max_tokens=6, stream=True, stream_options=options)),
    )
    yield "openai chat parse", lambda: chat.parse(**base, max_tokens=40, response_format=Choice)
    short: dict[str, Any] = {"model": "m", "input": "你好", "store": False}
    yield "openai responses", lambda: responses.create(**short, max_output_tokens=6)
    turns: Any = {**short, "input": [{"role": "user", "content": "你好"}], "instructions": "简短。"}
    yield (
        "openai responses streamed",
        lambda: list(responses.create(**turns, max_output_tokens=6, stream=True)),
    )
    yield "openai responses parse", lambda: responses.parse(**short, max_output_tokens=40, text_format=Choice)
    yield (
        "openai completions",
        lambda: client.completions.create(model="m", prompt="道路千万条", max_tokens=4, logprobs=1),
    )


def langchain_calls(url: str) -> Calls:
    """LangChain's ChatOpenAI: invoked, streamed, with a structure, with a tool, by responses."""
    from langchain_openai import ChatOpenAI
    from pydantic import BaseModel

    class Choice(BaseModel):
        a: Literal["x", "y"]

    def weather(city: str) -> str:
        """天气"""
        return city

    def model(**settings: Any) -> Any:
        return ChatOpenAI(model="m", base_url=url, **{"max_tokens": 4, **settings})

    yield "langchain", lambda: model(temperature=0.7).invoke("你好")
    yield "langchain streamed", lambda: list(model(temperature=0.7).stream("你好"))
    yield (
        "langchain structured",
        lambda: model(max_tokens=40).with_structured_output(Choice).invoke("你好"),
    )
    yield (
        "langchain json mode",
        lambda: model(max_tokens=40).with_structured_output(Choice, method="json_mode").invoke("用 JSON"),
    )
    yield "langchain tools", lambda: model().bind_tools([weather]).invoke("你好")
    yield "langchain responses", lambda: model(use_responses_api=True).invoke("你好")
    yield "langchain logprobs", lambda: model(logprobs=True, top_logprobs=2).invoke("你好")


def llama_index_calls(url: str) -> Calls:
    """LlamaIndex's OpenAILike."""
    from llama_index.core.llms import ChatMessage
    from llama_index.llms.openai_like import OpenAILike

    turns = [ChatMessage(role="system", content="s"), ChatMessage(role="user", content=QUESTION)]

    def model(is_chat: bool) -> Any:
        return OpenAILike(model="m", api_base=url, api_key="k", is_chat_model=is_chat, max_tokens=4)

    yield "llama_index", lambda: model(True).chat(turns)
    yield "llama_index streamed", lambda: list(model(True).stream_chat(turns))
    yield "llama_index completions", lambda: model(False).complete("道路千万条")


def inspect_calls(url: str) -> Calls:
    """inspect_ai, its provider for servers of OpenAI's interface: chat, and responses."""
    from inspect_ai import Task
    from inspect_ai import eval as evaluate
    from inspect_ai.dataset import Sample
    from inspect_ai.model import GenerateConfig, get_model
    from inspect_ai.solver import generate, system_message

    os.environ |= {"OURS_API_KEY": "k", "OURS_BASE_URL": url}

    def run(**settings: Any) -> None:
        config = GenerateConfig(max_tokens=4, temperature=0.0, seed=42)
        task = Task(dataset=[Sample(input=QUESTION)], solver=[system_message("s"), generate()])
        with tempfile.TemporaryDirectory() as folder:
            model = get_model("openai-api/ours/m", config=config, **settings)
            [log] = evaluate(task, model=model, display="none", log_dir=folder)
        if log.error:
            raise RuntimeError(log.error.message)

    yield "inspect_ai chat", run
    yield "inspect_ai responses", lambda: run(responses_api=True)


def lm_eval_calls(url: str) -> Calls:
    """lm-evaluation-harness: local-chat-completions and local-completions."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.openai_completions import LocalChatCompletion, LocalCompletionsAPI

    until = {"until": ["\n\n", "问题："], "max_gen_toks": 4}
    shared: dict[str, Any] = {"model": "m", "tokenizer_backend": None, "max_length": 1024}

    def ask(model: Any, prompt: object) -> None:
        model.generate_until([Instance("generate_until", {}, (prompt, until), 0)])

    def chat() -> None:
        from lm_eval.models.api_models import JsonChatStr

        model = LocalChatCompletion(base_url=f"{url}/chat/completions", **shared)
        ask(model, JsonChatStr(json.dumps(TURNS)))

    yield "lm_eval chat", chat
    yield (
        "lm_eval completions",
        lambda: ask(LocalCompletionsAPI(base_url=f"{url}/completions", **shared), "道路千万条"),
    )


CLIENTS: dict[str, tuple[Callable[[str], Calls], str]] = {
    "openai": (openai_calls, "openai"),
    "langchain": (langchain_calls, "langchain-openai"),
    "llama_index": (llama_index_calls, "llama-index-llms-openai-like"),
    "inspect_ai": (inspect_calls, "inspect_ai"),
    "lm_eval": (lm_eval_calls, "lm_eval"),
}


def main() -> None:
    """Record all clients that are installed; the rest of the file stays."""
    os.environ |= {"OPENAI_API_KEY": "k", "NO_PROXY": "127.0.0.1"}
    file = Path(sys.argv[1])
    found: dict[str, Any] = json.loads(file.read_text("utf-8")) if file.exists() else {}
    recorder = Recorder()
    for calls, distribution in CLIENTS.values():
        try:
            version = importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            print(f"{distribution} is not installed")
            continue
        for name, call in calls(recorder.url):
            recorder.requests.clear()
            call()
            path, body = recorder.requests[-1]
            body.pop("model")
            found[name] = {"client": f"{distribution} {version}", "path": path, "body": body}
    file.write_text(json.dumps(found, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
