"""The decorator that turns a function into a table or figure of a paper.

`@item("table_4", title, needs=("classifier",))` names the runs once. The function receives them in
that order; their protocol, and the commands for those that are missing, are added to what it
returns.
"""

import dataclasses
from collections.abc import Callable, Iterable, Sequence

from wbc_jax.papers import printed
from wbc_jax.papers.comparison import Comparison, Figure, Row
from wbc_jax.papers.runs import RunStore

NOT_IN_TEXT = "The paper's is a picture; its numbers are not in the text."


@dataclasses.dataclass(frozen=True, slots=True)
class Content:
    """The part of a comparison that its function makes.

    Attributes:
        rows: one per cell of the paper's table.
        figures: figures of ours.
        notes: differences of protocol, beside those of the runs and of the item.
        contradictions: contradictions within the paper, beside those of `printed.contradictions`.
    """

    rows: Sequence[Row]
    figures: Sequence[Figure] = ()
    notes: Sequence[str] = ()
    contradictions: Sequence[str] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Item:
    """A table, a figure, or the numbers in the text of a paper.

    Attributes:
        paper: `a` or `b`.
        name: `table_4`, `figure_7`, `text`.
        title: its subject.
        needs: plans of the runs that it is made from.
        notes: differences of protocol, beside those of the runs.
        make: gets one `NeededRun` per entry of `needs`; then, if `measured`, the `Measured` cells
            of paper A's own data.
        measured: whether it is made from these cells, too.
    """

    paper: str
    name: str
    title: str
    needs: tuple[str, ...]
    notes: tuple[str, ...]
    make: Callable[..., Content]
    measured: bool = False

    def build(self, runs: RunStore) -> Comparison:
        """Returns the paper's numbers with ours beside them.

        Raises:
            RunError: the files of a run are damaged.
        """
        cells = [runs.raabin_cells] if self.measured else []
        content = self.make(*(runs.needed(name) for name in self.needs), *cells)
        return Comparison(
            self.paper,
            self.name,
            self.title,
            content.rows,
            content.figures,
            protocol=[*runs.protocol(self.paper, *self.needs), *content.notes, *self.notes],
            contradictions=[
                *printed.contradictions(self.paper, self.name),
                *content.contradictions,
            ],
            missing=runs.missing(*self.needs),
        )


def register(found: dict[str, Item], paper: str) -> Callable[..., Callable]:
    """Returns the decorator that fills `found`.

    Its arguments are those of `Item`: `item(name, title, needs=(), notes=(), measured=False)`.
    """

    def item(
        name: str,
        title: str,
        needs: Iterable[str] = (),
        notes: Iterable[str] = (),
        measured: bool = False,
    ):
        def add(make: Callable[..., Content]) -> Callable[..., Content]:
            found[name] = Item(paper, name, title, tuple(needs), tuple(notes), make, measured)
            return make

        return add

    return item


def in_order(*found: dict[str, Item]) -> dict[str, Item]:
    """Returns the items of several dicts in the order of the page: tables, figures, text."""
    items = {name: item for part in found for name, item in part.items()}
    return {name: items[name] for name in sorted(items, key=printed.order)}
