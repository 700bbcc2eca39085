"""The commands. Each reads as a table of contents, and returns its result to whoever calls it in Python."""

import shlex
import sys
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))  # where it is imported from elsewhere

from cli import process  # isort: skip - first: Ctrl-C, and packages of the same names

import fire
from fire.decorators import SetParseFn

import data
from cli import help as help_pages
from cli import parsing
from cli.resolve import for_classifiers, resolve
from data.listing import endings, find_each, find_unlabelled
from engine import resume, saved
from runs import history, sinks
from utils import checkpoints, files
from utils.errors import UsageError
from utils.options import code_flags
from utils.text import counted, printable

SPLITS = {"val": "validation", "train": "training", "test": "test", "all": "labelled"}  # in words


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
    opt, folder = resume.resolve_options(flags)
    sinks.check(opt)
    resumes = folder is not None and checkpoints.saved_in(folder)
    start_from = checkpoints.find(opt.load_path, opt.checkpoint_dir) if opt.load_path and not resumes else None
    files.check_writable(folder or opt.checkpoint_dir, "--resume" if folder else "--checkpoint-dir", folder=True)
    dataset = data.open(opt.dataset, opt.train_data_root)
    opt = opt.with_dataset_defaults(dataset)

    from engine import provenance
    from engine.busy import busy_hint
    from engine.loop import Trainer
    from engine.profiler import Profiler
    from engine.setup import build_training
    from engine.state import TrainerState
    from runs.run import Run

    point = resume.load_latest(folder, opt, dataset.classes) if folder else resume.ResumePoint()
    if opt.dry_run:
        from analysis.dry_run import dry_run

        return dry_run(opt, dataset, start_from, point)
    if folder and point.epoch >= opt.max_epoch:
        with closing(point.open_run(folder, opt)) as run:
            run.keep_only(0)
        print(f"{folder} has done its {point.epoch} epochs: to train on, give more, as --max-epoch={2 * point.epoch}")
        return run
    task, loaders, metadata = build_training(opt, dataset, start_from, point)
    run = point.open_run(folder, opt) if folder else Run.create(opt)
    try:
        with loaders:
            for line in [*point.messages(folder, metadata), dataset.summary(opt.image_size), *dataset.notes]:
                run.log(line)
            run.log(f"{opt.model} on {opt.dataset}: {loaders}; {task.device}")
            if hint := busy_hint(opt):
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


@SetParseFn(str)
def val(**flags: Any) -> dict[str, Any]:
    """Evaluate a checkpoint on the validation part that its training kept aside, or on other labelled images.

    The split, the preprocessing and the model come from the checkpoint. The metrics go into the run folder too, with
    the data and the options: as val_best.json (val_last.json), on other images val_best_<split>_<fingerprint>.json.

    Returns:
        The metrics.

    Examples:
        python main.py val --load-path=last
        python main.py val --load-path=checkpoints/RUN/last.pth --train-data-root=DIR
        python main.py val --load-path=last --train-data-root=DIR --split=all
    """
    opt, checkpoint = saved.load_saved("val", flags)
    from engine.setup import load_task, val_loader
    from engine.validation import validate
    from runs import results

    dataset, metadata = data.open(opt.dataset, opt.train_data_root), checkpoint["metadata"]
    if dataset.classes != metadata["classes"]:
        raise UsageError(f"{dataset.root} has the classes {dataset.classes}; the checkpoint {metadata['classes']}")
    items = dataset.part(opt.split, opt.val_fraction, opt.seed)
    fingerprint = dataset.fingerprint(items)
    own = opt.split == "val" and fingerprint == metadata["images"].get("val_files", fingerprint)
    if opt.split == "val" and not own:
        warning = "its files are not those of the training, so some of these images may have been trained on"
        print(f"warning: {dataset.root}: {warning}", file=sys.stderr)
    task = load_task(opt, checkpoint)
    epoch = f" of epoch {checkpoint['trainer']['epoch']}" if "trainer" in checkpoint else ""
    with val_loader(opt, dataset, items, task) as loader:
        print(f"{opt.model}{epoch} on {counted(len(items), f'{SPLITS[opt.split]} image')} of {dataset.root}")
        metrics, bad = validate(task, loader)
    print(task.messages(task).table(metrics))
    source = {"dataset": opt.dataset, "root": str(dataset.root), "split": opt.split, "fingerprint": fingerprint}
    values = {"images": len(items), "classes": task.classes, **metrics, "options": opt.read_by("val")}
    if path := results.write_metrics(Path(opt.load_path), source, own, values):
        print(f"written to {path}")
    for line in bad:
        print(f"replaced by another image of its class: {line}")
    return metrics


