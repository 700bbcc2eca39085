"""Options of the book, of the tutorials and of other programs that have another name here."""

from collections.abc import Collection

from utils.options import dashed

LR, ROOT = ("lr", "lr1", "lr2"), ("train_data_root", "test_data_root")

# {their name: ours}; of several, those that the command and the task read are named. Text is an answer by itself.
NAMES: dict[str, tuple[str, ...] | str] = {
    # the book, chapters 6 and 7
    "load_model_path": ("load_path",),
    "netg_path": ("load_path",),
    "netd_path": ("load_path",),
    "data_path": ROOT,
    "save_path": "generated images go into samples/ of the run folder, which --checkpoint-dir places",
    "plot_every": ("print_freq",),
    "decay_every": "each epoch is saved; --save-every saves within an epoch, by steps",
    "vis": "the visdom page is on by default; --vis-port=None turns it off",
    "gen_search": ("gen_search_num",),
    "debug": ("debug_file",),
    # PyTorch's examples and tutorials, timm, Keras, Lightning
    "learning_rate": LR,
    "lrate": LR,
    "lr_g": ("lr1",),
    "lr_d": ("lr2",),
    "epochs": ("max_epoch",),
    "epoch": ("max_epoch",),
    "n_epochs": ("max_epoch",),
    "num_epochs": ("max_epoch",),
    "niter": ("max_epoch",),
    "log_interval": ("print_freq",),
    "log_every_n_steps": ("print_freq",),
    "workers": ("num_workers",),
    "j": ("num_workers",),
    "data": ROOT,
    "data_root": ROOT,
    "data_dir": ROOT,
    "dataroot": ROOT,
    "root": ROOT,
    "bs": ("batch_size",),
    "b": ("batch_size",),
    "test_batch_size": ("batch_size",),
    "arch": ("model",),
    "net": ("model",),
    "optim": ("optimizer",),
    "opt": ("optimizer",),
    "wd": ("weight_decay",),
    "gamma": ("lr_decay",),
    "sched": ("scheduler",),
    "lr_scheduler": ("scheduler",),
    "img_size": ("image_size",),
    "input_size": ("image_size",),
    "manual_seed": ("seed",),
    "checkpoint": ("load_path",),
    "ckpt": ("load_path",),
    "ckpt_path": ("load_path",),
    "weights": ("load_path",),
    "save_dir": ("checkpoint_dir",),
    "output_dir": ("checkpoint_dir",),
    "log_dir": ("checkpoint_dir",),
    "out": ("result_file", "gen_img"),
    "grad_clip": ("clip_grad",),
    "smoothing": ("label_smoothing",),
    "fp16": ("amp",),
    "precision": ("amp",),
    "latent_dim": ("nz",),
    "num_threads": ("threads",),
    "num_classes": "the number of classes comes from the data set",
    "download": "data sets are downloaded by themselves where they are absent",
    "evaluate": "type the command instead: python main.py val --load-path=...",
    "save_model": "every epoch is saved by itself",
}
ON = {"cuda": True, "gpu": True, "no_cuda": False, "nogpu": False, "no_gpu": False, "cpu": False}


def answer(name: str, text: str, allowed: Collection[str]) -> str:
    """What to type for another program's `--name=text`: one clause, or "" where none of it is known or `allowed`."""
    name = name.replace("-", "_").lower()
    if name == "device" or name in ON:
        on = text.lower() != "cpu" if name == "device" else ON[name] == (text.lower() not in ("false", "0", "no"))
        return f"here it is --{'use-gpu' if on else 'no-use-gpu'}" if "use_gpu" in allowed else ""
    ours = NAMES.get(name, ())
    if isinstance(ours, str):
        return ours
    flags = [f"--{dashed(option)}" + (f"={text}" if text else "") for option in ours if option in allowed]
    return f"here it is {' or '.join(flags)}" if flags else ""
