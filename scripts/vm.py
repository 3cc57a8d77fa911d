"""The demo's VM: in a double of vSphere, with a guest that writes while it is backed up."""

import json
import os
import re
import select
import shutil
import subprocess

from telling import head, say
from workplace import MIB, READY_DEADLINE_S, Failure

VM_BYTES = {"root": 96 * MIB, "data": 64 * MIB}
VM = "shop"
USER, PASSWORD = "backup", "secret"
# What the guest rests after each step: hundreds of them pass while a backup runs.
GUEST_PAUSE_MS = 2
# Where the guest writes the number of its newest step, on each disk.
COUNTER_OFFSET = 64 << 10
COUNTER_BYTES = 8


class Vsphere:
    """A vCenter of our own with one VM, whose disks begin as these files are."""

    def __init__(self, workplace, program, disks):
        self.workplace = workplace
        self.state = workplace.path("vsphere")
        self.copies = workplace.path("snapshots")
        os.mkdir(self.copies)
        argv = [program, "--state", self.state, "--keep-copies", self.copies]
        argv += ["--user", f"{USER}:{PASSWORD}", "--tracked", "--guest", str(GUEST_PAUSE_MS)]
        argv += ["--vm", f"{VM}:" + ",".join(f"{disk}={path}" for disk, path in disks.items())]
        self.log = workplace.path("vsphere.log")
        with open(self.log, "wb") as log:
            self.child = workplace.start(argv, stdout=subprocess.PIPE, stderr=log, text=True)
        self.told = json.loads(self._first_line())
        self.password = workplace.path("vcenter.password")
        with open(os.open(self.password, os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
            file.write(PASSWORD + "\n")

    def _first_line(self):
        ready, _, _ = select.select([self.child.stdout], [], [], READY_DEADLINE_S)
        line = self.child.stdout.readline() if ready else ""
        if not line:
            with open(self.log, errors="replace") as log:
                raise Failure(f"the double of vSphere does not start: {log.read().strip()}")
        return line

    def options(self):
        address = re.fullmatch(r"https://(.*)/sdk", self.told["url"])[1]
        return [
            "--vcenter", address, "--vcenter-user", USER, "--vcenter-password-file", self.password,
            "--vcenter-thumbprint", self.told["thumbprint"],
        ]

    def vddk(self):
        """How its disks are served: by the double of VMware's plugin for nbdkit."""
        runtime = os.path.join(self.workplace.sockets, "run")
        return [
            "--vddk-plugin", self.told["plugin"], "--vddk-libdir", self.state,
            "--vddk-runtime", runtime,
        ]

    def newest_copies(self):
        """What the newest snapshot that was removed held: a file by the key of each disk."""
        snapshots = {}
        for name in os.listdir(self.copies):
            number, key = re.fullmatch(r".*-snapshot-(\d+)-(\d+)\.raw", name).groups()
            snapshots.setdefault(int(number), {})[key] = os.path.join(self.copies, name)
        return snapshots[max(snapshots)]

    def end(self):
        self.workplace.end([self.child])
        self.child.stdout.close()


class BackedUpVm:
    """A full backup and an incremental one of the VM; both are restored, and compared."""

    def __init__(self, demo, program):
        self.demo = demo
        self.workplace = demo.workplace
        disks = {disk: demo.disk(VM, disk) for disk in VM_BYTES}
        self.vsphere = Vsphere(self.workplace, program, disks)

    def run(self):
        self.demo.show(["vms", *self.vsphere.options()])
        points = []
        for mode in "full", "incremental":
            head(f"Its backup, {mode}: one snapshot for both disks, which is gone when it is done")
            points.append(self.back_up(mode))
        vms = self.demo.blockferry(["vms", *self.vsphere.options(), "--json"])["vms"]
        if snapshots := sum(vm["snapshots"] for vm in vms):
            raise Failure(f"{snapshots} snapshots are left of the VM")
        head("Both points are restored, and compared with what their snapshots held")
        for number, (point, copies) in enumerate(points, start=1):
            self.compare(number, point, copies)
        self.vsphere.end()

    def back_up(self, mode):
        server = [*self.vsphere.options(), *self.vsphere.vddk()]
        argv = ["backup", "--vm", VM, *server, "--repository", self.demo.REPOSITORY, "--json"]
        report = self.demo.blockferry(argv)
        modes = {disk["mode"] for disk in report["disks"]}
        if modes != {mode}:
            raise Failure(f"the disks were backed up as {modes}, and not as {mode}")
        self.demo.tell(f"VM, {mode}", report)
        return report["point"], self.vsphere.newest_copies()

    def compare(self, number, point, copies):
        folder = f"restored-vm-{number}"
        self.demo.restore(f"restore of VM, {number}", point, folder)
        steps = set()
        for key, copy in copies.items():
            self.demo.compare(copy, folder, f"disk-{key}")
            steps.add(step(self.workplace.path(folder, f"disk-{key}.raw")))
        if len(steps) != 1:
            raise Failure(f"point {point} shows its disks at the steps {steps} of the guest")
        say(f"both disks of point {number} are at step {steps.pop()} of the guest, byte for byte")
        if not self.workplace.keep:
            shutil.rmtree(self.workplace.path(folder))


def step(disk):
    """The newest step of the guest on a disk."""
    with open(disk, "rb") as file:
        file.seek(COUNTER_OFFSET)
        return int.from_bytes(file.read(COUNTER_BYTES), "little")
