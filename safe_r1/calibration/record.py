"""The record of a drawn sample: which texts of which run, from which strata, with which chance."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from safe_r1.calibration.items import Item, JudgedRun, Stratum, digest, item_id
from safe_r1.errors import DataError
from safe_r1.judge.gold_errors import CONFIDENT
from safe_r1.provenance import now
from safe_r1.runs import JsonObject, RunFolder

FOLDER = "label-sample"
"""Folder of the samples inside a run folder, each in a folder of its own."""
NAME = "record.json"
_SCHEMA_VERSION = 1


@dataclass(frozen=True)
class DrawnSample:
    """Texts of a run that people are to label.

    Attributes:
        results_sha256: Hash of the run's rows.
        seed: Of the draw.
        items: The texts, in the order in which they are shown.
        sizes: Texts by stratum, drawn or not.
        error_shares: Guessed share of wrong verdicts by stratum.
    """

    results_sha256: str
    seed: int
    items: Sequence[Item]
    sizes: Mapping[Stratum, int]
    error_shares: Mapping[Stratum, float]

    @property
    def name(self) -> str:
        """Name of the sample's folder."""
        subjects = dict.fromkeys(stratum.subject for stratum in self.sizes)
        return f"{'-'.join(subjects)}-n{len(self.items)}-seed{self.seed}"

    @property
    def sample_hash(self) -> str:
        """Hash of what was drawn; label files name it."""
        ids = (self.id_of(item) for item in self.items)
        return digest(self.results_sha256, str(self.seed), *ids)[:16]

    def id_of(self, item: Item) -> str:
        """Id of a text in label files."""
        return item_id(self.results_sha256, item.sample_id, item.repeat, item.stratum.subject)

    def to_json(self, run: JudgedRun) -> JsonObject:
        """Content of ``record.json``."""
        drawn = Counter(item.stratum for item in self.items)
        places = {stratum: place for place, stratum in enumerate(self.sizes)}
        return {
            "schema_version": _SCHEMA_VERSION,
            "results_sha256": self.results_sha256,
            "sample": self.sample_hash,
            "seed": self.seed,
            "created_at": now(),
            "run": {
                "variant": run.info.get("variant", {}).get("name"),
                "benchmark": run.info.get("benchmark"),
                "judge": run.judge,
            },
            "confident": CONFIDENT,
            "strata": [
                {
                    **stratum._asdict(),
                    "num_texts": size,
                    "num_drawn": drawn[stratum],
                    "inclusion_probability": drawn[stratum] / size,
                    "guessed_error_share": round(self.error_shares[stratum], 4),
                }
                for stratum, size in self.sizes.items()
            ],
            "texts": [
                {
                    "item": self.id_of(item),
                    "sample_id": item.sample_id,
                    "repeat": item.repeat,
                    "subject": item.stratum.subject,
                    "stratum": places[item.stratum],
                }
                for item in self.items
            ],
        }


@dataclass(frozen=True)
class DrawnTexts:
    """What the records in a run folder say.

    Attributes:
        ids: Ids of all texts that were drawn from the run as it is now.
        num_records: Records of the run as it is now.
        num_other: Records of other results, as of before verdicts were edited.
    """

    ids: frozenset[str]
    num_records: int
    num_other: int


def read_records(folder: RunFolder, results_sha256: str, further: Sequence[RunFolder] = ()) -> DrawnTexts:
    """The texts that were drawn from a run.

    Args:
        folder: The run.
        results_sha256: Hash of its rows as they are now.
        further: Folders of samples that lie elsewhere.

    Raises:
        DataError: A record is damaged.
    """
    ids: set[str] = set()
    num_records = 0
    num_other = 0
    samples = folder.path / FOLDER
    inside = [RunFolder(each) for each in sorted(samples.iterdir(), key=str)] if samples.exists() else []
    for each in [*inside, *further]:
        record = each.read_json(NAME)
        if record is None:
            continue
        try:
            if record["results_sha256"] != results_sha256:
                num_other += 1
                continue
            ids.update(str(text["item"]) for text in record["texts"])
        except (KeyError, TypeError):
            raise DataError(
                f"{each.path / NAME}: no record of a label sample; draw the same sample again with "
                "safe-r1 label-sample"
            ) from None
        num_records += 1
    return DrawnTexts(frozenset(ids), num_records, num_other)
