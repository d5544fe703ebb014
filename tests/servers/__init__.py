"""Private PostgreSQL and Apache servers for the tests, on ports the kernel chooses, stopped by pid."""
