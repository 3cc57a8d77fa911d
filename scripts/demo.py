#!/usr/bin/env python3
"""Moves real disks with blockferry and compares every byte.

scripts/demo sets up, builds, and runs this; its --help tells what happens. All that is made here
lies in one working folder and one folder for sockets. Both go at the end, and so do the servers,
however the end comes: done, failed, or Ctrl-C.
"""

import argparse
import atexit
import contextlib
import itertools
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

MIB = 1 << 20
GIB = 1 << 30

# The two disks of the first steps: sizes that a full copy moves in about a second.
LARGE_DISK_BYTES = 384 * MIB
SMALL_DISK_BYTES = 256 * MIB
# The many disks: 8 to 16 MiB, so that 101 of them with their copies fit into 3 GiB.
FLEET_DISK_BYTES = [size * MIB for size in range(8, 17)]
MAX_DISKS = 101
# What ext4 itself (inodes, journal) and room for changes take of a disk.
FILES_SHARE = 0.6
# What the change writes: replaced files, strewn over the disk, and then new ones.
CHANGED_BYTES = 24 * MIB
REPLACED_FILES = 40

FIRST_PORT = 10100
# Changes are found, and written, in clusters of qcow2.
AREA_BYTES = 64 << 10
# Connections that an export accepts: the copy's one, and those that look whether it is ready.
EXPORT_CONNECTIONS = 4
# Where the files on the disks come from.
FILE_ROOTS = ["/usr/share", "/usr/lib"]
FILE_MIN_BYTES = 8 << 10
FILE_MAX_BYTES = 2 * MIB

