import numpy as np

from tfap.graph.counts import ActivationCounts


def test_firing_rate():
    counts = ActivationCounts(np.array([0, 3, 4]), seen=4)
    np.testing.assert_array_equal(counts.firing_rate, [0, 0.75, 1])
    assert np.isnan(ActivationCounts(np.array([0]), seen=0).firing_rate).all()


def test_windows_and_parts():
    early, late = ActivationCounts(np.array([1, 2]), 4), ActivationCounts(np.array([5, 2]), 10)
    window = late - early
    assert window.counts.tolist() == [4, 0] and window.seen == 6
    whole = early + window
    assert whole.counts.tolist() == late.counts.tolist() and whole.seen == late.seen
    assert late[1:].counts.tolist() == [2] and late[1:].seen == 10
