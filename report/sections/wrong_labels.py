"""Validation images whose label is probably wrong."""

from analysis.judged import Judged
from analysis.wrong_labels import Suspect
from report import gallery
from report.findings import CSV
from report.html import Markup, join, paragraph
from report.subject import Subject
from utils.text import counted

TITLE = "Labels that may be wrong"
SHOWN = 20  # images


def build(subject: Subject) -> Markup:
    judged = subject.judged
    if judged is None:
        return Markup()
    suspects = judged.suspects
    if not suspects:
        return paragraph(f"No label looks wrong among {counted(len(judged), 'validation image')}.")
    told = (
        f"{len(suspects)} of {counted(len(judged), 'validation image')} look as if they belonged to another class, by "
        f"confident learning (arXiv:1911.00068); all are in {CSV}. Look before you change a label: a hard image looks "
        f"like this as well, and the net is right on {judged.accuracy:.1%}: the lower that is, the more of these are "
        "its own mistakes."
    )
    shown = gallery.gallery(_figure(judged, suspect) for suspect in suspects[:SHOWN])
    left = len(suspects) - SHOWN
    return join([paragraph(told), shown, paragraph(f"{left} more are in {CSV}.", "note") if left > 0 else Markup()])


def _figure(judged: Judged, suspect: Suspect) -> Markup:
    item = judged.items[suspect.index]
    own, other = judged.probabilities[suspect.index, [item[1], suspect.suggested]].tolist()
    lines = [
        gallery.short(judged.name(item[0])),
        f"label {judged.classes[item[1]]}, {gallery.percent(own)}",
        f"rather {judged.classes[suspect.suggested]}, {gallery.percent(other)}",
    ]
    return gallery.captioned(gallery.thumbnails(judged, [item]), lines)
