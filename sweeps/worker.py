"""One worker of a sweep: takes trials until there are enough, trains each as a process of its own, tells what it sees.

A trial whose worker has died is taken up again, from its newest checkpoint and under its own number.
"""

import multiprocessing
import os
import runpy
import signal
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from tqdm import tqdm

from config import CODE
from runs import history
from sweeps import study
from sweeps.folder import Claim, Sweep, Trial
from sweeps.results import falls, line
from sweeps.space import Space, options_at, size
from utils import files
from utils.errors import Stopped, UsageError
from utils.launchers import MAIN, die_with_parent
from utils.options import code_flags
from utils.text import counted, in_words, one_line

# a process that imports torch once, and forks the trainings
SERVER: Any = multiprocessing.get_context("spawn" if sys.platform == "win32" else "forkserver")
SERVER.set_forkserver_preload(
    ["commands.train", "engine.loop", "engine.setup", "torchmetrics", "torchvision.transforms.v2"]
)
POLL = 0.2  # seconds between two looks at a trial that trains
WAIT = 2.0  # seconds between two looks at trials of other workers


class Worker:
    """One of those that train the trials of a sweep.

    Args:
        hours: begin no trial that would not end within so many.
        flags, env: of its trainings, by which they take their part of the machine.
        quiet: say nothing, as another one of this machine does.
        storage: URL of a database that gets a copy of each ended trial.
    """

    def __init__(
        self,
        sweep: Sweep,
        space: Space,
        hours: float | None,
        flags: list[str],
        env: dict[str, str],
        quiet: bool,
        storage: str | None = None,
    ) -> None:
        self.sweep, self.space, self.flags, self.env, self.quiet = sweep, space, flags, env, quiet
        self.total = int(min(sweep.plan.trials, size(space)))
        self.end = time.time() + hours * 3600 if hours else None
        self.process: BaseProcess | None = None
        self.told: set[int] = set()
        self.estimated = False
        self.storage = storage
        self.copy: study.Copy | None = None
        self.bar = tqdm(total=self.total, unit="trial", disable=None if not quiet else True, file=sys.stdout)

    def work(self) -> None:
        """Until all trials have ended.

        Raises:
            Stopped: by a signal; the trial at hand has saved, and goes on where the sweep does.
        """
        with self._stoppable(), self.bar:
            while True:
                trials = self.tell()
                open_trials = [trial for trial in trials if not trial.ended]
                if any(self._take(trial) for trial in open_trials):
                    continue
                if len(trials) < self.total and not self._too_late(trials):
                    if not self._begin(trials):
                        return
                elif not open_trials:
                    return
                else:
                    time.sleep(WAIT)  # of others, who may die

    def tell(self) -> list[Trial]:
        """A line for each trial that has ended since; returns all."""
        trials = self.sweep.trials()
        for trial in trials:
            if trial.ended and trial.number not in self.told:
                self.told.add(trial.number)
                self.bar.update()
                if not self.quiet:
                    tqdm.write(line(trial, falls(trials), trials), file=sys.stdout)
                    if trial.ended == "complete" and not self.estimated:
                        self.estimated = True
                        self._estimate(trial.seconds)
        return trials

    def _estimate(self, seconds: float) -> None:
        """Says once how long the rest takes."""
        left = self.total - len(self.told)
        told = f"at {in_words(seconds)} a trial {counted(left, 'more trial')} would take {in_words(left * seconds)}"
        told += " of one worker, but for those that are pruned"
        if self.end:
            fit = max(int((self.end - time.time()) / max(seconds, 1e-9)), 0)
            told += f"; within --hours about {min(fit, left)} of them" if fit < left else "; all of them within --hours"
        if left:
            tqdm.write(told, file=sys.stdout)

    def _begin(self, trials: list[Trial]) -> bool:
        """Begins the next trial; False where there is no further point."""
        plan = self.sweep.plan
        point = study.suggest(self.space, trials, plan.sampler, plan.seed, falls(trials))
        if point is None:
            self.total = len(trials)
            return any(not trial.ended for trial in trials)
        try:
            options, _ = options_at(plan.fixed, point)
        except UsageError as e:
            trial = self.sweep.claim_new(len(trials), point, {**plan.fixed, **point})
            if trial:
                trial.ended, trial.why = "failed", str(e)
                self._end(trial)
            return True
        if trial := self.sweep.claim_new(len(trials), point, options):
            self._take(trial)
        return True

    def _take(self, trial: Trial) -> bool:
        """Trains a trial that has no living worker, nor a training that has outlived it; whether it was so."""
        if self.sweep.is_worked_on(trial):
            return False
        pasts = (history.read(trial.run(seed)) for seed in range(self.sweep.plan.seeds))
        if any(past and past.status == "running" for past in pasts):
            return False
        with self.sweep.working_on(trial) as claim:
            now = self.sweep.trial(trial.number) if claim else None  # another worker may have ended it meanwhile
            if claim and now and not now.ended:
                self._train(now, claim)
            return claim is not None

    def _train(self, trial: Trial, claim: Claim) -> None:
        results: list[tuple[float, int]] = []
        for seed in range(self.sweep.plan.seeds):
            past = history.read(trial.run(seed))
            if not (past and past.status == "finished"):
                ended, why = self._run(trial, seed, claim)
                if claim.lost:
                    return
                if ended != "complete":
                    trial.ended, trial.why = ended, why
                    break
            past = history.read(trial.run(seed))
            if not (past and past.best):
                trial.ended, trial.why = "failed", "the monitored metric was a number in no epoch"
                break
            trial.seconds += past.seconds
            results.append((past.best[f"val_{past.monitor}"], past.best["epoch"]))
            if seed == 0:
                trial.values = values_of(past)
                if self.sweep.plan.seeds > 1 and self._is_poor(trial, past):
                    trial.ended = "pruned"
                    break
        if results:
            numbers = [value for value, _ in results]
            trial.value, trial.epoch = statistics.fmean(numbers), results[0][1]
            trial.spread = statistics.stdev(numbers) if len(numbers) > 1 else None
        elif trial.values:
            trial.value = (min if falls([trial]) else max)(trial.values.values())
        trial.ended = trial.ended or "complete"
        self._end(trial)
        if trial.ended == "pruned":
            keep_newest(trial.run())

    def _end(self, trial: Trial) -> None:
        """Keeps how the trial has ended, also in the database, if there is one; that may be gone."""
        self.sweep.end(trial)
        if self.storage:
            try:
                trials = self.sweep.trials()
                if self.copy is None:
                    self.copy = study.Copy(self.storage, self.sweep.name, self.space, trials, falls(trials))
                else:
                    self.copy.add(trial)
            except Exception as e:  # of any driver
                self.storage = None
                why = str(e).splitlines()[0]
                tqdm.write(f"warning: the database gets no more trials ({why}); the sweep goes on", file=sys.stdout)

    def _run(self, trial: Trial, seed: int, claim: Claim) -> tuple[str, str]:
        """Trains one seed of a trial to its end; how it has ended, and why."""
        run, sweep = trial.run(seed), self.sweep
        errors = sweep.folder / ".workers" / f"{run.name}.txt"
        new = [f"--config={sweep.folder / trial.name}.yaml", f"--name={run.name}", f"--seed={sweep.plan.seed + seed}"]
        on = [f"--resume={run}", *code_flags(trial.options, CODE)]
        flags = [f"--checkpoint-dir={sweep.folder}", *self.flags]
        self.process = start_training(run, [*new, *flags], [*on, *flags], self.env, errors)
        pruned = self._watch(trial, run, claim, prune=seed == 0)
        code, self.process = self.process.exitcode or 0, None
        words_of_it = errors.read_text(errors="replace").strip().splitlines()
        errors.unlink()
        past = history.read(run)
        if pruned:
            return "pruned", ""
        if code == 0:
            stopped = past is None or past.status != "finished"
            return ("pruned", "stopped by its user") if stopped else ("complete", "")
        if code < 0:
            return "failed", f"killed by {signal.Signals(-code).name}: out of memory?"
        return "failed", one_line(words_of_it[-1].removeprefix("main.py: ")) if words_of_it else f"exit code {code}"

    def _watch(self, trial: Trial, run: Path, claim: Claim, prune: bool) -> bool:
        """Waits for the process; whether the trial was pruned."""
        assert self.process
        pruned, size_seen, told = False, -1, time.monotonic()
        while self.process.is_alive():
            self.process.join(POLL)
            if claim.lost:
                self.process.kill()
                self.process.join()
                return False
            if time.monotonic() > told + WAIT:
                self.tell()
                told = time.monotonic()
            record = run / "metrics.jsonl"
            with suppress(OSError):
                if prune and not pruned and (size_now := record.stat().st_size) != size_seen:
                    size_seen = size_now
                    pruned = self._prune(trial, run)
        return pruned or (prune and self._prune(trial, run))

    def _prune(self, trial: Trial, run: Path) -> bool:
        """Reports the epochs that are new; stops the run where it is not worth going on."""
        past = history.read(run)
        if past is None or past.done >= past.max_epoch:
            return False
        for epoch, value in values_of(past).items():
            if epoch not in trial.values:
                trial.values[epoch] = value
                if self._is_poor(trial, past):
                    (run / "STOP").touch()
                    return True
        return False

    def _is_poor(self, trial: Trial, past: history.History) -> bool:
        plan = self.sweep.plan
        return study.should_prune(self.space, self.sweep.trials(), trial, plan.pruner, past.max_epoch, past.falls)

    def _too_late(self, trials: list[Trial]) -> bool:
        """Whether a further trial would end after the hours that were given."""
        if self.end is None:
            return False
        times = [trial.seconds for trial in trials if trial.ended == "complete"]
        expected = statistics.median(times) if times else 0.0
        return time.time() + expected > self.end

    @contextmanager
    def _stoppable(self) -> Iterator[None]:
        """SIGTERM and Ctrl-C stop the trial at hand first, which saves."""

        def stop(number: int, _: object) -> None:
            raise Stopped(signal.Signals(number).name, 128 + number)

        before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            if self.process and self.process.is_alive():
                self.process.terminate()
                self.process.join()


