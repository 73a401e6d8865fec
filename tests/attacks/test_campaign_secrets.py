"""Credentials in a campaign's recipe, and in what its jobs print: none reaches the Jobs server or a page."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from rich.console import Console
from upath import UPath

from safe_r1.campaign.graph import commands, make_steps
from safe_r1.campaign.jobs import RayJobs
from safe_r1.campaign.plan_text import to_text
from safe_r1.campaign.run import Campaign
from safe_r1.campaign.view import campaign_folder, take_snapshot, to_table, write_snapshot
from safe_r1.errors import ConfigError
from tests.unit.campaign.test_recipe import small

SECRET = "s3cr3tPlanted"
LONG = f"{SECRET}0123456789"
URLS = {
    "a user and password": f"https://user:{SECRET}@host/v1",
    "a user": f"https://{SECRET}@host/v1",
    "a field that is named": f"https://host/v1?api-version=1&sig={SECRET}",
    "a long field": f"https://host/v1?code={LONG}",
    "a query alone": f"https://host/v1?{SECRET}",
}
STORES = {
    f"s3://AKIA:{SECRET}@bucket/x.jsonl": "AWS_SECRET_ACCESS_KEY",
    f"s3://AKIA:ab/{SECRET}@bucket/x.jsonl": "AWS_SECRET_ACCESS_KEY",
    f"gs://user:{SECRET}@bucket/x.jsonl": "GOOGLE_APPLICATION_CREDENTIALS",
    f"abfs://bucket:{SECRET}@host/x.jsonl": "AZURE_STORAGE_CONNECTION_STRING",
}
KEYS = "SAFE_R1_JUDGE_API_KEY"
# Changes of a recipe, and the variable that the refusal has to name.
PLANTED: list[tuple[dict[str, Any], str]] = [
    *(({"stages__evaluate__variants": [f"endpoint:{url}#m"]}, KEYS) for url in URLS.values()),
    *(({"stages__evaluate__flags": {"judge": url}}, KEYS) for url in URLS.values()),
    *(({"stages__evaluate__set": [f"judge.kind={url}"]}, KEYS) for url in URLS.values()),
    *(({"stages__evaluate__set": [f"judge={{kind: '{url}'}}"]}, KEYS) for url in URLS.values()),
    *(({"stages__evaluate__set": [f"further_judges=['{url}']"]}, KEYS) for url in URLS.values()),
    *(({"stages__corpus__flags": {"teacher": url}}, KEYS) for url in URLS.values()),
    *(({"stages__evaluate__set": [f"data={url}"]}, name) for url, name in STORES.items()),
    *(({"stages__corpus__flags": {"recipe": url}}, name) for url, name in STORES.items()),
    *(
        ({"stages__evaluate__set": [text]}, KEYS)
        for text in (
            f"judge.headers.Authorization=Bearer {SECRET}",
            f"judge.headers={{x-any: {SECRET}}}",
            f"judge={{kind: lexicon, headers: {{x-any: {SECRET}}}}}",
            f"endpoint.headers.x-any=[{SECRET}]",
            f"judge.headers.Authorization='{SECRET}",
            f"endpoint.extra_body.api_key={SECRET}",
            f"endpoint.extra_body={{clientSecret: {SECRET}}}",
            f"endpoint.extra_body={{inner: [{{access_token: {SECRET}}}]}}",
            f"endpoint.extra_body.auth.password={SECRET}",
            f"judge.api_key_env=sk-{SECRET}",
        )
    ),
    ({"stages__evaluate__set_of": {"r1-distill-qwen-7b": [f"judge.headers.a={SECRET}"]}}, KEYS),
]
HARMLESS = [
    "judge.kind=https://host.example:8443/v1?api-version=2024-10-21-preview",
    "judge.kind=https://host/v1#deepseek-reasoner",
    "endpoint.extra_body.top_k=5",
    "endpoint.extra_body={enable_thinking: false, max_tokens: 5}",
    "judge.api_key_env=MY_KEY",
    "judge.headers={}",
    "data=s3://bucket/answers/data-?.jsonl",
    "a-setting-without-a-value",
]


@pytest.mark.parametrize(("changes", "variable"), PLANTED, ids=str)
def test_a_command_with_a_credential_is_refused_in_one_line(changes: dict[str, Any], variable: str):
    recipe = small(**changes)
    with pytest.raises(ConfigError) as caught:
        make_steps(recipe, "/out")
    assert variable in caught.value.shown
    assert SECRET not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("setting", HARMLESS)
def test_what_is_no_credential_is_submitted(setting: str):
    steps = make_steps(small(stages__evaluate__set=[setting]), "/out")
    assert any(setting in step.argv for step in steps.values())


class Client:
    """Stands for Ray's client: keeps all that it is sent, and tells how each job ended."""

    sent: list[dict[str, Any]]
    message = ""
    log = ""

    def __init__(self, address: str):
        self.sent = []

    def _do_request(self, method: str, path: str) -> Any:
        return SimpleNamespace(json=lambda: {"ray_version": ray.__version__})

    def submit_job(self, **job: Any) -> None:
        self.sent.append(job)

    def get_job_info(self, name: str) -> Any:
        if not any(job["submission_id"] == name for job in self.sent):
            raise RuntimeError("Request failed with status code 404")
        return SimpleNamespace(
            status="FAILED", driver_exit_code=2, start_time=1000, end_time=2000, message=self.message
        )

    def get_job_logs(self, name: str) -> str:
        return self.log


