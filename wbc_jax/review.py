"""Correct the results of `predict` in the browser: `python -m wbc_jax.review DIR`.

It prints an address on this machine, opens it, and shows the cells of DIR, the most informative
first: change their types by keys or by dragging. All that is said is written at once to
`DIR/corrections/log.jsonl`; `DIR/corrections.csv` follows. Ctrl-C ends it.
"""

from __future__ import annotations

import argparse
import getpass
import os
import sys
import webbrowser
from collections.abc import Sequence
from typing import TYPE_CHECKING

from wbc_jax import cli
from wbc_jax.errors import InputError
from wbc_jax.utils import stopping

if TYPE_CHECKING:
    from wbc_jax.corrections import session


def _parser() -> argparse.ArgumentParser:
    parser = cli.parser("review", __doc__)
    parser.add_argument("folder", metavar="DIR", help="the --out of `python -m wbc_jax.predict`")
    parser.add_argument(
        "--reviewer", help="the name of the person; by default that of the user's account"
    )
    parser.add_argument("--images", help="folder of the images, where they have moved")
    parser.add_argument(
        "--port", type=_port, default=0, help="of the address; by default any that is free"
    )
    parser.add_argument(
        "--import",
        dest="outlines",
        action="append",
        default=[],
        metavar="FILE",
        help="take over outlines from QuPath (GeoJSON) or ImageJ (ROI zip), and end",
    )
    parser.add_argument(
        "--image", help="the image of --import, if the file is not named like the image"
    )
    cli.add_switch(
        parser, "agreement", False, "print how far the reviewers agree on types, and end"
    )
    cli.add_switch(parser, "browser", True, "print the address only")
    return parser


def _port(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and int(text) < 65536):
        raise argparse.ArgumentTypeError(f"{text!r} is not allowed; allowed is 0 to 65535")
    return int(text)


def main(argv: Sequence[str] | None = None) -> None:
    """The command; see the module's docstring."""
    given = _parser().parse_args(argv)
    with cli.reported_errors(), stopping.stopped_by_signals():
        if given.agreement:
            _agreement(given)
        elif given.outlines:
            _import(given)
        else:
            _serve(given)


def _agreement(given: argparse.Namespace) -> None:
    from wbc_jax.corrections import agreement, cells, log, state

    results = cells.read(given.folder)
    words = log.Log(results.path)
    said = state.State(results)
    said.apply(words.read_new())
    for problem in words.problems:
        print(f"note: {problem}", file=sys.stderr)
    print(agreement.report(results, said), flush=True)


def _import(given: argparse.Namespace) -> None:
    from wbc_jax.corrections import outlines, session

    reviewing = session.Session(given.folder, given.reviewer or _account())
    try:
        for path in given.outlines:
            first, *passed = outlines.describe(outlines.apply(reviewing, path, given.image), path)
            print(first, flush=True)
            for line in passed:
                print(f"note: {line}", file=sys.stderr)
    finally:
        _end(reviewing)


def _end(reviewing: session.Session) -> None:
    """Writes the table, and says where all is."""
    reviewing.write_table()
    if reviewing.trouble:
        print(f"error: {reviewing.trouble}", file=sys.stderr)
    cells = len(reviewing.state.said(reviewing.reviewer))
    said = "1 cell" if cells == 1 else f"{cells} cells"
    print(f"corrections of {said}: {reviewing.log.path}", flush=True)


def _serve(given: argparse.Namespace) -> None:
    from wbc_jax.corrections import pictures, session

    try:
        from wbc_jax.corrections import guard, server
    except ModuleNotFoundError as error:
        raise InputError(
            f"a review needs the package {error.name}: pip install 'wbc_jax[review]'."
        ) from error
    _check_images(given.images)
    reviewing = session.Session(given.folder, given.reviewer or _account())
    for problem in reviewing.log.problems:
        print(f"note: {problem}", file=sys.stderr)
    listening = server.bind(given.port)
    token = guard.new_token()
    shown = pictures.Pictures(reviewing.results, given.images)
    address = f"http://{server.ADDRESS}:{listening.getsockname()[1]}/{token}/"
    print(f"{len(reviewing.results.cells)} cells for {reviewing.reviewer}: {address}", flush=True)
    print("Ctrl-C ends the review; all is written as it is said.", flush=True)
    if given.browser:
        webbrowser.open(address)
    try:
        server.run(server.Server(reviewing, shown, token), listening, reviewing)
    finally:
        _end(reviewing)


def _check_images(folder: str | None) -> None:
    if folder is not None and not os.path.isdir(folder):
        raise InputError(f"--images={folder} is no folder: name the one that the images lie in.")


def _account() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        raise InputError("the account has no name: give one by --reviewer=NAME.") from None


if __name__ == "__main__":
    main()
