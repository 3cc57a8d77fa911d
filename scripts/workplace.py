"""The folders and the processes of a demo, which go with it however it ends."""

import contextlib
import os
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
import time

MIB = 1 << 20

READY_DEADLINE_S = 30
END_DEADLINE_S = 15
RUN_DEADLINE_S = 300
GREETING_DEADLINE_S = 5


class Failure(Exception):
    """What kept the demo from its end, for a person."""


class Interrupted(BaseException):
    """A signal asked for the end."""

    def __init__(self, number):
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


class Interruptions:
    """Turns the first signal into Interrupted; those that follow do not disturb the clearing up."""

    def __init__(self):
        self.number = None
        self.holds = 0
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._arrived)

    def _arrived(self, number, _frame):
        if self.number is None:
            self.number = number
            if not self.holds:
                raise Interrupted(number)

    @contextlib.contextmanager
    def held(self):
        """For what must not be cut in two: a thing is made and noted. The signal counts after it."""
        before = self.number
        self.holds += 1
        try:
            yield
        finally:
            self.holds -= 1
        if self.number != before:
            raise Interrupted(self.number)


class Workplace:
    """The folders and the processes of this run. Nothing exists that it does not know."""

    def __init__(self, interruptions, keep):
        self.interruptions = interruptions
        self.keep = keep
        self.files = None
        self.sockets = None
        self.children = []

    def open(self, room_bytes):
        with self.interruptions.held():
            if self.keep:
                os.makedirs(self.keep, exist_ok=True)
                if os.listdir(self.keep):
                    raise Failure(f"{self.keep} is not empty; name a folder that is, or a new one")
                self.files = os.path.abspath(self.keep)
            else:
                self.files = tempfile.mkdtemp(prefix="blockferry-demo-")
            # Short: the path of a socket has 107 bytes at most.
            self.sockets = tempfile.mkdtemp(prefix="blockferry-demo-", dir="/tmp")
        free = shutil.disk_usage(self.files).free
        if free < room_bytes:
            raise Failure(
                f"{self.files} has {free // MIB} MiB free and the demo needs {room_bytes // MIB}; "
                "set TMPDIR, or --keep, to a folder with more, or take fewer --disks"
            )

    def path(self, *names):
        return os.path.join(self.files, *names)

    def start(self, argv, **options):
        """A process that ends with this one, even if this one is killed."""
        argv = ["setpriv", "--pdeathsig", "TERM", *argv]
        # blockferry puts the sockets of its exports into TMPDIR.
        environment = os.environ | {"TMPDIR": self.sockets}
        with self.interruptions.held():
            child = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, start_new_session=True, cwd=self.files,
                env=environment, **options
            )
            self.children.append(child)
        return child

    def run(self, argv):
        """Runs argv to its end and returns what it printed; stderr tells why if it fails."""
        child = self.start(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            out, err = child.communicate(timeout=RUN_DEADLINE_S)
        except subprocess.TimeoutExpired:
            raise Failure(f"not done after {RUN_DEADLINE_S} s: {shlex.join(argv)}") from None
        self.children.remove(child)
        if child.returncode:
            said = (err or out).strip()
            raise Failure(f"exit code {child.returncode}: {shlex.join(argv)}\n{said}")
        return out, err

    def end(self, children):
        """Ends processes in order, each before the next; a killed one is a failure."""
        stubborn = []
        with self.interruptions.held():
            for child in children:
                child.terminate()
                try:
                    child.wait(END_DEADLINE_S)
                except subprocess.TimeoutExpired:
                    child.kill()
                    child.wait()
                    stubborn.append(shlex.join(child.args))
                self.children.remove(child)
        if stubborn:
            raise Failure(f"not ended {END_DEADLINE_S} s after SIGTERM: {stubborn[0]}")

    def clear(self):
        """Ends and removes everything. A backup goes before the server that it reads from."""
        with contextlib.suppress(Failure, Interrupted), self.interruptions.held():
            self.end(self.children[::-1])
        with contextlib.suppress(Interrupted), self.interruptions.held():
            for folder in [self.sockets, None if self.keep else self.files]:
                if folder:
                    shutil.rmtree(folder, ignore_errors=True)


class Source:
    """An nbdkit that serves all disks of a folder, each under its name."""

    def __init__(self, workplace, folder):
        self.workplace = workplace
        self.socket = os.path.join(workplace.sockets, f"{folder}.sock")
        self.log = os.path.join(workplace.sockets, f"{folder}.log")
        argv = ["nbdkit", "--foreground", "--readonly", "--unix", self.socket]
        argv += ["file", f"dir={workplace.path(folder)}"]
        with open(self.log, "wb") as log:
            self.child = workplace.start(argv, stdout=log, stderr=log)
        self.wait_until_ready()

    def uri(self, disk):
        return f"nbd+unix:///{disk}?socket={self.socket}"

    def wait_until_ready(self):
        deadline = time.monotonic() + READY_DEADLINE_S
        while not self._greets():
            ended = self.child.poll() is not None
            if ended or time.monotonic() > deadline:
                with open(self.log, errors="replace") as log:
                    said = log.read().strip()
                what = "ended" if ended else f"gives no greeting after {READY_DEADLINE_S} s"
                raise Failure(f"{what}: {shlex.join(self.child.args)}\n{said}")
            time.sleep(0.01)

    def _greets(self):
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(GREETING_DEADLINE_S)
            try:
                client.connect(self.socket)
                return client.recv(8, socket.MSG_WAITALL) == b"NBDMAGIC"
            except OSError:
                return False

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        # After a failure it is Workplace.clear that ends it, and the failure that is told.
        if kind is None:
            self.workplace.end([self.child])
