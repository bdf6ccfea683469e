-- Which of a session's tokens for the local API is good. Raising it makes every earlier one worthless.
ALTER TABLE sessions ADD COLUMN token_generation INTEGER NOT NULL DEFAULT 1 CHECK (token_generation >= 1);