@pytest.mark.parametrize("url", [*URLS.values(), *STORES])
@pytest.mark.parametrize("is_logged", [True, False])
def test_what_jobs_print_is_in_no_state_page_or_table(
    url: str, is_logged: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A traceback of a library that a job ends with, and a message of Ray's own."""
    monkeypatch.setenv("SAFE_R1_API_KEY", SECRET)
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://head:8265")
    monkeypatch.setattr("ray.job_submission.JobSubmissionClient", Client)
    # The secret is on the limit of what is kept of a line, too.
    line = f"OSError: cannot read {url}"
    line = line.rjust(395 + line.index(SECRET) - line.index("://"), ".") if is_logged else line
    monkeypatch.setattr(Client, "log" if is_logged else "message", line)
    recipe = small(name="planted")
    steps = make_steps(recipe, str(tmp_path))
    folder = campaign_folder(str(tmp_path))
    folder.open(commands(recipe, str(tmp_path)), {"recipe": recipe.model_dump()}, name="campaign.json")
    jobs = RayJobs("http://head:8265", None, "python")
    campaign = Campaign(recipe, steps, folder, jobs, now=lambda: 1000.0)
    for _ in range(3):
        campaign.tick()
    snapshot = take_snapshot(recipe, steps, campaign.states)
    write_snapshot(str(tmp_path), snapshot)
    console = Console(record=True, width=300, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(to_table(snapshot))
    client: Any = jobs._client
    assert client.sent
    assert any(state.status == "failed" for state in campaign.states.values())
    shown = [console.export_text(), to_text(recipe, steps), repr(client.sent), repr(campaign.states)]
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert {"campaign.html", "status.json", "campaign.json"} <= {file.name for file in files}
    for text in (*shown, *(file.read_text("utf-8") for file in files)):
        assert SECRET not in text


def test_a_campaign_of_before_loses_its_secret(tmp_path: Path):
    """``campaign.json`` of a release that took credentials in commands; its recipe is refused by now."""
    folder = campaign_folder(str(tmp_path))
    UPath(folder.path).mkdir(parents=True)
    url = URLS["a user and password"]
    old = {
        "fingerprint": {"a": ["x.py", "--judge", url]},
        "recipe": {"stages": {"a": {"flags": {"judge": url}}}},
    }
    (tmp_path / "campaign" / "campaign.json").write_text(json.dumps(old))
    folder.open(old["fingerprint"], {"recipe": old["recipe"]}, name="campaign.json")
    assert SECRET not in (tmp_path / "campaign" / "campaign.json").read_text()
