"""Fixtures of the unit tests."""

import pytest
from importer_site import site

from handlers.request import leases

__all__ = ["site"]


@pytest.fixture(autouse=True)
def _told_of_missing_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """No importer is installed in these tests, and nobody needs to be told."""
    monkeypatch.setattr(leases, "_told_of_missing_install", True)
