-- The copy of the Pages, and the place up to which it is complete.
CREATE TABLE IF NOT EXISTS pages (
  id text PRIMARY KEY,
  version bigint NOT NULL,
  status text NOT NULL,
  fields jsonb NOT NULL
);
CREATE TABLE IF NOT EXISTS pages_cursor (only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row), cursor text NOT NULL);
