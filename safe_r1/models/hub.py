"""A model on the hub: the commit of its branch, and its small files, from the network or the local cache."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from safe_r1.errors import ModelError
from safe_r1.models.files import CONFIG_FILE, INDEX_FILES, read_json, weight_bytes

_TIMEOUT_S = 20


@dataclass(frozen=True)
class HubModel:
    """A model on the hub at a commit.

    Attributes:
        source: Hub id.
        commit: The commit, or the revision that was asked for where the hub names none.
        sizes: Bytes of each file by name; empty where the hub could not be reached.
    """

    source: str
    commit: str
    sizes: Mapping[str, int] = field(default_factory=dict)

    def read_json(self, name: str) -> dict[str, object]:
        """A JSON file of the model; empty where the model has no such file.

        Raises:
            ModelError: It is damaged.
        """
        path = self._download(name)
        return read_json(path) if path else {}

    def read_config(self) -> dict[str, object]:
        """The model's ``config.json``.

        Raises:
            ModelError: There is none, or it can neither be downloaded nor found in the cache.
        """
        if config := self.read_json(CONFIG_FILE):
            return config
        raise ModelError(
            f"{self.source} has no {CONFIG_FILE} that could be read: it is not a model in transformers' "
            "format, or the hub cannot be reached and nothing is cached"
        )

    def weight_bytes(self) -> int:
        """Bytes of the weights; 0 where neither an index nor the sizes of the files can be had."""
        index = next((found for name in INDEX_FILES if (found := self.read_json(name))), {})
        return weight_bytes(index, self.sizes)

    def _download(self, name: str) -> Path | None:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError

        if self.sizes and name not in self.sizes:
            return None
        try:
            return Path(hf_hub_download(self.source, name, revision=self.commit))
        except (EntryNotFoundError, OSError, ValueError):
            # No such file, or no network and nothing cached: both leave it unknown.
            return None


@functools.lru_cache(maxsize=32)
def find_model(source: str, revision: str) -> HubModel:
    """A model at the commit of a branch, from the hub or, without network, from its local cache.

    Raises:
        ModelError: There is no such model or revision, it is gated, or the hub cannot be reached and nothing
            is cached.
    """
    from huggingface_hub import HfApi, constants, try_to_load_from_cache
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        info = HfApi().model_info(source, revision=revision, timeout=_TIMEOUT_S, files_metadata=True)
    except GatedRepoError:
        raise ModelError(f"{source} is gated: accept its licence on the hub and set HF_TOKEN") from None
    except RevisionNotFoundError:
        raise ModelError(f"{source} has no branch, tag or commit {revision!r} on the hub") from None
    except RepositoryNotFoundError:
        raise ModelError(
            f"{source}: no such model on the hub (or it is private: set HF_TOKEN), and no such folder here"
        ) from None
    except Exception as error:  # noqa: BLE001 - the client raises whatever its transport raises
        cached = try_to_load_from_cache(source, CONFIG_FILE, revision=revision)
        if isinstance(cached, str):
            return HubModel(source, Path(cached).parent.name)
        if constants.HF_HUB_OFFLINE:
            raise ModelError(
                f"{source}: HF_HUB_OFFLINE is set and nothing is cached in {constants.HF_HUB_CACHE}; unset "
                "it once, or give the model's folder as --variant"
            ) from None
        raise ModelError(
            f"{source}: the hub at {constants.ENDPOINT} cannot be reached ({type(error).__name__}) and "
            "nothing is cached; check the network, set HF_ENDPOINT to a mirror, or give the model's folder "
            "as --variant"
        ) from None
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or []}
    # All else is asked for by commit, of which the client notes no branch: without network it would not know
    # which commit the branch was at.
    HubModel(source, revision, sizes)._download(CONFIG_FILE)
    return HubModel(source, info.sha or revision, sizes)
