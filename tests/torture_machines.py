"""Trainings on two machines, which are network namespaces of this one (needs root and iproute2): prints a table.

    sudo python tests/torture_machines.py [--only=WORDS] [--times=1]

Each host knows itself alone, as 127.0.1.1, as Debian has it.
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import fire

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from data.demo import drawing  # noqa: E402
from utils import checkpoints  # noqa: E402

HOSTS = {"node0": "10.66.0.1", "node1": "10.66.0.2"}
FLAGS = ["--model=CifarNet", "--image-size=32", "--batch-size=16", "--num-workers=0", "--vis-port=None"]
FLAGS += ["--use-gpu=false", "--amp=off", "--print-freq=1", "--data-timeout=5"]


def shell(line: str) -> None:
    subprocess.run(line, shell=True, check=True)


@contextlib.contextmanager
def machines() -> Iterator[None]:
    """Two namespaces with a cable between them."""
    shell("ip link add to1 type veth peer name to0")
    for (name, address), link in zip(HOSTS.items(), ("to1", "to0"), strict=True):
        folder = Path("/etc/netns", name)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "hosts").write_text(f"127.0.0.1 localhost\n127.0.1.1 {name}\n")
        shell(f"ip netns add {name} && ip link set {link} netns {name}")
        shell(f"ip -n {name} address add {address}/24 dev {link} && ip -n {name} link set {link} up")
        shell(f"ip -n {name} link set lo up")
    try:
        yield
    finally:
        for name in HOSTS:
            shell(f"ip netns pids {name} | xargs -r kill -9; ip netns delete {name}; rm -r /etc/netns/{name}")


def link(state: str) -> None:
    shell(f"ip -n node1 link set to0 {state}")


class Machines:
    def __init__(self, folder: Path, images: Path) -> None:
        self.folder, self.images, self.rows = folder, images, 0

    def start(
        self, name: str, launcher: list[str], *flags: str, images: Path | None = None, **env: object
    ) -> subprocess.Popen:
        """The training on one machine, as a process group of its own."""
        words = ["ip", "netns", "exec", name, "unshare", "--uts", "sh", "-c", f'hostname {name}; exec "$@"', "sh"]
        words += [*launcher, str(ROOT / "main.py"), "train", *FLAGS, "--train-data-root=.", *flags]
        own = {"OMP_NUM_THREADS": 1, "TORCH_CPP_LOG_LEVEL": "FATAL", **env}
        return subprocess.Popen(
            words,
            env=os.environ | {key: str(value) for key, value in own.items()},
            cwd=images or self.images,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def both(self, *flags: str, **launch: str) -> list[subprocess.Popen]:
        return [
            self.start(name, torchrun(rank, **launch), *flags, f"--checkpoint-dir={self.runs(name)}")
            for rank, name in enumerate(HOSTS)
        ]

    def runs(self, name: str) -> Path:
        return self.folder / str(self.rows) / name

    def run(self, name: str = "node0") -> Path | None:
        found = [path for path in self.runs(name).glob("[!.]*") if path.is_dir()]
        return found[0] if found else None

    def wait_for_steps(self, count: int, name: str = "node0") -> None:
        end = time.monotonic() + 120
        while time.monotonic() < end and len(steps(self.run(name))) < count:
            time.sleep(0.1)

    def row(self, what: str, survived: bool, said: list[str], note: str = "") -> None:
        self.rows += 1
        print(f"{what:<46} {'survived' if survived else 'FAILED':<9} {note}", flush=True)
        if not survived:
            print(*(line for text in said for line in text.splitlines()[:12]), sep="\n", file=sys.stderr, flush=True)

    # ---- the rows

    def joins(self) -> None:
        """A host's own name stands for 127.0.1.1."""
        ways = {
            "torchrun, c10d": {"rdzv": "c10d"},
            "torchrun, --master-addr": {},
            "srun": {"srun": "yes"},
        }
        for way, launch in ways.items():
            if "srun" in launch:
                processes = [
                    self.start(name, [sys.executable], "--max-epoch=1", f"--checkpoint-dir={self.runs(name)}", **env)
                    for name, env in zip(HOSTS, map(slurm, range(2)), strict=True)
                ]
            else:
                processes = self.both("--max-epoch=1", **launch)
            said = ends(processes)
            ok = [p.returncode for p in processes] == [0, 0] and bool(self.run()) and not self.run("node1")
            self.row(f"joined by {way}", ok, said, "each machine has a folder of its own: node1's stays empty")

    def refuses(self) -> None:
        processes = self.both("--max-epoch=1", rdzv="c10d", local="")
        said = ends(processes[::-1], 40)[::-1]
        ok = "a name that node1 does not know" in said[1]
        self.row("an address that is none from elsewhere", ok, said, (told(said[1]) or ["nothing said"])[0][:150])
        other = self.folder / "other"
        shell(f"cp -r {self.images} {other} && truncate -s 5 {other}/cat.3.jpg")
        processes = [
            self.start(name, torchrun(rank), f"--checkpoint-dir={self.runs(name)}", images=images)
            for rank, (name, images) in enumerate(zip(HOSTS, (self.images, other), strict=True))
        ]
        said = ends(processes)
        lines = [line for text in said for line in told(text)]
        ok = len(lines) == 1 and "node1" in lines[0] and "cat.3.jpg" in lines[0]
        self.row("another image on one machine", ok, said, (lines or ["nothing said"])[0][:200])

    def cut_off(self) -> None:
        for seconds in (5, None):
            processes = self.both("--max-epoch=1000")
            self.wait_for_steps(5)
            begin = time.monotonic()
            link("down")
            if seconds:
                time.sleep(seconds)
                link("up")
                reached = len(steps(self.run()))
                time.sleep(15)
                goes_on = all(p.poll() is None for p in processes) and len(steps(self.run())) > reached
                for p in processes:
                    os.killpg(p.pid, signal.SIGTERM)
                said = ends(processes)
                lines = [line for text in said for line in told(text)]
                self.row("the link is down for 5 s", goes_on or len(lines) == 2, said, "goes on" if goes_on else "ends")
                continue
            said, seconds = ends(processes), time.monotonic() - begin
            link("up")
            lines = [told(text) for text in said]
            ok = all(len(some) == 1 for some in lines) and not self.run("node1")
            saved = checkpoints.read(checkpoints.saved_in(self.run())[0])["trainer"]["step"]
            self.row("the link is down for good", ok, said, f"{seconds:.0f} s; saved step {saved}; {lines}")

    def comes_and_goes(self) -> None:
        """The second machine comes later, and goes."""
        shared, launch = self.runs("node0"), {"rdzv": "c10d", "nnodes": "1:2"}
        flags = ["--max-epoch=60", f"--checkpoint-dir={shared}", "--save-every=1"]
        first = self.start("node0", torchrun(0, **launch), *flags)
        self.wait_for_steps(3)
        second = self.start("node1", torchrun(1, **launch), *flags)
        time.sleep(40)
        os.killpg(second.pid, signal.SIGKILL)
        shell("ip netns pids node1 | xargs -r kill -9")
        said = ends([first], 300)
        runs = [path for path in shared.iterdir() if path.name[0] != "."]
        numbers = steps(runs[0])
        events = [json.loads(line) for line in (runs[0] / "metrics.jsonl").read_text().splitlines()]
        worlds = [event["machine"]["processes"] for event in events if event["kind"] in ("start", "resume")]
        ok = first.returncode == 0 and len(runs) == 1 and numbers == list(range(1, len(numbers) + 1)) and 2 in worlds
        self.row("a machine comes, and is killed", ok, said, f"{len(numbers)} steps in one run, by {worlds} processes")


