"""The processes that train one run together: which one this is, and what they send each other.

A process alone is a world of size 1, in which nothing below does anything, and torch.distributed is not imported. In a
larger one every process calls the same functions in the same order. engine/launch.py joins the processes.

What fails in one process ends all: it posts what happened, and the others, whose next message fails, read it there.
"""

import json
import os
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from utils.errors import RunError, Stopped, UsageError

if TYPE_CHECKING:
    import torch

POSTED = 1.0  # seconds within which a process that fails has said why, and
POSTED_ALL = 3.0  # within which those that miss another one have posted that they are here
ANSWERED = 3.0  # seconds that the store may take
PATIENT = 5.0  # seconds of waiting after which process 0 says so
FOREVER = timedelta(days=365)


class LostError(RunError):
    """A message did not come through, as another process has ended or hangs."""


ENDS: dict[str, type[BaseException]] = {kind.__name__: kind for kind in (UsageError, RunError, LostError, Stopped)}


@dataclass
class World:
    """What this process knows of all.

    Attributes:
        rank, local_rank: its number among all, and among those of its machine. size, local_size: how many there are.
        store: where each process can leave a text for the others.
        hosts: the name of each process's machine. makers: the first process of each process's machine.
        cores: processor cores that this process may use: its share of those of the machine; None: all.
        blocks: how often `one_a_machine_first` was entered.
        side_group: for long messages that go on beside short ones. works: those that are on their way.
        device_group: the group whose messages go from GPU to GPU; None: all goes through the CPU.
        first_is_lost: whether process 0 was found to be gone, or to hang.
        timeout: seconds after which a process that does not answer is given up.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    store: Any = None
    hosts: list[str] = field(default_factory=list)
    makers: list[int] = field(default_factory=list)
    cores: int | None = None
    blocks: int = 0
    side_group: Any = None
    works: list[Any] = field(default_factory=list)
    device_group: Any = None
    first_is_lost: bool = False
    timeout: float = 300.0

    @property
    def limit(self) -> timedelta:
        """After which a message has failed: later than a process says itself that its images are late."""
        return timedelta(seconds=self.timeout * 1.1 + 2)

    def name(self, rank: int) -> str:
        """A process in a message."""
        return f"process {rank}" + (f" on {self.hosts[rank]}" if len(set(self.hosts)) > 1 else "")


now = World()
stuck = False  # whether links to a process that hangs cannot be closed: then only the end of this process closes them


def is_first() -> bool:
    """Whether this process is the one that writes and speaks."""
    return now.rank == 0


def add_up(tensor: "torch.Tensor") -> None:
    """The tensor becomes, in place, the sum of those of all processes, bit for bit the same in each."""
    from torch import distributed as dist

    with _explained():
        dist.all_reduce(tensor, group=now.device_group if tensor.is_cuda else None)


def begin_to_add_up(tensor: "torch.Tensor") -> None:
    """`add_up` that goes on while the program does; `finish` waits for it."""
    from torch import distributed as dist

    group = now.device_group if tensor.is_cuda and now.device_group else now.side_group
    with _explained():
        now.works.append(dist.all_reduce(tensor, group=group, async_op=True))


def finish() -> None:
    """Waits for all that `begin_to_add_up` has begun."""
    with _explained():
        while now.works:
            now.works[0].wait()
            del now.works[0]


def from_each(tensor: "torch.Tensor") -> "torch.Tensor":
    """The tensors (n, ...) of all processes, of one shape and type, in the order of their ranks: (size, n, ...)."""
    from torch import distributed as dist

    everyone = tensor.new_empty((now.size, *tensor.shape))
    with _explained():
        group = now.device_group if tensor.is_cuda else None
        dist.all_gather_into_tensor(everyone.flatten(0, 1), tensor.contiguous(), group=group)
    return everyone


def objects_from_each(thing: Any) -> list[Any]:
    """What each process has, in the order of their ranks; plain values and tensors on the CPU."""
    if now.size == 1:
        return [thing]
    from torch import distributed as dist

    everyone: list[Any] = [None] * now.size
    with _explained():
        dist.all_gather_object(everyone, thing)
    return everyone


def gathered(rows: "list[torch.Tensor]", positions: "list[torch.Tensor]") -> "torch.Tensor":
    """The rows of all processes in the order of their `positions`, on the CPU; alone, the rows one after the other."""
    import torch

    if now.size == 1:
        return torch.cat(rows)
    parts = objects_from_each((torch.cat(rows).cpu(), torch.cat(positions)))
    order = torch.cat([part for _, part in parts]).argsort()
    return torch.cat([part for part, _ in parts])[order]


def same(thing: Any) -> Any:
    """What process 0 has, in all: so that two kinds of machine never decide differently."""
    if now.size == 1:
        return thing
    from torch import distributed as dist

    box = [thing]
    with _explained():
        dist.broadcast_object_list(box)
    return box[0]


def same_file(path: Path | None) -> Path | None:
    """Process 0's file, or where a machine has none of that name, a copy that is gone with the process."""
    path = same(path)
    if path is None or now.size == 1:
        return path
    here = path.is_file()
    if all(objects_from_each(here)):
        return path
    content = same(path.read_bytes() if is_first() else None)
    if here:
        return path
    folder = tempfile.TemporaryDirectory()
    _copies.append(folder)
    copy = Path(folder.name, path.name)
    copy.write_bytes(content)
    return copy


