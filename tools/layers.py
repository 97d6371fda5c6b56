"""Checks the direction of imports: `python tools/layers.py`.

Prints the wings of the package from the lowest to the highest with their modules, and fails on an
import that goes up, or on a circle of modules. Imports inside functions and for annotations count
as well. The order is that of the data: files → records → batches → model → step → checkpoint →
predictions → metrics → report.
"""

import ast
import graphlib
import pathlib
import sys

PACKAGE = pathlib.Path(__file__).resolve().parents[1] / "wbc_jax"
# Lowest first; the wings of one line do not import each other. A name covers what is below it,
# unless a longer name does.
ORDER = (
    ("errors", "labels"),
    ("config", "utils"),
    ("cpu", "data", "metrics", "parallel"),
    # The registry is a table of names without JAX, which the config's checks look up.
    ("models.registry",),
    ("config_checks",),
    ("models",),
    ("training",),
    ("inference",),
    ("fields",),
    ("evaluate",),
    ("report",),
    ("corrections",),
    ("papers",),
    ("provenance",),
    ("experiment",),
    ("cli", "inputs"),
    (
        *("abstain", "adapt", "cohort", "compare", "convert", "detect", "export"),
        *("main", "predict", "reproduce", "review"),
    ),
)
# `main` has a mode that is a module of its own.
ALLOWED = {("main", "reproduce")}
# The package's face re-exports from above by name, on first use.
FACE = "__init__"


def modules() -> dict[str, pathlib.Path]:
    """Returns the file of each module, by its dotted name below the package."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == FACE and len(parts) > 1 else parts)] = path
    return found


def imports(path: pathlib.Path, known: dict[str, pathlib.Path]) -> set[str]:
    """Returns the modules of the package that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            # `from package import module`, or a name of the module.
            names = [
                f"{node.module}.{alias.name}"
                if f"{node.module}.{alias.name}".removeprefix("wbc_jax.") in known
                else node.module
                for alias in node.names
            ]
        else:
            continue
        below = (name.removeprefix("wbc_jax.") for name in names if name.startswith("wbc_jax."))
        found |= {name for name in below if name in known}
    return found


def level(module: str) -> int:
    """Returns a module's place in `ORDER`.

    Raises:
        SystemExit: it has none.
    """
    places = {
        name: i
        for i, names in enumerate(ORDER)
        for name in names
        if module == name or module.startswith(f"{name}.")
    }
    if not places:
        sys.exit(f"error: wbc_jax.{module} is in no wing; add it to ORDER in tools/layers.py")
    return places[max(places, key=len)]


def wing(module: str) -> str:
    """Returns the name in `ORDER` that covers a module."""
    names = (name for name in ORDER[level(module)] if f"{module}.".startswith(f"{name}."))
    return max(names, key=len)


def violations(graph: dict[str, set[str]]) -> list[str]:
    """Returns a line for each import against the order."""
    lines = []
    for module, targets in graph.items():
        for target in sorted(targets):
            same = wing(module) == wing(target)
            down = level(target) < level(module)
            if not (same or down or (module, target) in ALLOWED):
                lines.append(f"wbc_jax.{module} imports wbc_jax.{target}, which lies above it")
    return lines


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Returns the modules of a circle of imports in their order; empty if there is none."""
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return error.args[1]
    return []


def main() -> None:
    """Prints the wings; ends with status 1 and the imports that break the order."""
    known = modules()
    graph = {name: imports(path, known) - {name} for name, path in known.items() if name != FACE}
    for names in ORDER:
        for name in names:
            inside = [m for m in graph if wing(m) == name and m != name]
            lines = sum(known[m].read_text("utf-8").count("\n") for m in graph if wing(m) == name)
            short = ", ".join(m.removeprefix(f"{name}.") for m in inside)
            print(f"{name:16}{lines:>7} lines  {short}")
    wrong = violations(graph)
    if ring := circle(graph):
        wrong.append("circle: " + " imports ".join(f"wbc_jax.{m}" for m in reversed(ring)))
    if wrong:
        sys.exit("error: " + "\nerror: ".join(wrong))


if __name__ == "__main__":
    main()
