"""The images that a net got most wrong."""

from analysis.judged import Judged


def worst(judged: Judged, count: int) -> list[int]:
    """Positions of up to `count` images that are predicted as another class, those of the highest loss first."""
    wrong = (judged.predicted != judged.labels.numpy()).nonzero()[0].tolist()
    return sorted(wrong, key=lambda i: -judged.losses[i])[:count]
