"""The estimate of packed rows is what TRL makes of the same lengths."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.data.packing import packed_rows

pytestmark = pytest.mark.integration


@given(st.lists(st.integers(0, 90), min_size=1, max_size=200), st.integers(1, 64))
def test_packing_counts_as_trl_packs(lengths: list[int], max_length: int) -> None:
    from trl.data_utils import _pack_bfd

    table = pa.table({"input_ids": pa.chunked_array([pa.array([[1] * length for length in lengths], type=pa.list_(pa.int64()))])})
    expected = len(_pack_bfd(table, max_length)) if any(lengths) else 0
    assert packed_rows(lengths, max_length) == expected
