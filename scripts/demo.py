#!/usr/bin/env python3
"""Backs up real disks with blockferry, restores every point, and compares every byte.

scripts/demo sets up, builds, and runs this; its --help tells what happens. All that is made here
lies in one working folder and one folder for sockets. Both go at the end, and so do the processes,
however the end comes: done, failed, or Ctrl-C.
"""

import argparse
import atexit
import itertools
import json
import os
import shlex
import shutil
import sys
import time

from telling import Table, head, say
from vm import BackedUpVm, VM_BYTES
from workplace import MIB, Failure, Interrupted, Interruptions, Source, Workplace

# The two disks of the first VM: sizes that a full backup takes about a second for.
DISK_BYTES = {"root": 384 * MIB, "data": 256 * MIB}
# The many disks: 8 to 16 MiB, so that 101 of them, backed up and restored, fit into 4 GiB.
FLEET_DISK_BYTES = [size * MIB for size in range(8, 17)]
MAX_DISKS = 101
# The rest is what ext4 itself takes (inodes, journal, folders), and room for changes.
FILES_SHARE = 0.6
# What a change writes: replaced files, strewn over the disk, and then new ones.
CHANGED_BYTES = 12 * MIB
REPLACED_FILES = 20
# Changed areas are told in clusters of qcow2.
AREA_BYTES = 64 << 10
# Where the files on the disks come from.
FILE_ROOTS = ["/usr/share", "/usr/lib"]
FILE_MIN_BYTES = 8 << 10
FILE_MAX_BYTES = 2 * MIB


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


