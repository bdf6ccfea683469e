-- Times are milliseconds since the Unix epoch, except places in a thread (`place` of the inbox, `watermark`,
-- `stopped_at`): those are microseconds, by the chat platform's clock. JSON is kept for nested documents only. The names in
-- the checks are those of `as_str` in the broker's core. A thread's `key` is `<installation>/<conversation>:<root>`.

-- Raw envelopes, one per key. `fate` is what became of one; NULL until then. Ids are never used twice.
CREATE TABLE journal (
    id            INTEGER PRIMARY KEY AUTOINCREMENT,
    key           TEXT    NOT NULL UNIQUE,
    kind          TEXT    NOT NULL,
    retry_attempt INTEGER NOT NULL CHECK (retry_attempt >= 0),
    received_at   INTEGER NOT NULL,
    raw           BLOB    NOT NULL,
    fate          TEXT    CHECK (fate IN ('inbox', 'ignored', 'unrouted', 'unreadable', 'denied', 'done')),
    thread        TEXT    CHECK ((thread IS NOT NULL) = (fate IS 'unrouted')),
    reason        TEXT
) STRICT;
CREATE INDEX journal_unread ON journal (id) WHERE fate IS NULL;
CREATE INDEX journal_unrouted ON journal (thread, received_at) WHERE fate = 'unrouted';
CREATE INDEX journal_unreadable ON journal (id) WHERE fate = 'unreadable';
CREATE INDEX journal_age ON journal (received_at) WHERE fate IS NOT NULL;

-- Threads that were ever claimed: who may change their rows, and how often they were changed.
CREATE TABLE threads (
    key          TEXT    PRIMARY KEY,
    installation TEXT    NOT NULL,
    conversation TEXT    NOT NULL,
    root         TEXT    NOT NULL,
    owner        TEXT    NOT NULL,
    fence        INTEGER NOT NULL CHECK (fence > 0),
    revision     INTEGER NOT NULL CHECK (revision >= 0),
    UNIQUE (installation, conversation, root)
) STRICT, WITHOUT ROWID;

