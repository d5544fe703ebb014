"""All that mpool knows of psycopg2 and of PgBouncer."""
