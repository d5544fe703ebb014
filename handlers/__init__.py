"""A reload-safe handler framework for Apache mod_python: importer, hooks, publisher, class-based handlers.

Nothing is imported here: each part is imported by its own name, as `handlers.base` or `handlers.publisher`.
"""