-- The records of sessions: threads in which something was committed.
CREATE TABLE sessions (
    key               TEXT    PRIMARY KEY REFERENCES threads (key),
    id                TEXT    NOT NULL,
    channel_name      TEXT,
    conversation_kind TEXT    NOT NULL
        CHECK (conversation_kind IN ('channel', 'private_channel', 'direct', 'group_direct', 'unknown')),
    started_by        TEXT    NOT NULL,
    started_with      TEXT    NOT NULL,
    folder            TEXT    NOT NULL,
    agent_thread      TEXT,
    agent_confirmed   INTEGER NOT NULL CHECK (agent_confirmed IN (0, 1)),
    running_turn      TEXT,
    watermark         INTEGER NOT NULL CHECK (watermark >= 0),
    stopped_at        INTEGER NOT NULL CHECK (stopped_at >= 0),
    notice_cause      TEXT,
    notice_at         INTEGER CHECK ((notice_at IS NULL) = (notice_cause IS NULL)),
    next_number       INTEGER NOT NULL CHECK (next_number >= 0),
    created_at        INTEGER NOT NULL,
    last_activity     INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX sessions_running ON sessions (key) WHERE running_turn IS NOT NULL;

-- Messages for the agent. (installation, conversation, message_id) is one row, whatever arrives how often.
CREATE TABLE inbox (
    id           TEXT    PRIMARY KEY,
    session      TEXT    NOT NULL REFERENCES threads (key),
    kind         TEXT    NOT NULL CHECK (kind IN ('message', 'context', 'stop', 'wake_up', 'continuation')),
    state        TEXT    NOT NULL CHECK (state IN ('queued', 'given', 'delivered', 'cancelled', 'parked')),
    place        INTEGER NOT NULL CHECK (place >= 0),
    installation TEXT,
    conversation TEXT,
    message_id   TEXT,
    message      TEXT    CHECK ((message IS NULL) = (message_id IS NULL)),
    notice       TEXT,
    people       TEXT    NOT NULL,
    backfill     TEXT    NOT NULL,
    late         INTEGER NOT NULL CHECK (late IN (0, 1)),
    attempts     INTEGER NOT NULL CHECK (attempts >= 0),
    not_before   INTEGER NOT NULL,
    given_to     TEXT,
    turn         TEXT,
    created_at   INTEGER NOT NULL,
    UNIQUE (installation, conversation, message_id)
) STRICT;
CREATE INDEX inbox_open ON inbox (session, place, id) WHERE state IN ('queued', 'given');
CREATE INDEX inbox_given ON inbox (session, place) WHERE given_to IS NOT NULL AND kind = 'message';

-- Runs of the agent. An id is unique within its session: not every runtime's are beyond that.
CREATE TABLE turns (
    session       TEXT    NOT NULL REFERENCES threads (key),
    id            TEXT    NOT NULL,
    thread        TEXT    NOT NULL,
    started_at    INTEGER NOT NULL,
    ended_at      INTEGER,
    ended         TEXT    CHECK (ended IN ('completed', 'interrupted', 'failed', 'cut')),
    inputs        INTEGER NOT NULL CHECK (inputs >= 0),
    from_person   INTEGER NOT NULL CHECK (from_person IN (0, 1)),
    continuation  INTEGER NOT NULL CHECK (continuation IN (0, 1)),
    signal        TEXT    CHECK (signal IN ('progress', 'final', 'block', 'wait', 'notice')),
    signal_reason TEXT    CHECK (signal IS NOT NULL OR signal_reason IS NULL),
    stopped       INTEGER NOT NULL CHECK (stopped IN (0, 1)),
    PRIMARY KEY (session, id),
    CHECK ((ended IS NULL) = (ended_at IS NULL))
) STRICT, WITHOUT ROWID;

-- Messages for the thread. `parts` is how many the post has, `number` is this one's, from 1.
CREATE TABLE outbox (
    id               TEXT    PRIMARY KEY,
    thread           TEXT    NOT NULL REFERENCES threads (key),
    post             TEXT    NOT NULL,
    place            INTEGER NOT NULL CHECK (place >= 0),
    number           INTEGER NOT NULL CHECK (number >= 0),
    parts            INTEGER NOT NULL CHECK (parts >= 0),
    kind             TEXT    NOT NULL CHECK (kind IN ('progress', 'final', 'block', 'wait', 'notice')),
    turn             TEXT,
    body             TEXT    NOT NULL,
    state            TEXT    NOT NULL CHECK (state IN ('queued', 'sending', 'unknown', 'sent', 'refused', 'dropped')),
    attempts         INTEGER NOT NULL CHECK (attempts >= 0),
    attempted_at     INTEGER,
    first_attempt_at INTEGER,
    look_ups         INTEGER NOT NULL CHECK (look_ups >= 0),
    not_before       INTEGER NOT NULL,
    message          TEXT,
    error            TEXT,
    created_at       INTEGER NOT NULL
) STRICT;
CREATE INDEX outbox_open ON outbox (thread, place, number) WHERE state IN ('queued', 'sending', 'unknown');
CREATE INDEX outbox_post ON outbox (post, number);
CREATE INDEX outbox_turn ON outbox (thread, turn, place, number) WHERE turn IS NOT NULL;

-- People as last looked up: as many as wrote to the broker or were mentioned to it.
CREATE TABLE people (
    id           TEXT    PRIMARY KEY,
    looked_up_at INTEGER NOT NULL,
    display_name TEXT,
    real_name    TEXT,
    username     TEXT,
    email        TEXT,
    team         TEXT,
    standing     TEXT    NOT NULL CHECK (standing IN ('member', 'guest', 'external', 'bot', 'deactivated'))
) STRICT, WITHOUT ROWID;

-- One row that is written to learn whether the disk works again.
CREATE TABLE probe (
    id    INTEGER PRIMARY KEY CHECK (id = 1),
    count INTEGER NOT NULL
) STRICT;
