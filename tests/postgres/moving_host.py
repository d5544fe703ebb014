"""Run in a mount namespace of its own: a pool to a host name whose address changes. Arguments: hosts file, port."""

import sys

import psycopg2

import mpool

hosts, port = sys.argv[1:]
pool = mpool.ConnectionPool(f"host=moving.test port={port} dbname=site user=site", timeout=20)
with pool.connection() as conn:
    assert conn.info.dsn_parameters["host"] == "moving.test"
print("first")


def move(address):
    with open(hosts, "w") as file:  # in place: the mount holds the inode
        file.write(f"{address} moving.test\n")


move("127.0.0.9")  # nobody listens there
pool.drain()
try:
    with pool.connection():
        sys.exit("served from a host that is gone")
except psycopg2.OperationalError as error:
    assert "127.0.0.9" in str(error), error
print("moved")

move("127.0.0.1")
while True:
    try:
        with pool.connection():
            break
    except mpool.PoolUnavailable:
        pass
print("followed")
pool.close()
