"""A model behind a URL as the target of an evaluation."""

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field

from safe_r1.evaluation.adaptive_rows import tokens_of_role
from safe_r1.evaluation.journal import Journal, journal_folder
from safe_r1.evaluation.plan import EvaluationPlan
from safe_r1.evaluation.results import RequestKey
from safe_r1.evaluation.run_rows import Totals
from safe_r1.inference.dialogues import CompleteAll, DialogueEngines, endpoint_model
from safe_r1.inference.remote import ask, make_endpoints
from safe_r1.inference.reply_cache import NO_OVERHEAD, Overhead, ReplyCache
from safe_r1.inference.requests import BatchCounts, EngineResult, Request, RequestBatch
from safe_r1.inference.shard_buffer import Finished
from safe_r1.inference.spending import Spending, estimate_tokens
from safe_r1.models.endpoint_entry import EndpointEntry
from safe_r1.provenance import versions
from safe_r1.resources import Cluster
from safe_r1.runs import JsonObject, RunFolder, read_table
from safe_r1.schema import Message


@dataclass
class EndpointTarget:
    """A model behind a URL."""

    plan: EvaluationPlan
    entry: EndpointEntry
    rows_per_batch: int = 256
    continues: bool = False
    _adaptations: dict[str, str] = field(default_factory=dict)
    _recorded: tuple[int, Overhead] = (0, NO_OVERHEAD)

    @property
    def rows_at_once(self) -> int:
        """Requests under way."""
        return self.entry.concurrency * len(self.entry.urls) * len(self.entry.api_key_envs)

    @property
    def memory_gib(self) -> float:
        """None of this machine that counts."""
        return 0.0

    def preload(self) -> None:
        """Nothing: no engine is started."""

    def start(self, cluster: Cluster) -> str:
        """Checks the settings; whether the endpoint answers, its first row shows."""
        make_endpoints(self.entry, self.plan.sampling)
        return "endpoint"

    def fingerprint(self, benchmark: str) -> JsonObject:
        """Nothing of this machine: the endpoint's identity is that of the variant's weights."""
        return {"engine": {"device": "endpoint"}, "versions": versions(("safe_r1",))}

    def complete(
        self,
        batches: Sequence[RequestBatch],
        finish: Callable[[EngineResult], Finished],
        write: Callable[[Sequence[Finished]], None],
    ) -> Iterator[BatchCounts]:
        """Asks the endpoint; what it refused to take is recorded even if the job ends early."""
        spending, before = self._begin()
        endpoints = make_endpoints(self.entry, self.plan.sampling)
        journal = Journal({name: self._cache(name) for name in self.plan.samples})
        try:
            for counts in ask(batches, endpoints, spending, journal, self._adaptations, finish, write):
                # Before the job goes on: what is killed then is not paid unseen.
                self._record(spending, before)
                yield counts
        finally:
            self._record(spending, before)

    @property
    def spec(self) -> None:
        """None: it runs elsewhere."""

    def dialogues(self, benchmark: str, engines: DialogueEngines) -> CompleteAll:
        """Asks the endpoint; its answers are in the journal until their turns are written."""
        spending, before = self._begin()
        endpoints = make_endpoints(self.entry, self.plan.sampling)
        journal = Journal({benchmark: self._cache(benchmark)})
        return endpoint_model(
            endpoints, spending, journal, self._adaptations, lambda: self._record(spending, before)
        )

    def _begin(self) -> tuple[Spending, dict[str, Overhead]]:
        """What is spent so far, and of that, by benchmark, what was taken beyond its rows."""
        before = {name: _recorded_overhead(self.plan.folders[name]) for name in self.plan.samples}
        self._recorded = (0, sum(before.values(), NO_OVERHEAD))
        return Spending(self.entry, *self._tokens_so_far(), self._recorded[1]), before

    def _tokens_so_far(self) -> tuple[int, int]:
        """Prompt and completion tokens of the rows that are written."""
        found = [
            # Of an attack that adapts all answers were paid, and not just those that count.
            tokens_of_role(folder, "target") if name in self.plan.searches else _tokens_of(folder, stage)
            for name, folder in self.plan.folders.items()
            for stage in (("turns",) if name in self.plan.searches else ("completions", "finished"))
        ]
        return sum(prompt for prompt, _ in found), sum(completion for _, completion in found)

    def _record(self, spending: Spending, before: Mapping[str, Overhead]) -> None:
        """Keep, with each benchmark, what was not sent as configured and what was taken beyond its rows."""
        state = (len(self._adaptations), spending.overhead)
        if state == self._recorded:
            return
        self._recorded = state
        overheads = dict(before)
        for key, overhead in spending.overheads.items():
            overheads[RequestKey.from_text(key).benchmark] += overhead
        for name, folder in self.plan.folders.items():
            # Nothing is written to a finished run.
            if folder.is_complete:
                continue
            info = folder.read_json("run.json") or {}
            recorded: JsonObject = info.get("endpoint", {})
            adapted = recorded.get("adapted", {}) | self._adaptations
            found = recorded | {"adapted": adapted, "overhead": asdict(overheads[name])}
            folder.write_json("run.json", info | {"endpoint": found})

    def token_counter(self) -> None:
        """None: an endpoint does not count the reasoning apart."""

    def facts(self, benchmark: str, totals: Totals) -> JsonObject:
        """Who answered, what it took, and what was sent in another form."""
        recorded = (self.plan.folders[benchmark].read_json("run.json") or {}).get("endpoint", {})
        overhead = _recorded_overhead(self.plan.folders[benchmark])
        folder = self.plan.folders[benchmark]
        if benchmark in self.plan.searches:
            prompt_tokens, completion_tokens = tokens_of_role(folder, "target")
        else:
            prompt_tokens, completion_tokens = _tokens_of(folder, "finished")
            prompt_tokens += totals.prompt_tokens
            completion_tokens += totals.completion_tokens
        return {
            "endpoint": {
                "model": self.entry.model,
                "host": self.entry.host,
                "served_by": totals.served_by,
                "seeded": self.plan.sampling.temperature > 0,
                "adapted": recorded.get("adapted", {}) | self._adaptations,
                "prompt_tokens": prompt_tokens,
                "completion_tokens": completion_tokens,
                "overhead": asdict(overhead),
                "cost": Spending(self.entry, prompt_tokens, completion_tokens, overhead).cost,
            }
        }

    def finished(self, benchmark: str) -> None:
        """Its answers are in the run folder: the journal is not needed any more."""
        shutil.rmtree(journal_folder(self.plan.folders[benchmark]), ignore_errors=True)

    def show_prompt(self, messages: Sequence[Message]) -> tuple[str, str]:
        """The dialogue by turns: the endpoint renders it."""
        request = Request("", list(messages), 0, 0)
        prompt_tokens = estimate_tokens([(request, 0)]).prompt_tokens
        return "\n".join(
            f"{turn['role']}: {turn['content']}" for turn in messages
        ), f"about {prompt_tokens} tokens"

    def capacity(self) -> list[str]:
        """None: the endpoint's own."""
        return []

    def resources(self, rows: Iterable[tuple[Request, int]]) -> str:
        """Tokens, and with prices the cost."""
        entry = self.entry
        num_rows, prompts, completions = estimate_tokens(rows)
        cost = Spending(entry, prompts, completions).cost
        price = "no prices set" if cost is None else f"about {cost:.4g} at the prices set"
        limit = f", at most {entry.max_cost:g}" if entry.max_cost is not None else ""
        lanes = len(entry.urls) * len(entry.api_key_envs)
        return (
            f"{entry.model} at {entry.host}, {lanes} × {entry.concurrency} requests at once; "
            f"{num_rows:,} rows, about {prompts:,} prompt and {completions:,} completion tokens; "
            f"{price}{limit}"
        )

    def _cache(self, benchmark: str) -> ReplyCache:
        return ReplyCache(journal_folder(self.plan.folders[benchmark]), "journal")


def _recorded_overhead(folder: RunFolder) -> Overhead:
    recorded = (folder.read_json("run.json") or {}).get("endpoint", {})
    return Overhead(**recorded.get("overhead", {}))


def _tokens_of(folder: RunFolder, stage: str) -> tuple[int, int]:
    """Prompt and completion tokens of the written rows of a stage."""
    names = ["prompt_tokens", "completion_tokens"]
    tables = [read_table(shard, columns=names) for shard in folder.shards(stage)]
    prompt, completion = (sum(int(table.column(name).to_numpy().sum()) for table in tables) for name in names)
    return prompt, completion