_copies: list[Any] = []  # folders that are removed with the process


def agree(trouble: BaseException | None, lines: list[str]) -> list[str]:
    """Called by all between two steps: raises the trouble that any has in all of them; returns the lines of all."""
    if now.size > 1:
        import torch

        something = torch.tensor([trouble is not None or bool(lines)], dtype=torch.int32)
        add_up(something)
        if something:
            told = objects_from_each((trouble and _described(trouble), lines))
            lines = [line for _, some in told for line in some]
            rank, first = next(((rank, one) for rank, (one, _) in enumerate(told) if one), (0, None))
            if first:
                raise _repeated(first, rank)
    if trouble:
        raise trouble
    return lines


@contextmanager
def one_a_machine_first() -> Iterator[None]:
    """One process of each machine does the block, which may make files, before the others of that machine do.

    The others wait as long as it takes, as a download may; process 0 says for whom.
    """
    if now.size == 1:
        yield
        return
    trouble: BaseException | None = None
    now.blocks += 1
    key = f"made/{now.blocks}"
    if now.local_rank:
        _wait_for(f"{key}/{now.makers[now.rank]}")
    try:
        yield
    except (UsageError, RunError) as e:
        trouble = e
    finally:
        post(f"{key}/{now.rank}", "")
    for maker in sorted(set(now.makers)):
        if now.rank == 0 and read(f"{key}/{maker}", PATIENT) is None:
            print(f"waiting for {now.name(maker)}, which prepares the data of its machine", flush=True)
        _wait_for(f"{key}/{maker}")
    agree(trouble, [])


@contextmanager
def only_first(key: str) -> Iterator[bool]:
    """Process 0 does the block, as long as it takes, and the others wait for it: `with only_first(...) as mine`."""
    try:
        yield is_first()
    finally:
        if now.size > 1:
            post(key, "") if is_first() else _wait_for(key)


def _wait_for(key: str) -> None:
    if now.store is not None:
        with suppress(RuntimeError):  # the store is gone: the next message says so
            now.store.wait([key], FOREVER)


def post(key: str, text: str) -> None:
    """Leaves a text for the others."""
    _ask(lambda store: store.set(key, text))


def read(key: str, seconds: float = 0) -> str | None:
    """The text that one has left, waiting so long for it; None where there is none, or the store does not answer."""
    end = time.monotonic() + seconds
    while now.store is not None:
        if _ask(lambda store: store.check([key])):
            text = _ask(lambda store: store.get(key))
            return None if text is None else text.decode()
        if time.monotonic() >= end:
            break
        time.sleep(0.02)
    return None


