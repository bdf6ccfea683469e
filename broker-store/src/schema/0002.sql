-- Whom the agent may mention in the thread, as JSON, and whether a status may stand beside it.
ALTER TABLE sessions ADD COLUMN people TEXT NOT NULL DEFAULT '[]';
ALTER TABLE sessions ADD COLUMN status_shown INTEGER NOT NULL DEFAULT 0 CHECK (status_shown IN (0, 1));
CREATE INDEX sessions_status ON sessions (key) WHERE status_shown = 1;
CREATE INDEX sessions_activity ON sessions (last_activity);

-- Up to when a thread was read back completely: a place, as in the inbox.
ALTER TABLE threads ADD COLUMN caught_up INTEGER NOT NULL DEFAULT 0 CHECK (caught_up >= 0);

-- Since when there is a broker: what was written before was never for it.
CREATE TABLE birth (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    at INTEGER NOT NULL
) STRICT;
INSERT INTO birth VALUES (1, coalesce(
    (SELECT min(created_at) FROM sessions), (SELECT min(received_at) FROM journal), unixepoch() * 1000));
