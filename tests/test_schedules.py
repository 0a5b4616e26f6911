import numpy as np
import pytest
import tensorflow as tf

from tfap import schedules
from tfap.schedules import ConstantSparsity, IterativeSparsity, PolynomialDecay, PruningSchedule
from tfap.schedules.timetable import Timetable


class OneStepAtATime(PruningSchedule):
    """Takes scalars only, as tfmot's documentation allows."""

    def __call__(self, step):
        if int(step) % 5 == 0:
            return True, int(step) / 1000
        return False, 0.0

    def get_config(self):
        return {}


SCHEDULES = [
    ConstantSparsity(0.5, 10, end_step=40, frequency=7),
    PolynomialDecay(0.1, 0.8, 10, 50, frequency=4),
    IterativeSparsity(0.2, updates=5, frequency=6),
    OneStepAtATime(),
]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda schedule: type(schedule).__name__)
def test_timetable_equals_asking_at_every_step(schedule, monkeypatch):
    monkeypatch.setattr(Timetable, "_BLOCK", 16)  # several blocks
    timetable = Timetable(schedule)
    asked = [(step, *schedule(tf.constant(step, tf.int64))) for step in range(1, 80)]
    expected = {step: float(sparsity) for step, due, sparsity in asked if due}
    found = {step: timetable.sparsity_due(step - 1, step) for step in range(1, 80)}
    due = {step: sparsity for step, sparsity in found.items() if sparsity is not None}
    assert due == pytest.approx(expected, rel=1e-6)  # many powers at once are rounded like one, or not


def test_next_step_never_skips_a_due_step():
    timetable = Timetable(ConstantSparsity(0.5, 5000, end_step=20000, frequency=3000))
    step, due = 0, []
    while step < 20000:
        before, step = step, timetable.next_step(step)
        if timetable.sparsity_due(before, step) is not None:
            due.append(step)
    assert due == [5000, 8000, 11000, 14000, 17000, 20000]


def test_steps_that_were_jumped_over_count_once_with_the_last_sparsity():
    timetable = Timetable(IterativeSparsity(0.5, updates=3, frequency=2))
    assert timetable.sparsity_due(0, 5) == 0.75  # steps 2 and 4 have passed


def test_step_zero_is_before_training():
    assert Timetable(ConstantSparsity(0.5, 0, frequency=10)).next_step(0) == 10


def test_iterative_sparsity():
    schedule = IterativeSparsity(0.2, updates=3, frequency=10, begin_step=5)
    due = {step: float(s) for step in range(60) for d, s in [schedule(step)] if d}
    assert due == {5: np.float32(0.2), 15: np.float32(1 - 0.8**2), 25: np.float32(1 - 0.8**3)}
    assert float(schedule(59)[1]) == np.float32(1 - 0.8**3)


@pytest.mark.parametrize(
    "arguments", [(0, 1, 1), (1, 1, 1), (0.5, 0, 1), (0.5, 1, 0), (0.5, 1, 1, 0), (0.5, 1.5, 1)]
)
def test_iterative_sparsity_rejects(arguments):
    error = TypeError if 1.5 in arguments else ValueError
    with pytest.raises(error, match="must be"):
        IterativeSparsity(*arguments)


@pytest.mark.parametrize("steps", [1, 2, 5, 17, 100, 1000, 12345])
def test_a_float_ends_at_its_sparsity(steps):
    schedule = schedules.over_fit(0.9, steps)
    timetable = Timetable(schedule)
    sparsities = [timetable.sparsity_due(step - 1, step) for step in range(1, steps + 1)]
    given = [sparsity for sparsity in sparsities if sparsity is not None]
    assert given[-1] == np.float32(0.9) and given == sorted(given) and len(given) <= 61
    assert sparsities.index(given[-1]) + 1 <= max(1, 0.7 * steps + 1)


@pytest.mark.parametrize("schedule", [*SCHEDULES[:3], 0.5], ids=lambda s: type(s).__name__)
def test_saved_schedules_come_back(schedule):
    again = schedules.get(schedules.serialize(schedule))
    assert type(again) is type(schedule)
    assert schedules.serialize(again) == schedules.serialize(schedule)


class OnSteps(PruningSchedule):
    """Due on listed steps; of many steps at once it says whether any of them is."""

    def __init__(self, steps):
        self.steps = steps

    def __call__(self, step):
        return tf.reduce_any(step == tf.constant(self.steps, tf.int64)), tf.constant(0.5)

    def get_config(self):
        return {"steps": self.steps}


@pytest.mark.parametrize("steps", [[10, 20], [30]])
def test_a_schedule_that_mistakes_many_steps_for_one(steps):
    timetable = Timetable(OnSteps(steps))
    assert [step for step in range(1, 40) if timetable.sparsity_due(step - 1, step) == 0.5] == steps


class Rising(OnSteps):
    """Out of range after step 50."""

    def __call__(self, step):
        return step % 10 == 0, tf.cast(step, tf.float32) / 50


class Listed(OnSteps):
    """Knows no other steps than the first ones."""

    def __call__(self, step):
        return True, [0.0, 0.1, 0.2][int(step)]


def test_only_steps_that_are_reached_matter():
    assert Timetable(Rising([])).sparsity_due(0, 45) == pytest.approx(0.8)
    with pytest.raises(ValueError, match=r"Rising must return .* in \[0, 1\): received 1.0 for step 50"):
        Timetable(Rising([])).sparsity_due(45, 55)
    timetable = Timetable(Listed([]))
    assert [timetable.sparsity_due(step - 1, step) for step in (1, 2)] == [0.1, 0.2]
    with pytest.raises(IndexError):
        timetable.sparsity_due(2, 3)


@pytest.mark.parametrize("answer", [None, 0.5, (True, [0.1, 0.2]), (True, 0.1, 0.2)])
def test_a_schedule_must_give_two_things(answer):
    class Odd(OnSteps):
        def __call__(self, step):
            return answer

    with pytest.raises(TypeError, match="Odd must return two values, whether to prune and.*for step 1"):
        Timetable(Odd([])).sparsity_due(0, 1)
