"""What one main request holds: its modules, its connections, the bytes that come and go."""
