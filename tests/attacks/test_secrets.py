"""Secrets in every place where a setting can hold one, looked for in all that is written or shown."""

import io
import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from upath import UPath

from safe_r1.config import EndpointConfig, EvaluateConfig
from safe_r1.errors import ConfigError, EndpointError, RunConflictError, SafeR1Error
from safe_r1.inference.endpoint import ChatEndpoint
from safe_r1.inference.endpoint_client import ChatSampling, EndpointClient
from safe_r1.models.registry import get_variant
from safe_r1.redaction import RedactingFormatter, hide_credentials, hide_secrets
from safe_r1.runs import RunFolder
from safe_r1.schema import Message
from safe_r1.settings import load_config, public_settings
from tests.chat_server import Server

SECRET = "s3cr3tPlanted"
# Where a URL can hold it; what HTTP, S3 and providers take.
URLS = [
    f"https://user:{SECRET}@host/v1",
    f"https://{SECRET}@host/v1",
    f"https://{SECRET}:@host:8000/v1",
    f"https://user:a@{SECRET}@host/v1",
    f"https://host/v1?key={SECRET}",
    f"https://host/v1?a=1&sig={SECRET}",
    f"https://host/v1?{SECRET}",
    f"https://host/v1#access_token={SECRET}",
    f"s3://AKIA:abc/{SECRET}@bucket/runs",
    f"s3://AKIA:{SECRET}@bucket/runs",
    f"simplecache::s3://AKIA:{SECRET}@bucket/runs",
    f"gs://bucket/x?token={SECRET}",
]
# Where a job's settings can hold it.
PLANTED: list[dict[str, Any]] = [
    *({"output": url} for url in URLS),
    *({"data": url} for url in URLS),
    # What follows "#" is the name of a model.
    *({"judge": {"kind": url}} for url in URLS if url.startswith("http") and "#" not in url),
    *({"further_judges": [url]} for url in URLS if url.startswith("http") and "#" not in url),
    *({"variant": f"endpoint:{url}#m"} for url in URLS if url.startswith("http") and "#" not in url),
    {"judge": {"headers": {"Authorization": f"Bearer {SECRET}"}}},
    {"judge": {"extra_body": {"api_key": SECRET}}},
    {"judge": {"extra_body": {"inner": [{"access_token": SECRET}]}}},
    {"endpoint": {"headers": {"x-any": SECRET}}},
    {"endpoint": {"extra_body": {"auth": {"password": SECRET}}}},
]


def config_of(planted: dict[str, Any]) -> EvaluateConfig:
    return EvaluateConfig.model_validate({"variant": "demo", **planted})


@pytest.mark.parametrize("planted", PLANTED, ids=str)
def test_no_secret_of_the_settings_is_written_or_shown(planted: dict[str, Any], tmp_path: Path):
    config = config_of(planted)
    assert SECRET in repr(config.model_dump())
    # As evaluation does, as fine-tuning does, and as a careless writer would.
    for number, info in enumerate(
        [public_settings(config), config.model_dump(mode="json"), config.model_dump(), config]
    ):
        folder = RunFolder(UPath(tmp_path / str(number)))
        folder.open({"settings": info}, {"config": info})
        folder.open({"settings": info}, {"config": info})
        folder.write_json("other.json", {"config": info})
        with pytest.raises(RunConflictError) as caught:
            folder.open({"settings": {"run": "another"}}, {})
        assert SECRET not in caught.value.shown
    written = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert len(written) == 8
    for file in written:
        assert SECRET not in file.read_text(), file


@pytest.mark.parametrize("url", URLS)
def test_no_secret_is_in_errors_or_logs(url: str):
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(RedactingFormatter("%(message)s"))
    logger = logging.Logger("attack")
    logger.addHandler(handler)
    for text in (url, f"at {url}: refused", f'"{url}", again', f"({url})"):
        assert SECRET not in hide_credentials(text)
        assert SECRET not in str(SafeR1Error(text))
        logger.warning("failed: %s", text)
        try:
            raise OSError(text)
        except OSError:
            logger.exception("failed")
    assert "OSError" in stream.getvalue()
    assert SECRET not in stream.getvalue()


@pytest.mark.parametrize(
    "override",
    [
        f"judge.headers={{Authorization: {SECRET}}}",
        f"judge.headers.Authorization=Bearer {SECRET}",
        f"judge={{kind: llm, headers: {{a: {SECRET}}}}}",
        f"endpoint.extra_body.api_key={SECRET}",
        f"judge.kind=https://user:{SECRET}@host/v1",
    ],
)
def test_a_command_line_in_a_file_has_none(override: str):
    argv = ["python", "-m", "x", "--set", override]
    assert SECRET not in repr(hide_secrets({"stage": argv}))


@pytest.mark.parametrize(
    "override",
    [
        f"judge.headers.Authorization=[{SECRET}]",
        f"judge.headers={{a: [{SECRET}]}}",
        f"judge.headers.Authorization='{SECRET}",
        f"judge.headers.Authorization={SECRET}é",
        f"judge.kind=user:{SECRET}@host/v1",
        f"judge.kind=htp://user:{SECRET}@host/v1",
        f"judge.extra_body={SECRET}",
        f"judge.api_key_env=sk-{SECRET}",
        f"endpoint.api_key_env=[sk-{SECRET}]",
    ],
)
def test_a_refused_setting_is_not_repeated(override: str):
    with pytest.raises(ConfigError) as caught:
        load_config(EvaluateConfig, None, [override], variant="demo")
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("url", [url for url in URLS if "#" not in url])
@pytest.mark.parametrize("form", ["{}", "endpoint:{}", "{}@x"])
def test_a_name_of_a_model_shows_none(url: str, form: str):
    try:
        variant = get_variant(form.format(url))
    except SafeR1Error as error:
        shown = error.shown
    else:
        shown = repr(hide_secrets(variant.public()))
    assert SECRET not in shown


