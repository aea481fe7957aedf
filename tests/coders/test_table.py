"""Frequency tables: levels and their Rice code against hand-computed bytes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gossamer.coders import decode
from gossamer.coders.table import frequencies_of, levels_of, read_table, write_table
from gossamer.errors import CodingError


def test_levels_are_eighths_of_an_octave_below_the_most_frequent():
    assert levels_of(np.array([64, 32, 16, 1, 0])).tolist() == [0, 8, 16, 48, 192]
    assert levels_of(np.array([0, 0])).tolist() == [192, 192]


def test_frequencies_of_whole_octaves_are_exact():
    assert frequencies_of(np.array([0, 8, 16, 191, 192])).tolist() == [1 << 24, 1 << 23, 1 << 22, 1, 0]


def test_stored_frequencies_are_within_half_a_level():
    counts = np.arange(1, 5000)
    stored = frequencies_of(levels_of(counts)) / (1 << 24) * counts.max()
    assert np.abs(np.log2(stored / counts)).max() <= 1 / 16 + 1e-3


def test_rice_code_by_hand():
    """Levels 3, 5, 2: differences 3, 2, -3, mapped to 6, 4, 5; shortest for k = 2, with 12 bits (13 for 1, 18 for 0).

    Quotients 1, 1, 1 in unary: 10 10 10; remainders 2, 0, 1, lowest bit first: 01 00 10.
    """
    code = bytes([2, 0b10010101, 0b0100])
    assert write_table(np.array([3, 5, 2])) == code
    levels, taken = read_table(code + b"c", 3)
    assert levels.tolist() == [3, 5, 2]
    assert taken == 3


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 192), min_size=1, max_size=300))
def test_round_trip(levels):
    data = write_table(np.array(levels))
    found, taken = read_table(data + b"rest", len(levels))
    assert found.tolist() == levels
    assert taken == len(data)


@pytest.mark.parametrize("data", [b"", b"\x08\x00", b"\x00", b"\x00\xff", b"\x07\x00"])
def test_malformed_tables_are_refused(data):
    with pytest.raises(CodingError, match="frequency table"):
        read_table(data, 9)


def test_a_table_without_symbols_codes_nothing():
    table = write_table(np.array([192, 192]))
    assert decode(table, (0,), 2).size == 0
    with pytest.raises(CodingError, match="3 symbols are coded with a table in which none occurs"):
        decode(table, (3,), 2)
