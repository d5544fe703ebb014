"""`mpool serve SITE`: a private PostgreSQL and a private Apache for one site, stopped together."""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import NoReturn

from mpool.tools import webserver
from mpool.tools.cluster import Cluster
from mpool.tools.errors import ToolError
from mpool.tools.places import Accounts, Places, default_root, prepare_root, site_directory, sole_user
from mpool.tools.processes import PYTHON, ServerProcess, run
from mpool.tools.webserver import WebServer

EXAMPLE = """\
example:
  mpool serve handlers/examples --port 8000
      serves the example site at http://127.0.0.1:8000/ until Ctrl-C

The site is a directory of pages. What begins with _ or . is not served, static/ is served as it is, and a .htaccess may
add to the configuration. _setup/schema.sql is run in a new database, load(conn) of _setup/load.py at every start.
"""

SOCKET_PATH_LIMIT = 107 - len("/.s.PGSQL.5432.lock")  # sun_path of unix(7), less what PostgreSQL adds


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "serve",
        help="serve a site with a PostgreSQL and an Apache of its own",
        description="Serve a site with a private PostgreSQL and a private Apache, until Ctrl-C or SIGTERM.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("site", metavar="SITE", type=Path, help="directory of the site")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    parser.add_argument("--port", type=_port, default=8080, help="port to listen on, 0 for any free one (%(default)s)")
    parser.add_argument("--processes", type=_positive, default=1, metavar="N", help="Apache's children (%(default)s)")
    parser.add_argument("--threads", type=_positive, default=15, metavar="N", help="threads of each (%(default)s)")
    parser.add_argument("--mpm", choices=available_mpms(), default="worker", help="Apache's MPM (%(default)s)")
    parser.add_argument("--conninfo", help="use this database instead of a private PostgreSQL")
    parser.add_argument(
        "--server-root",
        type=Path,
        metavar="DIR",
        help="where cluster and configuration are kept between starts "
        "(by default a directory per site in /var/lib/mpool for root, else in $XDG_STATE_HOME/mpool)",
    )
    parser.add_argument("--setup-only", action="store_true", help="prepare and check everything, then stop")
    parser.set_defaults(run=serve)


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port: 0 to 65535")
    return int(text)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 on")
    return int(text)


def available_mpms() -> list[str]:
    """The MPMs that there is a sample configuration for."""
    found = []
    for mpm in ("worker", "event", "prefork"):
        with contextlib.suppress(ToolError):
            webserver.sample_configuration(mpm)
            found.append(mpm)
    return found or ["worker"]


class Stopped(BaseException):
    """Somebody asked us to end. Not an Exception: nothing on the way may take it for a failure."""


def serve(arguments: argparse.Namespace) -> int:
    """Serve until a signal; 0 when it was asked to stop, 1 (as ToolError) when something failed."""

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        raise Stopped

    handled = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    former = {number: signal.signal(number, stop) for number in handled}
    try:
        with contextlib.ExitStack() as cleanups:
            try:
                _serve(arguments, cleanups)
            finally:
                # What follows is the stopping, and it is to be done in peace.
                for number in handled:
                    signal.signal(number, signal.SIG_IGN)
    except Stopped:
        return 0
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
    return 0


def _serve(arguments: argparse.Namespace, cleanups: contextlib.ExitStack) -> None:
    os.umask(0o022)
    site = site_directory(arguments.site)
    webserver.require_apache(arguments.mpm)
    accounts = Accounts.here(private_cluster=arguments.conninfo is None)
    root = prepare_root(arguments.server_root or default_root(site))
    cleanups.enter_context(sole_user(root))
    port = _choose_port(arguments)
    places = Places.within_reach(site, root, accounts)
    try:
        _run(arguments, places, accounts, port, cleanups)
    except ToolError as error:
        raise ToolError(places.in_given_words(str(error))) from error


