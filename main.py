"""The commands. Each reads as a table of contents; torch is imported late, so that mistakes are told at once."""

import os
import shlex
import sys
from pathlib import Path

import fire
from fire.decorators import SetParseFn

import data
from cli import help as help_pages
from cli import parsing
from config import Config, dashed
from engine import resume
from utils import checkpoints, files
from utils.errors import RunError, Stopped, UsageError


@SetParseFn(str)
def train(**flags):
    """Train a model, and keep the last and the best epoch in a run folder; or go on with a run.

    Ctrl-C stops it after the step and saves it; so does `touch RUN_FOLDER/STOP`. `touch RUN_FOLDER/SAVE` saves it.

    Examples:
        python main.py train --config=demo
        python main.py train --resume=last
        python main.py train --model=ResNet34 --train-data-root=DIR --max-epoch=20 --scheduler=cosine
        python main.py train --model=resnet50 --pretrained --train-data-root=DIR --lr=1e-4
    """
    opt, folder = resume.options(flags)
    goes_on = folder is not None and checkpoints.saved_in(folder)
    start_from = checkpoints.find(opt.load_path, opt.checkpoint_dir) if opt.load_path and not goes_on else None
    files.check_writable(folder or opt.checkpoint_dir, "--resume" if folder else "--checkpoint-dir", folder=True)
    dataset = data.open(opt.dataset, opt.train_data_root)
    opt = opt.with_dataset_defaults(dataset)

    from engine.loop import State, Trainer
    from engine.setup import training
    from runs.run import Run

    past = resume.load_latest(folder, dataset.classes) if folder else resume.ResumePoint()
    if past.epoch >= opt.max_epoch:
        print(f"{folder} has done its {past.epoch} epochs: to train on, give more, as --max-epoch={2 * past.epoch}")
        return folder
    task, loaders, metadata = training(opt, dataset, start_from, past.content)
    run = Run.resume(folder, opt, past.epoch, past.step, past.best) if folder else Run.create(opt)
    try:
        with loaders:
            for line in past.told(folder, metadata):
                run.say(line)
            run.say(f"{opt.model} on {opt.dataset}: {loaders}; {task.device}")
            run.record("resume" if folder else "start", **metadata)
            state = Trainer(task, loaders.train, loaders.val, run, opt, metadata, State.of(past.content)).fit()
        run.say(f"best: epoch {state.best_epoch}, {task.praise(state.best_score)}. All of it is in {run.folder}")
        for number, line in enumerate(task.next_steps(shlex.quote(str(run.folder)))):
            run.say(f"{'     ' if number else 'next:'} {line}")
    finally:
        run.close()
    return run.folder


@SetParseFn(str)
def val(**flags):
    """Evaluate a checkpoint on the validation part that its training kept aside.

    The split, the preprocessing and the model come from the checkpoint. The figures go into the run folder too, as
    val_best.json or val_last.json.

    Examples:
        python main.py val --load-path=last
        python main.py val --load-path=checkpoints/RUN/last.pth --train-data-root=DIR
    """
    opt, content = saved_run("val", flags)
    from data.loaders import collect_bad_images
    from engine.device import oom_as_failure
    from engine.setup import load_task, val_loader
    from runs import results
    from utils.progress import with_progress

    dataset = data.open(opt.dataset, opt.train_data_root)
    if dataset.classes != content["classes"]:
        raise UsageError(f"{dataset.root} has the classes {dataset.classes}; the checkpoint {content['classes']}")
    items = dataset.split(opt.val_fraction, opt.seed)[1]
    files_of = dataset.fingerprint(items)
    if files_of != content["images"].get("val_files", files_of):
        warning = "its files are not those of the training, so some of these images may have been trained on"
        print(f"warning: {dataset.root}: {warning}", file=sys.stderr)
    task, bad = load_task(opt, content), []
    with val_loader(opt, dataset, items, task) as loader, oom_as_failure(opt, task.preprocess.image_size):
        print(f"{content['model']} of epoch {content['epoch']} on {len(items)} validation images of {dataset.root}")
        figures = task.evaluate(collect_bad_images(with_progress(loader.set_epoch(0), "validating", len(items)), bad))
    print(task.table(figures))
    results.write_json(Path(opt.load_path), {"images": len(items), "classes": task.classes, **figures})
    for line in bad:
        print(f"replaced by another image of its class: {line}")
    return figures


@SetParseFn(str)
def test(**flags):
    """Label images, and write a CSV: `id,label` with the probability of the second class (dog).

    For more than two classes: `id,predicted` and a column of probabilities for each class.

    Examples:
        python main.py test --load-path=last --test-data-root=data/test1
        python main.py test --load-path=checkpoints/RUN --test-data-root=cat.jpg --result-file=cat.csv
    """
    opt, content = saved_run("test", flags)
    from data import unlabelled

    found = unlabelled.find(opt.test_data_root)

    from engine.device import oom_as_failure
    from engine.setup import load_task, test_loader
    from runs import results
    from utils.progress import with_progress

    task = load_task(opt, content)
    with test_loader(opt, [path for _, path in found], task) as loader, oom_as_failure(opt, task.preprocess.image_size):
        predictions = task.predict(with_progress(loader, "labelling", len(found)))
        count = results.write_csv(opt.result_file, [name for name, _ in found], predictions, task.classes)
    print(f"{opt.result_file}: {count} rows, {results.meaning(task.classes)}")


