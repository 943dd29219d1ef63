"""The temporary project of the plugin's tests."""

from tests.plugin.tiny_project import fresh, project, shared_cache

__all__ = ["fresh", "project", "shared_cache"]