def test_an_identity_holds_no_secret_and_all_else():
    from safe_r1.models.endpoint_entry import EndpointEntry

    def identity(**body: Any) -> str:
        entry = EndpointEntry(url=URLS[0], model="m", extra_body=body, headers={"a": SECRET})
        return entry.identity

    assert SECRET not in identity(api_key=SECRET, inner={"token": SECRET}, more=[{"secret": SECRET}])
    assert identity(api_key=SECRET) == identity(api_key="other")
    assert identity(top_k=1) != identity(top_k=2)
    assert identity(max_tokens=1) != identity(max_tokens=2)


def ask(url: str, **further: Any) -> str:
    """The line of an endpoint that answers nothing."""
    client_settings = EndpointConfig(max_retries=0, patience_s=0, timeout_s=5, **further)
    turns = [Message(role="system", content="x"), Message(role="user", content="问题")]
    client = EndpointClient(
        url, "m", client_settings, title="t", api_key_variable="PLANTED", sampling=ChatSampling()
    )
    with pytest.raises(EndpointError) as caught:
        ChatEndpoint(client).complete([(turns, "")])
    return str(caught.value)


@pytest.mark.parametrize("status", [200, 307, 400, 401, 404, 418, 500])
def test_a_server_that_repeats_what_it_was_sent_shows_none(status: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PLANTED", f"key-{SECRET}")
    server = Server()

    def repeat(body: dict[str, Any], call: int) -> tuple[int, Any]:
        text = json.dumps([body, dict(server.headers[-1]), server.paths[-1]])
        if status == 307:
            return 307, lambda handler: handler.wfile.write(
                f"HTTP/1.1 307 x\r\nLocation: http://u:{SECRET}@h/{SECRET}?k={SECRET}\r\n"
                "Content-Length: 0\r\n\r\n".encode()
            )
        return status, {"error": {"message": text, "code": text[:5000], "param": text}}

    server.on_request = repeat
    url = server.url.replace("http://", f"http://user:{SECRET}@") + f"?api-version={SECRET}"
    line = ask(
        url, headers={"x-own": f"Basic {SECRET}"}, extra_body={"api_key": SECRET, "more": [{"token": SECRET}]}
    )
    server.http.shutdown()
    server.http.server_close()
    assert server.requests
    assert SECRET not in line
    # As HTTP sends a user and a password.
    assert "dXNlcjpzM2NyM3RQbGFudGVk" not in line


@pytest.mark.parametrize("url", ["http://user:{}@127.0.0.1:9/v1", "http://127.0.0.1:9/v1?key={}"])
def test_an_endpoint_that_is_down_shows_none(url: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PLANTED", SECRET)
    assert SECRET not in ask(url.format(SECRET))


def test_a_record_of_before_loses_its_secret_when_its_run_goes_on(tmp_path: Path):
    folder = RunFolder(UPath(tmp_path))
    old = {"fingerprint": {"output": URLS[0]}, "config": {"output": URLS[0]}, "started_at": "then"}
    (tmp_path / "run.json").write_text(json.dumps(old))
    folder.open({"output": URLS[0]}, {"config": {"output": URLS[0]}})
    text = (tmp_path / "run.json").read_text()
    assert SECRET not in text
    assert '"then"' in text


@settings(max_examples=80, deadline=None)
@given(
    scheme=st.sampled_from(["http", "https", "s3", "gs", "abfs"]),
    user=st.text("ab1%.", max_size=4),
    password=st.text("ab1%.:/@+=-_~", min_size=1, max_size=6),
    around=st.sampled_from(["{}", "see {} now", '{{"a": "{}"}}']),
)
def test_any_password_of_a_url_is_hidden(scheme: str, user: str, password: str, around: str):
    url = f"{scheme}://{user}:{SECRET}{password}{SECRET}@host/path"
    shown = hide_credentials(around.format(url))
    assert SECRET not in shown
    assert shown.endswith(around.format("@host/path").rpartition("@")[2])


@pytest.mark.parametrize(
    "text",
    [
        "https://host:8000/models/a@main",
        "s3://bucket/data-?.jsonl",
        "hf:owner/name@main",
        "https://host/v1#deepseek-reasoner",
        "mail a@b.c and 3 != 4 ? x=1",
        "http://[::1]:8000/v1",
        "answer_key=x.csv",
        "generation.max_tokens=5",
    ],
)
def test_what_is_no_secret_stays(text: str):
    assert hide_secrets({"a": [text]}) == {"a": [text]}


def test_long_texts_are_read_in_linear_time():
    for piece in ("://", "://a:", "a://b:c", "://@", "a://?", "=&", "a" * 50 + "://x?y"):
        hide_credentials(piece * (200_000 // len(piece)))


def test_the_environment_is_left_alone():
    # Keys come from variables alone; none of them is written by a record of the machine.
    os.environ["PLANTED_ELSEWHERE"] = SECRET
    from safe_r1.provenance import hardware, versions

    assert SECRET not in repr((versions(), hardware()))
    del os.environ["PLANTED_ELSEWHERE"]
