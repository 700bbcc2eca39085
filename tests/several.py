"""Trainings in several processes, for tests: in float64, where sums in another order differ by 1e-16 and not by 1e-7.

    python tests/several.py FOLDER PROCESSES WORDS ...     # the words of `main.py train`; prints nothing

The processes are forked, as the import of torch takes longer than such a training.
"""

import os

os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")  # before torch is there
import socket
import sys
import traceback
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent.parent)]

import torch  # noqa: E402

import main  # noqa: E402
from data.transforms import Preprocess  # noqa: E402


def in_float64() -> None:
    """Everything that is float32 in a training is float64 from now on."""
    torch.set_default_dtype(torch.float64)
    torch.Tensor.float = torch.Tensor.double
    normalize = Preprocess.normalize
    Preprocess.normalize = lambda self, images: normalize(self, images).double()


def run(words: list[str], processes: int) -> list[int]:
    """Runs `main.py WORDS` in so many processes; returns their exit codes, as a shell has them."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    children = []
    for rank in range(processes):
        if (pid := os.fork()) == 0:
            code = 1
            try:
                if processes > 1:
                    own = {"RANK": rank, "WORLD_SIZE": processes, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": processes}
                    own |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
                    os.environ |= {name: str(value) for name, value in own.items()}
                sys.argv = ["main.py", *words]
                main.main()
                code = 0
            except SystemExit as e:
                code = int(e.code or 0)
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        children.append(pid)
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]


if __name__ == "__main__":
    in_float64()
    sys.exit(max(run(sys.argv[2:], int(sys.argv[1])), key=abs))
