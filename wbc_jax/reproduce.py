"""Mode reproduce of `wbc_jax.main`: a paper's tables and figures with our numbers beside them.

`python -m wbc_jax.main --mode=reproduce --paper=b --table=9` uses finished runs. At
`--scale=quick` small runs are trained; at `--scale=full` missing runs are listed with the commands
that make them. Each table is written as text, CSV and LaTeX, and one HTML page holds all.
"""

import dataclasses
from collections.abc import Sequence

from absl import flags
from etils import epath

from wbc_jax.errors import RequestError
from wbc_jax.papers import printed

SCALES = ("quick", "full")
ALL = "all"


@dataclasses.dataclass(frozen=True, slots=True)
class Request:
    """The tables and figures to reproduce.

    Attributes:
        paper: `a` or `b`.
        items: `table_4`, `figure_7`, `text`, in the order of the page.
        scale: `quick` or `full`.
    """

    paper: str
    items: tuple[str, ...]
    scale: str

    @property
    def name(self) -> str:
        """Name of the folder for runs and pages if there is no `--workdir`."""
        return f"reproduce_{self.scale}"


def define_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines `--paper`, `--table`, `--figure` and `--scale`; call it before flags are parsed.

    A function, so that importing this module defines no global flag.

    Args:
        flag_values: the flags of the command.
    """
    flags.DEFINE_enum(
        "paper",
        None,
        tuple(printed.PAPERS),
        "Mode reproduce: whose tables and figures.",
        flag_values=flag_values,
    )
    flags.DEFINE_string(
        "table",
        None,
        "Mode reproduce: a table's number, `text` (numbers in sentences) or `all`.",
        flag_values=flag_values,
    )
    flags.DEFINE_string(
        "figure",
        None,
        "Mode reproduce: a figure's number, or `all`.",
        flag_values=flag_values,
    )
    flags.DEFINE_enum(
        "scale",
        "full",
        SCALES,
        "Mode reproduce: `quick` trains small runs in under an hour on two cores, which is not the "
        "papers' protocol; `full` uses finished runs and names those that are missing.",
        flag_values=flag_values,
    )


def request(flag_values: flags.FlagValues = flags.FLAGS) -> Request:
    """Returns the request of the parsed flags.

    Args:
        flag_values: the flags that `define_flags` got, parsed.

    Raises:
        RequestError: no paper is named, or it has no such table or figure; lists those it has.
    """
    return choose(flag_values.paper, flag_values.table, flag_values.figure, flag_values.scale)


def choose(paper: str | None, table: str | None, figure: str | None, scale: str) -> Request:
    """Returns the items that `--table` and `--figure` name; all items if neither is given.

    Args:
        paper: `a` or `b`.
        table: a number, `text`, or `all`, which means every table and the numbers in the text.
        figure: a number or `all`.
        scale: `quick` or `full`.

    Raises:
        RequestError: as `request`.
    """
    if paper is None:
        raise RequestError("name a paper with --paper=a or --paper=b")
    known = ITEMS[paper]
    if table is None and figure is None:
        return Request(paper, known, scale)
    chosen = set()
    for flag, wanted, kind in (("table", table, "table"), ("figure", figure, "figure")):
        if wanted is None:
            continue
        of_kind = [i for i in known if i.startswith(kind) or (kind == "table" and i == "text")]
        name = wanted if wanted == "text" else f"{kind}_{wanted}"
        if wanted != ALL and name not in of_kind:
            have = ", ".join(i.partition("_")[2] or i for i in of_kind)
            raise RequestError(f"--{flag}={wanted}: paper {paper} has {have}, or {ALL}")
        chosen |= set(of_kind) if wanted == ALL else {name}
    return Request(paper, tuple(i for i in known if i in chosen), scale)


def _items(tables: int, figures: Sequence[int]) -> tuple[str, ...]:
    numbered = [f"table_{n}" for n in range(1, tables + 1)] + [f"figure_{n}" for n in figures]
    return (*numbered, "text")


ITEMS = {"a": _items(4, (3, 4, 5, 6, 7)), "b": _items(15, (3, 7, 8, 9))}
"""Names of `papers.paper_a.ITEMS` and `papers.paper_b.ITEMS`. They are listed again because those
modules import JAX, which takes seconds: mistakes in the flags are reported before."""


def run(wanted: Request, workdir: epath.Path) -> list[epath.Path]:
    """Builds, prints and writes the tables; at quick scale it first trains the missing runs.

    Args:
        wanted: from `request`.
        workdir: holds one folder per run, and `paper_<a|b>` for the written files.

    Returns:
        The files written.

    Raises:
        RunError: the files of a run are damaged.
        ConfigError, DataError, CheckpointError, NonFiniteLossError, Interrupted: from training.
    """
    from wbc_jax import experiment, provenance
    from wbc_jax.papers import paper_a, paper_b, plans, raabin_cells, render, runs
    from wbc_jax.utils.output_folder import OutputFolder

    folder = OutputFolder(workdir / f"paper_{wanted.paper}", "--workdir")
    folder.refuse_foreign(render.result_names(folder.path, wanted.items))
    known = {"a": paper_a.ITEMS, "b": paper_b.ITEMS}[wanted.paper]
    items = [known[name] for name in wanted.items]

    def measure() -> raabin_cells.Measured:
        return raabin_cells.read_or_measure(workdir, plans.data_settings())

    store = runs.RunStore(workdir, wanted.scale, provenance.check_splits, measure)
    if wanted.scale == "quick":
        needed = dict.fromkeys(name for item in items for name in item.needs)
        store.train_missing(tuple(needed), experiment.run)
    comparisons = []
    for item in items:
        comparisons.append(item.build(store))
        print(render.text(comparisons[-1]) + "\n", flush=True)
    with folder:
        written = render.write(folder, wanted.paper, wanted.scale, comparisons)
    missing = dict.fromkeys(m for comparison in comparisons for m in comparison.missing)
    if missing:
        print("Not there:\n" + "\n".join(f"  {line}" for line in missing))
    where = folder.path
    print(f"Tables as text, CSV and LaTeX in {where}; all of them: {where / 'index.html'}")
    return written
