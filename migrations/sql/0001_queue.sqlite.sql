-- Revision 0001 for SQLite. A line of only `--;` ends a statement (triggers contain semicolons).
-- Public to submitters: table job, columns spec, project, priority, cancel_requested. See README.md.

CREATE TABLE job (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE DEFAULT (lower(hex(randomblob(8)))),
    spec TEXT NOT NULL,
    project TEXT NOT NULL DEFAULT 'main',
    priority INTEGER NOT NULL DEFAULT 0,
    cancel_requested INTEGER NOT NULL DEFAULT 0,
    submitted_at_ms INTEGER NOT NULL DEFAULT (CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)),
    phase TEXT NOT NULL DEFAULT 'submitted',
    reason TEXT,
    message TEXT NOT NULL DEFAULT '',
    phase_since_ms INTEGER NOT NULL DEFAULT (CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)),
    finished_at_ms INTEGER,
    exit_code INTEGER,
    name TEXT NOT NULL DEFAULT '',
    attempt INTEGER NOT NULL DEFAULT 0,
    ran_attempts INTEGER NOT NULL DEFAULT 0,
    boot_failures INTEGER NOT NULL DEFAULT 0,
    cost_usd REAL NOT NULL DEFAULT 0,
    version INTEGER NOT NULL DEFAULT 0,
    next_visit_at_ms INTEGER NOT NULL DEFAULT 0,
    inputs_digest TEXT NOT NULL DEFAULT '[]',
    array_parent TEXT REFERENCES job (id),
    array_index INTEGER,
    CONSTRAINT "id: 1 to 64 of a-z, 0-9 and -"
        CHECK (typeof(id) = 'text' AND length(id) BETWEEN 1 AND 64 AND id NOT GLOB '*[^a-z0-9-]*'),
    CONSTRAINT "spec must be valid JSON" CHECK (typeof(spec) = 'text' AND json_valid(spec)),
    CONSTRAINT "spec is at most 262144 characters" CHECK (length(spec) <= 262144),
    CONSTRAINT "project: 1 to 64 characters"
        CHECK (typeof(project) = 'text' AND length(project) BETWEEN 1 AND 64),
    CONSTRAINT "submitted_at_ms: milliseconds since 1970" CHECK (typeof(submitted_at_ms) = 'integer'),
    CONSTRAINT "priority: an integer from -1000 to 1000"
        CHECK (typeof(priority) = 'integer' AND priority BETWEEN -1000 AND 1000),
    CONSTRAINT "cancel_requested: 0 or 1" CHECK (cancel_requested IN (0, 1)),
    CONSTRAINT "phase is one of the phases" CHECK (phase IN (
        'submitted', 'queued', 'launching', 'booting', 'running', 'sealing', 'terminating',
        'succeeded', 'failed', 'cancelled', 'rejected')),
    CONSTRAINT "finished_at_ms is set in terminal phases only" CHECK (
        (finished_at_ms IS NOT NULL) = (phase IN ('succeeded', 'failed', 'cancelled', 'rejected'))),
    CONSTRAINT "array_parent and array_index go together"
        CHECK ((array_parent IS NULL) = (array_index IS NULL)),
    CONSTRAINT "inputs_digest must be valid JSON" CHECK (json_valid(inputs_digest)),
    UNIQUE (array_parent, array_index)
)
--;
CREATE INDEX job_submitted ON job (seq) WHERE phase = 'submitted'
--;
CREATE INDEX job_queued ON job (priority DESC, seq) WHERE phase = 'queued'
--;
CREATE INDEX job_live ON job (next_visit_at_ms) WHERE finished_at_ms IS NULL
--;
CREATE TABLE backend (
    name TEXT PRIMARY KEY,
    type TEXT NOT NULL DEFAULT 'aws' CHECK (type IN ('aws')),
    region TEXT NOT NULL,
    bucket TEXT NOT NULL,
    subnet TEXT,
    endpoint_url TEXT,
    owner TEXT NOT NULL UNIQUE DEFAULT (lower(hex(randomblob(8)))),
    created_at_ms INTEGER NOT NULL
)
--;
CREATE TABLE launch (
    id TEXT PRIMARY KEY,
    backend TEXT NOT NULL REFERENCES backend (name),
    client_token TEXT NOT NULL UNIQUE CHECK (length(client_token) <= 64),
    request TEXT NOT NULL CHECK (json_valid(request)),
    document TEXT NOT NULL CHECK (json_valid(document)),
    offering TEXT NOT NULL,
    price_usd_h REAL NOT NULL,
    count INTEGER NOT NULL CHECK (count >= 1),
    state TEXT NOT NULL DEFAULT 'intended' CHECK (state IN ('intended', 'answered', 'failed')),
    error_code TEXT,
    message TEXT NOT NULL DEFAULT '',
    created_at_ms INTEGER NOT NULL,
    answered_at_ms INTEGER,
    reuses TEXT,
    reuse_number INTEGER,
    CHECK ((reuses IS NULL) = (reuse_number IS NULL)),
    CHECK ((state = 'intended') = (answered_at_ms IS NULL))
)
--;
CREATE INDEX launch_open ON launch (created_at_ms) WHERE state = 'intended'
--;
CREATE INDEX launch_created ON launch (created_at_ms)
--;
CREATE TABLE machine (
    instance_id TEXT PRIMARY KEY,
    backend TEXT NOT NULL REFERENCES backend (name),
    launch_id TEXT NOT NULL,
    launch_index INTEGER NOT NULL,
    instance_type TEXT NOT NULL,
    zone TEXT NOT NULL,
    market TEXT NOT NULL CHECK (market IN ('spot', 'on-demand')),
    price_usd_h REAL NOT NULL,
    spot_request_id TEXT NOT NULL DEFAULT '',
    private_ip TEXT NOT NULL DEFAULT '',
    state TEXT NOT NULL DEFAULT 'pending',
    state_reason TEXT NOT NULL DEFAULT '',
    launched_at_ms INTEGER NOT NULL,
    gone_at_ms INTEGER,
    idle_number INTEGER NOT NULL DEFAULT 0,
    idle_since_ms INTEGER,
    idle_until_ms INTEGER,
    idle_job_id TEXT,
    idle_attempt INTEGER,
    leaving_since_ms INTEGER,
    stuck_at_ms INTEGER
)
--;
CREATE INDEX machine_live ON machine (launched_at_ms) WHERE gone_at_ms IS NULL
--;
CREATE INDEX machine_idle ON machine (idle_since_ms) WHERE idle_since_ms IS NOT NULL
--;
CREATE TABLE attempt (
    job_id TEXT NOT NULL REFERENCES job (id),
    number INTEGER NOT NULL CHECK (number >= 1),
    launch_id TEXT NOT NULL REFERENCES launch (id),
    launch_index INTEGER NOT NULL,
    instance_id TEXT,
    instance_type TEXT NOT NULL,
    zone TEXT NOT NULL,
    market TEXT NOT NULL CHECK (market IN ('spot', 'on-demand')),
    price_usd_h REAL NOT NULL,
    launched_at_ms INTEGER,
    outcome TEXT CHECK (outcome IN ('exited', 'interrupted', 'no_capacity', 'boot_timeout', 'boot_failed',
        'timed_out', 'lost', 'cancelled')),
    exit_code INTEGER,
    exit_cause TEXT NOT NULL DEFAULT '',
    exit_signal TEXT NOT NULL DEFAULT '',
    booted_at_ms INTEGER,
    started_at_ms INTEGER,
    notice_at_ms INTEGER,
    rebalance_at_ms INTEGER,
    exited_at_ms INTEGER,
    sealed_at_ms INTEGER,
    seal_verdict TEXT NOT NULL DEFAULT '',
    seal_message TEXT NOT NULL DEFAULT '',
    artifact_files INTEGER,
    artifact_bytes INTEGER,
    done_at_ms INTEGER,
    failed_stage TEXT NOT NULL DEFAULT '',
    failed_message TEXT NOT NULL DEFAULT '',
    failed_final INTEGER NOT NULL DEFAULT 0,
    stop_requested_at_ms INTEGER,
    terminate_requested_at_ms INTEGER,
    log_lines_sent INTEGER,
    log_bytes_sent INTEGER,
    log_lines_seen INTEGER NOT NULL DEFAULT 0,
    log_lines_over_quota INTEGER,
    log_lines_lost INTEGER,
    log_verdict TEXT NOT NULL DEFAULT '',
    released_at_ms INTEGER,
    ended_at_ms INTEGER,
    reused INTEGER NOT NULL DEFAULT 0,
    idle_ms INTEGER NOT NULL DEFAULT 0,
    cost_usd REAL NOT NULL DEFAULT 0,
    vcpus INTEGER NOT NULL DEFAULT 0,
    reserved_usd REAL NOT NULL DEFAULT 0,
    PRIMARY KEY (job_id, number)
)
--;
CREATE INDEX attempt_launch ON attempt (launch_id, launch_index)
--;
CREATE INDEX attempt_instance ON attempt (instance_id)
--;
CREATE INDEX attempt_ended ON attempt (ended_at_ms)
--;
CREATE TABLE event (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    at_ms INTEGER NOT NULL,
    job_id TEXT,
    attempt INTEGER,
    kind TEXT NOT NULL,
    phase_from TEXT,
    phase_to TEXT,
    reason TEXT,
    message TEXT NOT NULL DEFAULT '',
    detail TEXT NOT NULL DEFAULT '{}' CHECK (json_valid(detail))
)
--;
CREATE INDEX event_job ON event (job_id, id)
--;
CREATE TRIGGER event_is_append_only BEFORE UPDATE ON event
BEGIN
    SELECT RAISE(ABORT, 'event rows are append-only');