@SetParseFn(str)
def test(**flags: Any) -> list[tuple]:
    """Label images, and write a CSV: `id,label` with the probability of the second class (dog).

    For more than two classes: `id,predicted` and a column of probabilities for each class.

    Returns:
        A row for each image: (id, probability of the second class), or (id, predicted class, its probability).

    Examples:
        python main.py test --load-path=last --test-data-root=data/test1
        python main.py test --load-path=checkpoints/RUN --test-data-root=cat.jpg --result-file=cat.csv
        python main.py test --load-path=net.pth --model=ResNet34 --test-data-root=data/test1
    """
    opt, checkpoint = saved.load_saved("test", flags)
    found, others = find_unlabelled(opt.test_data_root)

    from data.batch import collect_bad_images
    from engine.device import oom_as_failure
    from engine.setup import load_task, test_loader
    from runs import results
    from utils.progress import with_progress

    task = load_task(opt, checkpoint)
    with test_loader(opt, [path for _, path in found], task) as loader, oom_as_failure(opt, task.preprocess.image_size):
        bad: list[str] = []
        predictions = task.predict(collect_bad_images(with_progress(loader, "labelling", len(found)), bad))
        ids, fill = [name for name, _ in found], opt.on_bad_image == "fill"
        rows = results.write_csv(opt.result_file, ids, predictions, task.classes, opt.logits, fill)
    for line in bad:
        print(f"{'row of equal odds' if fill else 'no row'}: {line}")
    if others:
        print(f"{counted(len(others), 'file')} left out as no images: {endings(others)}, as {printable(others[0])}")
    print(f"{opt.result_file}: {counted(len(rows), 'row')}, {results.meaning(task.classes)}")
    return rows


@SetParseFn(str)
def generate(**flags: Any) -> list[str]:
    """Make images with a trained GAN: of many, those that its discriminator scores highest.

    The same seed gives the same files, byte for byte.

    Returns:
        A line for each file or folder written.

    Examples:
        python main.py generate --load-path=last
        python main.py generate --load-path=RUN --gen-num=64 --gen-search-num=512 --gen-img=result.png
        python main.py generate --load-path=RUN --gen-walk=walk.gif
    """
    opt, checkpoint = saved.load_saved("generate", flags)
    from engine.setup import load_task

    lines = load_task(opt, checkpoint).generate()
    for line in lines:
        print(line)
    return lines


@SetParseFn(str)
def explain(*images: Any, **flags: Any) -> list[tuple]:
    """Show where in images a classifier looks, by Grad-CAM: a picture for each image.

    It has the image as the net sees it, and heat maps for the predicted class and the one after it.

    Returns:
        For each image (its path, predicted class, its probability, the picture).

    Examples:
        python main.py explain --load-path=last data/test1
        python main.py explain --load-path=checkpoints/RUN cat.jpg dog.jpg --layer=layer3 --heatmap-folder=looks
    """
    opt, checkpoint = saved.load_saved("explain", flags)
    found, others = find_each(images, "explain", Path(opt.heatmap_folder))

    from analysis.explain import explain_images
    from engine.setup import load_task

    rows = explain_images(load_task(opt, checkpoint), found)
    if others:
        print(f"{counted(len(others), 'file')} left out as no images: {endings(others)}, as {printable(others[0])}")
    return rows


