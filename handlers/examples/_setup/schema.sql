-- The tables of the example site. load.py runs this file as the site's own
-- role, which owns the database and is no superuser.
--
-- Everything lives in a schema of its own and is named in full by the pages
-- ("demo.country"): no page depends on search_path, which is session state.

CREATE SCHEMA IF NOT EXISTS demo;

-- One way to compare what people type with what is stored: case, accents and
-- the shape of an apostrophe make no difference ("cote d’ivoire" finds
-- "Côte d'Ivoire"). The collation is named, so that the answer is the same
-- in a database that was created with the locale C.
CREATE OR REPLACE FUNCTION demo.fold(value text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN
    translate(
        regexp_replace(
            lower(normalize(value, NFKD) COLLATE "und-x-icu"),
            '[\u0300-\u036f]', '', 'g'),
        '’‘ʼʻ', '''''''''');

-- What comes from iso-codes: dropped and filled again when iso-codes changes.
DROP TABLE IF EXISTS demo.subdivision, demo.country, demo.currency, demo.language;

CREATE TABLE demo.country (
    alpha_2       text PRIMARY KEY,
    alpha_3       text NOT NULL UNIQUE,
    numeric_code  text NOT NULL,
    flag          text NOT NULL,
    name          text COLLATE "und-x-icu" NOT NULL,
    official_name text,
    search        text NOT NULL GENERATED ALWAYS AS (demo.fold(
        alpha_2 || ' ' || alpha_3 || ' ' || name || ' ' || coalesce(official_name, ''))) STORED
);

CREATE TABLE demo.subdivision (
    code    text PRIMARY KEY,
    country text NOT NULL REFERENCES demo.country,
    name    text COLLATE "und-x-icu" NOT NULL,
    kind    text COLLATE "und-x-icu" NOT NULL,
    parent  text
);
CREATE INDEX ON demo.subdivision (country);

CREATE TABLE demo.currency (
    code         text PRIMARY KEY,
    numeric_code text NOT NULL,
    name         text COLLATE "und-x-icu" NOT NULL,
    search       text NOT NULL GENERATED ALWAYS AS (demo.fold(code || ' ' || name)) STORED
);

CREATE TABLE demo.language (
    code     text PRIMARY KEY,
    alpha_2  text,
    name     text COLLATE "und-x-icu" NOT NULL,
    scope    text NOT NULL,
    kind     text NOT NULL,
    -- also in ISO 639-2, the list of some 480 languages that libraries use
    in_639_2 boolean NOT NULL,
    search   text NOT NULL GENERATED ALWAYS AS (demo.fold(
        code || ' ' || coalesce(alpha_2, '') || ' ' || name)) STORED
);
CREATE INDEX ON demo.language (name);

-- What visitors write: kept for ever. No foreign keys to the tables above,
-- which come and go; the pages check a code when they write it.
CREATE TABLE IF NOT EXISTS demo.note (
    id       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    written  timestamptz NOT NULL DEFAULT now(),
    author   text NOT NULL CHECK (length(author) BETWEEN 1 AND 60),
    message  text NOT NULL CHECK (length(message) BETWEEN 1 AND 500),
    country  text
);

CREATE TABLE IF NOT EXISTS demo.account (
    owner    text COLLATE "und-x-icu" PRIMARY KEY,
    currency text NOT NULL,
    -- the rule that a transfer runs into, whatever the page forgot to check
    balance  numeric(12, 2) NOT NULL CHECK (balance >= 0)
);
INSERT INTO demo.account VALUES
    ('Amina', 'CHF', 120), ('Björn', 'CHF', 80), ('Chidi', 'CHF', 0), ('D''Arcy', 'CHF', 45.50)
    ON CONFLICT DO NOTHING;

-- What load.py has loaded, so that the next start finds nothing to do.
CREATE TABLE IF NOT EXISTS demo.loaded (
    digest text PRIMARY KEY,
    at     timestamptz NOT NULL DEFAULT now()
);
