"""Answers the health check, without a database: does Python run here, with the importer switched on?"""

from mod_python import apache


def handler(req):
    # A PythonImport line that fails is only logged, and edits would then be seen by nobody.
    if not apache.import_module.__module__.startswith("handlers."):
        req.log_error(f"handlers.importer::install did not run in interpreter {req.interpreter}")
        return apache.HTTP_INTERNAL_SERVER_ERROR
    req.content_type = "text/plain"
    req.write("ready\n")
    return apache.OK
