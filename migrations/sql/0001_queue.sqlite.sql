-- Revision 0001 for SQLite. A line of only `--;` ends a statement (triggers contain semicolons).
-- Public to other applications: what CONTRACT.md says, and nothing else.

CREATE TABLE job (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE DEFAULT (lower(hex(randomblob(8)))),
    spec TEXT NOT NULL,
    project TEXT NOT NULL DEFAULT 'main',
    priority INTEGER NOT NULL DEFAULT 0,
    unique_key TEXT,
    run_at TEXT,
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
    held INTEGER NOT NULL DEFAULT 0,
    run_at_ms INTEGER GENERATED ALWAYS AS (
        CASE WHEN typeof(run_at) = 'text' AND run_at GLOB '[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]*'
                AND date(substr(run_at, 1, 10), '+0 days') = substr(run_at, 1, 10)
            THEN CAST(round((julianday(run_at) - 2440587.5) * 86400000) AS INTEGER) END) STORED,
    backend TEXT,
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
    CONSTRAINT "unique_key: 1 to 200 characters"
        CHECK (unique_key IS NULL OR (typeof(unique_key) = 'text' AND length(unique_key) BETWEEN 1 AND 200)),
    CONSTRAINT "run_at: a time such as 2027-01-31 06:00:00, from 1970 on"
        CHECK (run_at IS NULL OR ifnull(run_at_ms BETWEEN 0 AND 253402300799999, 0)),
    CONSTRAINT "cancel_requested: 0 or 1" CHECK (cancel_requested IN (0, 1)),
    CONSTRAINT "held: 0 or 1" CHECK (held IN (0, 1)),
    CONSTRAINT "phase is one of the phases" CHECK (phase IN (
        'submitted', 'queued', 'launching', 'booting', 'running', 'sealing', 'terminating',
        'succeeded', 'failed', 'cancelled', 'rejected')),
    CONSTRAINT "finished_at_ms is set in terminal phases only" CHECK (
        (finished_at_ms IS NOT NULL) = (phase IN ('succeeded', 'failed', 'cancelled', 'rejected'))),
    CONSTRAINT "array_parent and array_index go together"
        CHECK ((array_parent IS NULL) = (array_index IS NULL)),
    CONSTRAINT "inputs_digest must be valid JSON" CHECK (json_valid(inputs_digest))
)
--;
CREATE INDEX job_submitted ON job (seq) WHERE phase = 'submitted'
--;
CREATE INDEX job_queued ON job (phase, held, next_visit_at_ms, priority DESC, project, seq, backend)
    WHERE phase = 'queued' AND held = 0
