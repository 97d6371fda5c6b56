"""What is said of cells, where an adapted classifier has further types."""

from helpers import cell_tables
from wbc_jax.corrections.cells import Cell, Results
from wbc_jax.corrections.state import State


def test_predicted_types_of_ones_own_are_known_and_counted(tmp_path):
    found = []
    for i, (kind, guess) in enumerate(
        [("band", "band"), ("monocyte", "monocyte"), ("for review", "blast")]
    ):
        row = cell_tables.row("a", cell=i + 1, type=kind, best_guess=guess)
        found.append(Cell(i, row["file"], row["cell"], (0, 0, 9, 9), kind, row))
    state = State(Results(tmp_path, found, (0, 0)))
    assert state.types()[-2:] == ["band", "blast"] and state.type_named("Band") == "band"
    counted = {row["type"]: row["cells"] for row in state.count(None)}
    assert counted["band"] == counted["monocyte"] == counted["for review"] == 1
    assert counted["blast"] == 0 and counted["all"] == 3
