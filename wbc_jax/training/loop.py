"""The training loop."""

import collections
import dataclasses
import math
import signal
import time
from typing import Any

import jax
import numpy as np
from absl import logging
from etils import epath

from wbc_jax import evaluate, models
from wbc_jax.config import Config
from wbc_jax.data import pipeline
from wbc_jax.errors import Interrupted, NonFiniteLossError
from wbc_jax.inference import model as inference
from wbc_jax.inference import weights as weights_lib
from wbc_jax.parallel import processes, sharding
from wbc_jax.training import checkpoint, losses, metric_writer, optimizers, steps
from wbc_jax.utils.progress import Progress, duration


@dataclasses.dataclass(slots=True)
class Position:
    """What a checkpoint keeps beside the arrays.

    Attributes:
        step: steps done; the data position, as batch s is a pure function of (seed, s).
        best: best validation score so far, at `best_step`; None before the first look.
        looks_since_best: state of early stopping.
        plateau_best, plateau_looks: state of the schedule `plateau` (`optimizers.plateau`).
        stopped: whether training is over.
        seconds: time spent in training so far, over all restarts.
        window: losses, confusion matrix and images drawn by data set, of the steps since the last
            line of the log.
    """

    step: int = 0
    best: float | None = None
    best_step: int = 0
    looks_since_best: int = 0
    plateau_best: float | None = None
    plateau_looks: int = 0
    stopped: bool = False
    seconds: float = 0.0
    window: dict[str, Any] = dataclasses.field(
        default_factory=lambda: {"loss": [], "confusion": 0, "drawn": {}}
    )


