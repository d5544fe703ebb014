"""The inside of a pool: connections, leases, the queue, opening and closing."""