def torchrun(rank: int, rdzv: str = "", nnodes: str = "2", local: str | None = None) -> list[str]:
    words = [sys.executable, "-m", "torch.distributed.run", f"--nnodes={nnodes}", "--nproc-per-node=1"]
    if rdzv:
        address = list(HOSTS.values())[rank] if local is None else local
        words += [
            "--rdzv-backend=c10d",
            f"--rdzv-endpoint={HOSTS['node0']}:29400",
            "--rdzv-id=cats",
            "--max-restarts=3",
        ]
        words += [f"--rdzv-conf=is_host={'false' if rank else 'true'},keep_alive_interval=2,keep_alive_max_attempt=2"]
        return words + ([f"--local-addr={address}"] if address else [])
    return [*words, f"--node-rank={rank}", f"--master-addr={HOSTS['node0']}", "--master-port=29500"]


def slurm(rank: int) -> dict[str, object]:
    env = {"SLURM_STEP_NUM_TASKS": 2, "SLURM_STEP_TASKS_PER_NODE": "1(x2)", "SLURM_JOB_ID": 7, "SLURM_STEP_ID": 0}
    env |= {"SLURM_PROCID": rank, "SLURM_LOCALID": 0, "SLURM_NODEID": rank, "SLURM_STEP_NODELIST": "node[0-1]"}
    return env | {"MASTER_ADDR": HOSTS["node0"]}


def ends(processes: list[subprocess.Popen], seconds: float = 120) -> list[str]:
    """What they have said at their end; those that do not end are killed, and say so."""
    end, said = time.monotonic() + seconds, []
    for process in processes:
        try:
            said.append(process.communicate(timeout=max(end - time.monotonic(), 1))[0])
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            said.append(process.communicate()[0] + f"\nmain.py: not ended after {seconds} s\n")
    return said


def told(text: str) -> list[str]:
    """The lines by which this program says why it ends."""
    return re.findall(r"^main\.py: .*$", text, re.MULTILINE)


def steps(run: Path | None) -> list[int]:
    record = run / "metrics.jsonl" if run else None
    lines = record.read_text().splitlines() if record and record.exists() else []
    return [event["step"] for event in map(json.loads, lines) if event["kind"] == "step"]


def main(only: str = "", times: int = 1) -> None:
    with tempfile.TemporaryDirectory(prefix="machines") as folder, machines():
        drawing.write(Path(folder, "images"), train_per_class=40, test=1)
        all_rows = Machines(Path(folder), Path(folder, "images", "train"))
        for _ in range(times):
            for name in ("joins", "refuses", "cut_off", "comes_and_goes"):
                if only in name:
                    getattr(all_rows, name)()


if __name__ == "__main__":
    fire.Fire(main)
