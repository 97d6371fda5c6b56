"""The training loop."""

import dataclasses
import math
import signal
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from absl import logging
from etils import epath
from jax.sharding import Mesh

from wbc_jax import models
from wbc_jax.config import Config
from wbc_jax.data import pipeline
from wbc_jax.errors import Interrupted, NonFiniteLossError
from wbc_jax.parallel import processes, sharding
from wbc_jax.training import checkpoint, losses, metric_writer, optimizers, steps
from wbc_jax.training.position import Position
from wbc_jax.training.stop_signals import StopSignals
from wbc_jax.training.task import Task
from wbc_jax.utils.progress import Progress, duration


def train(
    config: Config,
    workdir: epath.Path,
    examples: dict[str, pipeline.Examples],
    task: Task,
    initial: Callable[[], dict[str, Any]] | None = None,
) -> Position:
    """Trains to the end, from the last checkpoint in `workdir` or from the start.

    Args:
        config: validated, with its length in steps (`config.in_steps`).
        workdir: the run's folder, for checkpoints and logs.
        examples: the splits, from `pipeline.load_splits`.
        task: the module of the config's task, from `evaluate.TASKS`.
        initial: returns the {`params`, `stats`} to begin with; called only where there is no
            checkpoint. None: the network's own initialization.

    Returns:
        The position at the end of training.

    Raises:
        NonFiniteLossError: the loss is NaN or infinite; names the step and the images in its
            batch. The last good checkpoint stays.
        Interrupted: SIGTERM or SIGINT came; everything is saved.
        CheckpointError: the checkpoint in `workdir`, or the initial weights, cannot be restored.
    """
    settings, training, validation = config.train, examples["train"], examples["validation"]

    # ---- Network and state ---------------------------------------------------------------------
    sharding.use_compilation_cache(settings.compilation_cache)
    mesh = sharding.make_mesh(settings.batch_size // settings.accumulate, config.mesh)
    model = models.build(config.model, settings.seed, image_size=config.data.image_size)
    network, weights = steps.split_network(model)
    state = steps.init_state(config, weights, mesh)
    kept = config.checkpoint
    with (
        checkpoint.Checkpoints(workdir, kept.keep_best, kept.keep_last) as checkpoints,
        StopSignals() as signals,
    ):
        state, position = _restore(config, checkpoints, state, initial, mesh)
        if position.stopped or position.step >= settings.steps:
            processes.print0(f"Training is complete (step {position.step}).")
            return position
        if position.step:
            processes.print0(
                f"Going on from step {position.step} of {settings.steps} "
                f"(checkpoint in {workdir / 'checkpoints'})."
            )

        # ---- Log, data, compiled step ----------------------------------------------------------
        first = processes.is_first()
        writer = metric_writer.MetricWriter(workdir, position.step) if first else None
        dataset = _dataset(config, training, mesh)
        batches = pipeline.train_batches(dataset, position.step, config.data.threads)
        window_started = started = time.monotonic()
        seconds_before = position.seconds
        example = sharding.put_batch(dataset[position.step], mesh)
        train_step = _compile_step(config, network, state, example, mesh, training, task)
        evaluate = _evaluator(config, network, mesh, validation, task)
        learning_rate = optimizers.schedule(config.optimizer, settings.steps)
        progress = Progress("step", settings.steps, done=position.step)

        def write(kind: str, values: dict[str, Any]) -> None:
            if writer:
                writer.write(kind, position.step, values)

        def save(which: str) -> None:
            position.seconds = seconds_before + time.monotonic() - started
            checkpoints.save(which, position.step, state, dataclasses.asdict(position))

        try:
            # ---- Steps -------------------------------------------------------------------------
            unrecorded, note = None, ""
            while position.step < settings.steps and not position.stopped:
                state, report = train_step(state, sharding.put_batch(next(batches), mesh))
                # The step before is recorded while this one runs: the device never waits.
                _record(position, unrecorded, training, checkpoints)
                position.step += 1
                unrecorded = (position.step, report)
                stop = signals.agreed()

                log_now = position.step % settings.log_every == 0
                evaluate_now = position.step % settings.evaluate_every == 0
                evaluate_now |= position.step == settings.steps
                if log_now or evaluate_now or stop:
                    _record(position, unrecorded, training, checkpoints)
                    unrecorded = None

                if log_now:
                    now = time.monotonic()
                    rate = learning_rate(position.step - 1) * np.asarray(state.rate_scale)
                    seconds = now - window_started
                    note = _log(config, task, training, position, float(rate), seconds, write)
                    window_started = now
                if first:
                    progress.update(position.step, settings.batch_size, note)
                if evaluate_now:
                    progress.close()
                    state = _validation_round(config, task, state, position, evaluate, write, mesh)
                    # Both checkpoints of a step hold the same: one can replace the other.
                    if position.best_step == position.step:
                        save(checkpoint.BEST)
                    save(checkpoint.LAST)
                    window_started = time.monotonic()
                if stop:
                    save(checkpoint.LAST)
                    checkpoints.wait()
                    raise Interrupted(
                        f"{signal.Signals(stop).name} came: saved at step {position.step} of "
                        f"{settings.steps}. Run the same command again to go on from there.",
                        stop,
                    )
        finally:
            progress.close()
            batches.close()
            if writer:
                writer.close()
    return position


# ---- Before the first step -----------------------------------------------------------------------


def _restore(
    config: Config,
    checkpoints: checkpoint.Checkpoints,
    state: steps.TrainState,
    initial: Callable[[], dict[str, Any]] | None,
    mesh: Mesh,
) -> tuple[steps.TrainState, Position]:
    """Returns the state and position to train on from: the last checkpoint's, or the first ones.

    If the best checkpoint that the position names is lost, the position is reset to the newest one
    before it, or to none.
    """
    checkpoints.repair()
    if checkpoints.latest_step(checkpoint.LAST) is None:
        if initial is not None:
            state = steps.init_state(config, initial(), mesh)
        return state, Position()
    state, saved = checkpoints.restore(checkpoint.LAST, state)
    position = Position.from_saved(saved)
    there = checkpoints.latest_step(checkpoint.BEST)
    if there == position.best_step or not position.best_step:
        return state, position
    lost = f"The best checkpoint, of step {position.best_step}, is lost"
    if there is None:
        position.best, position.best_step = None, 0
        logging.warning("%s: the next validation round gives a new one.", lost)
    elif there < position.best_step:
        position.best, position.best_step = checkpoints.position(checkpoint.BEST)["best"], there
        logging.warning("%s: that of step %d takes its place.", lost, there)
    return state, position


def _dataset(config: Config, training: pipeline.Examples, mesh: Mesh) -> Any:
    """Returns this process's share of all batches, by step; prints the mixture, if it is one."""
    components = pipeline.mixture(training, config.data)
    if len(components) > 1:
        shares = ", ".join(f"{part.name} {100 * part.share:.1f} %" for part in components)
        processes.print0(f"Training draws from {shares}.")
    return pipeline.train_dataset(
        training,
        config.train.batch_size,
        config.train.steps,
        config.train.seed,
        *sharding.process_share(mesh),
        components,
    )


def _compile_step(
    config: Config,
    network: steps.Network,
    state: steps.TrainState,
    example: dict[str, jax.Array],
    mesh: Mesh,
    training: pipeline.Examples,
    task: Task,
) -> Callable:
    """Returns the training step, compiled for batches like `example`, once all processes have it.

    It is compiled ahead of time: the first batches are read meanwhile.
    """
    started = time.monotonic()
    class_weights = None
    if config.loss.class_weights == "inverse_frequency":
        class_weights = losses.inverse_frequency(pipeline.class_counts(training, task.CLASSES))
    train_step = steps.make_train_step(config, network, mesh, class_weights)
    compiled = train_step.lower(state, example).compile()
    processes.barrier()
    processes.print0(f"Compiled in {duration(time.monotonic() - started)}.")
    return compiled


def _evaluator(
    config: Config,
    network: steps.Network,
    mesh: Mesh,
    validation: pipeline.Examples,
    task: Task,
) -> Callable[[steps.TrainState], dict[str, float]]:
    """Returns the function that scores a state on the validation split.

    Each process scores its share of the images, and all get the same metrics.
    """
    batch_size = config.evaluate.batch_size
    local = sharding.local_mesh(batch_size)
    predict = steps.make_predict_step(config, network, mesh=local)

    def evaluate(state: steps.TrainState) -> dict[str, float]:
        weights = sharding.to_local(state.weights(), mesh, local)
        measured = task.measure(lambda images: predict(weights, images), validation, batch_size)
        return task.validation(measured, validation)

    return evaluate


# ---- Inside the loop -----------------------------------------------------------------------------


def _record(
    position: Position,
    unrecorded: tuple[int, dict[str, jax.Array]] | None,
    training: pipeline.Examples,
    checkpoints: checkpoint.Checkpoints,
) -> None:
    """Adds a step's report, if there is one, to the window, after checking that it is finite."""
    if unrecorded is None:
        return
    step, report = unrecorded
    index = np.asarray(report["index"])
    loss, norm = float(report["loss"]), float(report["gradient_norm"])
    if not (math.isfinite(loss) and math.isfinite(norm)):
        ids = training.ids
        batch = ", ".join(ids[i] for i in index)
        checkpoints.wait()
        saved = "No checkpoint was saved yet."
        if checkpoints.latest_step(checkpoint.LAST) is not None:
            saved = f"The last good checkpoint stays in {checkpoints.folder}."
        raise NonFiniteLossError(
            f"step {step}: the loss is {loss} and the gradient's norm {norm}. {saved} Lower "
            f"config.optimizer.learning_rate, or look at the images of this batch: {batch}."
        )
    names = (training.entries[i][0].name for i in index)
    position.extend_window(loss, np.asarray(report["confusion"]), names)


def _log(
    config: Config,
    task: Task,
    training: pipeline.Examples,
    position: Position,
    learning_rate: float,
    seconds: float,
    write: Callable[[str, dict[str, Any]], None],
) -> str:
    """Writes the window as a line of the log, begins the next one and returns a note for progress.

    Args:
        config: the run's.
        task: computes the metrics.
        training: the split, which makes an epoch.
        position: holds the window.
        learning_rate: of the last step.
        seconds: time that the window took.
        write: appends a line to the log.
    """
    window, batch_size = position.window, config.train.batch_size
    loss = float(np.mean(window["loss"]))
    values = task.training_summary(np.asarray(window["confusion"]))
    line = {
        "loss": loss,
        **values,
        "learning_rate": learning_rate,
        "epoch": position.step * batch_size / len(training),
        "drawn": window["drawn"],
        "images_per_second": len(window["loss"]) * batch_size / max(seconds, 1e-9),
    }
    write("train", line)
    position.clear_window()
    return f"loss {loss:.4f}  training {task.SCORE_NAME} {values[task.SCORE]:.4f}"


def _validation_round(
    config: Config,
    task: Task,
    state: steps.TrainState,
    position: Position,
    evaluate: Callable[[steps.TrainState], dict[str, float]],
    write: Callable[[str, dict[str, Any]], None],
    mesh: Mesh,
) -> steps.TrainState:
    """Scores the state, updates the position, writes and prints the score.

    Args:
        config: the run's.
        task: names the score.
        state: of the network.
        position: gets the best score and the states of early stopping and of `plateau`.
        evaluate: from `_evaluator`.
        write: appends a line to the log.
        mesh: where the state is placed.

    Returns:
        The state, with the learning rate's scale that the schedule `plateau` sets.
    """
    values = evaluate(state)
    score = values["score"]
    position.update_best(score, config.train.patience)
    line = {
        **values,
        "best_score": position.best,
        "best_step": position.best_step,
        "looks_since_best": position.evals_since_best,  # the column's public name
    }
    write("validation", line)
    ending = ""
    if position.stopped:
        ending = f"; no better for {position.evals_since_best} validation rounds: stopping"
    processes.print0(
        f"step {position.step}: validation {task.SCORE_NAME} {score:.4f} "
        f"(best {position.best:.4f} at step {position.best_step}){ending}"
    )
    before = float(state.rate_scale)
    scale, position.plateau_best, position.plateau_evals = optimizers.plateau(
        config.optimizer, score, before, position.plateau_best, position.plateau_evals
    )
    if scale == before:
        return state
    return dataclasses.replace(state, rate_scale=sharding.place(np.float32(scale), mesh))
