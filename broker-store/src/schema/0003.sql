-- A further kind of row, `edit`: what a message that the agent has already became. It holds the message as it is now and
-- leaves `message_id` to the row of the message itself. `withdrawn` marks a message that was deleted while it was in doubt
-- whether the agent has it: if it has not, it is not given again.
CREATE TABLE inbox_3 (
    id           TEXT    PRIMARY KEY,
    session      TEXT    NOT NULL REFERENCES threads (key),
    kind         TEXT    NOT NULL CHECK (kind IN ('message', 'context', 'edit', 'stop', 'wake_up', 'continuation')),
    state        TEXT    NOT NULL CHECK (state IN ('queued', 'given', 'delivered', 'cancelled', 'parked')),
    place        INTEGER NOT NULL CHECK (place >= 0),
    installation TEXT,
    conversation TEXT,
    message_id   TEXT,
    message      TEXT    CHECK ((message IS NOT NULL AND kind != 'edit') = (message_id IS NOT NULL)),
    notice       TEXT,
    people       TEXT    NOT NULL,
    backfill     TEXT    NOT NULL,
    late         INTEGER NOT NULL CHECK (late IN (0, 1)),
    withdrawn    INTEGER NOT NULL DEFAULT 0 CHECK (withdrawn IN (0, 1)),
    attempts     INTEGER NOT NULL CHECK (attempts >= 0),
    not_before   INTEGER NOT NULL,
    given_to     TEXT,
    turn         TEXT,
    created_at   INTEGER NOT NULL,
    UNIQUE (installation, conversation, message_id)
) STRICT;
INSERT INTO inbox_3 (id, session, kind, state, place, installation, conversation, message_id, message, notice, people,
        backfill, late, attempts, not_before, given_to, turn, created_at)
    SELECT id, session, kind, state, place, installation, conversation, message_id, message, notice, people,
        backfill, late, attempts, not_before, given_to, turn, created_at FROM inbox;
DROP TABLE inbox;
ALTER TABLE inbox_3 RENAME TO inbox;
CREATE INDEX inbox_open ON inbox (session, place, id) WHERE state IN ('queued', 'given');
CREATE INDEX inbox_parked ON inbox (session, place, id) WHERE state = 'parked';
CREATE INDEX inbox_given ON inbox (session, place) WHERE given_to IS NOT NULL AND kind = 'message';

-- What is closed is deleted after a while.
CREATE INDEX inbox_age ON inbox (created_at) WHERE state NOT IN ('queued', 'given');
CREATE INDEX outbox_age ON outbox (created_at) WHERE state NOT IN ('queued', 'sending', 'unknown');
CREATE INDEX turns_age ON turns (ended_at) WHERE ended_at IS NOT NULL;
CREATE INDEX people_age ON people (looked_up_at);
