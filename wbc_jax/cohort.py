"""Compares groups of cells: `python -m wbc_jax.cohort A B --out=DIR`.

A and B, two or more, are result folders of `wbc_jax.predict` or tables like their `cells.csv`.
Each is a group, named for its folder; `--group NAME=PATH` names one, and tables of one name are one
group. With `--by COLUMN` the groups are the values of a column instead. Writes `index.html`,
`measures.csv`, `tests.csv` and `left_out.csv`. Runs no model. For research; no diagnosis.
"""

import argparse
import os
from collections.abc import Sequence

from wbc_jax import cli


def main(argv: Sequence[str] | None = None) -> None:
    """The command: see the module's text."""
    parser = cli.parser("cohort", __doc__)
    parser.add_argument("tables", nargs="*", metavar="TABLE", help="a result folder or cells.csv")
    parser.add_argument(
        "--group",
        action="append",
        default=[],
        metavar="NAME=PATH",
        help="a table and its group's name; may be given several times",
    )
    parser.add_argument("--by", default="", metavar="COLUMN", help="column that names the group")
    parser.add_argument(
        "--reference",
        default="",
        metavar="NAME",
        help="group that the others are compared with, such as the healthy one; by default the "
        "first",
    )
    parser.add_argument(
        "--truth",
        action="append",
        default=[],
        metavar="TABLE",
        help="table of true masks of the same images (tools/true_cells.py), to show the bias of "
        "the masks; may be given several times",
    )
    parser.add_argument(
        "--leave_out",
        metavar="FLAGS",
        help="flags, joined by commas, of the cells to leave out, instead of no_nucleus, "
        "touches_frame,nuclei_differ,scale_out_of_range; review: those left to a person; "
        "--leave_out= leaves none out",
    )
    parser.add_argument("--out", required=True, help="folder for the page and the tables")
    parser.add_argument("--bootstrap", type=int, default=1000, help="resamples")
    parser.add_argument("--seed", type=int, default=0, help="seed of the resampling")
    given = parser.parse_intermixed_args(argv)
    if given.bootstrap < 1:
        parser.error(f"--bootstrap is {given.bootstrap}; it must be 1 or more")
    if given.seed < 0:
        parser.error(f"--seed is {given.seed}; it must be 0 or more")
    for text in given.group:
        if not all(text.partition("=")):
            parser.error(f"--group is {text!r}; write NAME=PATH, such as --group=blast=runs/blast")
    if given.by and given.group:
        parser.error("--by and --group are given; the groups are either named or in a column")
    if not (given.tables or given.group):
        parser.error("name two tables or more, or one with --by")
    with cli.reported_errors():
        _compare(given)


def _compare(given: argparse.Namespace) -> None:
    from wbc_jax.evaluate import cell_tables, cohort, cohort_truth
    from wbc_jax.report import cohort_page
    from wbc_jax.utils import output_folder
    from wbc_jax.utils.output_folder import OutputFolder

    output_folder.check(given.out, cohort_page.FILES)
    named = _named(given)
    rule = cell_tables.Rule()
    if given.leave_out is not None:
        flags = (name.strip() for name in given.leave_out.split(","))
        rule = cell_tables.Rule(tuple(filter(None, flags)))
    tables = [(name, cell_tables.read(path, given.by)) for name, path in named]
    absent = sorted({column for _, table in tables for column in table.missing})
    truths = [cell_tables.read(path) for path in given.truth]
    groups, nameless = cohort.assemble(tables, rule, bool(given.by), given.reference)
    found = cohort.compare(groups, rule, absent, nameless, given.bootstrap, given.seed)
    truth = None
    if truths:
        truth = cohort_truth.compare(groups, truths, rule, absent, given.bootstrap, given.seed)
    print(cohort_page.text(found, truth), flush=True)
    with OutputFolder(given.out) as folder:
        folder.refuse_foreign(cohort_page.FILES)
        written = cohort_page.write(folder, found, truth)
    print(f"\nWritten: {', '.join(map(os.fspath, written))}", flush=True)


def _named(given: argparse.Namespace) -> list[tuple[str, str]]:
    """Returns (group's name, path) of each table.

    Raises:
        InputError: two tables that are not named by the user would be one group.
    """
    from wbc_jax.errors import InputError

    found: dict[str, str] = {}
    for path in given.tables:
        folder, file = os.path.split(os.path.normpath(path))
        stem = os.path.splitext(file)[0] if file.endswith(".csv") else file
        name = os.path.basename(os.path.abspath(folder)) if file == "cells.csv" else stem
        if name in found and not given.by:
            raise InputError(
                f"{found[name]} and {path} would both be the group {name!r}: name them by "
                f"--group NAME={path}."
            )
        found[path if given.by else name] = path
    named = [tuple(text.split("=", 1)) for text in given.group]
    return [*found.items(), *((name, path) for name, path in named)]


if __name__ == "__main__":
    main()
