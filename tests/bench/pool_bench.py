"""What a lease costs: rounds interleaved over all peers, medians, ratios. A table, and the same as JSON.

a  uncontended pair of checkout and return, one thread
b  the same from 25 threads on 25 connections
c  25 threads on 5 connections, each held some 50 us: pairs per second, waiting p50 and p99, fairness
   (pairs of the least served thread / of the most served)
d  checkout, SELECT 1, return
e  from the moment at which all idle connections were killed to all being served again, and the errors on the way;
   the connections were last used a second before, or just now
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable
from typing import Any

import psycopg2
from bench.peers import PEERS, Mpool, Peer, select_1

THREADS = 25
FEW = 5
HOLD = 50e-6  # seconds; what a sleep of it lasts is the system's business, and the same for all
ROUND = 0.05  # seconds per peer and round of (a) and (d)
Row = dict[str, Any]


class Bench:
    def __init__(self, conninfo: str, kill: Callable[[list[int]], None], rounds: int = 11) -> None:
        self.conninfo = conninfo
        self.kill = kill
        self.rounds = rounds
        self.rows: dict[str, Row] = {}
        self.missing: list[str] = []
        self.drivers: dict[str, str] = {}
        self.peers: list[type[Peer]] = []

    def run(self) -> dict[str, Any]:
        for cls in PEERS:
            try:
                peer = cls(self.conninfo, 1)
                self.drivers.update({cls.name: peer.driver} if hasattr(peer, "driver") else {})
                peer.close()
            except ImportError as error:
                self.missing.append(f"{cls.name}: {error}")
            else:
                self.peers.append(cls)
                self.rows[cls.name] = {}
        self._single_thread()
        self._many_threads(THREADS, self.rounds // 2, self._uncontended)
        self._many_threads(FEW, self.rounds // 2, self._contended)
        self._recovery()
        return {"rows": self.rows, "ratios": self._ratios(), "drivers": self.drivers, "missing": self.missing}

    # -- (a) and (d)

    def _single_thread(self) -> None:
        peers = [cls(self.conninfo, 4) for cls in self.peers]
        try:
            pairs: dict[int, int] = {}
            selects: dict[int, int] = {}
            for number, peer in enumerate(peers):
                peer.warm()
                pairs[number] = calibrate(lambda n, peer=peer: pair_loop(peer, n))
                selects[number] = calibrate(lambda n, peer=peer: select_loop(peer, n))
            a: dict[int, list[float]] = {n: [] for n in pairs}
            d: dict[int, list[float]] = {n: [] for n in pairs}
            for _ in range(self.rounds):
                for number, peer in enumerate(peers):
                    a[number].append(pair_loop(peer, pairs[number]) / pairs[number] * 1e9)
                    d[number].append(select_loop(peer, selects[number]) / selects[number] * 1e6)
            for number, cls in enumerate(self.peers):
                self.rows[cls.name]["a_ns"] = statistics.median(a[number])
                self.rows[cls.name]["d_us"] = statistics.median(d[number])
        finally:
            for peer in peers:
                peer.close()

    # -- (b) and (c)

    def _many_threads(self, size: int, rounds: int, measure: Callable[[Peer], Row]) -> None:
        found: dict[str, list[Row]] = {cls.name: [] for cls in self.peers}
        for _ in range(rounds):
            for cls in self.peers:
                peer = cls(self.conninfo, size)
                try:
                    peer.warm()
                    found[cls.name].append(measure(peer))
                finally:
                    peer.close()
        for name, rows in found.items():
            for key in rows[0]:
                self.rows[name][key] = statistics.median(row[key] for row in rows)

    def _uncontended(self, peer: Peer) -> Row:
        one = in_threads(lambda: pair_loop(peer, 50)) / (50 * THREADS)
        count = max(100, min(4000, int(1.0 / one / THREADS)))
        return {"b_ns": in_threads(lambda: pair_loop(peer, count)) / (count * THREADS) * 1e9}

    def _contended(self, peer: Peer) -> Row:
        acquire, release = getattr(peer, "wait", peer.acquire), peer.release
        served: list[int] = []
        waits: list[float] = []
        stop = time.perf_counter() + 1.0

        def work() -> None:
            mine = []
            clock, sleep = time.perf_counter, time.sleep
            while (before := clock()) < stop:
                conn = acquire()
                mine.append(clock() - before)
                sleep(HOLD)
                release(conn)
            served.append(len(mine))
            waits.extend(mine)

        elapsed = in_threads(work)
        waits.sort()
        return {
            "c_pairs_s": sum(served) / elapsed,
            "c_p50_us": waits[len(waits) // 2] * 1e6,
            "c_p99_us": waits[len(waits) * 99 // 100] * 1e6,
            "c_fair": min(served) / max(served),
        }

    # -- (e)

    def _recovery(self) -> None:
        for cls in self.peers:
            if cls.base:
                continue
            for pause, label in ((1.0, "1s"), (0.0, "0s")):
                times, errors = [], []
                for _ in range(3):
                    peer = cls(self.conninfo, 4)
                    try:
                        seconds, failures = self._recover(peer, pause)
                    finally:
                        peer.close()
                    times.append(seconds)
                    errors.append(failures)
                self.rows[cls.name][f"e_{label}_ms"] = statistics.median(times) * 1000
                self.rows[cls.name][f"e_{label}_errors"] = max(errors)

    def _recover(self, peer: Peer, pause: float) -> tuple[float, int]:
        peer.warm()
        conns = [peer.acquire() for _ in range(peer.size)]
        pids = [backend_pid(conn) for conn in conns]
        time.sleep(pause)
        for conn in conns:
            peer.release(conn)
        time.sleep(pause)
        self.kill(pids)
        started = time.perf_counter()
        held: list[Any] = []
        errors = 0
        while len(held) < peer.size:
            conn = peer.acquire()
            try:
                select_1(conn)
            except Exception:
                errors += 1
                peer.give_up(conn)
            else:
                held.append(conn)
        elapsed = time.perf_counter() - started
        for conn in held:
            peer.release(conn)
        return elapsed, errors

    # -- ratios

    def _ratios(self) -> dict[str, dict[str, float]]:
        """How many times each peer's figure is mpool's: above 1, mpool is the better."""
        own = self.rows[Mpool.name]
        ratios = {}
        for name, row in self.rows.items():
            ratios[name] = {
                "a": row["a_ns"] / own["a_ns"],
                "b": row["b_ns"] / own["b_ns"],
                "c": own["c_pairs_s"] / row["c_pairs_s"],
                "d": row["d_us"] / own["d_us"],
            }
        return ratios


def pair_loop(peer: Peer, count: int) -> float:
    acquire, release = peer.acquire, peer.release
    started = time.perf_counter()
    for _ in range(count):
        release(acquire())
    return time.perf_counter() - started


def select_loop(peer: Peer, count: int) -> float:
    acquire, release = peer.acquire, peer.release
    started = time.perf_counter()
    for _ in range(count):
        conn = acquire()
        select_1(conn)
        release(conn)
    return time.perf_counter() - started


def calibrate(loop: Callable[[int], float]) -> int:
    loop(50)
    return max(50, int(ROUND / (loop(50) / 50)))


def in_threads(work: Callable[[], Any]) -> float:
    """Seconds that THREADS threads, started together, take."""
    barrier = threading.Barrier(THREADS + 1)
    failures: list[BaseException] = []

    def run() -> None:
        barrier.wait()
        try:
            work()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    barrier.wait()
    started = time.perf_counter()
    for thread in threads:
        thread.join()
    elapsed = time.perf_counter() - started
    if failures:
        raise failures[0]
    return elapsed


def backend_pid(conn: Any) -> int:
    with conn.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        return int(cursor.fetchone()[0])


def table(result: dict[str, Any]) -> str:
    """The figures for people to read."""
    lines = [
        f"{'':<40}{'a ns':>9}{'b ns':>10}{'c pairs/s':>11}{'p50 us':>9}{'p99 us':>9}{'fair':>6}{'d us':>8}"
        f"{'e 1s ms':>10}{'err':>5}{'e now ms':>10}{'err':>5}"
    ]
    for name, row in result["rows"].items():
        line = f"{name:<40}{row['a_ns']:>9,.0f}{row['b_ns']:>10,.0f}{row['c_pairs_s']:>11,.0f}{row['c_p50_us']:>9,.0f}"
        line += f"{row['c_p99_us']:>9,.0f}{row['c_fair']:>6.2f}{row['d_us']:>8,.0f}"
        if "e_1s_ms" in row:
            line += f"{row['e_1s_ms']:>10,.1f}{row['e_1s_errors']:>5}{row['e_0s_ms']:>10,.1f}{row['e_0s_errors']:>5}"
        lines.append(line)
    lines += ["", f"{'times mpool (above 1: mpool is better)':<40}{'a':>9}{'b':>10}{'c':>11}{'d':>8}"]
    for name, ratio in result["ratios"].items():
        lines.append(f"{name:<40}{ratio['a']:>9.2f}{ratio['b']:>10.2f}{ratio['c']:>11.2f}{ratio['d']:>8.2f}")
    lines += [f"{name}: psycopg's {driver} driver" for name, driver in result["drivers"].items()]
    lines += [f"not installed: {missing}" for missing in result["missing"]]
    return "\n".join(lines)


def kill_backends(admin_conninfo: str) -> Callable[[list[int]], None]:
    admin = psycopg2.connect(admin_conninfo)
    admin.autocommit = True

    def kill(pids: list[int]) -> None:
        with admin.cursor() as cursor:
            for pid in pids:
                cursor.execute("SELECT pg_terminate_backend(%s, 10000)", (pid,))

    return kill
