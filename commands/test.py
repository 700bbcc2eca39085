"""The command `test`."""

from typing import Any

from fire.decorators import SetParseFn

from data.listing import endings, find_unlabelled
from engine import saved
from utils.text import counted, printable


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
