"""Where the two pages that connect by themselves find the database.

The other pages never ask: their `conn` comes from the pool, which reads the
same option.
"""

# Nothing in this file is a page: without this line /settings/conninfo would
# be an address, and would answer with the database's password.
__all__ = []


def conninfo():
    """The site's connection string, from `PythonOption mpool.conninfo`."""
    # Imported here, since mod_python.apache exists inside Apache only.
    from mod_python import apache

    return apache.main_server.get_options()["mpool.conninfo"]
