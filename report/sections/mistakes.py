"""The images that the best epoch's net got most wrong."""

from analysis.judged import Judged
from report import gallery
from report.html import Markup, join, paragraph
from report.subject import Subject
from utils.text import counted

TITLE = "Worst mistakes"
SHOWN = 24  # images


def build(subject: Subject) -> Markup:
    judged = subject.judged
    if judged is None:
        return Markup()
    notes = [paragraph(note, "note") for note in judged.notes]
    wrong = int(judged.wrong.sum())
    if not wrong:
        told = f"Every one of {counted(len(judged), 'validation image')} is predicted as it is labelled."
        return join([*notes, paragraph(told)])
    shown = judged.worst(SHOWN)
    which = "these" if len(shown) == wrong else f"the {len(shown)} of the highest loss"
    told = f"{wrong} of {counted(len(judged), 'validation image')} are predicted as another class; {which}:"
    return join([*notes, paragraph(told), gallery.gallery(_figure(judged, index) for index in shown)])


def _figure(judged: Judged, index: int) -> Markup:
    label, guess = judged.items[index][1], int(judged.predicted[index])
    own, other = judged.probabilities[index, [label, guess]].tolist()
    lines = [
        gallery.short(judged.name(judged.items[index][0])),
        f"label {judged.classes[label]}, {gallery.percent(own)}",
        f"predicted {judged.classes[guess]}, {gallery.percent(other)}",
    ]
    return gallery.captioned(gallery.thumbnails(judged, [judged.items[index]]), lines)
