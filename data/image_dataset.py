"""Reads single images."""

import random
from collections import defaultdict
from functools import cached_property

from torch.utils.data import Dataset

from data.batch import UNREADABLE, Sample
from data.image_data import ImageData, Items
from data.sampler import Key
from data.transforms import Preprocess
from utils.errors import UsageError

REMEDY = "--on-bad-image=skip takes another of its class; `python main.py check` lists all such images"
TEST_REMEDY = "--on-bad-image=skip leaves out the rows of such images, --on-bad-image=fill gives them equal odds"
TRIES = 20  # images of the same class that are tried if one cannot be read


class ImageDataset(Dataset):
    """Reads the images of `items`: a random crop, or the middle square.

    Args:
        crop: take random crops.
        on_bad: an image that cannot be read: "fail", "skip": take another one of the same class, "blank": give
            black pixels, labelled UNREADABLE.
        dataset: where `items` come from; None: they are image files.
    """

    def __init__(
        self,
        items: Items,
        preprocess: Preprocess,
        seed: int,
        crop: bool,
        on_bad: str,
        dataset: ImageData | None = None,
    ) -> None:
        self.items, self.preprocess, self.seed, self.crop = items, preprocess, seed, crop
        self.on_bad, self.dataset = on_bad, dataset

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, key: Key) -> Sample | UsageError:
        """Returns ((S, S, C) uint8, label, key, errors of the images that it replaces).

        An error is returned, not raised: a worker would wrap it in a traceback.
        """
        epoch, index, draw = key
        words, label = f"{self.seed}/{epoch}/{draw}", self.items[index][1]
        bad: list[str] = []
        others = random.Random(words)
        while True:
            path = self.items[index][0]
            try:
                source = path if self.dataset is None else self.dataset.load(path)
                image = self.preprocess.train(source, words) if self.crop else self.preprocess.eval(source)
                return image, label, (epoch, index, draw), bad
            except UsageError as e:
                if self.on_bad == "fail":
                    return UsageError(f"{e}. {REMEDY if label >= 0 else TEST_REMEDY}")
                bad.append(str(e))
                if self.on_bad == "blank":
                    return self.preprocess.blank(), UNREADABLE, key, bad
                if len(bad) > TRIES:
                    return UsageError(f"{len(bad)} images of one class cannot be read, the last: {e}")
                index = others.choice(self._of_class[label])

    @cached_property
    def _of_class(self) -> dict[int, list[int]]:
        indices = defaultdict(list)
        for index, (_, label) in enumerate(self.items):
            indices[label].append(index)
        return indices
