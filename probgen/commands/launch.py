"""From one process to several: Lightning Fabric starts them, or torchrun already has, and they meet here.

The first process does alone whatever needs no other: it finds what is wrong with the input, holds the run directory,
reads the checkpoint. Then the others are started with the same command line, and told the rest.
"""

import logging
import os
import signal
import subprocess
import threading
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch

from probgen.errors import UserError
from probgen.inference.adversarial.checks import check_shares
from probgen.inference.precision import check_precision
from probgen.inference.processes import ALONE, Group, Processes
from probgen.models.contracts import Kind, kind_of
from probgen.runs import RunConfig

SECONDS_TO_LEAVE = 30  # for a process whose work is done
PARENT = "PROBGEN_PARENT"  # in the environment: the process that started this one
SIGNALS = {signal.SIGINT, signal.SIGTERM}
LAUNCHER = {"LOCAL_RANK", "LOCAL_WORLD_SIZE", "WORLD_SIZE"}  # variables that torchrun sets, and Fabric
BY_HAND = {"MASTER_ADDR", "MASTER_PORT", "NODE_RANK"}  # those with which each host is started by hand
MOST_PROCESSES = 10**6


def given_by_launcher(given: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that were given, and those that follow from how this process was started, by torchrun say.

    Raises UserError where the two differ, or a launcher's variable has a value that it cannot have.
    """
    if not os.environ.keys() >= LAUNCHER:
        return dict(given)
    devices, world = (from_environment(name, 1, MOST_PROCESSES) for name in ("LOCAL_WORLD_SIZE", "WORLD_SIZE"))
    if world % devices:
        raise UserError(f"WORLD_SIZE={world} came, expected a multiple of LOCAL_WORLD_SIZE, which is {devices}")
    for name, most in (("LOCAL_RANK", devices - 1), ("RANK", world - 1)):
        from_environment(name, 0, most)
    known = {"devices": devices, "num_nodes": world // devices}
    for name, value in known.items():
        if given.get(name, value) != value:
            flag = "--" + name.replace("_", "-")
            raise UserError(f"{flag} {given[name]} came, but this process was started as one of {flag} {value}")
    return {**given, **known}


def from_environment(name: str, least: int, most: int) -> int:
    """A number that a launcher has put into the environment, 0 without one. Raises UserError for anything else."""
    text = os.environ.get(name, "0")
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and least <= int(text) <= most):
        raise UserError(f"{name}={text} came in the environment, expected a whole number, {least} to {most}")
    return int(text)


def is_first(given: Mapping[str, Any]) -> bool:
    """Whether this is the run's first process, which writes and tells; the others only train."""
    if given.get("devices", 1) * given.get("num_nodes", 1) == 1:
        return True
    return not any(from_environment(name, 0, MOST_PROCESSES) for name in ("RANK", "NODE_RANK", "LOCAL_RANK"))


def check_launch(config: RunConfig, pair: Any, num_images: int, device: torch.device) -> None:
    """Raise UserError for a run that cannot be shared among so many processes, or on these devices."""
    world, implicit = config.num_processes, kind_of(pair) is Kind.IMPLICIT
    if not implicit:
        check_precision(pair, config.precision, device)
    many = f"--devices {config.devices}" + (f" --num-nodes {config.num_nodes}" if config.num_nodes > 1 else "")
    if getattr(pair, "estimator", None) == "closed-form":
        check_stepless(config, many)
    if world == 1 and config.strategy != "auto":
        raise UserError(f"--strategy {config.strategy} came, but one device is one process: leave it out")
    if world == 1:
        return
    if (most := min(config.batch_size, num_images)) < world:
        raise UserError(f"{many} came with batches of {most} images, expected one or more for each of {world} devices")
    if implicit:
        check_shares(pair, most, world)
    check_hosts(config.devices, config.num_nodes)
    if device.type == "cuda" and (device.index is not None or torch.cuda.device_count() < config.devices):
        here = torch.cuda.device_count()
        raise UserError(f"{many} came with --device {device}, expected --device cuda and at most the {here} GPUs here")


def check_stepless(config: RunConfig, many: str) -> None:
    """Raise UserError for options of steps, of which a model that is solved in closed form takes none."""
    unfit = {
        many: config.num_processes > 1,
        f"--strategy {config.strategy}": config.strategy != "auto",
        f"--compile {config.compile}": config.compile == "on",
    }
    came = next((flag for flag, is_unfit in unfit.items() if is_unfit), None)
    if came is not None:
        raise UserError(f"{came} came, but this model is solved without steps, by one process: leave it out")


def check_hosts(devices: int, num_nodes: int) -> None:
    """Raise UserError for processes of several hosts that would not find each other."""
    variables = os.environ.keys()
    if num_nodes > 1 and not (variables >= LAUNCHER or variables >= BY_HAND):
        raise UserError(
            f"--num-nodes {num_nodes} came, but nothing says where the other hosts are: start it on every host with "
            f"torchrun --nnodes {num_nodes} --nproc-per-node {devices}, or set {', '.join(sorted(BY_HAND))}"
        )
    if "MASTER_PORT" in variables:
        from_environment("MASTER_PORT", 1, 65_535)


@contextmanager
def launched(devices: int, num_nodes: int, device: torch.device) -> Iterator[tuple[Processes, torch.device]]:
    """Start the other processes and meet them, part from them at the end; gives them and this one's device.

    This process is left as it was: its environment and its number of threads. Raises UserError where they do not come.
    """
    if devices * num_nodes == 1:
        yield ALONE, device
        return
    environment, threads = dict(os.environ), torch.get_num_threads()
    children: list[subprocess.Popen[bytes]] = []
    try:
        fabric = started(devices, num_nodes, device)
        children = getattr(fabric.strategy.launcher, "procs", [])
        yield Group(), fabric.device
    finally:
        part(children)
        os.environ.clear()
        os.environ.update(environment)
        torch.set_num_threads(threads)


def started(devices: int, num_nodes: int, device: torch.device) -> Any:
    """Fabric with all its processes, met."""
    from lightning_fabric import Fabric  # takes seconds, and most runs are of one process
    from lightning_fabric.plugins.environments import TorchElasticEnvironment

    is_ours = PARENT in os.environ
    for name in ("lightning.fabric", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    os.environ["LOCAL_WORLD_SIZE"] = str(devices)  # as torchrun does; Fabric adds the other variables
    os.environ.setdefault(PARENT, str(os.getpid()))
    try:
        environment = TorchElasticEnvironment() if TorchElasticEnvironment.detect() else starting_environment()
        fabric = Fabric(
            accelerator=device.type, devices=devices, num_nodes=num_nodes, strategy="ddp", plugins=[environment]
        )
        with nullcontext() if is_ours else ended_by_signals():
            fabric.launch()
    except Exception as error:  # Fabric's own, torch's and the system's have no common class
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"the {devices * num_nodes} processes of this run did not meet: {reason}") from error
    return fabric


def starting_environment() -> Any:
    """Fabric's environment of one's own; signals wait while processes are started, in those until they can heed them.

    A process inherits what is blocked: one that only imports would end by a signal with a traceback.
    """
    from lightning_fabric.plugins.environments import LightningEnvironment

    class Starting(LightningEnvironment):
        def validate_settings(self, num_devices: int, num_nodes: int) -> None:  # just before they are started
            super().validate_settings(num_devices, num_nodes)
            signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)

        def set_global_rank(self, rank: int) -> None:  # the first thing after
            super().set_global_rank(rank)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

    return Starting()


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Inside, Ctrl-C and SIGTERM end this process at once, as they do where Python has no handler.

    It waits for the others in torch, where no handler of Python's runs; those that it has started end when it does.
    """
    handlers = {number: signal.signal(number, signal.SIG_DFL) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def part(children: list["subprocess.Popen[bytes]"]) -> None:
    """Leave the group; the processes that this one has started end, by themselves or not."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    deadline = time.monotonic() + SECONDS_TO_LEAVE
    for child in children:
        try:
            child.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            child.kill()


def helping() -> None:
    """Make this process a silent one, which ends when the one that started it does."""
    warnings.showwarning = lambda *_, **__: None
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    if PARENT in os.environ:
        threading.Thread(target=outlive_no_parent, args=[int(os.environ[PARENT])], daemon=True).start()


def outlive_no_parent(parent: int) -> None:
    """End this process, whatever it waits for, when the one that started it has ended."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
