//! A double of nbdkit's vddk plugin, which needs a library that nobody may hand on.
//!
//! ```text
//!  nbdkit ... PLUGIN libdir=STATE ... ──► parameters  as the real plugin takes and refuses them
//!                                            │
//!                                         reexec      as it runs nbdkit a second time
//!                                            │
//!  a connection ──► open ── state: STATE/vddk.json, read anew ──► disk ── a raw file
//! ```
//!
//! `libdir` is a folder with the state of a pretended vCenter, where the real plugin has VMware's
//! library:
//!
//! ```json
//! {
//!   "server_thumbprint": "AA:BB:...",
//!   "users": {"user": "password"},
//!   "vms": {
//!     "vm-57": {
//!       "snapshots": {"snapshot-64": {"[ds] vm/vm.vmdk": {"path": "/raw/file", "capacity": 1048576}}},
//!       "disks": {"[ds] vm/vm.vmdk": {"path": "/raw/file", "capacity": 1048576}},
//!       "powered_on": true,
//!       "host": "host-21"
//!     }
//!   },
//!   "hosts_in_maintenance": ["host-24"],
//!   "faults": {"refuse_open": null}
//! }
//! ```
//!
//! `--dump-plugin` names the library, as the real plugin does, if there is a `lib64/libvixDiskLib.so.8`
//! beside it, which stands for it. Disks are served without it too.
//!
//! Each `capacity` is in bytes, a multiple of 512; what a file has not of it reads as zeros. Disks
//! of snapshots can only be read. Without a snapshot it is the VM's own disk, while the VM is off.
//! A connection goes to the `host` that its VM was on when it was opened; one that enters maintenance
//! ends those that it has, and opens none of what it keeps. Neither has to be told.
//! Under `faults` there may be:
//!
//! | fault | what it does |
//! | --- | --- |
//! | `refuse_open`: words | a connection is refused with them |
//! | `open_delay_ms` | opening a disk takes so long |
//! | `fail_extents`: true | asking what is allocated fails |
//! | `extents_delay_ms` | each question what is allocated takes so long |
//! | `read_delay_ms` | each read takes so long |
//! | `fail_reads_at`: offset | reads of that byte fail |
//! | `die_after_bytes` | nbdkit is killed when it has read so much |
//! | `die_after_written` | nbdkit is killed when it has written so many bytes |
//! | `lose_writes_at`: offset | writes of that byte are acknowledged, and do nothing |
//!
//! Its words are those of the real plugin where they are known (see the comments), and else what
//! VMware's error codes are called. Nothing here was compared with a real library.

mod disk;
mod ffi;
mod parameters;
mod reexec;
mod state;
