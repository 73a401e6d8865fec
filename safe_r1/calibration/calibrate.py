"""The command ``safe-r1 calibrate``: a run's rates, corrected by people's labels of that run.

The result is ``calibration.json`` in the run folder, beside ``metrics.json``, which stays as it is. The draws
of all rates are ``calibration-draws.parquet``, from which differences between two runs are made.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa

from safe_r1.calibration.corrected import CorrectedDifference, corrected_differences, corrected_rates
from safe_r1.calibration.guesses import Guesses
from safe_r1.calibration.imputation import NUM_DRAWS, Floats, Imputation, StratumLabels
from safe_r1.calibration.inversion import gold_ranges
from safe_r1.calibration.items import Item, JudgedRun, Stratum, digest, open_run
from safe_r1.calibration.label_files import read_labels
from safe_r1.calibration.rate_draws import RateDrawsFold, RateKey
from safe_r1.calibration.record import read_records
from safe_r1.calibration.result import Calibration
from safe_r1.calibration.reviews import (
    LabelledText,
    add_reviews,
    agreements,
    count_labels,
    items_by_id,
    num_outdated,
    read_reviews,
    text_labels,
)
from safe_r1.errors import ConfigError, DataError
from safe_r1.evaluation.results import read_population
from safe_r1.judge.gold_errors import GoldErrors, load_gold_errors
from safe_r1.metrics.rate_fold import unweighted
from safe_r1.provenance import now
from safe_r1.runs import RunFolder, as_path, read_table, write_table
from safe_r1.schema import RefusalLabel

FILE = "calibration.json"
DRAWS_FILE = "calibration-draws.parquet"
MIN_LABELS = 5
"""Labels that every stratum needs, or all of its texts where it has fewer."""


def calibrate(
    path: str,
    label_files: Sequence[str] = (),
    samples: Sequence[str] = (),
    decides: str | None = None,
    seed: int = 0,
    num_draws: int = NUM_DRAWS,
) -> Calibration:
    """Correct the rates of a run by people's labels of its texts.

    Args:
        path: Folder of the run.
        label_files: Files of labels, which are recorded in the run folder; those recorded earlier count too.
        samples: Folders of samples that were drawn with ``--output``.
        decides: Annotator whose label counts alone where there is one; otherwise each draw takes one of the
            labels that annotators gave a text.
        seed: Of the draws; two runs with the same seed weight the same questions alike.
        num_draws: Number of draws.

    Raises:
        ConfigError: There is no label by ``decides``.
        DataError: Labels of another run, of texts that were not drawn, or too few in a stratum.
        StorageError: There is no finished run.
    """
    run = open_run(path)
    items = items_by_id(run)
    num_new = 0
    if label_files:
        drawn = read_records(run.folder, run.results_sha256, [RunFolder(as_path(each)) for each in samples])
        num_new = add_reviews(run, items, drawn, [read_labels(each) for each in label_files])
    texts = read_reviews(run.folder, items)
    _check_annotator(decides, texts)
    errors = load_gold_errors(run.judge) if run.judge else None
    if texts:
        strata = labelled_strata(items.values(), texts, decides, Guesses(errors))
        imputation = Imputation(strata, text_labels(texts, decides), run.results_sha256, seed, num_draws)
        found = _calibrated(run, texts, strata, imputation, decides, num_new, errors)
    else:
        found = _without_labels(run, items.values(), errors, seed)
    found = replace(found, num_outdated=num_outdated(run.folder, items))
    about = {
        "created_at": now(),
        "results_sha256": run.results_sha256,
        "questions_sha256": digest(*sorted(run.rows.samples.ids.to_pylist())),
        "seed": seed,
        "num_draws": num_draws,
        "decides": decides,
    }
    run.folder.write_json(FILE, {**about, **found.to_json()})
    return found


def _check_annotator(name: str | None, texts: Iterable[LabelledText]) -> None:
    known = sorted({annotator for text in texts for annotator in text.labels})
    if name is not None and name not in known:
        raise ConfigError(
            f"--decides {name}: no label is by that annotator; there are {', '.join(known) or 'none'}"
        )


def labelled_strata(
    items: Iterable[Item], texts: Sequence[LabelledText], decides: str | None, guesses: Guesses
) -> dict[Stratum, StratumLabels]:
    """The strata of everything that was labelled, with their labels.

    Args:
        items: All texts of the run.
        texts: The labelled ones.
        decides: See ``calibrate``.
        guesses: Of the run's judge.

    Raises:
        DataError: A stratum has fewer labels than ``MIN_LABELS`` and than it has texts.
    """
    counts, numbers = count_labels(texts, decides)
    labelled = {(stratum.subject, stratum.task) for stratum, number in numbers.items() if number}
    sizes = Counter(item.stratum for item in items if item.stratum[:2] in labelled)
    needed = {stratum: min(MIN_LABELS, size) for stratum, size in sizes.items()}
    lacking = [stratum for stratum in sorted(sizes) if numbers.get(stratum, 0) < needed[stratum]]
    if lacking or not labelled:
        shown = ", ".join(f"{numbers.get(each, 0)} of {needed[each]} in {each}" for each in lacking)
        raise DataError(
            f"too few labels to correct any rate ({shown or 'nobody could tell any'}); label more of the "
            "drawn texts, or draw more with safe-r1 label-sample --n"
        )
    return {
        stratum: StratumLabels(sizes[stratum], counts[stratum], guesses.shape(stratum))
        for stratum in sorted(sizes)
    }


def _calibrated(
    run: JudgedRun,
    texts: Sequence[LabelledText],
    strata: Mapping[Stratum, StratumLabels],
    imputation: Imputation,
    decides: str | None,
    num_new: int,
    errors: GoldErrors | None,
) -> Calibration:
    population = read_population(run.folder)
    selection = run.rows.samples.selection(population) if population else None
    fold = RateDrawsFold(imputation, selection.weight if selection else unweighted)
    for rows in run.rows.chunks():
        fold.add(rows)
    rates = corrected_rates(fold)
    chosen = {RateKey(rate.metric, rate.part, rate.scope, rate.key) for rate in rates}
    columns = {_column(key): fold.rates[key].values() for key in sorted(chosen)}
    write_table(run.folder.path / DRAWS_FILE, pa.table(columns))
    num_labelled = sum(bool(text.classes(decides)) for text in texts)
    return Calibration(
        run.folder.path / FILE,
        run.judge,
        rates,
        strata,
        num_labelled=num_labelled,
        num_cannot_tell=len(texts) - num_labelled,
        num_new=num_new,
        agreements=agreements(texts),
        disputed=[text for text in texts if text.is_disputed],
        errors=errors,
    )


def _without_labels(
    run: JudgedRun, items: Iterable[Item], errors: GoldErrors | None, seed: int
) -> Calibration:
    judged = np.zeros(len(RefusalLabel))
    for item in items:
        if item.stratum[:2] == ("answer", "refusal"):
            judged[item.stratum.position] += 1
    ranges = gold_ranges(judged, errors, seed) if errors is not None and judged.any() else []
    return Calibration(run.folder.path / FILE, run.judge, errors=errors, ranges=ranges)


def _column(key: RateKey) -> str:
    return json.dumps(key, ensure_ascii=False)


def read_draws(folder: RunFolder) -> dict[RateKey, Floats]:
    """The corrected rates of a run in each draw; empty where nothing was corrected."""
    path = folder.path / DRAWS_FILE
    if not path.exists():
        return {}
    table = read_table(path)
    return {RateKey(*json.loads(name)): table.column(name).to_numpy() for name in table.column_names}


def compare_corrected(first: RunFolder, second: RunFolder) -> list[CorrectedDifference]:
    """Paired differences of two calibrated runs, second minus first.

    Raises:
        DataError: A run has no labels, or the two were calibrated with other seeds or numbers of draws.
    """
    found = [(folder.read_json(FILE) or {}, read_draws(folder)) for folder in (first, second)]
    for folder, (about, draws) in zip((first, second), found, strict=True):
        if not draws or not about.get("rates"):
            raise DataError(f"{folder.path}: not calibrated with labels; run safe-r1 calibrate on it first")
    settings = [(about["seed"], about["num_draws"], about["questions_sha256"]) for about, _ in found]
    if settings[0] != settings[1]:
        raise DataError(
            f"{first.path} and {second.path} were calibrated with other seeds, numbers of draws or "
            "questions, so that their questions are weighted differently; calibrate both with the same"
        )
    return corrected_differences(found[0][1], found[1][1])
