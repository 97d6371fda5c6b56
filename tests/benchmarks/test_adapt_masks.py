"""The masks that benchmarks/adapt_masks.py corrects, and how it adds up scores."""

import numpy as np
import pytest


def test_masks_to_correct(bench):
    groups = [*"aabbccddee"]
    own, rest = bench.choose(groups, 4, 0)
    assert len(own) == 4 and not {groups[i] for i in own} & {groups[i] for i in rest}
    taken = {groups[i] for i in own}
    assert sorted(rest) == [i for i, group in enumerate(groups) if group not in taken]
    others = [bench.choose(groups, 4, seed)[0].tolist() for seed in range(4)]
    assert len({tuple(one) for one in others}) > 1
    one = bench.Scores(np.diag([2, 2, 2])[None], np.array([0.1]))
    two = bench.Scores(np.array([[[2, 0, 0], [0, 2, 0], [0, 2, 0]]]), np.array([0.3]))
    both = bench.pooled([one, two])
    assert both.mean_iou == pytest.approx(np.mean([1, 4 / 6, 2 / 4])) and both.nc_error == 0.2