def start_training(run: Path, new: list[str], on: list[str], env: dict[str, str], errors: Path) -> BaseProcess:
    """`main.py train NEW`, or `ON` where there is the run, in a process of its own that need not import torch anew.

    Args:
        errors: its stderr; it holds the lock of this file, by which it waits for the end of one whose worker has died.
    """
    process = SERVER.Process(target=_training, args=(run, new, on, env, errors))
    process.start()
    return process


def _training(run: Path, new: list[str], on: list[str], env: dict[str, str], errors: Path) -> None:
    if hasattr(os, "setsid"):
        os.setsid()  # Ctrl-C reaches it through the worker, once
    die_with_parent()  # the server, which ends with the worker
    multiprocessing.set_start_method(None, force=True)  # this server's way would be that of the loader's processes
    os.environ |= env
    nowhere, said = os.open(os.devnull, os.O_RDWR), errors.open("a")
    worker = multiprocessing.parent_process()
    while not files.lock(said):
        pass
    if worker and not worker.is_alive():  # since before this one asked to end with the server
        return
    said.truncate(0)
    for number, file in enumerate((nowhere, nowhere, said.fileno())):
        os.dup2(file, number)  # what it says is in the run's log.txt
    words = on if run.exists() else new
    sys.argv = [str(MAIN), "train", *words]
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    runpy.run_path(str(MAIN), run_name="__main__")


def values_of(past: history.History) -> dict[int, float]:
    """The monitored metric of each epoch."""
    return {epoch["epoch"]: epoch[f"val_{past.monitor}"] for epoch in past.scored}


def keep_newest(run: Path) -> None:
    """Leaves a pruned run one checkpoint to be resumed from."""
    for path in sorted(run.glob("step_*.pth"))[:-1]:
        path.unlink(missing_ok=True)
    (run / "STOP").unlink(missing_ok=True)