@SetParseFn(str)
def features(*images: Any, **flags: Any) -> Any:
    """Write what a layer gives for each image: an array (.npy), and which image each row is (.csv).

    Maps are averaged over their positions. The run folder gets a map of the rows in two dimensions, for `report`.

    Returns:
        The array, (N, D) float32, mapped from its file.

    Examples:
        python main.py features --load-path=last data/train
        python main.py features --load-path=checkpoints/RUN DIR --layer=layer3 --features-file=layer3.npy
    """
    opt, checkpoint = saved.load_saved("features", flags)
    found, others = find_each(images, "features")

    from analysis import features as of_layers
    from engine.setup import load_task

    metadata = checkpoint["metadata"]
    name = opt.dataset or metadata.get("config", {}).get("dataset")
    labels = of_layers.known_labels(name, Path(images[0]), metadata["classes"]) if len(images) == 1 else {}
    written = of_layers.write_features(load_task(opt.model_copy(update=of_layers.PLAIN), checkpoint), found, labels)
    for line in written.bad:
        print(f"no row: {line}")
    if others:
        print(f"{counted(len(others), 'file')} left out as no images: {endings(others)}, as {printable(others[0])}")
    count, size = written.values.shape
    rows = Path(opt.features_file).with_suffix(".csv")
    print(f"{opt.features_file}: {counted(count, 'row')} of {size} numbers, {written.source}; {rows}: their images")
    if path := of_layers.write_map(written, Path(opt.load_path)):
        print(f"{path}: their map in two dimensions; `report` draws it")
    return written.values


@SetParseFn(str)
def check(**flags: Any) -> list[str]:
    """Inspect a data set before training on it: unreadable and odd files, labels, duplicates, disk, one step.

    Exit code 1 where something would stop a run.

    Returns:
        What would stop a run, a line each.

    Examples:
        python main.py check --train-data-root=DIR
        python main.py check --config=demo
        python main.py check --config=demo --overfit
        python main.py check --config=demo --lr-find=lr_find.png
    """
    opt = resolve("check", flags)
    for_classifiers(opt, "overfit", "lr_find")
    if opt.lr_find:
        files.check_writable(opt.lr_find, "--lr-find")
    dataset = data.open(opt.dataset, opt.train_data_root)
    opt = opt.with_dataset_defaults(dataset)

    from engine.check import check_dataset, report_problems

    problems = check_dataset(opt, dataset)
    if opt.overfit and not problems:
        from analysis.overfit import overfit

        problems += overfit(opt, dataset)
    if opt.lr_find and not problems:
        from analysis.lr_find import find_lr

        problems += find_lr(opt, dataset, opt.lr_find)
    report_problems(problems)
    return problems


@SetParseFn(str)
def bench(**flags: Any) -> dict[str, float]:
    """Measure the speed of training here: the plain tutorial loop, this program, and the bare step, side by side.

    Returns:
        The ratios of this program's images a second to those of the others.

    Examples:
        python main.py bench --train-data-root=DIR
        python main.py bench --config=demo --batch-size=64
    """
    opt = resolve("bench", flags)
    dataset = data.open(opt.dataset, opt.train_data_root)
    opt = opt.with_dataset_defaults(dataset)

    from engine.bench import compare

    return compare(opt, dataset)


@SetParseFn(str)
def summary(**flags: Any) -> dict[str, Any]:
    """Show a net layer by layer, and what it costs: parameters, multiply-adds, the memory of a training step.

    Neither images nor a GPU are needed: the net is run without data.

    Returns:
        Parameters, multiply-adds of one image, and the bytes of a training step.

    Examples:
        python main.py summary --model=resnet18 --dataset=ImageNet
        python main.py summary --config=cifar10 --batch-size=128
        python main.py summary --load-path=last
    """
    opt = resolve("summary", flags)
    checkpoint: dict[str, Any] = {}
    if opt.load_path is not None:
        opt, checkpoint = saved.load_saved("summary", flags)

    from analysis import summary as report

    facts = report.facts_of_checkpoint(checkpoint["metadata"]) if checkpoint else report.facts_of_dataset(opt)
    return report.summarize(opt, facts)