READY_DEADLINE_S = 30
END_DEADLINE_S = 15
COPY_DEADLINE_S = 300
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
        self.named = 0

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

    def path(self, name):
        return os.path.join(self.files, name)

    def next_name(self, kind):
        """A name for the socket and the log of a server, never given before."""
        self.named += 1
        return f"{kind}-{self.named}"

    def socket(self, name):
        return os.path.join(self.sockets, f"{name}.sock")

    def start(self, argv, **options):
        """A process that ends with this one, even if this one is killed."""
        argv = ["setpriv", "--pdeathsig", "TERM", *argv]
        with self.interruptions.held():
            child = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, start_new_session=True, **options
            )
            self.children.append(child)
        return child

    def run(self, argv, deadline_s=COPY_DEADLINE_S, accept=(0,)):
        """Runs argv to its end and returns what it printed; stderr tells why if it fails."""
        child = self.start(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            out, err = child.communicate(timeout=deadline_s)
        except subprocess.TimeoutExpired:
            raise Failure(f"not done after {deadline_s} s: {shlex.join(argv)}") from None
        self.children.remove(child)
        if child.returncode not in accept:
            raise Failure(f"exit code {child.returncode}: {shlex.join(argv)}\n{err or out}".rstrip())
        return child.returncode, out, err

    def end(self, children):
        """Ends processes in order, and waits for them; a killed server is a failure."""
        stubborn = []
        with self.interruptions.held():
            for child in children:
                child.terminate()
            for child in children:
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
        """Ends and removes everything. The movers go before the servers that they talk to."""
        with contextlib.suppress(Failure, Interrupted), self.interruptions.held():
            self.end(self.children[::-1])
        with contextlib.suppress(Interrupted), self.interruptions.held():
            for folder in [self.sockets, None if self.keep else self.files]:
                if folder:
                    shutil.rmtree(folder, ignore_errors=True)


class Server:
    """An NBD server with its address; ready once it greets."""

    def __init__(self, workplace, name, argv, address, uri):
        self.uri = uri
        self.address = address
        self.log = os.path.join(workplace.sockets, f"{name}.log")
        with open(self.log, "wb") as log:
            self.child = workplace.start(argv, stdout=log, stderr=log)

    def wait_until_ready(self):
        deadline = time.monotonic() + READY_DEADLINE_S
        while not self._greets():
            ended = self.child.poll() is not None
            if ended or time.monotonic() > deadline:
                with open(self.log, errors="replace") as log:
                    said = log.read().strip()
                what = "ended" if ended else f"gives no greeting after {READY_DEADLINE_S} s"
                raise Failure(f"{self.uri} {what}: {shlex.join(self.child.args)}\n{said}")
            time.sleep(0.01)

    def _greets(self):
        family = socket.AF_UNIX if isinstance(self.address, str) else socket.AF_INET
        with socket.socket(family) as client:
            client.settimeout(GREETING_DEADLINE_S)
            try:
                client.connect(self.address)
                return client.recv(8, socket.MSG_WAITALL) == b"NBDMAGIC"
            except OSError:
                return False


class Servers:
    """Sources and exports of one copy."""

    def __init__(self, workplace, tcp):
        self.workplace = workplace
        self.tcp = tcp
        self.all = []
        self.exports = 0

    def source(self, disk):
        """An nbdkit that serves the raw file, as the one of the VDDK serves a VMware disk."""
        name = self.workplace.next_name("source")
        path = self.workplace.socket(name)
        argv = ["nbdkit", "--foreground", "--readonly", "--unix", path, "file", disk]
        return self._add(name, argv, path, f"nbd+unix:///?socket={path}")

    def export(self, image):
        """A qemu-nbd that takes what is written into the image."""
        name = self.workplace.next_name("export")
        argv = ["qemu-nbd", "--persistent", f"--shared={EXPORT_CONNECTIONS}"]
        argv += ["--format=qcow2", "--export-name=disk"]
        if self.tcp:
            port = FIRST_PORT + self.exports
            argv += ["--bind=127.0.0.1", f"--port={port}"]
            address, uri = ("127.0.0.1", port), f"nbd://127.0.0.1:{port}/disk"
        else:
            address = self.workplace.socket(name)
            argv += [f"--socket={address}"]
            uri = f"nbd+unix:///disk?socket={address}"
        self.exports += 1
        return self._add(name, [*argv, image], address, uri)

    def _add(self, name, argv, address, uri):
        self.all.append(Server(self.workplace, name, argv, address, uri))
        return uri

    def __enter__(self):
        return self

    def wait_until_ready(self):
        for server in self.all:
            server.wait_until_ready()

    def __exit__(self, kind, *_):
        # After a failure it is Workplace.clear that ends them, and the failure that is told.
        if kind is None:
            self.workplace.end([server.child for server in self.all])


class Files:
    """Files of this machine, each given out once; all over again when they run out."""

    def __init__(self):
        self.found = self._endless()
        self.taken = 0

    def _endless(self):
        for lap in itertools.count():
            before = self.taken
            for path, size in self._walk():
                yield lap, path, size
            if self.taken == before:
                raise Failure(f"no readable files under {' and '.join(FILE_ROOTS)}")

    @staticmethod
    def _walk():
        for root in FILE_ROOTS:
            for folder, folders, names in os.walk(root):
                folders.sort()
                for name in sorted(names):
                    path = os.path.join(folder, name)
                    if os.path.islink(path) or not os.path.isfile(path):
                        continue
                    size = os.path.getsize(path)
                    if FILE_MIN_BYTES <= size <= FILE_MAX_BYTES and os.access(path, os.R_OK):
                        yield path, size

    def copy_into(self, folder, room_bytes):
        """Copies files into the folder until one does not fit into room_bytes any more.

        Returns their paths in the folder.
        """
        copied = []
        for lap, path, size in self.found:
            self.taken += 1
            if size > room_bytes:
                return copied
            name = os.path.join(f"lap{lap}" if lap else "", path.lstrip("/"))
            target = os.path.join(folder, name)
            os.makedirs(os.path.dirname(target), exist_ok=True)
            shutil.copyfile(path, target)
            copied.append(name)
            # A file takes an inode, a part of its last block, and often a new folder.
            room_bytes -= size + 4096


class Table:
    """What each step moved."""

    HEAD = "step", "disks", "size", "read", "zero", "sent", "seconds", "MiB/s", "CPU s/GiB"

    def __init__(self):
        self.rows = []

    def add(self, step, size, report):
        count = report["bytes"]
        cpu = report["cpu_seconds"] / (count["read"] / GIB) if count["read"] else None
        self.rows.append([
            step,
            str(len(report["lanes"])),
            *(f"{value / MIB:.1f} MiB" for value in
              (size, count["read"], count["zero"], count["sent"])),
            f"{report['seconds']:.2f}",
            f"{report['mib_per_second']:.0f}",
            "-" if cpu is None else f"{cpu:.2f}",
        ])

    def print(self):
        widths = [max(map(len, column)) for column in zip(self.HEAD, *self.rows)]
        for row in [self.HEAD, ["-" * width for width in widths], *self.rows]:
            first, *rest = zip(row, widths)
            cells = [first[0].ljust(first[1]), *(text.rjust(width) for text, width in rest)]
            print("  ".join(cells))


class Demo:
    """The three steps."""

    def __init__(self, workplace, blockferry, disks):
        self.workplace = workplace
        self.blockferry = blockferry
        self.disks = disks
        self.files = Files()
        self.table = Table()
        self.tcp = self.ports_are_free()

    def ports_are_free(self):
        last = FIRST_PORT + max(self.disks, 2) - 1
        for port in range(FIRST_PORT, last + 1):
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind(("127.0.0.1", port))
                except OSError as error:
                    say(f"port {port} cannot be had ({error.strerror}): exports use Unix sockets")
                    return False
        say(f"exports use the ports {FIRST_PORT} to {last} of 127.0.0.1, which are free")
        return True

    def run(self):
        (large, files), (small, _) = self.two_disks()
        images = self.full(large, small)
        self.changed_areas(large, files, small, images)
        self.fleet()
        print()
        self.table.print()

    def two_disks(self):
        head("Two ext4 disks of files of this machine")
        start = time.monotonic()
        disks = []
        for name, size in [("large", LARGE_DISK_BYTES), ("small", SMALL_DISK_BYTES)]:
            disk = self.workplace.path(f"{name}.img")
            files = self.make_disk(disk, size)
            say(f"{name}: {size // MIB} MiB with {len(files)} files")
            disks.append((disk, files))
        say(f"made in {time.monotonic() - start:.1f} s")
        return disks

    def make_disk(self, disk, size):
        folder = self.workplace.path("files")
        os.mkdir(folder)
        files = self.files.copy_into(folder, size * FILES_SHARE)
        with open(disk, "wb") as image:
            image.truncate(size)
        self.workplace.run(["mkfs.ext4", "-q", "-F", "-d", folder, disk])
        shutil.rmtree(folder)
        return files

    def full(self, *disks):
        head("Full copies")
        images = []
        for disk in disks:
            name = os.path.basename(disk).removesuffix(".img")
            image = self.workplace.path(f"{name}-0.qcow2")
            self.create_image(image, os.path.getsize(disk))
            with Servers(self.workplace, self.tcp) as servers:
                source, target = servers.source(disk), servers.export(image)
                servers.wait_until_ready()
                report = self.copy([source, target])
            self.compare(disk, image)
            self.table.add(f"full copy of {name}", os.path.getsize(disk), report)
            images.append(image)
        say("both images equal their disks, byte for byte")
        return images

    def changed_areas(self, large, files, small, images):
        head("Changed areas into new layers")
        before = self.workplace.path("large-before.img")
        self.workplace.run(["cp", "--sparse=always", large, before])
        self.change(large, files)
        lanes, layers = [], []
        disks = [(large, before, images[0]), (small, small, images[1])]
        with Servers(self.workplace, self.tcp) as servers:
            for disk, old, image in disks:
                areas = changed_areas(old, disk)
                name = os.path.basename(disk).removesuffix(".img")
                changed = self.workplace.path(f"{name}-changed.json")
                with open(changed, "w") as file:
                    json.dump(areas, file)
                length = sum(area["length"] for area in areas)
                say(f"{name}: {len(areas)} changed areas, {length / MIB:.1f} MiB in all")
                layer = self.workplace.path(f"{name}-1.qcow2")
                self.create_image(layer, os.path.getsize(disk), backing=image)
                source, target = servers.source(disk), servers.export(layer)
                lanes.append({"source": source, "target": target, "changed": changed})
                layers.append(layer)
            servers.wait_until_ready()
            report = self.copy_lanes(lanes)
        for (disk, old, image), layer in zip(disks, layers):
            self.compare(disk, layer)
            self.compare(old, image)
        size = os.path.getsize(large) + os.path.getsize(small)
        self.table.add("changed areas", size, report)
        say("the chains equal the disks as they are now; the first layers still hold what was before")

    def change(self, disk, files):
        """Replaces some files of the disk and adds others, by debugfs, which needs no mount."""
        folder = self.workplace.path("files")
        os.mkdir(folder)
        fresh = self.files.copy_into(folder, CHANGED_BYTES)
        replaced = files[:: max(1, len(files) // REPLACED_FILES)][: len(fresh) // 2]
        commands = [f'rm "/{name}"' for name in replaced]
        places = [f"/{name}" for name in replaced]
        places += [f"/new-{number}" for number in range(len(fresh) - len(replaced))]
        for name, place in zip(fresh, places):
            commands.append(f'write "{os.path.join(folder, name)}" "{place}"')
        script = self.workplace.path("change.debugfs")
        with open(script, "w") as file:
            file.write("\n".join(commands) + "\n")
        _, _, err = self.workplace.run(["debugfs", "-w", "-f", script, disk])
        # debugfs exits with 0 whatever happened; its first line is its version.
        if problems := err.splitlines()[1:]:
            raise Failure(f"debugfs: {problems[0]}")
        self.workplace.run(["e2fsck", "-f", "-n", disk])
        shutil.rmtree(folder)
        say(f"large: {len(replaced)} files replaced, {len(fresh) - len(replaced)} added")

    def fleet(self):
        head(f"{self.disks} disks at once")
        start = time.monotonic()
        disks, images, lanes, size = [], [], [], 0
        for number in range(self.disks):
            disk = self.workplace.path(f"disk-{number}.img")
            bytes_here = FLEET_DISK_BYTES[number % len(FLEET_DISK_BYTES)]
            self.make_disk(disk, bytes_here)
            image = self.workplace.path(f"disk-{number}.qcow2")
            self.create_image(image, bytes_here)
            disks.append(disk)
            images.append(image)
            size += bytes_here
        say(f"disks and images made in {time.monotonic() - start:.1f} s")
        start = time.monotonic()
        with Servers(self.workplace, self.tcp) as servers:
            for disk, image in zip(disks, images):
                source, target = servers.source(disk), servers.export(image)
                lanes.append({"source": source, "target": target})
            servers.wait_until_ready()
            say(f"{len(servers.all)} servers started in {time.monotonic() - start:.1f} s")
            report = self.copy_lanes(lanes)
        for disk, image in zip(disks, images):
            self.compare(disk, image)
        self.table.add(f"{self.disks} disks at once", size, report)
        say(f"all {self.disks} images equal their disks, byte for byte")

    def create_image(self, image, size, backing=None):
        layer = ["-b", backing, "-F", "qcow2"] if backing else []
        self.workplace.run(["qemu-img", "create", "-q", "-f", "qcow2", *layer, image, str(size)])

    def copy_lanes(self, lanes):
        path = self.workplace.path("lanes.jsonl")
        with open(path, "w") as file:
            file.writelines(json.dumps(lane) + "\n" for lane in lanes)
        return self.copy(["--lanes", path])

    def copy(self, arguments):
        say("$ " + shlex.join(["blockferry", "copy", "--json", *arguments]))
        _, out, _ = self.workplace.run([self.blockferry, "copy", "--json", *arguments])
        report = json.loads(out)
        moved = report["bytes"]
        if moved["acknowledged"] + moved["skipped"] != moved["planned"]:
            raise Failure(f"done, but not all that was planned is acknowledged: {moved}")
        return report

    def compare(self, disk, image):
        argv = ["qemu-img", "compare", "-f", "raw", "-F", "qcow2", disk, image]
        code, out, _ = self.workplace.run(argv, accept=(0, 1))
        if code:
            raise Failure(f"{disk} and {image} differ: {out.strip()}")


def changed_areas(old, new):
    """Where two files of one size differ, in whole areas."""
    areas = []
    with open(old, "rb") as left, open(new, "rb") as right:
        start = 0
        while block := right.read(AREA_BYTES):
            if left.read(AREA_BYTES) != block:
                if areas and areas[-1]["start"] + areas[-1]["length"] == start:
                    areas[-1]["length"] += len(block)
                else:
                    areas.append({"start": start, "length": len(block)})
            start += len(block)
    return areas


def head(text):
    print(f"\n{text}", flush=True)


def say(text):
    print(f"  {text}", flush=True)


def arguments():
    parser = argparse.ArgumentParser(prog="scripts/demo")
    parser.add_argument("--blockferry", required=True)
    parser.add_argument("--disks", type=int, default=MAX_DISKS)
    parser.add_argument("--keep", metavar="DIR")
    options = parser.parse_args()
    if not 1 <= options.disks <= MAX_DISKS:
        parser.error(f"--disks: 1 to {MAX_DISKS}")
    return options


def main():
    options = arguments()
    start = time.monotonic()
    workplace = Workplace(Interruptions(), options.keep)
    # A signal in the first instant of the finally below would end it; it comes only once.
    atexit.register(workplace.clear)
    fleet_bytes = options.disks * max(FLEET_DISK_BYTES)
    room_bytes = 3 * (LARGE_DISK_BYTES + SMALL_DISK_BYTES) + 2 * fleet_bytes
    try:
        workplace.open(room_bytes)
        Demo(workplace, options.blockferry, options.disks).run()
        where = f"disks and images are in {options.keep}" if options.keep else "nothing is left behind"
    except Failure as failure:
        print(f"demo: failed: {failure}", file=sys.stderr)
        return 1
    except Interrupted as interruption:
        print(f"\ndemo: {interruption}: ending the servers, removing the files", file=sys.stderr)
        return interruption.exit_code
    finally:
        workplace.clear()
    print(f"\nEvery byte is where it belongs. {time.monotonic() - start:.0f} s; {where}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
