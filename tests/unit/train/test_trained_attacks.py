"""A run says which attacks its model was trained on, by its corpus and by the model that it begins with."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from safe_r1.attacks.trained import TrainedAttacks
from safe_r1.models.files import ORIGIN_FILE
from safe_r1.train.run import _attacks


def job(corpus: Path, model: Path) -> Any:
    return SimpleNamespace(
        config=SimpleNamespace(corpus=str(corpus)), variant=SimpleNamespace(source=str(model))
    )


def test_the_record_is_that_of_the_corpus_and_of_the_model_before(tmp_path: Path):
    first = TrainedAttacks({"pinyin": 4}, ("encoding",))
    second = TrainedAttacks({"role": 2}, ("reasoning",))
    assert _attacks(job(tmp_path, tmp_path)) == {}
    (tmp_path / "corpus.json").write_text(json.dumps({"attacks": first.to_json() | {"plain": 9}}), "utf-8")
    assert _attacks(job(tmp_path, tmp_path)) == {"attacks": first.to_json()}
    (tmp_path / ORIGIN_FILE).write_text(json.dumps({"attacks": second.to_json()}), "utf-8")
    assert _attacks(job(tmp_path, tmp_path)) == {"attacks": first.after(second).to_json()}
    # A plain corpus takes nothing back.
    (tmp_path / "corpus.json").write_text("{}", "utf-8")
    assert _attacks(job(tmp_path, tmp_path)) == {"attacks": second.to_json()}
