"""How far the net's probabilities can be trusted."""

from analysis.probabilities import reliability
from report import charts
from report.html import Markup, details, figure, join, table
from report.subject import Subject

TITLE = "Reliability"


def build(subject: Subject) -> Markup:
    judged = subject.judged
    if judged is None:
        return Markup()
    found = reliability(judged.logits, judged.labels)
    line = charts.Line("accuracy", found.confidence.tolist(), found.accuracy.tolist())
    chart = charts.lines([line], "confidence: probability of the predicted class", "accuracy", diagonal=True)
    told = (
        "Validation images in 15 bins of confidence. Below the diagonal the net is too sure, above it not sure enough. "
        f"Calibration error (mean distance from the diagonal): {found.error:.4f}."
    )
    rows = [
        [f"{confidence:.1%}", f"{accuracy:.1%}", int(count)]
        for confidence, accuracy, count in zip(found.confidence, found.accuracy, found.count, strict=True)
    ]
    bins = details("The bins", table(["mean confidence", "accuracy", "images"], rows))
    return join([figure(chart, told), bins])
