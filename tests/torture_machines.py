"""Trainings on two machines, which are network namespaces of this one: prints a table of what was tried, how often it
was tried and survived, and the seconds it took. Needs root and iproute2.

    python tests/torture_machines.py [--only=WORDS] [--times=1]

Each host knows its own name as 127.0.1.1, as Debian has it, and has a folder of its own.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import fire

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from data.demo import drawing  # noqa: E402
from utils import checkpoints  # noqa: E402

ADDRESSES = {"node0": "10.66.0.1", "node1": "10.66.0.2"}
FLAGS = ["--model=CifarNet", "--image-size=32", "--batch-size=16", "--num-workers=0", "--vis-port=None"]
FLAGS += ["--use-gpu=false", "--amp=off", "--print-freq=1", "--data-timeout=5", "--checkpoint-dir=runs"]
C10D = ["--nnodes=2", "--rdzv-backend=c10d", "--rdzv-endpoint=node0:29400", "--rdzv-id=cats"]
BY_ADDRESS = [*C10D, "--rdzv-endpoint=10.66.0.1:29400", "--rdzv-conf=is_host={is_host}"]
STATIC = ["--nnodes=2", "--node-rank={rank}", "--master-addr=node0", "--master-port=29500"]
ELASTIC = [*C10D, "--nnodes=1:2", "--max-restarts=3", "--rdzv-conf=keep_alive_interval=2,keep_alive_max_attempt=2"]
DRIFTING = """
import os
from models.cifarnet import CifarNet

class Drifting(CifarNet):
    def forward(self, x):
        if self.training and os.environ.get("GROUP_RANK") == "1":
            self.head.weight.data[0, 0] += 1e-6
        return super().forward(x)
"""
SLOW = """
import os, time
from pathlib import Path
from data.demo import Demo

class Slow(Demo):
    def __init__(self, *args, **kwargs):
        made = Path("made-" + os.environ["RANK"])
        if not list(Path().glob("made-*")):
            time.sleep(8 if os.environ["GROUP_RANK"] == "1" else 0)
            made.touch()
        super().__init__(*args, **kwargs)
