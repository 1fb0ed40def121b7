"""Connections only to checked addresses, which never wait longer than the deadline of their request.

They do two things that a timeout and a check of the URL cannot do. A server that sends a byte now and then is cut off
at the deadline. A host name that resolves to a private address is refused, even if it resolved to another address a
moment before.
"""

import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Iterable
from typing import Any, Final

from requests.utils import DEFAULT_CA_BUNDLE_PATH
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, PoolManager
from urllib3.connection import HTTPConnection, HTTPSConnection

from features.pictures.decode import PictureError

_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")


class Limits(threading.local):
    """The limits of this thread's request. A thread does one request at a time, from connecting to the last byte."""

    deadline = 0.0
    silence = 0.0
    private = False

    def patience(self) -> float:
        """Seconds to wait for the next byte.

        Raises:
            TimeoutError: the deadline is over.
        """
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return min(self.silence, left)


limits = Limits()


class _Socket(socket.socket):
    """Waits only until the deadline of the request; the timeout of a plain socket starts again with every byte."""

    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
        self.settimeout(limits.patience())
        return super().recv_into(buffer, nbytes, flags)


class _TlsSocket(ssl.SSLSocket):
    def recv_into(self, buffer: Any, nbytes: int | None = None, flags: int = 0) -> int:
        self.settimeout(limits.patience())
        return super().recv_into(buffer, nbytes, flags)


class _HttpConnection(HTTPConnection):
    def _new_conn(self) -> socket.socket:
        return _connect(self._dns_host, self.port, self.socket_options or ())


class _HttpsConnection(HTTPSConnection):
    def _new_conn(self) -> socket.socket:
        return _connect(self._dns_host, self.port, self.socket_options or ())


class _HttpPool(HTTPConnectionPool):
    ConnectionCls = _HttpConnection


class _HttpsPool(HTTPSConnectionPool):
    ConnectionCls = _HttpsConnection


def _connect(host: str, port: int, options: Iterable[tuple[Any, ...]]) -> socket.socket:
    """A connection to an address of `host` that is looked up and checked here, so no second look-up can give another.

    Raises:
        PictureError: the address is refused.
        OSError: there is no connection.
    """
    found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
    for *_, address in found:
        if not limits.private and not is_public(str(address[0])):
            raise PictureError(
                "refused",
                f"{host} is at {address[0]}, which is not a public address; the setting private_addresses allows it",
            )
    problem: OSError = OSError("no address")
    for family, kind, protocol, _, address in found:
        connection = _Socket(family, kind, protocol)
        try:
            for option in options:
                connection.setsockopt(*option)
            connection.settimeout(limits.patience())
            connection.connect(address)
            return connection
        except OSError as error:
            connection.close()
            problem = error
    raise problem


def is_public(address: str) -> bool:
    """Whether an IP address is public. An IPv6 address that contains an IPv4 address is judged by the latter."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour
        if ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner:
            return is_public(str(inner))
        if ip.is_site_local:
            return False
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or ip.is_link_local)


def open_web(hosts: int, per_host: int) -> PoolManager:
    """A pool of such connections, kept open for up to `hosts` hosts, `per_host` each. They obey :data:`limits`.

    Requests raise urllib3's own errors, and PictureError if an address is refused. Proxies, cookies and logins are not
    used. Certificates are those of the system and of certifi.
    """
    tls = ssl.create_default_context()
    tls.load_verify_locations(DEFAULT_CA_BUNDLE_PATH)
    tls.sslsocket_class = _TlsSocket
    web = PoolManager(num_pools=hosts, maxsize=per_host, ssl_context=tls)
    web.pool_classes_by_scheme = {"http": _HttpPool, "https": _HttpsPool}
    return web
