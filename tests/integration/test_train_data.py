"""A corpus to packed sequences with real Ray: nothing lost, the same bytes on any cluster, a kill in the
middle, bad input.
"""

import hashlib
import logging
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from upath import UPath

from safe_r1.errors import DataError, IntegrityError
from safe_r1.models.chat import load_tokenizer
from safe_r1.models.prompts import R1
from safe_r1.models.registry import get_variant
from safe_r1.runs import write_table
from safe_r1.schema import CONVERSATION_SCHEMA
from safe_r1.train.config import PackConfig
from safe_r1.train.data import PreparedData, prepare_data
from safe_r1.train.packed import IGNORE_INDEX, PackedReader
from safe_r1.train.tokens import encode
from tests.small_corpus import conversation, seed_rows, write_corpus

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).parents[2]
PACK = PackConfig(seq_len=1024)
LONG, MUTE, SPOILT, DIALOGUE = "seeds/long", "seeds/mute", "seeds/spoilt", "seeds/dialogue"


def seeds() -> list[dict[str, Any]]:
    """Real rows of the package, and one of each sort that needs care."""
    rows = seed_rows(50)
    first, second = rows[-1]["messages"], rows[-2]["messages"]
    odd = [
        conversation(LONG, "reasoning", "问", f"<think>\n{'长' * 3000}\n</think>\n\n答"),
        conversation(MUTE, "safety", "问"),
        conversation(SPOILT, "safety", "问", "<think>\n想\n</think>\n\n答<｜end▁of▁sentence｜>"),
        conversation(DIALOGUE, "safety", *(turn["content"] for turn in (*first, *second))),
    ]
    return [*rows[::2], *odd, *rows[1::2]]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = seeds()
    parts = [rows[start : start + 16] for start in range(0, len(rows), 16)]
    return write_corpus(tmp_path_factory.mktemp("corpus"), {"train": parts[:-1], "validation": parts[-1:]})


def prepare(corpus: Path, model: Path, folder: Path, pack: PackConfig = PACK) -> PreparedData:
    return prepare_data(str(corpus), UPath(folder), get_variant(str(model)), pack, lambda *args: None)


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A Ray of two CPUs; the last test ends it early."""
    ray.init(num_cpus=2, include_dashboard=False, logging_level=logging.ERROR)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def packed(
    corpus: Path, tiny_llama: Path, cluster: None, tmp_path_factory: pytest.TempPathFactory
) -> PreparedData:
    return prepare(corpus, tiny_llama, tmp_path_factory.mktemp("packed"))


def hashes(folder: Path) -> dict[str, str]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix != ".tmp"]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_every_row_is_packed_or_dropped_for_a_reason(packed: PreparedData):
    for split, account in packed.content["splits"].items():
        lines = [
            line
            for path in (packed.folder / "tokens" / split).iterdir()
            for line in pq.read_table(str(path)).to_pylist()
        ]
        assert len({line["row_id"] for line in lines}) == account["num_rows"]
        assert account["num_rows"] == account["num_rows_packed"] + account["num_rows_dropped"]
        assert sum(account["rows"].values()) == account["num_rows_packed"]
    train = packed.content["splits"]["train"]
    assert train["num_rows"] + packed.content["splits"]["validation"]["num_rows"] == 104
    assert train["rows_dropped"] == {"control_text": 1, "no_assistant_turn": 1, "too_long": 1}
    # The dialogue has two turns to learn.
    assert train["num_documents"] == train["num_rows_packed"] + 1


def test_every_document_is_packed_once_with_its_own_tokens(
    packed: PreparedData, corpus: Path, tiny_llama: Path
):
    tokenizer = load_tokenizer(str(tiny_llama))
    for split in ("train", "validation"):
        found, wanted = Counter[tuple[Any, ...]](), Counter[tuple[Any, ...]]()
        reader = PackedReader(packed.folder, split)
        assert reader.num_sequences == packed.num_sequences(split)
        for sequence in reader.read(range(reader.num_sequences)):
            assert len(sequence.input_ids) <= PACK.seq_len
            ends = np.cumsum(sequence.lengths)
            for name, kind, start, end in zip(
                sequence.row_ids, sequence.kinds, ends - sequence.lengths, ends, strict=True
            ):
                assert sequence.position_ids[start:end].tolist() == list(range(end - start))
                found[
                    name, kind, tuple(sequence.input_ids[start:end]), tuple(sequence.labels[start:end])
                ] += 1
        for row in pq.read_table(corpus / split).to_pylist():
            for document in encode(row["messages"], R1, tokenizer):
                if row["row_id"] not in (LONG, SPOILT):
                    pairs = zip(document.input_ids, document.is_label, strict=True)
                    labels = tuple(token if is_label else IGNORE_INDEX for token, is_label in pairs)
                    wanted[row["row_id"], row["kind"], tuple(document.input_ids), labels] += 1
        assert found == wanted
        assert split == "train" or "mixed" not in {
            sequence.kind for sequence in reader.read(range(reader.num_sequences))
        }


@pytest.fixture
def bad_corpora(tmp_path: Path) -> dict[str, Path]:
    """Corpora that look finished and cannot be trained on, by the error message."""
    mute = [conversation(f"a/{number}", "safety", "问") for number in range(3)]
    whole = [conversation("a/0", "safety", "问", f"<think>\n{'长' * 100}\n</think>\n\n答")]
    short = [conversation("a/0", "safety", "问", "<think>\n想\n</think>\n\n答")]
    other = pa.schema([("row_id", pa.string()), ("text", pa.string())])
    no_columns = (
        r"no column messages \(list.*\), kind \(string\), got row_id, text; expected a corpus of build_"
    )
    corpora = {
        no_columns: write_corpus(tmp_path / "other", {"train": [[{"row_id": "a/0", "text": "x"}]]}, other),
        "none of the 3 rows has an assistant turn": write_corpus(tmp_path / "mute", {"train": [mute]}),
        r"longer than pack.seq_len=64: \d+ to \d+ tokens; .*too_long=cut": write_corpus(
            tmp_path / "long", {"train": [whole]}
        ),
        "another SHA-256": write_corpus(tmp_path / "changed", {"train": [short]}),
        "part-00000.parquet: cannot be read": write_corpus(tmp_path / "gone", {"train": [short]}),
        "nothing to train on; of 0 rows": write_corpus(tmp_path / "empty", {"train": [[]]}),
    }
    write_table(
        UPath(tmp_path / "changed/train/part-00000.parquet"),
        pa.Table.from_pylist(mute, schema=CONVERSATION_SCHEMA),
    )
    (tmp_path / "gone/train/part-00000.parquet").unlink()
    return corpora


@pytest.mark.usefixtures("cluster")
def test_what_cannot_be_trained_on_is_one_clear_line(
    bad_corpora: dict[str, Path], tiny_llama: Path, tmp_path: Path
):
    for message, folder in bad_corpora.items():
        with pytest.raises(DataError, match=message) as error:
            prepare(folder, tiny_llama, tmp_path / "packed", PackConfig(seq_len=64))
        assert "\n" not in str(error.value)
    short = write_corpus(
        tmp_path / "short", {"train": [[conversation("b/0", "safety", "问", "<think>\n想\n</think>\n\n答")]]}
    )
    (short / "corpus.json").write_text(
        (short / "corpus.json").read_text().replace('"train": 1', '"train": 2')
    )
    with pytest.raises(IntegrityError, match="train: 2 rows in the corpus, 1 packed and 0 dropped"):
        prepare(short, tiny_llama, tmp_path / "packed", PackConfig(seq_len=64))
    assert not list((tmp_path / "packed").rglob("data.json"))


@pytest.mark.usefixtures("cluster")
def test_a_long_row_is_cut_where_the_settings_say_so_in_a_folder_of_its_own(
    bad_corpora: dict[str, Path], tiny_llama: Path, tmp_path: Path
):
    info = prepare(tmp_path / "long", tiny_llama, tmp_path / "packed", PackConfig(seq_len=64, too_long="cut"))
    assert info.content["splits"]["train"]["num_cut"] == 1
    [sequence] = PackedReader(info.folder).read([0])
    assert len(sequence.input_ids) == 64
    whole = prepare(
        tmp_path / "long", tiny_llama, tmp_path / "packed", PackConfig(seq_len=128, too_long="cut")
    )
    assert (whole.folder != info.folder, whole.content["splits"]["train"]["num_cut"]) == (True, 0)
    assert PackedReader(whole.folder).read([0])[0].input_ids[:64].tolist() == sequence.input_ids.tolist()
    assert PackedReader(info.folder, "validation").num_sequences == info.num_sequences("validation") == 0


FOUR_CPUS = """
import sys, time
import ray
from upath import UPath
from safe_r1.models.registry import get_variant
from safe_r1.train.config import PackConfig
from safe_r1.train.data import prepare_data

