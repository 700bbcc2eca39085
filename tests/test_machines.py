"""Several machines, which are processes of this one with names and folders of their own."""

import os
import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from several import at_step, train
from test_processes import apart, images, numbers  # noqa: F401
from test_together import told

from data import cache
from data.demo import drawing
from engine import addresses
from utils import world
from utils.errors import UsageError
from utils.launchers import Place, place

SMALL = ["--model=DigitNet", "--image-size=16", "--max-epoch=2"]


def on_machines(folder: Path, each: int = 1, more: Callable[[int], object] = int) -> Callable[[int], None]:
    """For `before`: so many processes on each of several machines, whose folders are FOLDER/node0, FOLDER/node1, ..."""

    def before(rank: int) -> None:
        machine, local_rank = divmod(rank, each)
        own = {"GROUP_RANK": machine, "LOCAL_RANK": local_rank, "LOCAL_WORLD_SIZE": each}
        os.environ |= {name: str(value) for name, value in own.items()}
        socket.gethostname = lambda: f"node{machine}"
        home = folder / f"node{machine}"
        home.mkdir(exist_ok=True)
        os.chdir(home)
        more(rank)

    return before


@pytest.fixture
def nodes(images, tmp_path) -> Path:  # noqa: F811
    """Two folders node0 and node1 with a copy of the images each."""
    for name in ("node0", "node1"):
        shutil.copytree(images, tmp_path / name / "images")
    return tmp_path


@pytest.mark.parametrize("how", ["differs", "is missing", "is only there"])
def test_a_machine_with_other_files_is_refused(how, nodes):
    path = nodes / "node1" / "images" / "cat.7.jpg"
    if how == "differs":
        path.write_bytes(path.read_bytes() + b"more")
    else:
        (path if how == "is missing" else nodes / "node0" / "images" / "cat.7.jpg").unlink()
    done = train(nodes / "runs", 2, "--train-data-root=images", *SMALL, before=on_machines(nodes))
    assert done.codes == [2, 2] and not list((nodes / "runs").glob("*")), str(done)
    assert told(done).count("\n") == 1, str(done)
    assert "process 1 on node1 has other" in told(done) and f"cat.7.jpg {how}" in told(done), str(done)


def test_weights_that_drift_apart_are_named(nodes):
    def damage(trainer):
        with torch.no_grad():
            next(trainer.task.net.parameters()).add_(1e-12)

    before = on_machines(nodes, more=at_step(3, 1, damage))
    done = train(nodes / "runs", 2, "--train-data-root=images", *SMALL, before=before)
    assert done.codes == [1, 1], str(done)
    assert "after epoch 1 the weights of process 1 on node1 are not those of process 0" in told(done), str(done)
    assert told(done).count("not those of process 0") == 1


def test_without_a_shared_folder_each_machine_makes_its_data_once(tmp_path):
    def count(rank: int) -> None:
        def noted(name: str, function: Callable) -> Callable:
            def called(*args: object) -> None:
                if name == "drawn" and rank == 2:
                    time.sleep(1)
                Path(f"{name}-{rank}").touch()
                function(*args)

            return called

        world.PATIENT = 0.3
        drawing.write = noted("drawn", lambda folder, write=drawing.write: write(folder, train_per_class=16, test=1))
        cache._write = noted("cached", cache._write)

    flags = ["--dataset=Demo", "--train-data-root=data/demo/train", "--cache=disk", *SMALL]
    done = train(tmp_path / "runs", 4, *flags, before=on_machines(tmp_path, 2, count))
    assert done.codes == [0, 0, 0, 0], str(done)
    made = [sorted(path.name for path in tmp_path.glob(f"node{machine}/*-*")) for machine in (0, 1)]
    assert made == [["cached-0", "drawn-0"], ["cached-2", "drawn-2"]]
    assert "waiting for process 2 on node1, which prepares the data of its machine\n" in done.out[0]
    assert not any(done.out[1:]) and not (tmp_path / "node1" / "runs").exists()


# ---- where process 0 is


def spot(address: str, port: int, machine: int = 1) -> Place:
    return Place(rank=1, size=2, local_rank=0, local_size=1, machine=machine, address=address, port=port)


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.1.1", "localhost"])
def test_an_address_that_leads_back_is_refused_unless_process_0_is_there(address, monkeypatch):
    monkeypatch.setattr(addresses, "NAMED", 0.2)
    with socket.create_server(("", 0)) as listener:
        port = listener.getsockname()[1]
        addresses.check_address(spot(address, port))
    with pytest.raises(UsageError, match=f"{address}, which on .* is this machine itself: .* --local-addr=ADDRESS"):
        addresses.check_address(spot(address, port))
    addresses.check_address(spot(address, port, machine=0))


def test_a_name_that_is_not_known_is_refused(monkeypatch):
    def unknown(*args: object) -> list:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(addresses, "NAMED", 0.1)
    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(UsageError, match="process 0 is to be at node0, a name that .* does not know: "):
        addresses.check_address(spot("node0", 29500))


# ---- SLURM


def slurm(rank: int) -> dict[str, str]:
    """What srun tells each of two tasks, one a node."""
    step = {"STEP_NUM_TASKS": 2, "STEP_TASKS_PER_NODE": "1(x2)", "STEP_NODELIST": "node[0-1]", "STEP_ID": 0}
    own = {"JOB_ID": 7, "PROCID": rank, "LOCALID": 0, "NODEID": rank}
    return {f"SLURM_{name}": str(value) for name, value in (step | own).items()}


@pytest.mark.parametrize(
    ("tasks", "nodes", "first", "sizes"),
    [
        ("1(x2)", "node[0-1]", "node0", [1, 1]),
        ("2(x2),1", "gpu[03-05,9]", "gpu03", [2, 2, 1]),
        ("4", "alpha,beta[1-2]", "alpha", [4]),
    ],
)
def test_what_srun_says_of_a_place(tasks, nodes, first, sizes):
    for machine, size in enumerate(sizes):
        env = slurm(1) | {"SLURM_STEP_TASKS_PER_NODE": tasks, "SLURM_STEP_NODELIST": nodes}
        found = place(env | {"SLURM_NODEID": str(machine)})
        assert (found.address, found.local_size, found.machine, found.port) == (first, size, machine, 20_007)
    assert place({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "2"}) is None  # sbatch's own shell


def test_a_job_that_is_queued_again_goes_on_with_its_run(images, tmp_path):  # noqa: F811
    def by_srun(restarts: int, more: Callable[[int], object] = int) -> Callable[[int], None]:
        def before(rank: int) -> None:
            for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
                del os.environ[name]
            os.environ |= slurm(rank) | {"SLURM_RESTART_COUNT": str(restarts)}
            more(rank)

        return before

    flags = [f"--train-data-root={images}", *SMALL]
    whole = train(tmp_path / "whole", 1, *flags)
    stopped = train(tmp_path / "runs", 2, *flags, before=by_srun(0, at_step(6, 1, terminate)))
    assert stopped.codes == [143, 143] and told(stopped).count("stopped by SIGTERM at step 6") == 1, str(stopped)
    again = train(tmp_path / "runs", 2, *flags, before=by_srun(1))
    assert again.codes == [0, 0] and "resuming from" in again.out[0], str(again)
    assert apart(numbers(whole.run), numbers(again.run)) < 1e-9


def terminate(trainer: object) -> None:
    os.kill(os.getpid(), 15)
