"""Order of the rows in a report's browser."""

import base64
import gzip
import json
import re

from safe_r1.metrics.rates import compute_metrics
from safe_r1.metrics.rows import join_rows
from safe_r1.report.html import render_html
from safe_r1.report.row_choice import RowChoice
from tests.unit.report.report_rows import make_rows


def test_rows_on_which_judges_disagree_come_first_in_the_browser():
    rows = make_rows(6, 6)
    metrics = compute_metrics(*rows)
    disputed = {rows[0][place].sample_id for place in (4, 9)}
    page = render_html(*rows, metrics, {}, first=disputed)
    packed = re.search(r'id="index">([^<]*)<', page)
    assert packed
    index = json.loads(gzip.decompress(base64.b64decode(packed[1])))
    ids = [index["samples"][place]["id"] for place in index["rows"]["sample"]]
    others = [each.sample_id for each in rows[0] if each.sample_id not in disputed]
    assert ids == [*sorted(disputed, key=[each.sample_id for each in rows[0]].index), *others]
    assert "评判器意见不一的 2 行列在最前" in page
    assert "评判器意见不一" not in render_html(*rows, metrics, {})


def test_rows_on_which_judges_disagree_are_chosen_before_all_others_of_a_large_run():
    rows = join_rows(*make_rows(0, 200))
    named = {row.sample.sample_id for row in rows[::20]}
    choice = RowChoice(25, named)
    choice.add(rows)
    chosen = {rows[place].sample.sample_id for place in choice.questions()}
    assert named <= chosen
    assert len(chosen) <= 25
