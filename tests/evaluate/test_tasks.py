"""wbc_jax.evaluate.TASKS: every task provides the members of `evaluate.Task`."""

import inspect

import pytest

from wbc_jax import evaluate
from wbc_jax.training import task as training_task


@pytest.mark.parametrize("name", evaluate.TASKS)
def test_every_member_is_there(name):
    task = evaluate.TASKS[name]
    # Those that training needs are inherited.
    both = vars(training_task.Task) | vars(evaluate.Task)
    members = {k: v for k, v in both.items() if not k.startswith("_")}
    assert len(members) == 10
    assert members.keys() >= {"measure", "validation", "results", "rows", "ROW_COLUMNS", "SCORE"}
    for member, declared in members.items():
        found = getattr(task, member)
        if isinstance(declared, property):
            assert isinstance(found, (int, str, tuple))
        else:
            # Callers give the arguments of `Task` by position, and may leave out the seed.
            expected = list(inspect.signature(declared).parameters.values())[1:]
            assert [p.default for p in inspect.signature(found).parameters.values()] == [
                p.default for p in expected
            ]
