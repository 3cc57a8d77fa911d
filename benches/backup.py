#!/usr/bin/env python3
"""`blockferry backup` beside what a person types for the same: qemu-img create, qemu-nbd, nbdcopy.

    benches/backup.py --blockferry PATH --dir DIR [--rounds N]

One disk of 1 GiB of random data, served by nbdkit over a Unix socket, goes in turns
  typed    into a new image by qemu-img create, qemu-nbd and nbdcopy --flush
  backup   into a new repository
  copy     into an export that is ready, tuned as ours are, with and without digests
and all of it lies in DIR. Prints each round, the medians, and the ratios. Needs qemu-utils, nbdkit
and libnbd-bin, and 3 GiB of room in DIR.
"""

import argparse
import contextlib
import os
import resource
import shutil
import signal
import statistics
import subprocess
import tempfile
import time

MIB = 1024
# Longer than a round takes on a slow disk.
DEADLINE_S = 120
TUNED = {
    "MALLOC_MMAP_THRESHOLD_": str(4 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(64 << 20),
    "MALLOC_TOP_PAD_": str(16 << 20),
}


def run(*words):
    # Without a timeout of its own, for then it would look for the end every 50 ms only.
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)


@contextlib.contextmanager
def server(socket, *words, env=None):
    """A server that listens on `socket`, which it is waited for; ended if it does not end itself."""
    process = subprocess.Popen(words, env=env)
    try:
        end = time.monotonic() + DEADLINE_S
        while not os.path.exists(socket):
            if process.poll() is not None or time.monotonic() > end:
                raise SystemExit(f"{words[0]} does not listen")
            time.sleep(0.001)
        yield process
    finally:
        process.terminate()
        process.wait(DEADLINE_S)
        with contextlib.suppress(FileNotFoundError):
            os.remove(socket)


class Contenders:
    def __init__(self, blockferry, folder, source):
        self.blockferry, self.folder, self.source = blockferry, folder, source

    def path(self, name):
        return os.path.join(self.folder, name)

    @contextlib.contextmanager
    def measured(self, into):
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        start = time.monotonic()
        yield
        into.append(time.monotonic() - start)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        into.append(after.ru_utime + after.ru_stime - usage.ru_utime - usage.ru_stime)

    def typed(self):
        image, socket, taken = self.path("typed.qcow2"), self.path("typed.sock"), []
        with self.measured(taken):
            run("qemu-img", "create", "-q", "-f", "qcow2", image, f"{MIB}M")
            words = ["qemu-nbd", "-f", "qcow2", "-k", socket, "--discard=unmap", image]
            with server(socket, *words) as export:
                run("nbdcopy", "--flush", self.source, f"nbd+unix:///?socket={socket}")
                # It ends with its only client.
                export.wait()
        os.remove(image)
        return taken

    def backup(self):
        repository, taken = self.path("repository"), []
        with self.measured(taken):
            run(self.blockferry, "backup", "--vm", "v", "--disk", f"d={self.source}",
                "--repository", repository)
        shutil.rmtree(repository)
        return taken

    def copy(self, *options):
        image, socket, taken = self.path("copy.qcow2"), self.path("copy.sock"), []
        run("qemu-img", "create", "-q", "-f", "qcow2", image, f"{MIB}M")
        words = ["qemu-nbd", "-f", "qcow2", "-k", socket, "--discard=unmap", "--persistent",
                 "--cache=none", "--aio=io_uring", image]
        with server(socket, *words, env=os.environ | TUNED):
            with self.measured(taken):
                run(self.blockferry, "copy", *options, self.source, f"nbd+unix:///?socket={socket}")
        os.remove(image)
        return taken


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--blockferry", required=True)
    parser.add_argument("--dir", required=True)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.dir, prefix="backup-bench-") as folder:
        disk, socket = os.path.join(folder, "disk.raw"), os.path.join(folder, "disk.sock")
        with open(disk, "wb") as file:
            for _ in range(MIB):
                file.write(os.urandom(1 << 20))
        with server(socket, "nbdkit", "-f", "-r", "-U", socket, "file", disk):
            contenders = Contenders(options.blockferry, folder, f"nbd+unix:///?socket={socket}")
            ways = {
                "typed": contenders.typed,
                "backup": contenders.backup,
                "copy, blake3": lambda: contenders.copy("--digest", "blake3"),
                "copy": contenders.copy,
            }
            seconds = {way: [] for way in ways}
            for number in range(options.rounds):
                for way, measure in ways.items():
                    # Ends this script, and with it what it waits for.
                    signal.alarm(DEADLINE_S)
                    taken, cpu = measure()
                    seconds[way].append(taken)
                    print(f"{number + 1}  {way:13} {taken:6.3f} s  {cpu:5.2f} CPU s", flush=True)
    median = {way: statistics.median(taken) for way, taken in seconds.items()}
    for way, taken in median.items():
        print(f"median  {way:13} {taken:6.3f} s")
    print(f"typed / backup         {median['typed'] / median['backup']:.2f}")
    print(f"backup - copy, blake3  {median['backup'] - median['copy, blake3']:.3f} s")


if __name__ == "__main__":
    main()
