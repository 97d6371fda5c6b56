"""A paper's tables and figures, our number beside each of theirs.

`python -m wbc_jax.main --mode=reproduce --paper=b --table=9`. Finished runs are used where they
exist; at `--scale=quick` small ones are trained, at `--scale=full` what is missing is named with
the command that makes it. Written are text, CSV and LaTeX a table, and one HTML page with all.
"""

import dataclasses
from collections.abc import Sequence

from absl import flags
from etils import epath

from wbc_jax import config as config_lib
from wbc_jax.papers import cells

SCALES = ("quick", "full")
ALL = "all"

_PAPER = flags.DEFINE_enum(
    "paper", None, tuple(cells.PAPERS), "Mode reproduce: whose tables and figures."
)
_TABLE = flags.DEFINE_string(
    "table", None, "Mode reproduce: a table's number, `text` (numbers in sentences) or `all`."
)
_FIGURE = flags.DEFINE_string("figure", None, "Mode reproduce: a figure's number, or `all`.")
_SCALE = flags.DEFINE_enum(
    "scale",
    "full",
    SCALES,
    "Mode reproduce: `quick` trains small runs in under an hour on two cores, which is not the "
    "papers' protocol; `full` uses finished runs and names those that are missing.",
)


class RequestError(config_lib.ConfigError):
    """There is no such table or figure."""


@dataclasses.dataclass(frozen=True, slots=True)
class Request:
    """What to reproduce.

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
        """Of the folder that runs and pages go to if no `--workdir` is named."""
        return f"reproduce_{self.scale}"


def request() -> Request:
    """Returns what the flags ask for.

    Raises:
        RequestError: no paper is named, or it has no such table or figure; lists those it has.
    """
    return choose(_PAPER.value, _TABLE.value, _FIGURE.value, _SCALE.value)


def choose(paper: str | None, table: str | None, figure: str | None, scale: str) -> Request:
    """Returns the items that `--table` and `--figure` name; everything where neither is given.

    Args:
        paper: `a` or `b`.
        table: a number, `text`, or `all`, which is every table and the numbers in the text.
        figure: a number or `all`.
        scale: `quick` or `full`.

    Raises:
        RequestError: as of `request`.
    """
    if paper is None:
        raise RequestError("name a paper with --paper=a or --paper=b")
    # Importing the builders takes JAX's seconds; what is wrong with the flags is told before.
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
"""What can be asked for; the builders of `papers.paper_a` and `papers.paper_b` make it."""


def run(wanted: Request, workdir: epath.Path) -> list[epath.Path]:
    """Trains what is missing (at quick scale), builds the tables, prints and writes them.

    Args:
        wanted: from `request`.
        workdir: holds a folder a run, and `paper_<a|b>` for what is written.

    Returns:
        The files written.

    Raises:
        RunError: a run's files are damaged.
        ConfigError, DataError, CheckpointError, NonFiniteLossError, Interrupted: from training.
    """
    from wbc_jax.papers import library, paper_a, paper_b
    from wbc_jax.report import side_by_side as report

    builders = {"a": paper_a, "b": paper_b}[wanted.paper]
    needed = list(dict.fromkeys(n for item in wanted.items for n in builders.NEEDS[item]))
    why = _train_missing(needed, workdir) if wanted.scale == "quick" else {}
    shelf = library.Library(workdir, wanted.scale, why)
    sheets = []
    for item in wanted.items:
        sheets.append(builders.BUILDERS[item](shelf))
        print(report.text(sheets[-1]) + "\n", flush=True)
    folder = workdir / f"paper_{wanted.paper}"
    written = report.write(folder, wanted.paper, wanted.scale, sheets)
    missing = list(dict.fromkeys(m for sheet in sheets for m in sheet.missing))
    if missing:
        print("Not there:\n" + "\n".join(f"  {line}" for line in missing))
    print(f"Tables as text, CSV and LaTeX in {folder}; all of them: {folder / 'index.html'}")
    return written


def _train_missing(needed: Sequence[str], workdir: epath.Path) -> dict[str, list[str]]:
    """Trains the small runs that are not finished; returns why some cannot be, by plan."""
    from wbc_jax import experiment
    from wbc_jax.papers import runs

    data, why, begun = runs.data_settings(), {}, set()
    for name in needed:
        plan = runs.PLANS[name]
        own = runs.PLANS[plan.quick_name or name]
        if runs.load(plan, workdir, "quick") is not None:
            continue
        config, lacking = runs.quick_config(own, data)
        if config is None:
            why[name] = lacking
            continue
        if own.name not in begun:
            begun.add(own.name)
            print(f"\nTraining {own.title}, small and short ({workdir / own.name}):", flush=True)
            experiment.run(config, workdir / own.name)
    return why