@SetParseFn(str)
def generate(**flags):
    """Make images with a trained GAN: of many, the best, in its discriminator's eyes.

    The same seed gives the same files, byte for byte.

    Examples:
        python main.py generate --load-path=last
        python main.py generate --load-path=RUN --gen-num=64 --gen-search-num=512 --gen-img=result.png
        python main.py generate --load-path=RUN --gen-walk=walk.gif
    """
    opt, content = saved_run("generate", flags)
    from engine.setup import load_task

    for line in load_task(opt, content).generate():
        print(line)


@SetParseFn(str)
def check(**flags):
    """Inspection over a data set before it is trained on: unreadable and odd files, labels, duplicates, disk, one step.

    Exit code 1 where something would stop a run.

    Examples:
        python main.py check --train-data-root=DIR
        python main.py check --config=demo
    """
    opt = Config.resolve("check", flags)
    dataset = data.open(opt.dataset, opt.train_data_root)
    opt = opt.with_dataset_defaults(dataset)

    from engine.check import check as check_dataset

    if not check_dataset(opt, dataset):
        sys.exit(1)


@SetParseFn(str)
def bench(**flags):
    """Measure the speed of training here: the plain tutorial loop, this program, and the bare step, side by side.

    Examples:
        python main.py bench --train-data-root=DIR
        python main.py bench --config=demo --batch-size=64
    """
    opt = Config.resolve("bench", flags)
    dataset = data.open(opt.dataset, opt.train_data_root)
    opt = opt.with_dataset_defaults(dataset)

    from engine.bench import compare

    compare(opt, dataset)


@SetParseFn(str)
def help(*topics):  # noqa: A001 - the book's name for it
    """Explain the commands and options; `help NAME` explains one command, option, model, data set or preset.

    Examples:
        python main.py help
        python main.py help lr
        python main.py help ResNet34
    """
    print(help_pages.page(list(topics), COMMANDS))


OUTPUTS = {  # the options that name what a command writes, with the endings that its files may have (none: any)
    "test": {"result_file": ()},
    "generate": {"gen_img": (".png",), "gen_walk": (".gif", ".png"), "gen_folder": ()},
}
COMMANDS = {
    "train": train,
    "val": val,
    "test": test,
    "generate": generate,
    "check": check,
    "bench": bench,
    "help": help,
}


def saved_run(command: str, flags: dict) -> tuple[Config, dict]:
    """The options for judging a checkpoint, and the checkpoint's content; flags win over the saved options."""
    given = Config.resolve(command, flags)  # refuses mistakes before anything is read
    if given.load_path is None:
        raise UsageError(f"{command} needs a checkpoint: --load-path=checkpoints/RUN (a run folder or a .pth file)")
    for name in {"train_data_root", "test_data_root"} & flags.keys():
        if not Path(getattr(given, name) or ".").exists():
            raise UsageError(f"--{dashed(name)}: there is no {getattr(given, name)}")
    for name, endings in OUTPUTS.get(command, {}).items():
        if path := getattr(given, name):
            if endings and not path.lower().endswith(endings):
                raise UsageError(f"--{dashed(name)}={path}: give a name that ends in {' or '.join(endings)}")
            files.check_writable(path, f"--{dashed(name)}", folder=name == "gen_folder")
    path = checkpoints.find(given.load_path, given.checkpoint_dir)
    content = checkpoints.read(path)
    if "config" not in content:
        raise UsageError(f"{path} holds weights only: start from it with train --load-path={path}")
    if "model" in flags and given.model != content["model"]:
        raise UsageError(f"{path} holds {content['model']}, not {given.model}: leave out --model")
    # The machine may be another one: a GPU of then is no order to use a GPU now.
    saved = content["config"] | {"num_workers": None, "use_gpu": content["config"]["use_gpu"] and None}
    return Config.resolve(command, flags | {"load_path": str(path)}, saved), content


def main() -> None:
    sys.stdout.reconfigure(errors="backslashreplace")  # a file's name may hold what the terminal cannot show
    try:
        command, topics, flags = parsing.parse(sys.argv[1:], COMMANDS)
        words = [command, *topics, *(f"--{name}={text}" for name, text in flags.items())]
        fire.Fire(COMMANDS, command=words, name="main.py", serialize=lambda result: None)
        sys.stdout.flush()
    except UsageError as e:
        print(f"main.py: {e}", file=sys.stderr)
        sys.exit(2)
    except RunError as e:
        print(f"main.py: {e}", file=sys.stderr)
        sys.exit(1)
    except Stopped as e:
        sys.exit(e.code)
    except KeyboardInterrupt:
        print("main.py: stopped", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # as in `main.py help | head -1`: nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)


if __name__ == "__main__":
    main()
