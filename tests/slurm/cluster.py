"""A Slurm cluster of two nodes on this machine, for as long as a test takes: python tests/slurm/cluster.py -- COMMAND

Both nodes pretend to 2 cores, 16 GB and 2 GPUs. There is no accounting and no systemd; everything lies in one folder,
and all that is ended are processes that were started here. Needs root and Debian's packages slurm-wlm and munge.
"""

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel")
NODES = ("one", "two")
MARK = "STARTED_BY"
PATIENCE = 60.0  # seconds for the nodes to come up
# Jobs of a broken node wait cred_expire seconds before they start again, others for the schedulers' next round. A node
# whose daemon did not answer while the machine was busy is used again (ReturnToService).
CONFIG = """
ClusterName=loopback
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=30
SlurmUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmdParameters=config_overrides
SlurmdTimeout=20
ReturnToService=1
MinJobAge=600
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=sched_min_interval=500000,sched_interval=5,bf_interval=5
GresTypes=gpu
NodeName=one NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2 RealMemory=16000 Gres=gpu:2
NodeName=two NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=2 RealMemory=16000 Gres=gpu:2
PartitionName=both Nodes=one,two Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str:
    """Why there can be no cluster here; empty where there can."""
    if os.geteuid() != 0:
        return "a Slurm cluster is started by root only"
    absent = [program for program in PROGRAMS if not shutil.which(program)]
    return f"{', '.join(absent)} not found; make slurm installs them where apt does" if absent else ""


class Cluster:
    """A cluster at work.

    Args:
        folder: for its configuration, state and logs; its path is short, since a socket lies there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        own = {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": f"{folder / 'bin'}:{os.environ['PATH']}"}
        self.environment = os.environ | own
        self.daemons: dict[str, subprocess.Popen] = {}

    def start(self) -> None:
        """Start the daemons and wait for both nodes."""
        host, srun = socket.gethostname().partition(".")[0], shutil.which("srun")
        text = CONFIG.format(host=host, folder=self.folder, ports=free_ports(1 + len(NODES)))
        (self.folder / "slurm.conf").write_text(text)
        (self.folder / "gres.conf").write_text("Name=gpu File=/dev/null\nName=gpu File=/dev/zero\n")
        (self.folder / "state").mkdir()
        # Snakemake's plugin takes SLURM_CONF, like all of Slurm's variables, from what a job starts by srun.
        (self.folder / "bin").mkdir()
        (self.folder / "bin/srun").write_text(f'#!/bin/sh\nSLURM_CONF={self.folder}/slurm.conf exec {srun} "$@"\n')
        (self.folder / "bin/srun").chmod(0o755)
        key = self.folder / "munge.key"
        key.write_bytes(secrets.token_bytes(1024))
        key.chmod(0o400)
        files = {"socket": "munge.socket", "key-file": key.name, "pid-file": "munge.pid", "log-file": "munge.log"}
        files["seed-file"] = "munge.seed"
        own = [f"--{name}={self.folder / file}" for name, file in files.items()]
        self._daemon("munged", "munged", "--foreground", "--force", *own)
        self._wait(lambda: (self.folder / "munge.socket").exists(), "munged")
        self._daemon("slurmctld", "slurmctld", "-D", "-i")
        for node in NODES:
            self._daemon(node, "slurmd", "-D", "-N", node)
        self._wait(lambda: self.ask("sinfo", "--noheader", "--format=%T %D") == "idle 2", "the nodes")

    def _daemon(self, name: str, *command: str) -> None:
        own = self.environment | {MARK: f"{self.folder}/{name}"}  # what it starts has it, too
        with (self.folder / f"{name}.log").open("w") as log:
            self.daemons[name] = subprocess.Popen(command, env=own, stdout=log, stderr=log)

    def _wait(self, ready, what: str) -> None:
        until = time.monotonic() + PATIENCE
        while not ready():
            if time.monotonic() > until:
                raise TimeoutError(f"waited for {what} for {PATIENCE:.0f} s\n{self.logs()}")
            time.sleep(0.2)

    def ask(self, *command: str) -> str:
        """What one of Slurm's programs prints; empty where it fails."""
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False)
        return done.stdout.strip()

    def logs(self) -> str:
        """The ends of the daemons' logs."""
        return "\n".join(f"{file}:\n{file.read_text()[-3000:]}" for file in sorted(self.folder.glob("*.log")))

    def report(self) -> str:
        """What the cluster is at, for a test that fails: jobs, nodes and logs."""
        asked = (["squeue", "--long", "--states=all"], ["scontrol", "--details", "show", "nodes"])
        return "\n".join([*(self.ask(*command) for command in asked), self.logs()])

    def break_node(self, name: str) -> None:
        """End a node with its jobs, and tell the controller, as what watches the nodes of a cluster does.

        Until it finds out by itself (SlurmdTimeout) it starts jobs there, and one with GPUs does not outlive that:
        Slurm 22.05 starts it again without them, and the GPUs of the node where it does are never free again.
        """
        told = ("scontrol", "update", f"nodename={name}", "reason=broken")
        self.ask(*told, "state=drain")
        time.sleep(1)  # a job that is on its way there arrives
        self.crash(name)
        self.ask(*told, "state=down")

    def crash(self, name: str) -> None:
        """End a daemon at once, with all that it started: a node with its jobs."""
        started = [process for process in psutil.process_iter() if mark(process) == f"{self.folder}/{name}"]
        jobs = []
        for process in started:
            with contextlib.suppress(psutil.NoSuchProcess):
                jobs += process.children(recursive=True)
        for process in started + jobs:  # jobs last: who started them is not to see how they end
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.daemons.pop(name).wait()

    def stop(self) -> None:
        """Cancel what is left of jobs and end all daemons, the newest first."""
        self.ask("scancel", "--full", "--user=root")
        with contextlib.suppress(TimeoutError):
            self._wait(lambda: not self.ask("squeue", "--noheader", "--states=RUNNING"), "jobs to end")
        for name in reversed([*self.daemons]):
            self.crash(name)


def mark(process: psutil.Process) -> str:
    """What a process was marked with by the daemon that started it; empty where it was by none.

    Not by `Process.environ`, which finds nothing where the title was changed: that of a job's slurmstepd is.
    """
    try:
        own = Path(f"/proc/{process.pid}/environ").read_text(encoding="utf-8", errors="replace").split("\0")
    except OSError:
        return ""
    return next((word.removeprefix(f"{MARK}=") for word in own if word.startswith(f"{MARK}=")), "")


def free_ports(count: int) -> list[int]:
    """Ports that nothing listens at."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@contextlib.contextmanager
def cluster() -> Iterator[Cluster]:
    """A cluster while the block runs."""
    with tempfile.TemporaryDirectory(prefix="slurm") as folder:
        found = Cluster(Path(folder))
        try:
            found.start()
            yield found
        finally:
            found.stop()


if __name__ == "__main__":
    if reason := missing():
        sys.exit(f"error: {reason}")
    with cluster() as here:
        sys.exit(subprocess.run(sys.argv[sys.argv.index("--") + 1 :], env=here.environment, check=False).returncode)