--;
CREATE INDEX job_held ON job (next_visit_at_ms) WHERE phase = 'queued' AND held = 1
--;
CREATE UNIQUE INDEX job_unique_key ON job (project, unique_key) WHERE unique_key IS NOT NULL
--;
CREATE INDEX job_live ON job (next_visit_at_ms, phase) WHERE finished_at_ms IS NULL
--;
CREATE INDEX job_finished ON job (finished_at_ms) WHERE finished_at_ms IS NOT NULL
--;
CREATE INDEX job_inputs ON job (seq) WHERE finished_at_ms IS NULL AND inputs_digest <> '[]'
--;
CREATE INDEX job_open_array ON job (seq) WHERE finished_at_ms IS NULL AND reason = 'array_expanded'
--;
CREATE UNIQUE INDEX job_array ON job (array_parent, array_index) WHERE array_parent IS NOT NULL
--;
CREATE TABLE job_dependency (
    job_id TEXT NOT NULL REFERENCES job (id) ON DELETE CASCADE,
    on_job_id TEXT NOT NULL,
    condition TEXT NOT NULL DEFAULT 'success' CHECK (condition IN ('success', 'any')),
    PRIMARY KEY (job_id, on_job_id)
) WITHOUT ROWID
--;
CREATE INDEX job_dependency_on ON job_dependency (on_job_id)
--;
CREATE TABLE schedule (
    name TEXT PRIMARY KEY NOT NULL,
    cron TEXT NOT NULL,
    timezone TEXT NOT NULL DEFAULT 'UTC',
    spec TEXT NOT NULL,
    project TEXT NOT NULL DEFAULT 'main',
    priority INTEGER NOT NULL DEFAULT 0,
    overlap TEXT NOT NULL DEFAULT 'skip',
    catch_up TEXT NOT NULL DEFAULT 'last',
    enabled INTEGER NOT NULL DEFAULT 1,
    created_at_ms INTEGER NOT NULL DEFAULT (CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)),
    next_run_at_ms INTEGER,
    last_run_at_ms INTEGER,
    last_job_id TEXT,
    message TEXT NOT NULL DEFAULT '',
    version INTEGER NOT NULL DEFAULT 0,
    CONSTRAINT "name: 1 to 64 of a-z, A-Z, 0-9, dot, _ and -"
        CHECK (typeof(name) = 'text' AND length(name) BETWEEN 1 AND 64 AND name NOT GLOB '*[^a-zA-Z0-9._-]*'),
    CONSTRAINT "cron: 1 to 200 characters" CHECK (typeof(cron) = 'text' AND length(cron) BETWEEN 1 AND 200),
    CONSTRAINT "timezone: 1 to 64 characters"
        CHECK (typeof(timezone) = 'text' AND length(timezone) BETWEEN 1 AND 64),
    CONSTRAINT "spec must be valid JSON" CHECK (typeof(spec) = 'text' AND json_valid(spec)),
    CONSTRAINT "spec is at most 262144 characters" CHECK (length(spec) <= 262144),
    CONSTRAINT "project: 1 to 64 characters"
        CHECK (typeof(project) = 'text' AND length(project) BETWEEN 1 AND 64),
    CONSTRAINT "priority: an integer from -1000 to 1000"
        CHECK (typeof(priority) = 'integer' AND priority BETWEEN -1000 AND 1000),
    CONSTRAINT "overlap: skip or allow" CHECK (overlap IN ('skip', 'allow')),
    CONSTRAINT "catch_up: last or none" CHECK (catch_up IN ('last', 'none')),
    CONSTRAINT "enabled: 0 or 1" CHECK (enabled IN (0, 1))
)
--;
CREATE INDEX schedule_due ON schedule (next_run_at_ms) WHERE enabled = 1
--;
CREATE TABLE backend (
    name TEXT PRIMARY KEY,
    type TEXT NOT NULL DEFAULT 'aws' CHECK (type IN ('aws')),
    region TEXT NOT NULL,
    bucket TEXT NOT NULL,
    subnet TEXT,
    endpoint_url TEXT,
    owner TEXT NOT NULL UNIQUE DEFAULT (lower(hex(randomblob(8)))),
    created_at_ms INTEGER NOT NULL,
    lease_holder TEXT,
    lease_asked INTEGER NOT NULL DEFAULT 0,
    lease_answered INTEGER NOT NULL DEFAULT 0,
    fence INTEGER NOT NULL DEFAULT 0
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
    backend TEXT NOT NULL DEFAULT '',
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
CREATE INDEX attempt_live ON attempt (backend) WHERE ended_at_ms IS NULL
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
    OR NEW.boot_failures <> 0 OR NEW.inputs_digest <> '[]' OR NEW.reason IS NOT NULL OR NEW.message <> ''
    OR NEW.exit_code IS NOT NULL OR NEW.cost_usd <> 0 OR NEW.next_visit_at_ms <> 0 OR NEW.held <> 0
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
CREATE TRIGGER job_spec_is_fixed BEFORE UPDATE OF spec, id, project, unique_key ON job
WHEN OLD.phase <> 'submitted' AND (NEW.spec IS NOT OLD.spec OR NEW.id IS NOT OLD.id
    OR NEW.project IS NOT OLD.project OR NEW.unique_key IS NOT OLD.unique_key)
BEGIN
    SELECT RAISE(ABORT, 'spec, id, project and unique_key cannot change once the job is accepted: cancel it and insert a new one');
END
--;
CREATE TRIGGER job_order_is_for_the_queue BEFORE UPDATE OF priority, run_at ON job
WHEN OLD.phase NOT IN ('submitted', 'queued') AND (NEW.priority IS NOT OLD.priority OR NEW.run_at IS NOT OLD.run_at)
BEGIN
    SELECT RAISE(ABORT, 'priority and run_at can change only while the job waits (phase submitted or queued)');
END
--;
CREATE TRIGGER job_cancel_is_final BEFORE UPDATE OF cancel_requested ON job
WHEN OLD.cancel_requested = 1 AND NEW.cancel_requested = 0
BEGIN
    SELECT RAISE(ABORT, 'a cancel cannot be taken back: insert a new job');
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
--;
CREATE TRIGGER job_run_at_holds AFTER UPDATE OF run_at ON job
WHEN NEW.phase = 'queued' AND NEW.run_at IS NOT OLD.run_at
BEGIN
    UPDATE job SET held = 1, next_visit_at_ms = 0, version = version + 1 WHERE seq = NEW.seq;
END
--;
CREATE TRIGGER job_deleted_wakes_dependents AFTER DELETE ON job
WHEN OLD.finished_at_ms IS NULL
BEGIN
    UPDATE job SET next_visit_at_ms = 0, version = version + 1
    WHERE id IN (SELECT job_id FROM job_dependency WHERE on_job_id = OLD.id) AND phase = 'queued' AND held = 1;
END
--;
CREATE TRIGGER schedule_starts_new BEFORE INSERT ON schedule
WHEN NEW.next_run_at_ms IS NOT NULL OR NEW.last_run_at_ms IS NOT NULL OR NEW.last_job_id IS NOT NULL
    OR NEW.message <> '' OR NEW.version <> 0
BEGIN
    SELECT RAISE(ABORT, 'a new schedule has not run yet: leave all that the daemon writes out of the INSERT');
END
--;
CREATE TRIGGER schedule_name_is_fixed BEFORE UPDATE OF name ON schedule
WHEN NEW.name IS NOT OLD.name
BEGIN
    SELECT RAISE(ABORT, 'the name of a schedule never changes: insert a new one and delete this one');
END
--;
CREATE TRIGGER schedule_edit_wakes AFTER UPDATE OF cron, timezone, spec, project, priority, overlap, catch_up, enabled ON schedule
WHEN NEW.cron IS NOT OLD.cron OR NEW.timezone IS NOT OLD.timezone OR NEW.spec IS NOT OLD.spec
    OR NEW.project IS NOT OLD.project OR NEW.priority IS NOT OLD.priority OR NEW.overlap IS NOT OLD.overlap
    OR NEW.catch_up IS NOT OLD.catch_up OR NEW.enabled IS NOT OLD.enabled
BEGIN
    UPDATE schedule SET next_run_at_ms = NULL, message = '', version = version + 1 WHERE name = NEW.name;
END
--;
CREATE VIEW contract AS SELECT 1 AS version
--;
CREATE VIEW job_status AS
SELECT
    job.seq, job.id, job.name, job.project, job.unique_key,
    CASE
        WHEN job.phase IN ('submitted', 'queued') THEN 'waiting'
        WHEN job.phase IN ('launching', 'booting') THEN 'starting'
        WHEN job.phase IN ('sealing', 'terminating') THEN 'finishing'
        ELSE job.phase
    END AS state,
    CASE WHEN job.finished_at_ms IS NULL THEN 0 ELSE 1 END AS finished,
    job.phase, job.reason, job.message, job.exit_code,
    job.priority, job.cancel_requested, job.array_parent, job.array_index,
    strftime('%Y-%m-%dT%H:%M:%fZ', job.submitted_at_ms / 1000.0, 'unixepoch') AS submitted_at,
    strftime('%Y-%m-%dT%H:%M:%fZ', job.run_at_ms / 1000.0, 'unixepoch') AS run_at,
    strftime('%Y-%m-%dT%H:%M:%fZ', job.phase_since_ms / 1000.0, 'unixepoch') AS phase_since,
    strftime('%Y-%m-%dT%H:%M:%fZ', attempt.started_at_ms / 1000.0, 'unixepoch') AS started_at,
    strftime('%Y-%m-%dT%H:%M:%fZ', job.finished_at_ms / 1000.0, 'unixepoch') AS finished_at,
    job.submitted_at_ms, job.run_at_ms, job.phase_since_ms, attempt.started_at_ms, job.finished_at_ms,
    job.cost_usd, job.attempt, job.ran_attempts, job.backend,
    attempt.instance_id, attempt.instance_type, attempt.zone, attempt.market,
    attempt.log_verdict, attempt.seal_verdict, attempt.artifact_files, attempt.artifact_bytes
FROM job LEFT JOIN attempt ON attempt.job_id = job.id AND attempt.number = job.attempt
--;
CREATE VIEW job_events AS
SELECT
    id, job_id, attempt, strftime('%Y-%m-%dT%H:%M:%fZ', at_ms / 1000.0, 'unixepoch') AS at, at_ms, kind, phase_from, phase_to, reason, message, detail
FROM event WHERE job_id IS NOT NULL
--;
CREATE VIEW job_costs AS
SELECT
    attempt.job_id, attempt.number AS attempt, job.name, job.project, job.array_parent,
    attempt.outcome, attempt.exit_code, attempt.cost_usd, attempt.price_usd_h,
    attempt.backend, attempt.instance_id, attempt.instance_type, attempt.zone, attempt.market, attempt.reused,
    strftime('%Y-%m-%dT%H:%M:%fZ', attempt.launched_at_ms / 1000.0, 'unixepoch') AS launched_at,
    strftime('%Y-%m-%dT%H:%M:%fZ', attempt.ended_at_ms / 1000.0, 'unixepoch') AS ended_at,
    attempt.launched_at_ms, attempt.ended_at_ms
FROM attempt JOIN job ON job.id = attempt.job_id
