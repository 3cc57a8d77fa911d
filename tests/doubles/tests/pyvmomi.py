"""Drives the double of vSphere with VMware's own client.

Asks the test that runs it to write as the guest, by a line on stdout that it answers by one on
stdin; everything else is checked here. The last line is "done".
"""

import hashlib
import ssl
import sys
import time

from pyVim.connect import Disconnect, SmartConnect
from pyVim.task import WaitForTask, WaitForTasks
from pyVmomi import vim, vmodl

KIB64 = 64 << 10
DEADLINE_S = 60


def same(found, wanted, what):
    if found != wanted:
        raise AssertionError(f"{what}: {found!r} instead of {wanted!r}")


def ask(line):
    print(line, flush=True)
    answer = sys.stdin.readline().rstrip("\n")
    if not answer.startswith("ok"):
        raise AssertionError(f"{line}: {answer}")
    return answer.removeprefix("ok").strip()


def fault_of(kind, call, *arguments, **named):
    try:
        call(*arguments, **named)
    except kind as fault:
        return fault
    raise AssertionError(f"no {kind.__name__}")


def connect(host, port, certificate, thumbprint, user, password):
    context = ssl.create_default_context(cafile=certificate)
    return SmartConnect(
        host=host, port=port, user=user, pwd=password, sslContext=context, thumbprint=thumbprint
    )


def check_thumbprints(host, port, sha1, sha256):
    der = ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate((host, port)))
    for name, told in (("sha1", sha1), ("sha256", sha256)):
        same(told.replace(":", "").lower(), hashlib.new(name, der).hexdigest(), name)


def machines(content):
    """All VMs by name, in pages, through a view."""
    view = content.viewManager.CreateContainerView(
        content.rootFolder, [vim.VirtualMachine], True
    )
    collector = vmodl.query.PropertyCollector
    traversal = collector.TraversalSpec(
        name="view", path="view", skip=False, type=vim.view.ContainerView
    )
    spec = collector.FilterSpec(
        objectSet=[collector.ObjectSpec(obj=view, skip=True, selectSet=[traversal])],
        propSet=[
            collector.PropertySpec(
                type=vim.VirtualMachine, all=False, pathSet=["name", "config.uuid", "parent"]
            )
        ],
    )
    options = collector.RetrieveOptions(maxObjects=3)
    page = content.propertyCollector.RetrievePropertiesEx([spec], options)
    pages, found = 1, list(page.objects)
    while page.token:
        page = content.propertyCollector.ContinueRetrievePropertiesEx(page.token)
        pages += 1
        found += page.objects
    same(len(view.view), len(found), "objects of the view")
    view.DestroyView()
    fault_of(vmodl.fault.ManagedObjectNotFound, view.DestroyView)
    if pages < 2:
        raise AssertionError("all VMs came in one page")
    return {dict((it.name, it.val) for it in o.propSet)["name"]: o.obj for o in found}


def disks(config):
    return {d.key: d for d in config.hardware.device if isinstance(d, vim.vm.device.VirtualDisk)}


def snapshot(machine, name, quiesce=False):
    task = machine.CreateSnapshot_Task(
        name=name, description="of a test", memory=False, quiesce=quiesce
    )
    WaitForTask(task)
    same(task.info.state, "success", "state of the task")
    same(task.info.entity, machine, "entity of the task")
    return task.info.result


def changed(machine, snapshot, disk, change_id):
    """All areas, by asking until the end of the disk is reached."""
    areas, start, pages = [], 0, 0
    while start < disk.capacityInBytes:
        page = machine.QueryChangedDiskAreas(
            snapshot=snapshot, deviceKey=disk.key, startOffset=start, changeId=change_id
        )
        same(page.startOffset, start, "start of a page")
        if page.length <= 0:
            raise AssertionError("a page covers nothing")
        areas += [(area.start, area.length) for area in page.changedArea]
        start += page.length
        pages += 1
    same(start, disk.capacityInBytes, "end of the areas")
    return areas, pages


def check_service(instance):
    about = instance.content.about
    same(about.apiVersion, "8.0.2.0", "version of the API")
    session = instance.content.sessionManager.currentSession
    same(session.userName, "backup", "user of the session")
    if abs(instance.CurrentTime().timestamp() - time.time()) > DEADLINE_S:
        raise AssertionError("the clock of the server is off")