class Demo:
    """The job: two disks, a VM with its snapshots, then many disks."""

    REPOSITORY = "repository"

    def __init__(self, workplace, blockferry, vsphere, disks):
        self.workplace = workplace
        self.program = blockferry
        self.vsphere = vsphere
        self.disks = disks
        self.files = Files()
        self.table = Table()

    def run(self):
        self.one_vm()
        self.vm()
        self.fleet()
        print()
        self.table.print()

    def one_vm(self):
        head("Two ext4 disks, made of files of this machine")
        start = time.monotonic()
        files = {}
        for disk, size in DISK_BYTES.items():
            files[disk] = self.make_disk("db1", disk, size)
            say(f"{disk}: {size // MIB} MiB with {len(files[disk])} files")
        say(f"made in {time.monotonic() - start:.1f} s")
        with Source(self.workplace, "db1") as source:
            points = [self.first(source)]
            points.append(self.compared(source, files["data"][0::2]))
            points.append(self.known(source, files["data"][1::2]))
        self.look_at(points)
        self.restore_all(points)

    def first(self, source):
        head("The first backup: all of both disks")
        point = self.back_up("backup, full", "db1", source, DISK_BYTES)
        self.remember(1)
        return point

    def compared(self, source, files):
        head("Files change; a backup that is not told which: what differs is found by digests")
        self.change(files)
        point = self.back_up("backup, compared", "db1", source, DISK_BYTES)
        self.remember(2)
        return point

    def known(self, source, files):
        head("Other files change; a backup that is told where: only that is read")
        self.change(files)
        options = []
        for disk in DISK_BYTES:
            areas = changed_areas(self.workplace.path("was-2", disk), self.disk("db1", disk))
            length = sum(area["length"] for area in areas)
            say(f"{disk}: {len(areas)} changed areas, {length / MIB:.1f} MiB in all")
            with open(self.workplace.path(f"{disk}-changed.json"), "w") as file:
                json.dump(areas, file)
            options += ["--changed", f"{disk}={disk}-changed.json"]
        options += ["--mode", "incremental"]
        point = self.back_up("backup, areas known", "db1", source, DISK_BYTES, options)
        self.remember(3)
        return point

    def look_at(self, points):
        head("What there is, and whether it still is what was backed up")
        self.show(["points", "--repository", self.REPOSITORY])
        self.show(["verify", "--all", "--repository", self.REPOSITORY])
        report = self.blockferry(["points", "--json", "--repository", self.REPOSITORY])
        listed = [point["id"] for point in report["points"]]
        if listed != points:
            raise Failure(f"backup told of the points {points}, and points lists {listed}")

    def restore_all(self, points):
        head("Each point is restored, and compared with what the disks were then")
        for number, point in enumerate(points, start=1):
            folder = f"restored-{number}"
            self.restore(f"restore of point {number}", point, folder)
            for disk in DISK_BYTES:
                self.compare(self.workplace.path(f"was-{number}", disk), folder, disk)
            say(f"both disks of point {number} are what they were, byte for byte")
            if not self.workplace.keep:
                shutil.rmtree(self.workplace.path(folder))

    def vm(self):
        head("A VM in a double of vSphere; its guest writes to both disks, and never stops for a backup")
        files = {disk: len(self.make_disk("shop", disk, VM_BYTES[disk])) for disk in VM_BYTES}
        for disk, size in VM_BYTES.items():
            say(f"{disk}: {size // MIB} MiB with {files[disk]} files")
        BackedUpVm(self, self.vsphere).run()

    def fleet(self):
        head(f"{self.disks} disks at once")
        start = time.monotonic()
        sizes = {
            f"disk-{number}": FLEET_DISK_BYTES[number % len(FLEET_DISK_BYTES)]
            for number in range(self.disks)
        }
        for disk, size in sizes.items():
            self.make_disk("fleet", disk, size)
        say(f"made in {time.monotonic() - start:.1f} s")
        with Source(self.workplace, "fleet") as source:
            point = self.back_up(f"backup of {self.disks}", "fleet", source, sizes)
        self.restore(f"restore of {self.disks}", point, "restored-fleet")
        for disk in sizes:
            self.compare(self.disk("fleet", disk), "restored-fleet", disk)
        say(f"all {self.disks} disks are what was backed up, byte for byte")

    def disk(self, vm, disk):
        return self.workplace.path(vm, disk)

    def make_disk(self, vm, disk, size):
        """An ext4 disk with files of this machine; returns their paths in it."""
        folder = self.workplace.path("files")
        os.mkdir(folder)
        files = self.files.copy_into(folder, size * FILES_SHARE)
        path = self.disk(vm, disk)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as image:
            image.truncate(size)
        # By default a distribution decides, and with 4 KiB the journal takes half of a small disk.
        block_bytes = 4096 if size >= 64 * MIB else 1024
        self.workplace.run(
            ["mkfs.ext4", "-q", "-F", "-b", str(block_bytes), "-d", folder, path]
        )
        shutil.rmtree(folder)
        return files

    def change(self, files):
        """Replaces some of these files of the disk data and adds others, by debugfs, unmounted."""
        folder = self.workplace.path("files")
        os.mkdir(folder)
        fresh = self.files.copy_into(folder, CHANGED_BYTES)
        replaced = files[:: max(1, len(files) // REPLACED_FILES)][: len(fresh) // 2]
        commands = [f'rm "/{name}"' for name in replaced]
        places = [f"/{name}" for name in replaced]
        places += [f"/new-{self.files.taken}-{nth}" for nth in range(len(fresh) - len(replaced))]
        for name, place in zip(fresh, places):
            commands.append(f'write "{os.path.join(folder, name)}" "{place}"')
        script = self.workplace.path("change.debugfs")
        with open(script, "w") as file:
            file.write("\n".join(commands) + "\n")
        disk = self.disk("db1", "data")
        _, err = self.workplace.run(["debugfs", "-w", "-f", script, disk])
        # debugfs exits with 0 whatever happened; its first line is its version.
        if problems := err.splitlines()[1:]:
            raise Failure(f"debugfs: {problems[0]}")
        self.workplace.run(["e2fsck", "-f", "-n", disk])
        shutil.rmtree(folder)
        say(f"data: {len(replaced)} files replaced, {len(fresh) - len(replaced)} added")

    def remember(self, number):
        """Keeps what the disks are now, to compare with."""
        os.mkdir(self.workplace.path(f"was-{number}"))
        for disk in DISK_BYTES:
            kept = self.workplace.path(f"was-{number}", disk)
            self.workplace.run(["cp", "--sparse=always", self.disk("db1", disk), kept])

    def back_up(self, row, vm, source, disks, options=()):
        argv = ["backup", "--vm", vm]
        for disk in disks:
            argv += ["--disk", f"{disk}={source.uri(disk)}"]
        report = self.blockferry([*argv, "--repository", self.REPOSITORY, *options, "--json"])
        self.tell(row, report)
        return report["point"]

    def tell(self, row, report):
        moved = report["bytes"]
        if moved["acknowledged"] + moved["skipped"] != moved["planned"]:
            raise Failure(f"done, but not all that was planned is acknowledged: {moved}")
        for disk in report["disks"] if len(report["disks"]) <= len(DISK_BYTES) else []:
            say(f"{disk['name']}: {disk['mode']}: {disk['reason']}")
        self.table.add(row, report)
        say(f"point {report['point']} in {report['seconds']:.1f} s")

    def restore(self, row, point, folder):
        argv = ["restore", point, "--repository", self.REPOSITORY, "--to", folder, "--json"]
        self.table.add(row, self.blockferry(argv))

    def compare(self, disk, folder, name):
        self.workplace.run(["cmp", disk, self.workplace.path(folder, f"{name}.raw")])

    def blockferry(self, argv):
        """Runs a command whose output is JSON."""
        return json.loads(self._out(argv))

    def show(self, argv):
        """Runs a command whose output is for people."""
        for line in self._out(argv).splitlines():
            say(line)

    def _out(self, argv):
        # A hundred disks are more than anybody wants to read.
        shown = argv if len(argv) < 20 else [*argv[:5], "...", *argv[-3:]]
        say("$ " + shlex.join(["blockferry", *shown]))
        out, _ = self.workplace.run([self.program, *argv])
        return out


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


def arguments():
    parser = argparse.ArgumentParser(prog="scripts/demo")
    parser.add_argument("--blockferry", required=True)
    parser.add_argument("--vsphere", required=True)
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
    # The disks; their states and what is restored of them, kept or not; the repository.
    room_bytes = 8 * (sum(DISK_BYTES.values()) + sum(VM_BYTES.values()))
    room_bytes += 3 * options.disks * max(FLEET_DISK_BYTES)
    try:
        workplace.open(room_bytes)
        programs = [os.path.abspath(path) for path in (options.blockferry, options.vsphere)]
        Demo(workplace, *programs, options.disks).run()
        where = f"all is kept in {options.keep}" if options.keep else "nothing is left behind"
    except Failure as failure:
        print(f"demo: failed: {failure}", file=sys.stderr)
        return 1
    except Interrupted as interruption:
        print(f"\ndemo: {interruption}: ending what runs, removing the files", file=sys.stderr)
        return interruption.exit_code
    finally:
        workplace.clear()
    print(f"\nEvery byte is where it belongs. {time.monotonic() - start:.0f} s; {where}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
