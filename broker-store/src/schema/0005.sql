-- What was asked for of a post that whoever asked for it has named: asked for again under that name it has to be the same.
ALTER TABLE outbox ADD COLUMN fingerprint TEXT;
