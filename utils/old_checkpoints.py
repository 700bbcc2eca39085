"""Checkpoints of formats 1 and 2, which were flat, as format 3."""

from typing import Any

METADATA = ("model", "num_classes", "classes", "images", "preprocess", "machine", "config")
TRAINER = ("epoch", "step", "best_epoch", "warned")
RENAMED = {"averaged": "ema_updates", "learning": "learning_generator"}  # in the task's state


def converted(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """The checkpoint in format 3."""
    if checkpoint["format"] == 1 and "config" in checkpoint:
        checkpoint = _from_format_1(checkpoint)
    return _from_format_2(checkpoint) if checkpoint["format"] < 3 else checkpoint


def _from_format_1(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Format 1 was saved between epochs only, had torch's schedulers, and hashed names without sizes."""
    config, state = checkpoint["config"], checkpoint["scheduler"]
    lr = checkpoint["optimizer"]["param_groups"][0]["lr"]
    factor = lr / config["lr"] if config["scheduler"] == "plateau" else 1.0
    images = {"train": checkpoint["images"]["train"], "val": checkpoint["images"]["val"]}
    scheduler = {"previous_loss": state["previous_loss"], "factor": factor}
    return checkpoint | {"scheduler": scheduler, "images": images, "machine": {"threads": checkpoint["threads"]}}


def _from_format_2(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Format 2 had all in one dict."""
    metadata = {name: checkpoint[name] for name in METADATA if name in checkpoint}
    plain = {"format": 3, "metadata": metadata, "net": checkpoint["net"]}
    if "config" not in checkpoint:  # of BasicModule.save
        return plain
    trainer = {name: checkpoint[name] for name in TRAINER if name in checkpoint}
    gan = "generator_optimizer" in checkpoint
    metrics = {name: value for name, value in checkpoint["metrics"].items() if name != "score"}
    best = checkpoint.get("best_score", float("-inf"))
    known = best != float("-inf")
    trainer |= {
        "progress": checkpoint.get("now", {}),
        "metrics": metrics,
        "monitor": "distance" if gan else "accuracy",
        "best_value": (-best if gan else best) if known else None,
        # the loss of the best epoch is not known, unless it is the last: then equal ones do not replace it
        "best_loss": metrics.get("loss", 0.0) if trainer.get("best_epoch") == trainer.get("epoch") else 0.0,
    }
    if not known:
        trainer["best_loss"] = float("inf")
    others = {"format", "net", "metrics", "now", "best_score", "threads", "rng", *METADATA, *TRAINER}
    task = {RENAMED.get(name, name): value for name, value in checkpoint.items() if name not in others}
    config = checkpoint["config"]
    sizes = {name: config[name] for name in ("nz", "ngf", "ndf") if config.get(name) is not None}
    metadata |= {"task": "Gan" if gan else "Classify", "model_args": sizes}
    if metadata["num_classes"] is None:  # of a GAN
        metadata["num_classes"] = len(metadata["classes"])
    return plain | {"task": task, "trainer": trainer}
