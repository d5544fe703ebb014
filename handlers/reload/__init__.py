"""The importer: find a file, load it, swap two instances, retire the old one."""
