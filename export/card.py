"""The model card, README.md, as the Hugging Face hub reads it: a YAML header, then what a reader wants to know."""

import math
from typing import Any

import yaml

LICENCE = "unknown  # to be filled in: of your weights, which may depend on the images' and the pretrained weights'"


def card(checkpoint: dict[str, Any], run: str, name: str, lines: list[str]) -> str:
    """The text of a card.

    Args:
        name: of the file. lines: what is known of it: how it is used, and how far it can be trusted.
    """
    metadata = checkpoint["metadata"]
    trainer, config = checkpoint.get("trainer", {}), metadata.get("config", {})
    metrics = trainer.get("metrics", {}).items()
    figures = {name: value for name, value in metrics if isinstance(value, (int, float)) and math.isfinite(value)}
    classifier = metadata.get("task", "Classify") != "Gan"
    task = "image-classification" if classifier else "unconditional-image-generation"
    dataset = str(config.get("dataset") or "unknown")
    header: dict[str, Any] = {
        "pipeline_tag": task,
        "library_name": "onnx" if name.endswith(".onnx") else "pytorch",
        "tags": [task, metadata["model"]],
    }
    if figures:
        results = [{"type": k, "value": round(v, 4)} for k, v in figures.items()]
        data = {"name": dataset, "type": "custom", "split": "validation"}
        one = {"task": {"type": task}, "dataset": data, "metrics": results}
        header["model-index"] = [{"name": metadata["model"], "results": [one]}]
    head = yaml.safe_dump(header, sort_keys=False, allow_unicode=True)
    images, preprocess = metadata.get("images", {}), metadata["preprocess"]
    table = [f"| {k} | {v:.4f} |" for k, v in figures.items()]
    mean, std = (", ".join(f"{value:.4f}" for value in preprocess[k]) for k in ("mean", "std"))
    side = preprocess["image_size"]
    read = f"{side} x {side} pixels, {preprocess.get('interpolation', 'bilinear')}, "
    read += f"the middle {preprocess.get('crop_pct', 1.0):.3g} of the shorter side, mean {mean}, std {std}"
    part = f"{images['train']} images, and {images['val']} for validation" if "train" in images else "unknown"
    facts = [
        f"- **Run**: {run}" + (f", epoch {trainer['epoch']}" if trainer.get("epoch") else ""),
        f"- **Data**: {dataset}: {part}",
        *([f"- **Classes**: {', '.join(metadata['classes'])}"] if classifier else []),
        f"- **Images**: {read}",
        *(f"- {line}" for line in lines),
    ]
    shown = ["", "## Figures", "", "Of the validation part.", "", "| metric | value |", "|---|---|", *table]
    text = [f"---\nlicense: {LICENCE}\n{head}---", "", f"# {metadata['model']}", "", *facts, *(shown if table else [])]
    return "\n".join([*text, "", "## Intended use and limits", "", "To be filled in.", ""])
