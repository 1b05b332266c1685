"""The look of a pattern follows from its name, and stays readable."""

import io

import matplotlib as mpl
import pytest
from matplotlib.figure import Figure

from attnbench import PATTERNS
from reports.style import SIMULATED, contrast_to_white, house, legible, look


def test_the_look_depends_on_the_name_alone():
    before = look("local")
    for name in reversed(PATTERNS):
        look(name)
    assert look("local") == before
    assert look("local", "triton") == before


def test_lines_of_one_pattern_are_told_apart_by_backend_block_and_neighbours():
    asked = ["combiner-fixed", *(f"combiner-fixed[block={2**n}]" for n in (7, 8, 9))]
    asked += ["combiner-fixed[near=1,sink=4]", "combiner-fixed[summary=variational]"]
    looks = [look(one) for one in asked]
    looks += [look("combiner-fixed", backend) for backend in ("flex", "sdpa", "eager")]
    assert len({(one.colour, one.dash) for one in looks}) == len(looks)
    assert len({one.marker for one in looks}) == 1


def test_a_pattern_without_a_place_in_the_table_keeps_its_look_too():
    assert (look("never-heard-of").colour, look("never-heard-of").marker) == ("#46a78a", "^")


def test_no_two_patterns_look_alike():
    looks = {name: look(name) for name in PATTERNS}
    assert len({(one.colour, one.marker) for one in looks.values()}) == len(looks)


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("full", "dense"),
        ("sinks", "sparse"),
        ("combiner-fixed", "combiner"),
        ("combiner-of-tomorrow", "combiner"),
        ("never-heard-of", "other"),
    ],
)
def test_hue_tells_the_family(name, family):
    assert look(name).family == family


def test_a_combiner_shares_its_marker_with_its_parent():
    assert look("combiner-fixed").marker == look("fixed").marker
    assert look("combiner-logsparse").marker == look("logsparse").marker


def test_the_dense_backends_are_told_apart_by_dash():
    dashes = [look("full", backend).dash for backend in ("auto", "sdpa:cudnn", "sdpa:flash")]
    assert len(set(dashes)) == 3


def test_a_longer_window_is_darker():
    assert contrast_to_white(look("sinks[window=1024]").colour) > contrast_to_white(
        look("sinks[window=64]").colour
    )


def test_simulated_is_dashed_and_unranked_is_hollow():
    assert look("local", simulated=True).dash == SIMULATED
    assert look("performer", ranked=False).face == "#ffffff"
    assert look("local").face == look("local").colour


@pytest.mark.parametrize("name", sorted(PATTERNS))
def test_text_in_a_patterns_colour_can_be_read(name):
    assert contrast_to_white(look(name).ink) >= 4.5


def test_legible_keeps_what_is_dark_enough():
    assert legible("#111111") == "#111111"
    assert contrast_to_white("#000000") == pytest.approx(21)


def test_a_readers_own_settings_neither_leak_in_nor_out():
    with mpl.rc_context({"font.size": 31.0, "xtick.direction": "in"}):
        with house():
            assert mpl.rcParams["xtick.direction"] == "out"
            assert mpl.rcParams["font.size"] == 8
            assert mpl.rcParams["pdf.fonttype"] == 42
        assert mpl.rcParams["font.size"] == 31.0


def test_the_background_is_opaque():
    with house():
        figure = Figure(figsize=(1, 1))
        held = io.BytesIO()
        figure.savefig(held, format="png")
    held.seek(0)
    assert mpl.image.imread(held)[0, 0].tolist() == [1, 1, 1, 1]
