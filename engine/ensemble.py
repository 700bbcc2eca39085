"""Several nets that answer together, by the mean of their probabilities."""

from collections.abc import Iterable, Iterator, Sequence

import torch

from data.batch import Batch
from engine.tasks.base import Task
from engine.tasks.classify import Classify
from models.exported import logarithms
from utils.errors import UsageError


class Ensemble(Classify):
    """Classifiers that are evaluated, and predict, as one. Images are read once: as the first member's are.

    Args:
        members: tasks, each with its net. names: theirs, for errors.

    Raises:
        UsageError: two differ in their classes, or in how images are read.
    """

    def __init__(self, members: Sequence[Task], names: Sequence[str]) -> None:
        first = members[0]
        for member, name in zip(members, names, strict=True):
            if type(member).predict is Task.predict:
                raise UsageError(f"{name} is no classifier: its task is {type(member).__name__}")
            if member.classes != first.classes:
                raise UsageError(f"{name} has the classes {member.classes}, and {names[0]} {first.classes}")
            for fact in ("image_size", "interpolation", "crop_pct"):
                values = [getattr(task.preprocess, fact) for task in (member, first)]
                if values[0] != values[1]:
                    raise UsageError(
                        f"{name} reads images with {fact} {values[0]}, and {names[0]} with {values[1]}: an ensemble "
                        "reads each image once"
                    )
            if len(member.preprocess.mean) != len(first.preprocess.mean):
                raise UsageError(f"of {name} and {names[0]} one takes grey images, the other RGB")
        self.members = members
        super().__init__(first.net, first.classes, first.preprocess, first.device, first.opt)

    def predict(self, batches: Iterable[Batch]) -> Iterator[tuple[Batch, torch.Tensor]]:
        """Yields each batch with the logarithms of the mean probabilities, (N, K)."""
        for batch in batches:
            answers = [logits for member in self.members for _, logits in member.predict([batch])]
            yield batch, logarithms(torch.stack([logits.softmax(dim=1) for logits in answers]).mean(dim=0))
