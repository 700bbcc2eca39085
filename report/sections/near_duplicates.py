"""Validation images that are copies of a training image."""

from analysis.judged import Judged
from analysis.near_duplicates import Pair
from report import findings, gallery
from report.html import Markup, join, paragraph
from report.subject import Subject

TITLE = "Copies in both parts"
SHOWN = 12  # pairs


def build(subject: Subject) -> Markup:
    judged = subject.judged
    if judged is None:
        return Markup()
    pairs = judged.duplicates.pairs
    told = [paragraph(f"{findings.copies(judged)}.")]
    if not pairs:
        return join(told)
    told.append(paragraph("Accuracy flatters where a net has seen the image: keep such images in one part."))
    by_label = sorted(pairs, key=lambda pair: not findings.differs(judged, pair))  # two labels first
    shown = gallery.gallery(_figure(judged, pair) for pair in by_label[:SHOWN])
    left = len(pairs) - SHOWN
    return join([*told, shown, paragraph(f"{left} more are left out.", "note") if left > 0 else Markup()])


def _figure(judged: Judged, pair: Pair) -> Markup:
    items = [judged.items[pair.val], judged.train_items[pair.train]]
    lines = [
        f"{part} {gallery.short(judged.name(path))}, {judged.classes[label]}"
        for part, (path, label) in zip(("validation:", "training:"), items, strict=True)
    ]
    lines += ["two labels: one is wrong"] if findings.differs(judged, pair) else []
    return gallery.captioned(gallery.thumbnails(judged, items), lines)