END
--;
CREATE TRIGGER job_starts_submitted BEFORE INSERT ON job
WHEN NEW.phase <> 'submitted' OR NEW.version <> 0 OR NEW.attempt <> 0 OR NEW.ran_attempts <> 0
    OR NEW.boot_failures <> 0 OR NEW.inputs_digest <> '[]' OR NEW.reason IS NOT NULL
BEGIN
    SELECT RAISE(ABORT, 'a new job starts in phase submitted: leave phase, version and all that the daemon writes out of the INSERT');
END
--;
CREATE TRIGGER job_logs_its_submission AFTER INSERT ON job
BEGIN
    INSERT INTO event (at_ms, job_id, kind, phase_to)
    VALUES (NEW.submitted_at_ms, NEW.id, 'submitted', 'submitted');
END
--;
CREATE TRIGGER job_spec_is_fixed BEFORE UPDATE OF spec, id ON job
WHEN OLD.phase <> 'submitted' AND (NEW.spec IS NOT OLD.spec OR NEW.id IS NOT OLD.id)
BEGIN
    SELECT RAISE(ABORT, 'spec and id cannot change once the job is accepted: cancel it and insert a new one');
END
--;
CREATE TRIGGER job_terminal_is_final BEFORE UPDATE OF phase ON job
WHEN OLD.phase IN ('succeeded', 'failed', 'cancelled', 'rejected') AND NEW.phase <> OLD.phase
BEGIN
    SELECT RAISE(ABORT, 'a terminal phase never changes: insert a new job');
END
--;
CREATE TRIGGER job_cancel_wakes AFTER UPDATE OF cancel_requested ON job
WHEN NEW.cancel_requested = 1 AND OLD.cancel_requested = 0 AND NEW.finished_at_ms IS NULL
BEGIN
    UPDATE job SET next_visit_at_ms = 0, version = version + 1 WHERE seq = NEW.seq;
    INSERT INTO event (at_ms, job_id, kind)
    VALUES (CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER), NEW.id, 'cancel_requested');
END
