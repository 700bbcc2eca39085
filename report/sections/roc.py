"""ROC curves: how well the net ranks the images of a class before the others."""

from analysis.probabilities import Roc, roc
from engine import metrics
from report import charts
from report.html import Markup, figure
from report.subject import Subject

TITLE = "ROC"
SHOWN = 10  # curves


def build(subject: Subject) -> Markup:
    judged = subject.judged
    if judged is None:
        return Markup()
    curves = roc(judged.logits, judged.labels, SHOWN)
    if not curves:
        return Markup()
    classes = judged.classes
    area = metrics.roc_auc(judged.logits, judged.labels)
    if len(classes) == 2:
        told = f"Images ranked by the probability of {classes[1]}. Area under the curve (ROC AUC): {area:.4f}."
    else:
        worst = f", the {len(curves)} of the smallest areas" if len(curves) < len(classes) else ""
        told = f"Each class against the rest{worst}. Mean area under the curves of all classes (ROC AUC): {area:.4f}."
    axes = "false positive rate", "true positive rate"
    chart = charts.lines([_line(curve, classes[curve.label]) for curve in curves], *axes, diagonal=True)
    return figure(chart, told)


def _line(curve: Roc, name: str) -> charts.Line:
    text = f"{name}, area {curve.area:.4f}"
    return charts.Line(text, curve.false_positives.tolist(), curve.true_positives.tolist())
