from pathlib import Path

import pyarrow as pa
from upath import UPath

from safe_r1.corpus.export import to_shard
from safe_r1.runs import write_table
from safe_r1.schema import CONVERSATION_SCHEMA
from tests.small_corpus import conversation


def test_the_blocks_of_a_sort_do_not_show_in_the_bytes(tmp_path: Path):
    # More rows than a Parquet writer takes at once, or its pages would not depend on the chunks.
    rows = [conversation(f"s/{number}", "reasoning", f"问题{number}" * 40, "答") for number in range(3_000)]
    whole = pa.Table.from_pylist(rows, CONVERSATION_SCHEMA).append_column("order", pa.array(range(3_000)))
    chunked = pa.concat_tables([whole.slice(0, 700), whole.slice(700, 1_100), whole.slice(1_800)])
    files = []
    for number, table in enumerate((whole, chunked)):
        write_table(UPath(tmp_path / str(number)), to_shard(table))
        files.append((tmp_path / str(number)).read_bytes())
    assert files[0] == files[1]
    write_table(UPath(tmp_path / "chunked"), chunked.drop_columns("order"))
    assert (tmp_path / "chunked").read_bytes() == files[0]
