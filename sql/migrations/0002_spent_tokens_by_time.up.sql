-- Used refresh tokens are forgotten by their age, which without this means reading all of them.
CREATE INDEX spent_refresh_tokens_by_time ON spent_refresh_tokens (spent_at);
