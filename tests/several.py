"""Trainings in several processes, for tests: in float64, where sums in another order differ by 1e-16 and not by 1e-7.

    python tests/several.py FOLDER 1,2,3 WORDS ...     # `main.py train WORDS` with so many processes each

The runs come into FOLDER/1, FOLDER/2, ... The processes are forked, as the import of torch takes longer than such a
training. Prints nothing but what the trainings do.
"""

import os

os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")  # before torch is there

import socket  # noqa: E402
import sys  # noqa: E402
import traceback  # noqa: E402
from pathlib import Path  # noqa: E402

sys.path[:0] = [str(Path(__file__).resolve().parent.parent)]

import torch  # noqa: E402
import torchmetrics  # noqa: E402, F401 - here and below: what a training imports, once for all that are forked
from torch.distributed import nn  # noqa: E402, F401
from torchvision.transforms import v2  # noqa: E402, F401

import main  # noqa: E402
from data.transforms import Preprocess  # noqa: E402


def in_float64() -> None:
    """Everything that is float32 in a training is float64 from now on."""
    torch.set_default_dtype(torch.float64)
    torch.Tensor.float = torch.Tensor.double
    normalize = Preprocess.normalize
    Preprocess.normalize = lambda self, images: normalize(self, images).double()


def run(words: list[str], processes: int) -> list[int]:
    """Runs `main.py WORDS` in float64 in so many processes; returns their exit codes."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    own = {"WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    children = []
    for rank in range(processes):
        if (pid := os.fork()) == 0:
            in_float64()
            os.environ |= {name: str(value) for name, value in {**own, "RANK": rank, "LOCAL_RANK": rank}.items()}
            os._exit(code_of(["main.py", *words]))
        children.append(pid)
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]


def code_of(words: list[str]) -> int:
    sys.argv, code = words, 0
    try:
        main.main()
    except SystemExit as e:
        code = int(e.code or 0)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return code


if __name__ == "__main__":
    folder, counts, *words = sys.argv[1:]
    codes = [run(["train", *words, f"--checkpoint-dir={folder}/{n}"], int(n)) for n in counts.split(",")]
    sys.exit(max(code for some in codes for code in some))
