"""8-bit codes of maps: what comes back, what stays exact, and what a block of them may hold."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reports.codes import (
    DECADES,
    HIDDEN,
    LINEAR,
    MIDDLE,
    SIGNED_ERROR,
    WEIGHT_ERROR,
    packed,
    signed_codes,
    signed_of,
    unpacked,
    weight_codes,
    weights_of,
)
from reports.html import data_block

TOP = 0.37
EVERYWHERE = np.ones(1)


def test_weights_come_back_within_2_8_percent_over_six_decades():
    values = TOP * np.logspace(-DECADES, 0, 200_001)
    found = weights_of(weight_codes(values, np.ones_like(values), TOP), TOP)
    assert WEIGHT_ERROR < 0.028
    assert np.abs(found / values - 1).max() <= WEIGHT_ERROR * (1 + 1e-9)


def test_no_weight_a_tiny_weight_and_no_place_are_three_codes():
    values = np.array([0.0, TOP * 1e-9, TOP * 1e-6, TOP, 0.1, np.nan, np.inf])
    codes = weight_codes(values, np.array([1, 1, 1, 1, 0, 1, 1]), TOP)
    assert codes.tolist() == [0, 1, 2, 254, HIDDEN, HIDDEN, HIDDEN]
    found = weights_of(codes, TOP)
    assert found[0] == 0
    assert 0 < found[1] < found[2] == pytest.approx(TOP * 1e-6)
    assert found[3] == TOP
    assert np.isnan(found[4:]).all()


@given(st.floats(-1, 1))
def test_signed_numbers_come_back_with_their_sign(part: float):
    value = np.array([part * TOP])
    codes = signed_codes(value, EVERYWHERE, TOP)
    found = signed_of(codes, TOP)
    assert abs(found[0] - value[0]) <= SIGNED_ERROR * (abs(value[0]) + LINEAR * TOP)
    assert signed_codes(-value, EVERYWHERE, TOP)[0] == 2 * MIDDLE - codes[0]


def test_the_middle_of_signed_codes_is_exactly_zero():
    assert signed_codes(np.zeros(1), EVERYWHERE, TOP)[0] == MIDDLE
    assert signed_of(np.array([MIDDLE], dtype=np.uint8), TOP)[0] == 0.0
    ends = signed_codes(np.array([-TOP, TOP]), np.ones(2), TOP)
    assert ends.tolist() == [0, 2 * MIDDLE]
    assert signed_of(ends, TOP) == pytest.approx([-TOP, TOP])


def test_codes_that_were_packed_unpack_to_the_same_and_pack_to_the_same():
    codes = np.random.default_rng(0).integers(0, 256, (37, 37)).astype(np.uint8)
    assert np.array_equal(unpacked(packed(codes), 37), codes)
    assert packed(codes) == packed(codes.copy())


HOSTILE = "</script><!--<script>\u2028\u2029&amp;\"'\\ \u202e\U0001f600"


def test_nothing_in_a_block_of_data_can_end_it_and_all_of_it_comes_back():
    block = data_block("key", {HOSTILE: [HOSTILE, 1.5, None]})
    head, _, rest = block.partition(">")
    inside, closing, after = rest.rpartition("</script>")
    assert head == '<script type="application/json" id="key"'
    assert (closing, after) == ("</script>", "")
    assert not set(inside) & set("<>&\u2028\u2029")
    assert json.loads(inside) == {HOSTILE: [HOSTILE, 1.5, None]}