def on_progress(progress):
    if progress.done and folder == sys.argv[-1]:
        print("in the middle", flush=True)
        time.sleep(1000)

corpus, model, seq_len, *folders = sys.argv[1:]
ray.init(num_cpus=4, include_dashboard=False, logging_level="error")
for folder in folders:
    prepare_data(corpus, UPath(folder), get_variant(model), PackConfig(seq_len=int(seq_len)), on_progress)
"""


def kill_in_the_middle(*arguments: object) -> None:
    command = [sys.executable, "-c", FOUR_CPUS, *map(str, arguments)]
    process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    assert any(line.strip() == "in the middle" for line in process.stdout)
    family = psutil.Process(process.pid).children(recursive=True)
    os.kill(process.pid, signal.SIGKILL)
    for child in family:
        child.kill()
    process.wait(30)
    psutil.wait_procs(family, timeout=30)


@pytest.mark.very_long
def test_neither_the_cluster_nor_a_kill_shows_in_the_bytes(
    packed: PreparedData, corpus: Path, tiny_llama: Path, tmp_path: Path
):
    """The whole of it on two, on four and on one CPU; and on four, killed in the middle, then on one."""
    ray.shutdown()
    expected = hashes(Path(packed.folder.path))
    assert len(expected) > 9
    kill_in_the_middle(corpus, tiny_llama, PACK.seq_len, tmp_path / "four", tmp_path / "killed")
    work = tmp_path / "killed" / packed.folder.name
    left = {path: path.stat().st_mtime_ns for path in work.rglob("*.parquet")}
    assert left
    assert not (work / "data.json").exists()
    ray.init(num_cpus=1, include_dashboard=False, logging_level=logging.ERROR)
    assert not prepare(corpus, tiny_llama, tmp_path / "killed").was_complete
    assert not prepare(corpus, tiny_llama, tmp_path / "one").was_complete
    ray.shutdown()
    assert {path: path.stat().st_mtime_ns for path in left} == left
    for name in ("four", "one", "killed"):
        assert hashes(tmp_path / name / work.name) == expected
    # Finished data needs no cluster.
    assert prepare(corpus, tiny_llama, tmp_path / "killed").was_complete
    assert not ray.is_initialized()
