"""Answers of an endpoint on this machine, until they are in the run folder."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from safe_r1.evaluation.results import RequestKey
from safe_r1.inference.reply_cache import Reply, ReplyCache, Write
from safe_r1.models.checkpoints import cache_folder
from safe_r1.runs import RunFolder, sha256


def journal_folder(folder: RunFolder) -> str:
    """Where the answers of a run are, until it is finished."""
    # By the start of the run too: a run that was removed and begun anew asks anew.
    started_at = (folder.read_json("run.json") or {}).get("started_at")
    return str(cache_folder() / "journal" / sha256([str(folder.path), started_at])[:24])


@dataclass(frozen=True)
class Journal:
    """Answers by request, in a cache for each benchmark."""

    caches: Mapping[str, ReplyCache]

    def read(self, keys: Iterable[str]) -> dict[str, Reply]:
        """The answers that are there."""
        wanted: dict[str, list[str]] = defaultdict(list)
        for key in keys:
            wanted[RequestKey.from_text(key).benchmark].append(key)
        return {
            key: reply for name, mine in wanted.items() for key, reply in self.caches[name].read(mine).items()
        }

    @contextmanager
    def writing(self) -> Iterator[Write]:
        """Open the caches once for many writes."""
        with ExitStack() as stack:
            writers = {name: stack.enter_context(cache.writing()) for name, cache in self.caches.items()}
            yield lambda key, reply: writers[RequestKey.from_text(key).benchmark](key, reply)
