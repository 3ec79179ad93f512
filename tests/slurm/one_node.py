"""A real Slurm of one node in a separate folder (munged, slurmctld, slurmd), independent of an installed Slurm.

The node claims the CPUs, memory and GPUs of a cluster's node, so that Slurm accepts the launcher's preset unchanged.
Slurm does not enforce these limits.
"""

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

NEEDED = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "scontrol", "sinfo")
SBIN = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
CONF = """
ClusterName=prunetune
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser={user}
SlurmdUser={user}
# cred_expire is also how long a requeued job waits before it starts again
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
GresTypes=gpu
SlurmdParameters=config_overrides
PropagateResourceLimits=NONE
ReturnToService=2
JobRequeue=1
KillWait=1
MinJobAge=300
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0,bf_interval=1
NodeName={host} NodeAddr=127.0.0.1 CPUs=64 RealMemory=256000 Gres=gpu:8 State=UNKNOWN
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PartitionName=main Nodes={host} Default=YES PriorityTier=1
PartitionName=urgent Nodes={host} PriorityTier=2
"""


@dataclass
class OneNode:
    """The cluster's folder and daemons."""

    folder: Path
    daemons: list[subprocess.Popen] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        """Return the environment in which Slurm's commands talk to this cluster."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "SBATCH"))}
        return {**inherited, "PATH": SBIN, "SLURM_CONF": str(self.folder / "slurm.conf")}

    def command(self, *words: str) -> str:
        """Run one of Slurm's commands and return what it prints."""
        done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False, env=self.environment)
        if done.returncode:
            raise RuntimeError(f"{' '.join(words)} failed: {done.stderr.strip()}")
        return done.stdout

    def start(self) -> None:
        """Start the daemons and wait until the node is idle."""
        for name in ("state", "spool"):
            (self.folder / name).mkdir()
        controller_port, node_port = _free_ports(2)
        values = {"folder": self.folder, "host": _host(), "user": _user()}
        (self.folder / "slurm.conf").write_text(
            CONF.format(**values, controller_port=controller_port, node_port=node_port)
        )
        (self.folder / "gres.conf").write_text(f"Name=gpu File={self.folder}/gpu[0-7]\n")
        for number in range(8):
            (self.folder / f"gpu{number}").symlink_to("/dev/null")  # Slurm requires device files.
        (self.folder / "munge.key").write_bytes(os.urandom(128))
        (self.folder / "munge.key").chmod(0o600)
        self._start_munge()
        self._spawn("slurmctld", "-D")
        self._spawn("slurmd", "-D")
        wait_for(self._is_idle, 20, self._what_went_wrong)

    def stop(self) -> None:
        """Cancel the jobs that still run, stop the daemons and delete the folder."""
        with suppress(RuntimeError, TimeoutError, subprocess.TimeoutExpired):
            self.clear()
        for daemon in reversed(self.daemons):
            daemon.terminate()
        for daemon in self.daemons:
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def clear(self) -> None:
        """Cancel every job and wait until all are over."""
        self.command("scancel", "--user", _user())
        wait_for(lambda: not self.jobs(), 30, self._what_went_wrong)

    def jobs(self) -> dict[str, str]:
        """Return the state of every job or array task that is not over, by its id, such as 3_0."""
        lines = self.command("squeue", "--array", "--noheader", "--format=%i %T").splitlines()
        return dict(line.split() for line in lines)

    def processes(self, job: str) -> list[int]:
        """Return the ids of the Python processes that a running job's tasks are, found by their environment."""
        raw = self.command("scontrol", "--oneliner", "show", "job", job)
        number = raw.split("JobId=")[1].split()[0]
        return [pid for pid in _pids() if _is_task(pid, number)]

    def _start_munge(self) -> None:
        # Without --force, munged refuses to start unless it runs as a system user made for it.
        words = [f"--{name}={self.folder}/munge.{name.split('-')[0]}" for name in ("key-file", "socket", "pid-file")]
        self._spawn("munged", "--foreground", "--force", *words, f"--log-file={self.folder}/munged.log")
        wait_for((self.folder / "munge.socket").exists, 20, self._what_went_wrong)

    def _spawn(self, *words: str) -> None:
        output = (self.folder / f"{words[0]}.out").open("wb")
        with output:
            daemon = subprocess.Popen(
                ["setpriv", "--pdeathsig", "TERM", *words],  # This ends the daemon if pytest is killed.
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
                cwd=self.folder,
                env=self.environment,
            )
        self.daemons.append(daemon)

    def _is_idle(self) -> bool:
        try:
            return self.command("sinfo", "--noheader", "--format=%T").split() == ["idle"]
        except RuntimeError:  # The controller does not answer yet.
            return False

    def _what_went_wrong(self) -> str:
        logs = sorted([*self.folder.glob("*.log"), *self.folder.glob("*.out")])
        return "\n".join(f"{log.name}: {log.read_text(errors='replace')[-1500:]}" for log in logs)


def missing() -> list[str]:
    """Return the programs of Slurm and munge that are not installed."""
    return [name for name in NEEDED if shutil.which(name, path=SBIN) is None]


def new_folder() -> Path:
    """Return a folder whose path is short enough for munge's socket."""
    return Path(tempfile.mkdtemp(prefix="slurm-"))


def wait_for(holds: Callable[[], Any], seconds: float, explain: Callable[[], str] = str) -> Any:
    """Return what `holds` returns as soon as it is true.

    Raises:
        TimeoutError: with what `explain` says.
    """
    end = time.monotonic() + seconds
    while not (value := holds()):
        if time.monotonic() > end:
            raise TimeoutError(f"not within {seconds:g} s. {explain()}")
        time.sleep(0.1)
    return value


def _is_task(pid: int, number: str) -> bool:
    with suppress(OSError):
        environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        is_python = b"submitit.core._submit" in words and not words[0].endswith(b"srun")
        return is_python and f"SLURM_JOB_ID={number}".encode() in environment
    return False


def _pids() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal()]


def _host() -> str:
    return socket.gethostname().split(".")[0]


def _user() -> str:
    import pwd

    return pwd.getpwuid(os.geteuid()).pw_name


def _free_ports(count: int) -> list[int]:
    with suppress(OSError):
        sockets = [socket.socket() for _ in range(count)]
        try:
            for one in sockets:
                one.bind(("127.0.0.1", 0))
            return [one.getsockname()[1] for one in sockets]
        finally:
            for one in sockets:
                one.close()
    raise RuntimeError("no free port on this machine")
