"""Fixtures of the unit tests."""

from importer_site import site

__all__ = ["site"]
