"""The answers of a classifier for images as they come."""

import sys
from collections.abc import Iterator

from tqdm import tqdm

from data.batch import UNREADABLE
from data.stream import Stream
from engine.tasks.base import NonFiniteError, Task
from runs.predictions import Prediction
from utils.errors import UsageError
from utils.progress import Progress
from utils.text import printable


def predictions(task: Task, loader: Stream) -> Iterator[tuple[list[Prediction], int]]:
    """Yields, batch by batch, what is said of each image, and how many cannot be read; names these.

    Raises:
        UsageError: no image can be read, or there is none; the net gives NaN.
    """
    bar, good, last = Progress("labelling", None, file=sys.stderr), 0, ""
    try:
        for batch, logits in task.predict(loader):
            sources, unread = loader.take(batch), (batch.labels == UNREADABLE).tolist()
            odds, pixels = logits.double().softmax(dim=1).numpy(), batch.images.cpu().numpy()
            for last in batch.bad:
                tqdm.write(f"no row: {printable(last)}", file=sys.stderr)
            found = zip(sources, pixels, odds, unread, strict=True)
            kept = [Prediction(source, image, row) for source, image, row, bad in found if not bad]
            good += len(kept)
            yield kept, sum(unread)
            bar.update(len(sources))
    except NonFiniteError as e:
        raise UsageError(f"{task.opt.load_path}: {e}") from e
    finally:
        bar.close()
    if not good:
        raise UsageError(f"no image can be read: {last}" if last else "there is no image in what was named")
