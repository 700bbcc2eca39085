"""What looking at single images found: for the terminal, and as files to act on."""

from pathlib import Path

from analysis import wrong_labels
from analysis.judged import Judged
from analysis.near_duplicates import Pair
from utils.text import counted, printable

CSV = "wrong_labels.csv"


def write(judged: Judged, folder: Path) -> list[str]:
    """Writes what was found into `folder`; returns a few lines on it."""
    path, suspects = folder / CSV, judged.suspects
    wrong_labels.write(path, judged, suspects)
    images = counted(len(judged), "validation image")
    net = f"a net of {judged.accuracy:.1%} accuracy"
    labels = f"{len(suspects)} of {images} may be labelled wrongly, says {net}: {printable(path)}"
    return [*judged.notes, labels if suspects else f"no label looks wrong among {images}", copies(judged)]


def copies(judged: Judged) -> str:
    """How many validation images are copies of a training image, in one line."""
    found = judged.duplicates
    pairs, two = found.pairs, sum(differs(judged, pair) for pair in found.pairs)
    val, train = _part(found.val, len(judged), "validation"), _part(found.train, len(judged.train_items), "training")
    if not pairs:
        return f"no copies of an image in both parts: {val} compared with {train}"
    labels = f", {two} under another label" if two else ""
    return f"{len(pairs)} of {val} nearly equal one of {train}{labels}"


def differs(judged: Judged, pair: Pair) -> bool:
    """Whether the two images have two labels."""
    return judged.items[pair.val][1] != judged.train_items[pair.train][1]


def _part(compared: int, there: int, part: str) -> str:
    """The images compared, and of how many where not all were."""
    images = counted(compared, f"{part} image")
    return images if compared == there else f"{images} (of {there})"
