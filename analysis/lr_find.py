"""`check --lr-find`: the learning rate range test (Smith 2017, arXiv:1506.01186, section 3.3)."""

from collections.abc import Iterator
from pathlib import Path

import torch

from analysis.check import row
from config import Config
from data.image_data import ImageData
from data.loaders import Batch, EpochLoader
from engine.device import oom_as_failure
from engine.setup import build_training
from engine.tasks.base import NonFiniteError, Task
from utils import figures
from utils.errors import RunError
from utils.progress import Progress

LOW, HIGH, STEPS = 1e-7, 10.0, 100
SMOOTHING = 0.9  # decay of the moving average of the losses
DIVERGED = 4.0  # times the smallest smoothed loss, as in fast.ai's lr_find
BLOCKS = "▁▂▃▄▅▆▇█"


def find_lr(opt: Config, dataset: ImageData, path: str) -> list[str]:
    """Prints the losses over the rate and a suggestion, and draws them into `path`, a PNG.

    The weights are thrown away. Returns what would stop a run, a line each: that no rate lowers the loss.
    """
    constant = {"scheduler": "constant", "warmup": 0.0, "num_workers": 0, "cache": "off", "ema": 0.0}
    task, loaders, _ = build_training(opt.model_copy(update=constant), dataset)
    try:
        with loaders, oom_as_failure(opt, opt.image_size):
            rates, losses = range_test(task, loaders.train, opt.seed)
    except RunError as e:
        return [str(e)]
    smooth = smoothed(losses)
    rate = suggestion(rates, smooth)
    draw(Path(path), rates, losses, smooth, rate, f"{opt.model} on {opt.dataset}, {opt.optimizer}")
    row("lr find", f"{bars(smooth)}  loss at {rates[0]:.0e} to {rates[-1]:.1e}; drawn in {path}")
    if rate is None:
        return [f"no learning rate from {LOW:g} to {HIGH:g} lowers the loss: check --overfit tells more"]
    lowest = rates[smooth.index(min(smooth))]
    row("", f"suggested: --lr={rate:.1e}, a tenth of the rate of the smallest loss ({lowest:.1e}); now {opt.lr:g}")
    return []


def range_test(task: Task, loader: EpochLoader, seed: int) -> tuple[list[float], list[float]]:
    """Trains with a rate that rises from step to step until the loss diverges; returns rates and losses."""
    optimizer, ratios = task.optimizer, task.lr_schedule.ratios  # type: ignore[attr-defined]
    rates: list[float] = []
    losses: list[float] = []
    bar = Progress("learning rates", STEPS * loader.batch_sampler.batch_size)
    for number, batch in zip(range(STEPS), endless(loader), strict=False):
        rate = LOW * (HIGH / LOW) ** (number / (STEPS - 1))
        for group, ratio in zip(optimizer.param_groups, ratios, strict=True):
            group["lr"] = ratio * rate
        torch.manual_seed(seed + number)
        try:
            losses.append(float(task.train_step(batch)["loss"]))
        except NonFiniteError:
            break
        rates.append(rate)
        bar.update(len(batch))
        bar.show(lr=rate, loss=losses[-1])
        smooth = smoothed(losses)
        if smooth[-1] > DIVERGED * min(smooth):
            break
    bar.close()
    if not rates:
        raise RunError("the loss of the first step is not finite")
    return rates, losses


def endless(loader: EpochLoader) -> Iterator[Batch]:
    """The batches of one epoch after the other."""
    epoch = 0
    while True:
        yield from loader.set_epoch(epoch)
        epoch += 1


def smoothed(losses: list[float]) -> list[float]:
    """Their moving average, without the bias of its start."""
    average, values = 0.0, []
    for number, loss in enumerate(losses, 1):
        average = SMOOTHING * average + (1 - SMOOTHING) * loss
        values.append(average / (1 - SMOOTHING**number))
    return values


def suggestion(rates: list[float], smooth: list[float]) -> float | None:
    """A tenth of the rate with the smallest smoothed loss; None where the loss never falls by 2%.

    At the smallest loss the net is about to diverge, so that a training needs less.
    """
    start, lowest = smooth[min(len(smooth) - 1, STEPS // 10)], min(smooth)
    return rates[smooth.index(lowest)] / 10 if lowest < 0.98 * start else None


def bars(values: list[float], width: int = 40) -> str:
    """The values as a line of blocks; what is above the first value counts as much as twice the range below it."""
    picked = [values[i * (len(values) - 1) // max(width - 1, 1)] for i in range(min(width, len(values)))]
    low, high = min(picked), max(picked[0], min(picked) + 1e-9)
    parts = [min((value - low) / (high - low), 1.0) for value in picked]
    return "".join(BLOCKS[round(part * (len(BLOCKS) - 1))] for part in parts)


def draw(
    path: Path, rates: list[float], losses: list[float], smooth: list[float], rate: float | None, title: str
) -> None:
    """Writes the picture, whole or not at all."""
    with figures.written(path, (7, 4), dpi=120) as figure:
        axes = figure.subplots()
        axes.plot(rates, losses, ".", color="0.7", label="loss of a batch")
        axes.plot(rates, smooth, label="smoothed")
        if rate is not None:
            axes.axvline(rate, color="C3", linestyle="--", label=f"suggested: {rate:.1e}")
        axes.set(xscale="log", xlabel="learning rate", ylabel="loss")
        axes.set_title(figures.readable([title])[0], parse_math=False)
        low, high = min(smooth), max(smooth[0], min(smooth) * 1.01)
        axes.set_ylim(low - (high - low) / 4, high + (high - low) / 2)
        axes.legend()