def check_inventory(content, all_machines):
    web = all_machines["web"]
    center = content.rootFolder.childEntity[0]
    same(web.config.template, False, "template")
    same(web.runtime.powerState, "poweredOn", "power state")
    same(web.runtime.host.parent.host[0].runtime.inMaintenanceMode, False, "maintenance")
    same([store.summary.type for store in web.datastore], ["VMFS"], "type of the datastore")
    same(web.snapshot, None, "snapshots")
    same(web.config.changeTrackingEnabled, False, "tracking")
    same(web.resourcePool.owner, web.runtime.host.parent, "owner of the pool")
    index = content.searchIndex
    same(index.FindByUuid(None, web.config.uuid, True), web, "VM by UUID")
    same(index.FindAllByUuid(None, web.config.instanceUuid, True, True), [web], "VMs by UUID")
    path = f"{center.name}/vm/front/web"
    same(index.FindByInventoryPath(path), web, "VM by path")
    same(index.FindByInventoryPath(path + "x"), None, "VM by another path")
    fault = fault_of(vmodl.query.InvalidProperty, lambda: content.propertyCollector.
                     RetrievePropertiesEx([filter_of(web, "config.nothing")],
                                          vmodl.query.PropertyCollector.RetrieveOptions()))
    same(fault.name, "config.nothing", "name of the property")


def filter_of(object, path):
    collector = vmodl.query.PropertyCollector
    return collector.FilterSpec(
        objectSet=[collector.ObjectSpec(obj=object)],
        propSet=[collector.PropertySpec(type=type(object), pathSet=[path])],
    )


def check_tracking(web):
    """Tracking is asked for, and begins with the moment in which a snapshot is made."""
    WaitForTask(web.ReconfigVM_Task(vim.vm.ConfigSpec(changeTrackingEnabled=True)))
    same(web.config.changeTrackingEnabled, True, "tracking")
    first = snapshot(web, "stun")
    same([d.backing.changeId for d in disks(first.config).values()], [None] * 3, "change ids")
    fault_of(vim.fault.FileFault, web.QueryChangedDiskAreas, first, 2000, 0, "*")
    WaitForTask(first.RemoveSnapshot_Task(removeChildren=False, consolidate=True))
    same(web.snapshot, None, "snapshots")


def check_changes(web):
    ask("write 2000 1048577 10")
    base = snapshot(web, "base", quiesce=True)
    tree = web.snapshot.rootSnapshotList
    same([(it.name, it.quiesced, it.snapshot) for it in tree], [("base", True, base)], "tree")
    held, now = disks(base.config), disks(web.config)
    same(held[2000].backing.fileName, "[datastore1] web/web.vmdk", "file of the snapshot")
    same(now[2000].backing.parent.fileName, held[2000].backing.fileName, "parent of the current")
    if now[2000].backing.changeId == held[2000].backing.changeId:
        raise AssertionError("the change id of the current disk is that of the snapshot")
    same(held[2002].backing.diskMode, "independent_persistent", "mode of the third disk")
    same(held[2002].backing.changeId, None, "change id of the third disk")
    areas, _ = changed(web, base, held[2000], "*")
    same(areas, [(1 << 20, KIB64)], "areas in use")
    change_ids = {key: disk.backing.changeId for key, disk in held.items()}
    for block in range(0, 20, 2):
        ask(f"write 2000 {block * KIB64 + 5} 1")
    ask(f"write 2001 {3 * KIB64 - 1} 2")
    copies = ask("copies")
    WaitForTask(base.RemoveSnapshot_Task(removeChildren=False))
    same(disks(web.config)[2000].backing.fileName, "[datastore1] web/web.vmdk", "file afterwards")
    later = snapshot(web, "later")
    held = disks(later.config)
    areas, pages = changed(web, later, held[2000], change_ids[2000])
    same(areas, [(block * KIB64, KIB64) for block in range(0, 20, 2)], "areas of the first disk")
    same(pages, 3, "pages of four areas")
    areas, _ = changed(web, later, held[2001], change_ids[2001])
    same(areas, [(2 * KIB64, 2 * KIB64)], "areas of the second disk")
    areas, _ = changed(web, later, held[2001], held[2001].backing.changeId)
    same(areas, [], "areas since the snapshot itself")
    check_refusals(web, later, held[2000], held[2001].backing.changeId)
    if ask("copies") == copies:
        raise AssertionError("the copies of two snapshots are the same")
    WaitForTask(web.RemoveAllSnapshots_Task())


def check_refusals(web, later, disk, of_another):
    query = web.QueryChangedDiskAreas
    fault_of(vim.fault.FileFault, query, later, disk.key, 0, of_another)
    uuid, number = disk.backing.changeId.rsplit("/", 1)
    for change_id in (f"{uuid}/{int(number) + 1}", uuid, "", f"{uuid}/x"):
        fault = fault_of(vmodl.fault.InvalidArgument, query, later, disk.key, 0, change_id)
        same(fault.invalidProperty, "changeId", "the parameter")
    fault = fault_of(vmodl.fault.InvalidArgument, query, later, disk.key, disk.capacityInBytes, "*")
    same(fault.invalidProperty, "startOffset", "the parameter")
    fault_of(vmodl.fault.InvalidArgument, query, later, 2009, 0, "*")