def _ask(question: Callable[[Any], Any]) -> Any:
    """What the store answers; None where it is gone, or on a machine that hangs: torch's own call has no time limit."""
    answers: list[Any] = []

    def ask() -> None:
        with suppress(RuntimeError):
            answers.append(question(now.store))

    if now.store is not None:
        thread = threading.Thread(target=ask, daemon=True)
        thread.start()
        thread.join(ANSWERED)
        if not answers:
            now.store = None
    return answers[0] if answers else None


def _described(e: BaseException) -> dict[str, Any]:
    return {"kind": type(e).__name__, "text": str(e), "code": getattr(e, "code", None)}


def post_end(e: BaseException | None) -> None:
    """Says to the others how this process ends."""
    post(f"end/{now.rank}", json.dumps(_described(e) if e else {}))


def end_of(rank: int, seconds: float = 0) -> dict[str, Any] | None:
    """How another process has ended: {} if well; None if it has not said so."""
    text = read(f"end/{rank}", seconds)
    return None if text is None else json.loads(text)


def _repeated(told: dict[str, Any], rank: int) -> BaseException:
    """The trouble of a process as one of this process's own."""
    kind, text = ENDS.get(told["kind"]), told["text"]
    if kind is LostError:  # which says already of whom
        return LostError(text)
    if kind is Stopped:
        error: BaseException = Stopped(text, told["code"])
    elif kind:
        error = kind(text if rank == now.rank else f"{now.name(rank)}: {text}")
    else:
        error = RunError(f"{now.name(rank)} failed: {told['kind']}: {text}")
    return error


@contextmanager
def _explained() -> Iterator[None]:
    """Turns the error of a message that did not come through into one line about whose end was the cause."""
    try:
        yield
    except RuntimeError as e:
        if "gloo" not in str(e) and type(e).__name__ not in ("DistBackendError", "DistNetworkError", "DistStoreError"):
            raise
        _explain(e)


def _explain(e: RuntimeError) -> NoReturn:
    here = {now.rank: "late" if "imed out" in str(e) else "cut off"}
    post(f"here/{now.rank}", here[now.rank])
    traceback.clear_frames(e.__traceback__)  # which hold the group open
    leave()  # by this hear those who have no link to the lost one
    start = time.monotonic()
    while True:
        for rank in range(now.size):
            if rank != now.rank and (told := end_of(rank)):
                error = _repeated(told, rank)
                raise (error if isinstance(error, Stopped) else LostError(str(error))) from e
            if rank not in here and (text := read(f"here/{rank}")) is not None:
                here[rank] = text
        silent = [rank for rank in range(now.size) if rank not in here] if now.store or now.rank == 0 else [0]
        if time.monotonic() > start + (POSTED if len(silent) == 1 else POSTED_ALL):
            break
        time.sleep(0.05)
    silent = silent or [rank for rank in here if rank != now.rank]
    now.first_is_lost, who, one = 0 in silent, listed(silent), len(silent) == 1
    if "late" in here.values():
        raise LostError(
            f"no answer from {who} for {now.timeout:g} s: {'it hangs' if one else 'they hang'}, or the link is down; "
            f"wait longer with --data-timeout={2 * now.timeout:g}"
        ) from e
    raise LostError(
        f"{who} {'is' if one else 'are'} gone without a word: killed, perhaps as the machine was out of memory"
    ) from e


def listed(ranks: list[int]) -> str:
    names = " and ".join(map(now.name, ranks[:3]))
    return names + (f" and {len(ranks) - 3} more" if len(ranks) > 3 else "")


def leave() -> None:
    """Closes the links to the others, whose messages to this process fail from now on."""
    from torch import distributed as dist

    def close() -> None:
        with suppress(RuntimeError):
            dist.destroy_process_group()

    global stuck
    now.works.clear()
    now.side_group = now.device_group = None  # a group that something holds stays open
    if dist.is_initialized():
        thread = threading.Thread(target=close, daemon=True)
        thread.start()
        thread.join(ANSWERED)
        stuck = thread.is_alive()


def alone() -> None:
    """Forgets the others, once they are left."""
    global now
    now = World()


def cores() -> int:
    """Processor cores that this process may use: its part of those of the machine."""
    if now.cores:
        return now.cores
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