@SetParseFn(str)
def runs(*words: Any, **flags: Any) -> list[dict[str, Any]]:
    """List all runs: how they stand, what they reached, where they differ; or compare some, with their curves.

    Finished runs that differ in the seed alone are one row: mean, standard deviation, count. Two such rows are told
    apart only where they differ by more than the noise of the seeds. Words name runs to compare: folders, their names
    in --checkpoint-dir, or last.

    Returns:
        A dict for each row.

    Examples:
        python main.py runs
        python main.py runs --where="lr<0.01" --sort=-val_accuracy
        python main.py runs --csv
        python main.py runs RUN1 RUN2 --curves-file=curves.png
    """
    opt = resolve("runs", flags)
    from runs import compare, layout, noise, selection, table

    compare.check_options(opt, words)
    found = compare.read(words, opt.checkpoint_dir) if words else table.read_all(opt.checkpoint_dir)
    rows = selection.chosen(table.grouped(found), opt.where, opt.sort)
    against = noise.against_first(rows) if words else noise.against_best(rows)
    records = compare.records(rows, against) if words else layout.records(rows, against)
    if opt.csv or opt.json:
        print(layout.to_csv(records) if opt.csv else layout.to_json(records))
    else:
        print((compare if words else layout).to_text(rows, against, layout.terminal_width()))
    if words and rows:
        from runs import curves

        for line in curves.draw(rows, opt):
            print(line, file=sys.stderr if opt.csv or opt.json else sys.stdout)
    return records


@SetParseFn(str)
def report(*folders: Any, **flags: Any) -> Path:
    """Write a page on one or more runs: one HTML file that needs nothing else, and no net.

    Names of run folders, paths, or last. Several runs are compared; those that differ in the seed alone are one line.

    Returns:
        The file.

    Examples:
        python main.py report last
        python main.py report RUN OTHER_RUN --report-file=compared.html
        python main.py report RUN --no-gallery
    """
    opt = resolve("report", flags)
    histories = history.find(folders, opt.checkpoint_dir)
    place = histories[0].folder if len(histories) == 1 else Path()
    path = Path(opt.report_file or place / "report.html")
    files.check_writable(path, "--report-file")

    files.check_writable(path.with_name("wrong_labels.csv"), "--report-file")

    from report import page, subject

    about = subject.make(histories, opt)
    text, count = page.build(about)
    with files.atomic_write(path) as file:
        file.write(text)
    if about.judged:
        from report import findings

        for line in findings.write(about.judged, path.parent):
            print(line)
    if about.why_not:
        print(f"without what shows single images: {about.why_not}")
    print(f"{printable(path)}: {len(text.encode()) / 1000:.0f} KB, {counted(count, 'section')}; open it in a browser")
    return path


@SetParseFn(str)
def replay(*folders: Any, **flags: Any) -> list[Path]:
    """Draw past runs again, from their folders, on a visdom page, in TensorBoard or by a sink of yours.

    Returns:
        The folders.

    Examples:
        python main.py replay last
        python main.py replay RUN OTHER_RUN --env=both
        python main.py replay last --to=tensorboard
    """
    opt = resolve("replay", flags)
    found = history.find(folders, opt.checkpoint_dir)
    from runs import replay

    for run in found:
        print(replay.draw(run, opt))
    return [run.folder for run in found]


@SetParseFn(str)
def help(*topics: str) -> None:  # noqa: A001 - the book's name for it
    """Explain the commands and options; `help NAME` explains one command, option, model, data set or preset.

    Examples:
        python main.py help
        python main.py help lr
        python main.py help ResNet34
    """
    print(help_pages.page(list(topics), COMMANDS))


COMMANDS = {
    "train": train,
    "val": val,
    "test": test,
    "generate": generate,
    "explain": explain,
    "features": features,
    "check": check,
    "bench": bench,
    "summary": summary,
    "runs": runs,
    "report": report,
    "replay": replay,
    "help": help,
}


def main() -> None:
    """Runs the command line, and exits: 0, 1 (a failure, or findings of `check`), 2 (wrong input), 128 + a signal."""
    with process.exit_codes():
        command, topics, flags = parsing.parse(sys.argv[1:], COMMANDS)
        words = [command, *topics, *(f"--{name}={text}" for name, text in flags.items())]
        result = fire.Fire(COMMANDS, command=words, name="main.py", serialize=lambda result: None)
        if command == "check" and result:
            sys.exit(1)


if __name__ == "__main__":
    main()
