"""Pictures from http(s) addresses: each address is requested once, with limits per host, and its reply is stored.

A download that is stopped, even by kill -9, continues with the missing addresses.
"""

import asyncio
import hashlib
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from types import TracebackType
from typing import Final, Self
from urllib.parse import urljoin, urlsplit

from urllib3 import BaseHTTPResponse
from urllib3.exceptions import HTTPError
from urllib3.util import parse_url

from features.pictures.connections import limits, open_web
from features.pictures.decode import MAX_BYTES, PictureError, measure
from features.pictures.replies import Reply, is_web, sweep
from features.pictures.sharing import Replies
from features.settings import Fetching
from warehouse.artifacts.http import is_temporary, retry_after
from warehouse.artifacts.kept import Kept
from warehouse.artifacts.progress import Progress

_CHUNK: Final = 64 << 10

_log = logging.getLogger("mmm4rec")


@dataclass(eq=False)
class _Task:
    """One address that is being fetched.

    `url` is the address that its redirects have led to. `left` is the number of seconds that its requests still have.
    """

    address: str
    url: str
    left: float
    attempts: int = 0
    redirects: int = 0


@dataclass(eq=False)
class _Host:
    """A host, its waiting tasks, and the number of its workers.

    `failures`: failures in a row. `lost`: the reason why the host is not asked again, None if it still is.
    """

    name: str
    waiting: deque[_Task] = field(default_factory=deque)
    workers: int = 0
    paused_until: float = 0.0
    failures: int = 0
    lost: Reply | None = None


@dataclass(frozen=True)
class _Moved:
    """A redirect to another address."""

    url: str


@dataclass(frozen=True)
class _TemporaryFailure:
    """A failure that may be temporary; the server asks to retry after `after` seconds at the earliest."""

    status: str
    detail: str
    after: float = 0.0


def _ignore(*_: object) -> None:
    pass


