"""A tiny model gets a Combiner for its attention, and learns to live with it."""

import math

import pytest
import torch

from attnbench.combiner_attention import CombinerAttention
from attnbench.fine_tuning import (
    ASKED,
    NAMES,
    VALUES,
    Plan,
    RecallModel,
    main,
    run,
    sequences,
    unseen_loss,
    with_combiner,
)
from patterns import BadInput

BRIEF = Plan(
    spec="combiner-fixed[block=16,summary=variational]",
    learned="residual",
    steps=250,
    tuning_steps=80,
    length=80,
)


def test_a_tuned_combiner_recovers_most_of_what_the_swap_lost() -> None:
    losses = run(BRIEF)
    assert losses.full < 0.5 * math.log(VALUES)  # it has learned something
    assert losses.swapped > 2 * losses.full
    assert losses.recovered > 0.7
    assert losses.longer <= losses.full


def test_a_swap_keeps_the_weights_and_is_full_attention_within_a_block() -> None:
    plan = Plan(spec=f"combiner-fixed[block={Plan().length}]", learned="residual")
    model = RecallModel(plan)
    swapped = with_combiner(model, plan)
    assert all(isinstance(layer.attention, CombinerAttention) for layer in swapped.layers)
    tokens, _ = sequences(2, plan.length, torch.Generator().manual_seed(1))
    torch.testing.assert_close(swapped(tokens), model(tokens))


def test_every_answer_was_told_once_before_it_was_asked_for() -> None:
    tokens, answers = sequences(50, 80, torch.Generator().manual_seed(1))
    told, asked = tokens[:, :-ASKED], tokens[:, -ASKED:] - NAMES * VALUES
    is_told = told < NAMES * VALUES
    assert is_told.sum(dim=1).tolist() == [NAMES] * 50
    for line, names, wanted in zip(told, asked, answers, strict=True):
        values = {int(one) // VALUES: int(one) % VALUES for one in line if one < NAMES * VALUES}
        assert [values[name] for name in names.tolist()] == wanted.tolist()


def test_what_knows_nothing_is_as_good_as_a_guess() -> None:
    plan = Plan(width=8, heads=2, length=64)
    model = RecallModel(plan)
    with torch.no_grad():
        model.head.weight.zero_()
    assert unseen_loss(model, plan) == pytest.approx(math.log(VALUES))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--pattern", "local[window=4]"], "is no Combiner"),
        (["--learned", "everything"], "learned must be one of"),
        (["--steps", "0"], "steps must be at least 1, got 0"),
    ],
)
def test_a_wrong_plan_is_said_before_anything_is_trained(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert said in capsys.readouterr().err


def test_a_sequence_has_room_for_its_questions() -> None:
    with pytest.raises(BadInput, match="length must be at least 36, got 35"):
        Plan(length=35)


def test_it_prints_what_it_measured(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--steps", "2", "--tuning-steps", "1"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("full attention, 2 steps")
    assert printed[1].startswith("combiner-fixed[block=16] in its place")
    assert printed[4].startswith("recovered: ")
