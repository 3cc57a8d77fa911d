//! The tables, and how an older file comes to have them.

/// `application_id` of the file's header: "bfct".
pub(super) const APPLICATION_ID: i32 = 0x6266_6374;

/// What makes version n + 1 of version n. A released one is never changed: a new one is added.
pub(super) const MIGRATIONS: &[&str] =
    &[VERSION_1, VERSION_2, VERSION_3, VERSION_4, VERSION_5, VERSION_6, VERSION_7, VERSION_8];

/// What a key stands for, besides its VM and mode.
const VERSION_8: &str = "
ALTER TABLE jobs ADD COLUMN asked TEXT;
";

/// Which VM it was, and what whoever restores a point should know.
const VERSION_7: &str = "
ALTER TABLE points ADD COLUMN vm_uuid TEXT;
CREATE TABLE point_notes (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    point  INTEGER NOT NULL REFERENCES points (number),
    weight TEXT NOT NULL CHECK (weight IN ('note', 'warning', 'alarm')),
    says   TEXT NOT NULL
) STRICT;
CREATE INDEX point_notes_by_point ON point_notes (point, number);
";

/// Which file it was whose tables were found right last.
const VERSION_6: &str = "
ALTER TABLE layers ADD COLUMN checked_inode INTEGER;
ALTER TABLE layers ADD COLUMN checked_modified_ns INTEGER
    CHECK ((checked_inode IS NULL) = (checked_modified_ns IS NULL));
ALTER TABLE layers ADD COLUMN checked_bytes INTEGER
    CHECK ((checked_inode IS NULL) = (checked_bytes IS NULL));
";

/// What was found wrong with a layer, until a verification finds it right, and how long the
/// file of its image is, which never changes.
const VERSION_5: &str = "
ALTER TABLE layers ADD COLUMN damage TEXT;
ALTER TABLE layers ADD COLUMN damage_ms INTEGER CHECK ((damage IS NULL) = (damage_ms IS NULL));
ALTER TABLE layers ADD COLUMN file_bytes INTEGER CHECK (file_bytes >= 0);
";

/// What a job is for: those that serve a point are no backups, and are not listed as such.
const VERSION_4: &str = "
ALTER TABLE jobs ADD COLUMN kind TEXT NOT NULL DEFAULT 'backup'
    CHECK (kind IN ('backup', 'export'));
";

/// Which content the manifest of a layer had when it was published.
const VERSION_3: &str = "
ALTER TABLE layers ADD COLUMN manifest_id TEXT
    CHECK (manifest_id IS NULL OR manifest_path IS NOT NULL);
";

/// Whose fault it was that a job failed: whoever asked for it from afar has nothing else to go by.
const VERSION_2: &str = "
ALTER TABLE jobs ADD COLUMN failure TEXT
    CHECK (failure IN ('wrong_usage', 'source_fault', 'target_fault', 'failed'));
";

/// Times are milliseconds since 1970, sizes bytes. What must hold is said here too, where a
/// defect of the program meets it last.
const VERSION_1: &str = "
CREATE TABLE jobs (
    -- The order of arrival; a clock may be set back.
    number          INTEGER PRIMARY KEY AUTOINCREMENT,
    id              TEXT NOT NULL UNIQUE,
    vm              TEXT NOT NULL,
    mode            TEXT NOT NULL CHECK (mode IN ('auto', 'full', 'incremental')),
    state           TEXT NOT NULL CHECK (state IN ('queued', 'planning', 'copying', 'publishing',
                                                   'done', 'failed', 'cancelled')),
    idempotency_key TEXT UNIQUE,
    created_ms      INTEGER NOT NULL,
    changed_ms      INTEGER NOT NULL,
    reason          TEXT NOT NULL
) STRICT;
CREATE INDEX jobs_by_vm ON jobs (vm, number);
CREATE INDEX jobs_by_state ON jobs (state, number);

CREATE TABLE job_steps (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    job    TEXT NOT NULL REFERENCES jobs (id),
    state  TEXT NOT NULL,
    at_ms  INTEGER NOT NULL,
    reason TEXT NOT NULL,
    -- No state is taken twice.
    UNIQUE (job, state)
) STRICT;

CREATE TABLE leases (
    -- Never used again, so that a lease that was given back frees nobody else's.
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    kind       TEXT NOT NULL CHECK (kind IN ('port', 'export', 'image', 'snapshot')),
    key        TEXT NOT NULL,
    owner      TEXT NOT NULL REFERENCES jobs (id),
    created_ms INTEGER NOT NULL,
    UNIQUE (kind, key)
) STRICT;
CREATE INDEX leases_by_owner ON leases (owner);

CREATE TABLE disks (
    id   INTEGER PRIMARY KEY AUTOINCREMENT,
    vm   TEXT NOT NULL,
    name TEXT NOT NULL,
    uuid TEXT,
    UNIQUE (vm, uuid)
) STRICT;
-- The name tells disks apart only where there is nothing better.
CREATE UNIQUE INDEX disks_by_name ON disks (vm, name) WHERE uuid IS NULL;

CREATE TABLE points (
    -- The order in which they were published; a clock may be set back.
    number       INTEGER PRIMARY KEY AUTOINCREMENT,
    id           TEXT NOT NULL UNIQUE,
    vm           TEXT NOT NULL,
    created_ms   INTEGER NOT NULL,
    published_ms INTEGER NOT NULL,
    mode         TEXT NOT NULL CHECK (mode IN ('auto', 'full', 'incremental')),
    -- It may be kept in a hub's catalog.
    job          TEXT NOT NULL UNIQUE
) STRICT;
CREATE INDEX points_by_vm ON points (vm, number);

CREATE TABLE layers (
    id               TEXT PRIMARY KEY,
    point            INTEGER NOT NULL REFERENCES points (number),
    disk             INTEGER NOT NULL REFERENCES disks (id),
    disk_name        TEXT NOT NULL,
    kind             TEXT NOT NULL CHECK (kind IN ('full', 'delta')),
    reason           TEXT NOT NULL,
    parent           TEXT REFERENCES layers (id),
    path             TEXT NOT NULL UNIQUE,
    size_bytes       INTEGER NOT NULL CHECK (size_bytes >= 0),
    stored_bytes     INTEGER NOT NULL CHECK (stored_bytes >= 0),
    change_id        TEXT,
    digest           TEXT,
    manifest_path    TEXT UNIQUE,
    read_bytes       INTEGER NOT NULL CHECK (read_bytes >= 0),
    zero_bytes       INTEGER NOT NULL CHECK (zero_bytes >= 0),
    sent_bytes       INTEGER NOT NULL CHECK (sent_bytes >= 0),
    skipped_bytes    INTEGER NOT NULL CHECK (skipped_bytes >= 0),
    UNIQUE (point, disk),
    UNIQUE (point, disk_name),
    CHECK ((kind = 'full') = (parent IS NULL)),
    CHECK ((digest IS NULL) = (manifest_path IS NULL))
) STRICT;
CREATE INDEX layers_by_disk ON layers (disk, point);
CREATE INDEX layers_by_parent ON layers (parent);

CREATE TABLE leftovers (
    number   INTEGER PRIMARY KEY AUTOINCREMENT,
    path     TEXT NOT NULL UNIQUE,
    since_ms INTEGER NOT NULL
) STRICT;
";
