"""Fits or scores a classifier's abstention rule: `python -m wbc_jax.abstain MODEL`.

The rule chooses the cells that a person should review.
"""

import argparse
from collections.abc import Sequence

from wbc_jax import cli


def main(argv: Sequence[str] | None = None) -> None:
    """The command; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="python -m wbc_jax.abstain", description=__doc__)
    parser.add_argument(
        "model", help="a classifier: its --workdir, a file of weights, or a shipped name"
    )
    parser.add_argument(
        "--share", type=float, default=0.05, help="share of validation images to abstain from"
    )
    parser.add_argument(
        "--left_out",
        help="folder of .npz files with the outputs of networks trained without one source each "
        "(wbc_jax/inference/left_out.py), to fit the temperature to sources left out",
    )
    cli.add_switch(
        parser,
        "foreign",
        False,
        "show the rule half of pbc's erythroblasts, immature granulocytes and platelets, so that "
        "it leaves such cells to a person; --score takes the other half",
    )
    parser.add_argument("--score", action="store_true", help="score the existing rule")
    cli.add_switch(
        parser,
        "replay",
        False,
        "write training cells for wbc_jax.adapt (docs/adapt.md), instead of a rule",
    )
    parser.add_argument("--manual_dir", help="folder of the data sets; by default that of training")
    parser.add_argument("--out", help="with --score: JSON file for the scores")
    options = parser.parse_args(argv)
    with cli.reported_errors():
        if options.score:
            _score(options)
        elif options.replay:
            _keep(options)
        else:
            _fit(options)


def _score(options: argparse.Namespace) -> None:
    from wbc_jax.errors import AbstentionError
    from wbc_jax.evaluate import abstention as evaluation
    from wbc_jax.inference import abstention
    from wbc_jax.utils import atomic, output_folder

    rule = abstention.read(options.model)
    if rule is None:
        raise AbstentionError(
            f"{options.model} has no rule; make it by the same command without --score."
        )
    if options.out:
        output_folder.refuse_other_json(options.out, ("rule",))
    result = evaluation.score(options.model, rule, options.manual_dir)
    print(evaluation.table(result), flush=True)
    if options.out:
        used = {field: getattr(rule, field) for field in abstention.NUMBERS}
        atomic.write_json(options.out, {"rule": used, **result})


def _keep(options: argparse.Namespace) -> None:
    from wbc_jax.inference import model as inference
    from wbc_jax.inference import replay

    kept = replay.collect(inference.load(options.model), options.manual_dir)
    print(f"{replay.write(options.model, kept)}: {len(kept.labels)} training cells", flush=True)


def _fit(options: argparse.Namespace) -> None:
    from wbc_jax.evaluate import abstention as evaluation
    from wbc_jax.inference import abstention, abstention_fitting, left_out
    from wbc_jax.inference import model as inference

    others = left_out.away(left_out.read_folder(options.left_out)) if options.left_out else []
    model = inference.load(options.model)
    foreign = []
    if options.foreign:
        data = abstention_fitting.data_settings(model, options.manual_dir)
        foreign = list(evaluation.other_cells(data.manual_dir, fitted=True).values())
    rule = abstention_fitting.fit_model(
        options.model, model, options.share, options.manual_dir, others, foreign
    )
    print(
        f"{abstention.rule_path(options.model)}: temperature {rule.temperature:.3f} × distance ^ "
        f"{rule.power:.2f}, least probability {rule.least_probability:.3f}, most "
        f"{'relative distance' if rule.seen else 'energy'} {rule.most_unlike:.2f} "
        f"({rule.images} validation images)",
        flush=True,
    )


if __name__ == "__main__":
    main()