def check_tasks(instance, web):
    """A stuck task is cancelled; meanwhile the VM takes no other."""
    ask("stick CreateSnapshot_Task")
    stuck = web.CreateSnapshot_Task("stuck", None, False, False)
    other = web.CreateSnapshot_Task("other", None, False, False)
    fault_of(vim.fault.TaskInProgress, WaitForTask, other)
    same(stuck.info.state, "running", "state of the stuck task")
    stuck.CancelTask()
    fault = fault_of(vmodl.fault.RequestCanceled, WaitForTask, stuck)
    same(type(stuck.info.error), type(fault), "error of the task")
    spec = vim.vm.WindowsQuiesceSpec(timeout=5, vssBackupContext="ctx_auto")
    task = web.CreateSnapshotEx_Task(name="ex", memory=False, quiesceSpec=spec)
    WaitForTasks([task], instance)
    WaitForTask(web.RevertToCurrentSnapshot_Task())
    same(web.runtime.powerState, "poweredOff", "power state after the revert")
    WaitForTask(task.info.result.RemoveSnapshot_Task(True))
    WaitForTask(web.PowerOnVM_Task())
    fault_of(vim.fault.InvalidPowerState, WaitForTask, web.PowerOnVM_Task())


def check_new_machine(content, web):
    center = content.rootFolder.childEntity[0]
    controller = vim.vm.device.VirtualDeviceSpec(
        operation="add",
        device=vim.vm.device.ParaVirtualSCSIController(
            key=-1, busNumber=0, sharedBus="noSharing"
        ),
    )
    spec = vim.vm.ConfigSpec(
        name="restored", guestId="otherGuest64", numCPUs=1, memoryMB=512,
        files=vim.vm.FileInfo(vmPathName="[datastore1]"),
        deviceChange=[controller, new_disk(-2, 0, 8 << 20), new_disk(-3, 1, 4 << 20)],
    )
    create = center.vmFolder.CreateVM_Task
    task = create(config=spec, pool=web.resourcePool)
    WaitForTask(task)
    made = task.info.result
    same([d.capacityInBytes for d in disks(made.config).values()], [8 << 20, 4 << 20], "sizes")
    fault_of(vim.fault.DuplicateName, create, config=spec, pool=web.resourcePool)
    disk = disks(made.config)[2000]
    disk.capacityInKB, disk.capacityInBytes = (16 << 20) // 1024, 16 << 20
    grow = vim.vm.device.VirtualDeviceSpec(operation="edit", device=disk)
    gone = vim.vm.device.VirtualDeviceSpec(
        operation="remove", fileOperation="destroy", device=disks(made.config)[2001]
    )
    WaitForTask(made.ReconfigVM_Task(vim.vm.ConfigSpec(deviceChange=[grow, gone])))
    sizes = {key: disk.capacityInBytes for key, disk in disks(made.config).items()}
    same(sizes, {2000: 16 << 20}, "sizes after the change")
    WaitForTask(made.Destroy_Task())
    fault_of(vmodl.fault.ManagedObjectNotFound, lambda: made.name)


def new_disk(key, unit, capacity):
    return vim.vm.device.VirtualDeviceSpec(
        operation="add", fileOperation="create",
        device=vim.vm.device.VirtualDisk(
            key=key, controllerKey=-1, unitNumber=unit,
            capacityInKB=capacity // 1024, capacityInBytes=capacity,
            backing=vim.vm.device.VirtualDisk.FlatVer2BackingInfo(
                fileName="[datastore1]", diskMode="persistent", thinProvisioned=True
            ),
        ),
    )


def main():
    host, port, certificate, sha1, sha256 = sys.argv[1:]
    port = int(port)
    check_thumbprints(host, port, sha1, sha256)
    fault_of(vim.fault.InvalidLogin, connect, host, port, certificate, sha1, "backup", "wrong")
    instance = connect(host, port, certificate, sha256, "backup", "secret")
    check_service(instance)
    content = instance.content
    all_machines = machines(content)
    same(len(all_machines), 8, "VMs")
    web = all_machines["web"]
    check_inventory(content, all_machines)
    check_tracking(web)
    check_changes(web)
    check_tasks(instance, web)
    check_new_machine(content, web)
    ask("expire")
    fault_of(vim.fault.NotAuthenticated, lambda: web.name)
    again = connect(host, port, certificate, sha1, "backup", "secret")
    Disconnect(again)
    print("done", flush=True)


main()
