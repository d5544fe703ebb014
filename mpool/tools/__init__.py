"""The `mpool` command. Nothing in here is imported inside Apache."""
