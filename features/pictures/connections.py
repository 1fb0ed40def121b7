"""Connections to checked addresses only, that wait no longer than a request may take.

Two things that no timeout and no look at a URL can do: a server that sends a byte now and then is cut off at the
deadline, and a name that leads to a private address is refused, whatever it led to a moment before.
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
    """What the request of this thread may do. A thread does one request at a time, from connecting to the last byte."""

    deadline = 0.0
    silence = 0.0
    private = False

    def patience(self) -> float:
        """Seconds to wait for the next byte."""
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return min(self.silence, left)


limits = Limits()


class _Socket(socket.socket):
    """Waits no longer than the request may: a timeout of a socket alone begins anew with every byte."""

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
    """A connection to an address of `host` that was looked up and checked here: no second look-up can name another.

    Raises:
        PictureError: refused.
        OSError: no connection.
    """
    found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
    for *_, address in found:
        if not limits.private and not is_public(str(address[0])):
            raise PictureError(
                "refused", f"{host} is at {address[0]}, no public address; the setting private_addresses allows it"
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
    """Whether an IP address is one of the public internet, as is an address of IPv4 within one of IPv6."""
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
    """Connections of that kind, kept open for so many hosts, so many each. They obey :data:`limits`.

    Requests raise PictureError, refused, where urllib3's own errors do not fit. Proxies, cookies and logins are not
    used. Certificates are those of the system and those of certifi.
    """
    tls = ssl.create_default_context()
    tls.load_verify_locations(DEFAULT_CA_BUNDLE_PATH)
    tls.sslsocket_class = _TlsSocket
    web = PoolManager(num_pools=hosts, maxsize=per_host, ssl_context=tls)
    web.pool_classes_by_scheme = {"http": _HttpPool, "https": _HttpsPool}
    return web
