"""The command `train`."""

import shlex
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

from fire.decorators import SetParseFn

import data
from config import Config
from engine import launch, resume
from runs import sinks
from utils import checkpoints, files, launchers, world
from utils.errors import UsageError
from utils.options import code_flags


@SetParseFn(str)
def train(**flags: Any) -> Any:
    """Train a model, and keep the last and the best epoch in a run folder; or resume a run.

    Ctrl-C stops it after the step and saves it; so does `touch RUN_FOLDER/STOP`. `touch RUN_FOLDER/SAVE` saves it.

    Returns:
        The run: `run.folder` is its folder, and `load_path=run` names it. With --dry-run what it would take: a dict.

    Examples:
        python main.py train --config=demo
        python main.py train --resume=last
        python main.py train --model=ResNet34 --train-data-root=DIR --max-epoch=20 --scheduler=cosine
        python main.py train --model=resnet50 --pretrained --train-data-root=DIR --lr=1e-4
        python main.py train --config=demo --dry-run
    """
    first, refused = None, None
    if launchers.is_first():
        try:
            first = _resolve(flags)
        except UsageError as e:
            if not launchers.place():
                raise
            refused = e  # once the others are there: they would wait
    processes, timeout = (first[0].processes, first[0].data_timeout) if first else (1, 0.0)
    with launch.joined(processes, timeout, flags):
        world.agree(refused, [])
        return _train(*world.same(first))


def _resolve(flags: dict[str, Any]) -> tuple[Config, Path | None, Path | None]:
    """The options, the run folder to resume, and the weights to start from; what is wrong is refused here."""
    opt, folder = resume.resolve_options(flags)
    if opt.name and "resume" in flags:
        raise UsageError("--name has no effect on a run that is resumed: it has its own")
    if opt.name and folder is None and (named := Path(opt.checkpoint_dir, opt.name)).exists():
        raise UsageError(f"{named} is there already: give another --name, or go on with --resume={named}")
    launch.check(opt.processes, opt.dry_run)
    sinks.check(opt)
    resumes = folder is not None and checkpoints.saved_in(folder)
    start_from = checkpoints.find(opt.load_path, opt.checkpoint_dir) if opt.load_path and not resumes else None
    files.check_writable(folder or opt.checkpoint_dir, "--resume" if folder else "--checkpoint-dir", folder=True)
    return opt, folder, start_from


def _train(opt: Config, folder: Path | None, start_from: Path | None) -> Any:
    with world.one_a_machine_first():
        dataset = data.open(opt.dataset, opt.train_data_root)
    opt = opt.with_dataset_defaults(dataset)

    from engine import provenance
    from engine.busy import slow_hint
    from engine.loop import Trainer
    from engine.profiler import Profiler
    from engine.setup import build_training
    from engine.state import TrainerState

    point = resume.ResumePoint()
    if folder and world.is_first():
        point = resume.load_latest(folder, opt, dataset.classes)
    point, start_from = world.same(point), world.same_file(start_from)
    if opt.dry_run:
        from analysis.dry_run import dry_run

        return dry_run(opt, dataset, start_from, point)
    if folder and point.epoch >= opt.max_epoch:
        with closing(_open_run(opt, folder, point)) as run:
            run.keep_only(0)
        print(f"{folder} has done its {point.epoch} epochs: to train on, give more, as --max-epoch={2 * point.epoch}")
        return run
    task, loaders, metadata = build_training(opt, dataset, start_from, point)
    run = _open_run(opt, folder, point)
    try:
        with loaders:
            for line in [*point.messages(folder, metadata), dataset.summary(opt.image_size), *dataset.notes]:
                run.log(line)
            run.log(f"{opt.model} on {opt.dataset}: {loaders}; {task.device}")
            if hint := slow_hint(opt):
                run.log(hint)
            run.log_event("resume" if folder else "start", **metadata, **provenance.gather())
            state = TrainerState.from_state_dict(point.trainer)
            trainer = Trainer(task, loaders.train, loaders.val, run, opt, metadata, state)
            if point.reschedules(opt):
                trainer.report_lr()
            with Profiler(trainer) if opt.profile else nullcontext():
                state = trainer.fit()
        best = f"none, as {state.monitor} was NaN in every epoch"
        if state.best_value is not None:
            best = f"epoch {state.best_epoch}, {trainer.messages.format_score(state.monitor, state.best_value)}"
        run.log(f"best: {best}. All of it is in {run.folder}")
        words = shlex.join([str(run.folder), *code_flags(opt.model_dump(), ("model", "dataset"))])
        for number, line in enumerate(trainer.messages.next_commands(words)):
            run.log(f"{'     ' if number else 'next:'} {line}")
    finally:
        run.close()
    return run


def _open_run(opt: Config, folder: Path | None, point: resume.ResumePoint) -> Any:
    """The run in `folder`, or a new one; in the processes other than the first, one that writes nothing."""
    from runs.run import Run, Witness

    run = None
    if world.is_first():
        run = point.open_run(folder, opt) if folder else Run.create(opt)
    place = world.same(run and run.folder)
    return run or Witness(place, keeps_pictures=True)
