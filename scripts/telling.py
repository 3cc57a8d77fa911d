"""What a demo tells: its steps, and a table of what each command moved."""

from workplace import MIB

GIB = 1 << 30


class Table:
    """What each command moved."""

    HEAD = "command", "disks", "size", "read", "zero", "sent", "seconds", "MiB/s", "CPU s/GiB"

    def __init__(self):
        self.rows = []

    def add(self, command, report):
        count = report["bytes"]
        gibs = count["read"] / GIB
        size = sum(disk["size"] for disk in report["disks"])
        self.rows.append([
            command,
            str(len(report["disks"])),
            *(f"{value / MIB:.1f} MiB" for value in
              (size, count["read"], count["zero"], count["sent"])),
            f"{report['seconds']:.2f}",
            f"{count['read'] / MIB / report['seconds']:.0f}",
            f"{report['cpu_seconds'] / gibs:.2f}" if gibs else "-",
        ])

    def print(self):
        widths = [max(map(len, column)) for column in zip(self.HEAD, *self.rows)]
        for row in [self.HEAD, ["-" * width for width in widths], *self.rows]:
            first, *rest = zip(row, widths)
            cells = [first[0].ljust(first[1]), *(text.rjust(width) for text, width in rest)]
            print("  ".join(cells))
        print(
            "seconds: the whole command, with the start of its exports and the check of its images;\n"
            "MiB/s: of what was read, in these seconds; CPU: of blockferry, a GiB that was read"
        )


def head(text):
    print(f"\n{text}", flush=True)


def say(text):
    print(f"  {text}", flush=True)