class Downloads:
    """Fetches the addresses that are not in the cache. A context manager; it remembers the state of hosts while open.

    An event loop in the caller's thread, which must not run another loop, decides which address is requested next;
    `fetching.concurrency` other threads do the requests. Each host has its own queue of tasks and up to
    `fetching.per_host` workers, so a slow host does not delay other hosts.
    """

    def __init__(self, cache: Path | Kept, fetching: Fetching) -> None:
        self._kept = Kept.of(cache)
        self._fetching = fetching
        self._hosts: dict[str, _Host] = {}
        self._slots = asyncio.Semaphore(fetching.concurrency)  # first come, first served, so hosts take turns
        self._web = open_web(fetching.concurrency, fetching.per_host)

    def __enter__(self) -> Self:
        sweep(self._kept.folder)
        self._replies = Replies(self._kept, self._fetching.private_addresses)
        self._runner = asyncio.Runner()
        self._runner.get_loop().set_default_executor(ThreadPoolExecutor(self._fetching.concurrency, "pictures"))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._runner.close()
        self._web.clear()

    def ask(
        self,
        addresses: Iterable[str],
        seen: Callable[[bytes], object] = _ignore,
        progress: Progress = _ignore,
    ) -> None:
        """Fetch each address once and store the replies. If an address cannot be fetched, this is stored as its reply.
        An address whose reply another machine has shared is not requested.

        Args:
            addresses: http or https; repeated ones are fetched once.
            seen: called with each body, in another thread.
            progress: called with (done, total) addresses.

        Raises:
            FeatureError: the cache cannot be written.
            StoreError: replies are shared in a bucket that cannot be reached.
        """
        asked = [*dict.fromkeys(addresses)]
        wanted = self._replies.take(asked)
        tasks = [_Task(address, address, self._fetching.total_timeout) for address in wanted]
        self._seen, self._progress, self._done, self._total = seen, progress, len(asked) - len(wanted), len(asked)
        try:
            self._runner.run(self._ask(tasks))
        except ExceptionGroup as several:
            raise several.exceptions[0] from None

    async def _ask(self, tasks: list[_Task]) -> None:
        async with asyncio.TaskGroup() as self._group:
            for task in tasks:
                await self._queue(task)

    async def _queue(self, task: _Task) -> None:
        """Put the task into the queue of its host."""
        try:
            name = parse_url(task.url).host
        except ValueError:
            name = None
        if not name:
            await self._settle(task, Reply("unreachable", "not a valid address"))
            return
        host = self._hosts.setdefault(name, _Host(name))
        host.waiting.append(task)
        if host.workers < self._fetching.per_host:
            host.workers += 1
            self._group.create_task(self._work(host))

    async def _work(self, host: _Host) -> None:
        """Do the waiting tasks of a host, one after another."""
        while host.waiting:
            if (pause := host.paused_until - time.monotonic()) > 0 and not host.lost:
                await asyncio.sleep(pause)
                continue
            async with self._slots:
                if host.waiting and (host.lost or host.paused_until <= time.monotonic()):
                    task = host.waiting.popleft()
                    if host.lost:
                        await self._settle(task, host.lost)
                    else:
                        await self._follow(task, host, await asyncio.to_thread(self._attempt, task))
        host.workers -= 1

    async def _settle(self, task: _Task, reply: Reply) -> None:
        """Store a failure as the final reply of a task."""
        await asyncio.to_thread(self._keep, task, reply)
        self._count()

    def _count(self) -> None:
        self._done += 1
        self._progress(self._done, self._total)

    async def _follow(self, task: _Task, host: _Host, outcome: Reply | _Moved | _TemporaryFailure) -> None:
        """Act on the outcome of a request: count it, follow a redirect, retry, or give up."""
        match outcome:
            case Reply():
                host.failures = 0
                self._count()
            case _Moved(url):
                host.failures = 0
                task.url = url
                task.redirects += 1
                await self._queue(task)
            case _TemporaryFailure(status, detail, after):
                host.failures += 1
                if host.failures >= self._fetching.give_up_after and not host.lost:
                    host.lost = Reply(
                        status, f"its host failed {host.failures} times in a row, the last time: {detail}"
                    )
                    _log.warning(
                        "%s is not asked again until its failures are forgotten: %s", host.name, host.lost.detail
                    )
                if after:
                    host.paused_until = max(host.paused_until, time.monotonic() + after)
                task.attempts += 1
                if task.attempts >= self._fetching.attempts or task.left <= 0 or host.lost:
                    await self._settle(task, Reply(status, detail))
                else:
                    self._group.create_task(self._again(task, max(after, _wait(task, self._fetching))))

    async def _again(self, task: _Task, after: float) -> None:
        await asyncio.sleep(after)
        await self._queue(task)

    # The methods below run in the other threads.

    def _keep(self, task: _Task, reply: Reply) -> None:
        self._replies.add(task.address, reply)
        if reply.status == "ok":
            self._seen(reply.body)

    def _attempt(self, task: _Task) -> Reply | _Moved | _TemporaryFailure:
        """Do one request, and store the reply if it is final."""
        began = time.monotonic()
        limits.deadline = began + task.left
        limits.silence = self._fetching.timeout
        limits.private = self._fetching.private_addresses
        try:
            outcome = self._request(task)
        except PictureError as error:
            outcome = Reply(error.status, error.detail)
        except Exception as error:  # an untrusted answer can make libraries raise anything; it must not end the run
            outcome = self._broken_off(error, "no answer")
        task.left -= time.monotonic() - began
        if isinstance(outcome, Reply):
            self._keep(task, outcome)
        return outcome

    def _broken_off(self, error: Exception, what: str) -> _TemporaryFailure:
        causes = list(_causes(error))
        if not any(isinstance(cause, TimeoutError) for cause in causes):
            return _TemporaryFailure("unreachable", f"{what}: {_name_of(causes[-1])}")
        over = time.monotonic() >= limits.deadline
        limit = (
            f"not complete after {self._fetching.total_timeout:g}" if over else f"silent for {self._fetching.timeout:g}"
        )
        return _TemporaryFailure("timeout", f"{limit} s")

    def _request(self, task: _Task) -> Reply | _Moved | _TemporaryFailure:
        # No compression for the transfer: a compressed body could unpack to any size.
        headers = {"User-Agent": self._fetching.user_agent, "Accept": "image/*", "Accept-Encoding": "identity"}
        patience = limits.patience()
        answer = self._web.urlopen(
            "GET", task.url, headers=headers, timeout=patience, redirect=False, retries=False, preload_content=False
        )
        try:
            if 200 <= answer.status < 300:
                return self._body(answer)
            with suppress(HTTPError, HTTPException, OSError):
                # A short body is read to its end, so that the connection can be used again.
                answer.read(_CHUNK, decode_content=False)
            place = answer.headers.get("Location")
            if answer.status in (301, 302, 303, 307, 308) and place:
                return self._redirect(task, place)
            refusal = f"the server answered {answer.status}"
            if is_temporary(answer.status):
                seconds = retry_after(answer.headers.get("Retry-After"), self._fetching.longest_wait)
                return _TemporaryFailure("unreachable", refusal, seconds)
            return Reply("not_found", refusal)
        finally:
            answer.close()

    def _body(self, answer: BaseHTTPResponse) -> Reply | _TemporaryFailure:
        """The whole body; if it breaks off, the bytes that came, provided that they are a complete picture."""
        body = bytearray()
        try:
            while chunk := answer.read1(_CHUNK, decode_content=False):
                body += chunk
                if len(body) > MAX_BYTES:
                    return Reply("too_large", f"more than {MAX_BYTES:,} bytes")
        except (HTTPError, HTTPException, OSError) as error:
            try:
                measure(bytes(body))
            except PictureError:
                return self._broken_off(error, f"the answer broke off after {len(body):,} bytes")
        return Reply("ok", body=bytes(body))

    def _redirect(self, task: _Task, place: str) -> Reply | _Moved:
        if task.redirects >= self._fetching.max_redirects:
            return Reply("unreachable", f"more than {self._fetching.max_redirects} redirects")
        try:
            # The bytes are UTF-8, but http.client decodes them as Latin-1.
            url = urljoin(task.url, place.encode("latin-1").decode("utf-8", "replace"))
        except ValueError:
            return Reply("unreachable", "a redirect to an invalid address")
        if not is_web(url):
            return Reply("refused", f"a redirect to another scheme, {urlsplit(url).scheme[:40]!r}")
        return _Moved(url)


def _wait(task: _Task, fetching: Fetching) -> float:
    """Seconds before the next attempt; the jitter depends only on address and attempt, so every run has the same."""
    digest = hashlib.sha256(f"{task.attempts} {task.address}".encode("utf-8", "surrogatepass")).digest()
    jitter = 0.5 + int.from_bytes(digest[:4]) / 2**32
    return min(fetching.wait * 2.0 ** (task.attempts - 1) * jitter, fetching.longest_wait)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error and its causes; the first cause comes last."""
    cause: BaseException | None = error
    while cause:
        yield cause
        cause = cause.__cause__ or cause.__context__


def _name_of(error: BaseException) -> str:
    """A description of the error without parts that differ between runs."""
    return getattr(error, "strerror", None) or type(error).__name__