def train(config: Config, workdir: epath.Path, examples: dict[str, pipeline.Examples]) -> Position:
    """Trains from the last checkpoint in `workdir`, or from the start, to the end.

    Args:
        config: validated, its length in steps (`config.in_steps`).
        workdir: where checkpoints and logs are.
        examples: the splits, from `pipeline.load_splits`.

    Returns:
        Where training ended.

    Raises:
        NonFiniteLossError: says the step and the ids in its batch; the last good checkpoint stays.
        Interrupted: SIGTERM or SIGINT came; everything is saved.
        CheckpointError: the checkpoint there, or the weights to begin with, cannot be restored.
    """
    settings, task = config.train, evaluate.TASKS[config.task]
    training, validation = examples["train"], examples["validation"]

    # ---- Network, state, steps -----------------------------------------------------------------
    sharding.use_compilation_cache(settings.compilation_cache)
    mesh = sharding.make_mesh(settings.batch_size // settings.accumulate, config.mesh)
    local = sharding.local_mesh(config.evaluate.batch_size)
    model = models.build(config.model, settings.seed, image_size=config.data.image_size)
    network, weights = steps.split_network(model)
    state = steps.init_state(config, weights, mesh)
    class_weights = None
    if config.loss.class_weights == "inverse_frequency":
        counts = pipeline.class_counts(training, task.CLASSES)
        class_weights = losses.inverse_frequency(counts)
    train_step = steps.make_train_step(config, network, mesh, class_weights)
    predict = steps.make_predict_step(config, network, mesh=local)
    learning_rate = optimizers.schedule(config.optimizer, settings.steps)

    # ---- Where did it stop? --------------------------------------------------------------------
    position = Position()
    first, several = processes.is_first(), jax.process_count() > 1
    say = print if first else _say_nothing
    kept = config.checkpoint
    with (
        checkpoint.Checkpoints(workdir, kept.keep_best, kept.keep_last) as checkpoints,
        _Signals() as signals,
    ):
        checkpoints.repair()
        if checkpoints.latest_step(checkpoint.LAST) is not None:
            state, saved = checkpoints.restore(checkpoint.LAST, state)
            position = Position(**saved)
            _check_best(position, checkpoints)
        elif settings.init_from:
            initial = inference.load(workdir / weights_lib.INITIAL)
            state = steps.init_state(config, initial.weights, mesh)
        if position.stopped or position.step >= settings.steps:
            say(f"Training is complete (step {position.step}).", flush=True)
            return position
        if position.step:
            say(
                f"Going on from step {position.step} of {settings.steps} "
                f"(checkpoint in {workdir / 'checkpoints'}).",
                flush=True,
            )

        writer = metric_writer.MetricWriter(workdir, position.step) if first else None
        parts = pipeline.mixture(training, config.data)
        if len(parts) > 1:
            shares = ", ".join(f"{part.name} {100 * part.share:.1f} %" for part in parts)
            say(f"Training draws from {shares}.", flush=True)
        dataset = pipeline.train_dataset(
            training,
            settings.batch_size,
            settings.steps,
            settings.seed,
            *sharding.process_share(mesh),
            parts,
        )
        batches = pipeline.train_batches(dataset, position.step, config.data.threads)
        started, before = time.monotonic(), position.seconds
        # Ahead of time, while the first batches are read.
        example = sharding.put_batch(_with_stop(dataset[position.step], 0, several), mesh)
        train_step = train_step.lower(state, example).compile()
        processes.barrier()
        say(f"Compiled in {duration(time.monotonic() - started)}.", flush=True)
        progress = Progress("step", settings.steps, done=position.step)
        window_started = started

        def save(which: str) -> None:
            position.seconds = before + time.monotonic() - started
            checkpoints.save(which, position.step, state, dataclasses.asdict(position))

        try:
            # ---- The loop ----------------------------------------------------------------------
            pending, note = None, ""
            while position.step < settings.steps and not position.stopped:
                batch = _with_stop(next(batches), signals.received, several)
                state, report = train_step(state, sharding.put_batch(batch, mesh))
                # The step before is looked at while this one runs, so that the device never waits.
                stop = _record(position, pending, training, checkpoints)
                if not several:
                    report["index"] = batch["index"]
                    stop = signals.received  # once: another may come between two looks at it
                pending = (position.step + 1, report)
                position.step += 1

                log_now = position.step % settings.log_every == 0
                look_now = (
                    position.step % settings.evaluate_every == 0 or position.step == settings.steps
                )
                if log_now or look_now or stop:
                    stop = _record(position, pending, training, checkpoints) or stop
                    pending = None

                # ---- Log -----------------------------------------------------------------------
                if log_now:
                    now = time.monotonic()
                    loss = float(np.mean(position.window["loss"]))
                    values = task.training_summary(np.asarray(position.window["confusion"]))
                    steps_logged = len(position.window["loss"])
                    drawn = position.window["drawn"]
                    position.window = Position().window
                    seconds, window_started = max(now - window_started, 1e-9), now
                    line = {
                        "loss": loss,
                        **values,
                        "learning_rate": float(
                            learning_rate(position.step - 1) * np.asarray(state.rate_scale)
                        ),
                        "epoch": position.step * settings.batch_size / len(training),
                        "drawn": drawn,
                        "images_per_second": steps_logged * settings.batch_size / seconds,
                    }
                    if writer:
                        writer.write("train", position.step, line)
                    note = f"loss {loss:.4f}  training {task.SCORE_NAME} {values[task.SCORE]:.4f}"
                if first:
                    progress.update(position.step, settings.batch_size, note)

                # ---- Look at the validation split; keep the best and the last ------------------
                if look_now:
                    weights = sharding.to_local(state.weights(), mesh, local)
                    score = _look(config, predict, weights, validation, writer, position)
                    state = _after_look(config, state, score, position, mesh)
                    over = settings.patience and position.looks_since_best >= settings.patience
                    position.stopped = bool(over)
                    # Both of one step hold the same: one can stand in for the other.
                    if position.best_step == position.step:
                        save(checkpoint.BEST)
                    save(checkpoint.LAST)
                    progress.close()
                    ending = f"; no better for {position.looks_since_best} looks: stopping"
                    say(
                        f"step {position.step}: validation {task.SCORE_NAME} {score:.4f} "
                        f"(best {position.best:.4f} at step {position.best_step})"
                        f"{ending if over else ''}",
                        flush=True,
                    )
                    window_started = time.monotonic()

                # ---- A signal: save and leave --------------------------------------------------
                if stop:
                    save(checkpoint.LAST)
                    checkpoints.wait()
                    name = signal.Signals(stop).name
                    raise Interrupted(
                        f"{name} came: saved at step {position.step} of {settings.steps}. Run the "
                        "same command again to go on from there.",
                        stop,
                    )
        finally:
            progress.close()
            batches.close()
            if writer:
                writer.close()
    return position


def _say_nothing(*_, **__) -> None:
    """The `print` of all processes but the first."""


def _with_stop(batch: dict[str, np.ndarray], received: int, several: bool) -> dict[str, np.ndarray]:
    """Adds the signal that this process has received, for the others to hear of in the step."""
    if not several:
        return batch
    return {**batch, "stop": np.full(len(batch["index"]), received, np.int32)}


def _record(
    position: Position,
    pending,
    training: pipeline.Examples,
    checkpoints: checkpoint.Checkpoints,
) -> int:
    """Adds a finished step to the log's window, once its numbers are known to be finite.

    Returns the signal that one of several processes received before it, or 0.
    """
    if pending is None:
        return 0
    step, report = pending
    index = np.asarray(report["index"])
    loss, norm = float(report["loss"]), float(report["gradient_norm"])
    if not (math.isfinite(loss) and math.isfinite(norm)):
        ids = training.ids
        names = ", ".join(ids[i] for i in index)
        checkpoints.wait()
        saved = "No checkpoint was saved yet."
        if checkpoints.latest_step(checkpoint.LAST) is not None:
            saved = f"The last good checkpoint stays in {checkpoints.folder}."
        raise NonFiniteLossError(
            f"step {step}: the loss is {loss} and the gradient's norm {norm}. {saved} Lower "
            f"config.optimizer.learning_rate, or look at the images of this batch: {names}."
        )
    position.window["loss"].append(loss)
    drawn = collections.Counter(position.window["drawn"])
    drawn.update(training.entries[i][0].name for i in index)
    position.window["drawn"] = dict(drawn)
    counts = np.asarray(report["confusion"], np.int64) + np.asarray(position.window["confusion"])
    position.window["confusion"] = counts.tolist()
    return int(report.get("stop", 0))


def _look(config, predict, weights, validation, writer, position) -> float:
    """Scores the validation split, writes its line and notes whether it is the best.

    Each process scores its share of the images, and all have the same score in the end.
    """
    task = evaluate.TASKS[config.task]
    measured = task.measure(
        lambda images: predict(weights, images), validation, config.evaluate.batch_size
    )
    values = task.validation(measured, validation)
    score = values["score"]
    # Without a validation split (share 0) there is no score, and the last look is the best.
    better = position.best is None or score > position.best or math.isnan(score)
    if better:
        position.best, position.best_step, position.looks_since_best = score, position.step, 0
    else:
        position.looks_since_best += 1
    line = {
        **values,
        "best_score": position.best,
        "best_step": position.best_step,
        "looks_since_best": position.looks_since_best,
    }
    if writer:
        writer.write("validation", position.step, line)
    return score


def _check_best(position: Position, checkpoints: checkpoint.Checkpoints) -> None:
    """Lets the position speak of the best checkpoint that is there, if its own is lost."""
    there = checkpoints.latest_step(checkpoint.BEST)
    if there == position.best_step or not position.best_step:
        return
    lost = f"The best checkpoint, of step {position.best_step}, is lost"
    if there is not None and there < position.best_step:
        position.best, position.best_step = checkpoints.position(checkpoint.BEST)["best"], there
        logging.warning("%s: that of step %d takes its place.", lost, there)
    elif there is None:
        position.best, position.best_step = None, 0
        logging.warning("%s: the best of the looks to come takes its place.", lost)


def _after_look(config, state, score, position, mesh) -> steps.TrainState:
    """Returns the state with the learning rate's scale that the schedule `plateau` wants now."""
    before = float(state.rate_scale)
    scale, position.plateau_best, position.plateau_looks = optimizers.plateau(
        config.optimizer, score, before, position.plateau_best, position.plateau_looks
    )
    if scale == before:
        return state
    placed = sharding.place(np.float32(scale), mesh)
    return dataclasses.replace(state, rate_scale=placed)


class _Signals:
    """Notes SIGTERM and SIGINT instead of dying from them; a second one has its usual effect."""

    def __init__(self):
        self.received = 0
        self._old = {}

    def __enter__(self) -> "_Signals":
        try:
            for number in (signal.SIGTERM, signal.SIGINT):
                self._old[number] = signal.signal(number, self._note)
        except ValueError:  # not in the main thread: the signals are somebody else's
            pass
        return self

    def _note(self, number: int, _) -> None:
        self.received = number
        signal.signal(number, self._old[number])

    def __exit__(self, *_) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)