"""


def shell(line: str) -> None:
    subprocess.run(line, shell=True, check=True)


def namespace(name: str) -> str:
    return f"{name}-{os.getpid()}"


@contextlib.contextmanager
def cable() -> Iterator[None]:
    """Two namespaces with a cable between them."""
    links = [f"v{number}-{os.getpid()}" for number in range(2)]
    try:
        shell(f"ip link add {links[0]} type veth peer name {links[1]}")
        for (name, address), link in zip(ADDRESSES.items(), links, strict=True):
            own = namespace(name)
            shell(f"ip netns add {own} && ip link set {link} netns {own} && ip -n {own} link set {link} name cable")
            shell(f"ip -n {own} address add {address}/24 dev cable && ip -n {own} link set cable up")
            shell(f"ip -n {own} link set lo up")
        hosts()
        yield
    finally:
        for name in map(namespace, ADDRESSES):
            kill(name)
            shell(f"ip netns delete {name}; rm -rf /etc/netns/{name}")


def hosts(others: bool = True) -> None:
    """What each host knows: its own name, and the other."""
    for name in ADDRESSES:
        folder = Path("/etc/netns", namespace(name))
        folder.mkdir(parents=True, exist_ok=True)
        known = [f"{address} {other}" for other, address in ADDRESSES.items() if other != name and others]
        (folder / "hosts").write_text("\n".join(["127.0.0.1 localhost", f"127.0.1.1 {name}", *known, ""]))


def link(state: str) -> None:
    shell(f"ip -n {namespace('node1')} link set cable {state}")


def kill(own: str) -> None:
    shell(f"ip netns pids {own} | xargs -r kill -9")


class Machines:
    """Two machines in `folder`, with copies of `images` (a folder of cats and dogs)."""

    def __init__(self, folder: Path, images: Path) -> None:
        self.folder, self.images = folder, images
        self.running: list[subprocess.Popen] = []
        for name in ADDRESSES:
            shutil.copytree(images, folder / name / "images")

    def start(self, name: str, words: list[str], *flags: str, processes: int = 1, **env: object) -> subprocess.Popen:
        """The training on one machine: by torchrun with these words, or without a launcher where there are none."""
        rank = list(ADDRESSES).index(name)
        own = [word.format(rank=rank, is_host=str(not rank).lower()) for word in words]
        launcher = ["-m", "torch.distributed.run", f"--nproc-per-node={processes}", *own] if words else []
        line = ["ip", "netns", "exec", namespace(name), "unshare", "--uts", "sh", "-c", f'hostname {name}; exec "$@"']
        given = dict(flag.split("=", 1) for flag in [*FLAGS, *flags])
        line += ["sh", sys.executable, *launcher, str(ROOT / "main.py"), "train"]
        line += [f"{flag}={value}" for flag, value in given.items()]
        with (self.folder / f"{name}.txt").open("w") as said:
            self.running.append(
                subprocess.Popen(
                    line,
                    env=os.environ | {"OMP_NUM_THREADS": "1"} | {key: str(value) for key, value in env.items()},
                    cwd=self.folder / name,
                    stdin=subprocess.DEVNULL,
                    stdout=said,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            )
        return self.running[-1]

    def both(self, words: list[str], *flags: str, processes: int = 1) -> None:
        for name in ADDRESSES:
            self.start(name, words, "--train-data-root=images", *flags, processes=processes)

    def codes(self, seconds: float = 150) -> list[int | str]:
        """How all have ended; those that do not in that time are killed."""
        end = time.monotonic() + seconds
        while any(process.poll() is None for process in self.running) and time.monotonic() < end:
            time.sleep(0.05)
        found = ["hangs" if process.poll() is None else process.returncode for process in self.running]
        for own in map(namespace, ADDRESSES):
            kill(own)
        return found

    def said(self, name: str) -> str:
        return (self.folder / f"{name}.txt").read_text(errors="replace")

    def told(self, name: str) -> list[str]:
        """The lines by which a machine's processes say why they end, and tracebacks that are not torchrun's own."""
        lines = r"^main\.py: .*$|^Traceback.*$(?!\n.*frozen runpy)"
        return re.findall(lines, self.said(name), re.MULTILINE)

    def run(self, name: str = "node0") -> Path | None:
        found = [path for path in (self.folder / name / "runs").glob("[!.]*") if path.is_dir()]
        return found[0] if found else None

    def events(self, *kinds: str) -> list[dict]:
        record = run / "metrics.jsonl" if (run := self.run()) else None
        lines = record.read_text().splitlines() if record and record.exists() else []
        with contextlib.suppress(ValueError):  # a line that is being written
            return [event for event in map(json.loads, lines) if event["kind"] in kinds]
        return []

    def steps(self) -> list[int]:
        return [event["step"] for event in self.events("step")]

    def wait(self, done: Callable[[], object], seconds: float = 150) -> bool:
        end = time.monotonic() + seconds
        while not done() and time.monotonic() < end and any(process.poll() is None for process in self.running):
            time.sleep(0.1)
        return bool(done())


# ---- what is tried: each says whether it survived, and what it saw


def joins(machines: Machines, words: list[str]) -> tuple[bool, str]:
    machines.both(words, "--max-epoch=1")
    codes = machines.codes()
    return codes == [0, 0] and bool(machines.run()) and not machines.run("node1"), f"codes {codes}"


def joins_by_srun(machines: Machines, **own: str) -> tuple[bool, str]:
    env = {"SLURM_STEP_NUM_TASKS": 2, "SLURM_STEP_TASKS_PER_NODE": "1(x2)", "SLURM_JOB_ID": 7, "SLURM_STEP_ID": 0}
    env |= {"SLURM_LOCALID": 0, "SLURM_STEP_NODELIST": "node[0-1]", **own}
    for rank, name in enumerate(ADDRESSES):
        machines.start(
            name, [], "--train-data-root=images", "--max-epoch=1", **env, SLURM_PROCID=rank, SLURM_NODEID=rank
        )
    codes = machines.codes()
    return codes == [0, 0] and bool(machines.run()) and not machines.run("node1"), f"codes {codes}"


def names_that_lead_nowhere(machines: Machines, words: list[str], others: bool) -> tuple[bool, str]:
    hosts(others)
    try:
        machines.both(words, "--max-epoch=1")
        machines.wait(lambda: machines.running[1].poll() is not None)
        codes = machines.codes(0)  # process 0 waits five minutes for the others
    finally:
        hosts()
    lines = machines.told("node1")
    return codes[1] == 1 and len(lines) == 1 and "--local-addr" in lines[0], str(lines)


def cut_off_for_a_while(machines: Machines) -> tuple[bool, str]:
    machines.both(STATIC, "--max-epoch=1000", "--data-timeout=30")
    machines.wait(lambda: len(machines.steps()) >= 5)
    link("down")
    time.sleep(5)
    link("up")
    count = len(machines.steps())
    goes_on = machines.wait(lambda: len(machines.steps()) > count + 3, 60)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(machines.running[0].pid, signal.SIGTERM)
    codes = machines.codes()
    return goes_on and "hangs" not in codes, f"goes on: {goes_on}"


def cut_off_for_good(machines: Machines) -> tuple[bool, str]:
    machines.both(STATIC, "--max-epoch=1000")
    machines.wait(lambda: len(machines.steps()) >= 5)
    begin = time.monotonic()
    link("down")
    try:
        ended = machines.wait(lambda: all(machines.told(name) for name in ADDRESSES), 60)
        seconds = time.monotonic() - begin
        codes = machines.codes(60)
    finally:
        link("up")
    lines, last = [machines.told(name) for name in ADDRESSES], machines.steps()[-1]
    saved = checkpoints.read(checkpoints.saved_in(machines.run())[0])["trainer"]["step"]
    ok = ended and [len(some) for some in lines] == [1, 1] and not machines.run("node1") and saved == last
    return ok and "hangs" not in codes, f"{seconds:.0f} s, all {last} steps saved; {lines}"


def other_files(machines: Machines) -> tuple[bool, str]:
    with (machines.folder / "node1" / "images" / "cat.3.jpg").open("ab") as file:
        file.write(b"more")
    machines.both(STATIC)
    codes = machines.codes()
    lines = [line for name in ADDRESSES for line in machines.told(name)]
    ok = len(lines) == 1 and "node1" in lines[0] and "cat.3.jpg" in lines[0] and 0 not in codes
    return ok and not machines.steps(), str(lines)


def weights_that_drift(machines: Machines) -> tuple[bool, str]:
    for name in ADDRESSES:
        (machines.folder / name / "drifting.py").write_text(DRIFTING)
    machines.both(STATIC, "--model=drifting.py:Drifting", "--max-epoch=3")
    codes = machines.codes()
    lines = [line for name in ADDRESSES for line in machines.told(name)]
    ok = len(lines) == 1 and "after epoch 1 the weights of process 1 on node1" in lines[0]
    return ok and 0 not in codes, str(lines)


def comes_and_goes(machines: Machines) -> tuple[bool, str]:
    """The run folder is shared."""
    (machines.folder / "node0" / "runs").mkdir()
    (machines.folder / "node1" / "runs").symlink_to(machines.folder / "node0" / "runs")
    flags = ["--train-data-root=images", "--max-epoch=1000", "--save-every=1"]
    own = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": 1}  # else a machine that comes later is not told of MASTER_ADDR
    machines.start("node0", ELASTIC, *flags, **own)
    machines.wait(lambda: len(machines.steps()) >= 3)
    machines.start("node1", ELASTIC, *flags, **own)
    machines.wait(lambda: worlds(machines)[-1:] == [2])
    count = len(machines.steps())
    machines.wait(lambda: len(machines.steps()) > count + 3)
    kill(namespace("node1"))
    machines.wait(lambda: worlds(machines)[-1:] == [1] and len(worlds(machines)) > 2)
    count = len(machines.steps())
    machines.wait(lambda: len(machines.steps()) > count + 3)
    (machines.run() / "STOP").touch()
    codes, numbers = machines.codes(60), machines.steps()
    runs = [path for path in (machines.folder / "node0" / "runs").glob("[!.]*") if path.is_dir()]
    ok = worlds(machines) == [1, 2, 1] and len(runs) == 1 and numbers == list(range(1, len(numbers) + 1))
    return ok and codes[0] == 0, f"{len(numbers)} steps in {len(runs)} run, by {worlds(machines)} processes"


def worlds(machines: Machines) -> list[int]:
    return [event["machine"].get("processes", 1) for event in machines.events("start", "resume")]


def no_shared_folder(machines: Machines) -> tuple[bool, str]:
    """Two processes on each machine; the second machine takes longer to make its images."""
    for name in ADDRESSES:
        (machines.folder / name / "slow.py").write_text(SLOW)
    flags = ["--dataset=slow.py:Slow", "--train-data-root=data/demo/train", "--cache=disk", "--batch-size=256"]
    machines.both(STATIC, *flags, "--max-epoch=1", processes=2)
    codes = machines.codes(300)
    made = [sorted(path.name for path in (machines.folder / name).glob("made-*")) for name in ADDRESSES]
    cached = [len(list((machines.folder / name).glob("data/cache/*.npy"))) for name in ADDRESSES]
    waited = "waiting for process 2 on node1, which prepares the data" in machines.said("node0")
    ok = codes == [0, 0] and waited and made == [["made-0"], ["made-2"]] and cached == [2, 2]
    return ok and not machines.run("node1"), f"codes {codes}; {made}; {cached} files of --cache=disk"


TRIED: dict[str, Callable[[Machines], tuple[bool, str]]] = {
    "joins: torchrun, c10d at a name": lambda machines: joins(machines, C10D),
    "joins: torchrun, c10d at an address": lambda machines: joins(machines, BY_ADDRESS),
    "joins: torchrun, static": lambda machines: joins(machines, STATIC),
    "joins: srun": joins_by_srun,
    "joins: srun, MASTER_ADDR": lambda machines: joins_by_srun(machines, MASTER_ADDR=ADDRESSES["node0"]),
    "refuses: a loopback address": lambda machines: names_that_lead_nowhere(
        machines, [*C10D, "--local-addr=127.0.0.1"], True
    ),
    "refuses: a name that is unknown": lambda machines: names_that_lead_nowhere(machines, BY_ADDRESS, False),
    "refuses: another image on one machine": other_files,
    "ends: weights that drift apart": weights_that_drift,
    "link: down for 5 s": cut_off_for_a_while,
    "link: down for good": cut_off_for_good,
    "elastic: a machine comes, and is killed": comes_and_goes,
    "data: no shared folder": no_shared_folder,
}


def main(only: str = "", times: int = 1) -> None:
    print(f"{'tried':<42} tried  survived  seconds")
    failed = False
    with tempfile.TemporaryDirectory() as folder, cable():
        images = Path(folder, "train")
        drawing.write(Path(folder), train_per_class=40, test=1)
        for title, attempt in TRIED.items():
            if only not in title:
                continue
            survived, seconds = 0, []
            for number in range(times):
                machines = Machines(Path(folder, f"{title[:4]}{number}"), images)
                begin = time.monotonic()
                ok, note = attempt(machines)
                seconds.append(time.monotonic() - begin)
                survived += ok
                print(f"    {note}", file=sys.stderr)
                if not ok:
                    print(*map(machines.said, ADDRESSES), sep="\n---- the other machine\n", file=sys.stderr)
                shutil.rmtree(machines.folder)
            failed |= survived < times
            print(f"{title:<42} {times:>5}  {survived:>8}  {statistics.median(seconds):>7.0f}", flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    fire.Fire(main)
