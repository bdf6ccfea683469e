-- Whom the agent may mention in the thread, as JSON, and whether a status may stand beside it.
ALTER TABLE sessions ADD COLUMN people TEXT NOT NULL DEFAULT '[]';
ALTER TABLE sessions ADD COLUMN status_shown INTEGER NOT NULL DEFAULT 0 CHECK (status_shown IN (0, 1));
CREATE INDEX sessions_status ON sessions (key) WHERE status_shown = 1;