def _run(
    arguments: argparse.Namespace, places: Places, accounts: Accounts, port: int, cleanups: contextlib.ExitStack
) -> None:
    _require_modules(places, accounts)
    conninfo = arguments.conninfo
    servers: list[ServerProcess] = []
    if conninfo is None:
        database = _private_cluster(places, accounts, arguments, cleanups)
        servers.append(database.start(places.in_given_words))
        cleanups.callback(servers[-1].stop)
        conninfo = database.conninfo
    _set_up_site(places, accounts, conninfo)

    web = WebServer(
        directory=places.root / "apache",
        site=places.site,
        packages=places.python_path,
        conninfo=conninfo,
        host=arguments.host,
        port=port,
        mpm=arguments.mpm,
        processes=arguments.processes,
        threads=arguments.threads,
        user=accounts.client.pw_name if accounts.dropping else None,
    )
    web.write_configuration()
    web.check()
    if arguments.setup_only:
        text = f"set up in {places.root}; start it with the same command without --setup-only"
        print(places.in_given_words(text), flush=True)
        return
    web, server = _start_web(web, places, any_port=arguments.port == 0)
    servers.append(server)
    cleanups.callback(server.stop)
    print(places.in_given_words(f"ready: {web.url} serves {places.site} (Ctrl-C stops it)"), flush=True)
    while True:
        for server in servers:
            if not server.running:
                raise ToolError(f"{server.name} ended by itself: see the log above")
        time.sleep(0.2)


def _start_web(web: WebServer, places: Places, *, any_port: bool) -> tuple[WebServer, ServerProcess]:
    """Start Apache; where any port will do, another one if somebody took ours since it was found free."""
    for _ in range(5):
        try:
            return web, web.start(places.in_given_words)
        except ToolError as error:
            if not (any_port and "Address already in use" in str(error)):
                raise
        web = replace(web, port=webserver.choose_port(web.host, 0))
        web.write_configuration()
    raise ToolError("five ports that were free were taken before Apache had them: choose one with --port")


def _choose_port(arguments: argparse.Namespace) -> int:
    """The port to listen on; a rehearsal does not need it to be free."""
    if arguments.setup_only and arguments.port:
        port: int = arguments.port
        return port
    return webserver.choose_port(arguments.host, arguments.port)


def _private_cluster(
    places: Places, accounts: Accounts, arguments: argparse.Namespace, cleanups: contextlib.ExitStack
) -> Cluster:
    directory = places.root / "postgres"
    socket_dir = places.root / "socket"
    if len(os.fsencode(socket_dir)) > SOCKET_PATH_LIMIT:
        short = Path(tempfile.mkdtemp(prefix="mpool-"))
        short.chmod(0o711)
        cleanups.callback(shutil.rmtree, short, ignore_errors=True)
        socket_dir = short / "s"
    # Two generations of pools at their default size, and somebody who looks in with psql.
    connections = max(100, 2 * arguments.processes * min(arguments.threads, 10) + 20)
    database = Cluster(directory, socket_dir, owner=accounts.owner, client=accounts.client, connections=connections)
    if not database.exists:
        _say(places.in_given_words(f"making a private PostgreSQL cluster in {places.root}"))
        database.create()
    return database


def _require_modules(places: Places, accounts: Accounts) -> None:
    """ToolError unless the Python that Apache embeds finds what the packages import."""
    run(
        [PYTHON, "-c", "import psycopg2.extensions, werkzeug.http"],
        user=accounts.client_if_dropping,
        env={"PYTHONPATH": places.python_path},
        label=f"{PYTHON} lacks a module: apt-get install python3-psycopg2 python3-werkzeug",
    )


def _set_up_site(places: Places, accounts: Accounts, conninfo: str) -> None:
    """Let the site fill its database, as the account that will serve it; also finds a database that does not answer."""
    run(
        [PYTHON, "-B", "-m", "mpool.tools.site_setup", str(places.site)],
        user=accounts.client_if_dropping,
        # Not as an argument: everybody can read those, and there may be a password in it.
        env={"PYTHONPATH": places.python_path, "MPOOL_CONNINFO": conninfo},
        label="setting up the site failed",
    )


def _say(text: str) -> None:
    print(f"mpool serve: {text}", file=sys.stderr, flush=True)
