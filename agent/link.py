"""One keep-alive HTTP/1.1 connection to the aggregator, TLS verified."""

from __future__ import annotations

import http.client
import logging
import socket
import ssl
import struct
from collections.abc import Mapping
from pathlib import Path

from agent.push import Reply, UnreachableError
from agent.server import Server
from agent.settings import ConfigError, read_secret, secret_path

log = logging.getLogger(__name__)

DEFAULT_TIMEOUT_S = 20.0
_MAX_REPLY_BYTES = 64 << 10
# struct tcp_info of linux/tcp.h: tcpi_bytes_acked, tcpi_bytes_received, tcpi_segs_out, tcpi_segs_in.
_TCP_INFO = struct.Struct("=QQII")
_TCP_INFO_OFFSET = 120
# Ethernet, IP and TCP with time stamps, for each segment.
_HEADER_BYTES = {socket.AF_INET: 66, socket.AF_INET6: 86}


def tls_context(ca: Path | None, cert: Path | None = None, key: Path | None = None) -> ssl.SSLContext:
    """Verifies host and certificate, TLS 1.2 or newer, against `ca` or else the system's authorities.

    Args: cert, key: PEM files of the client's own certificate, for a server that asks for one; both or neither.

    Raises: ConfigError: a file cannot be read, holds no certificate, or the key is not the certificate's.
    """
    try:
        context = ssl.create_default_context(cafile=None if ca is None else str(ca))
    except OSError as error:
        raise ConfigError(f"{ca}: {error.strerror or error}: not a file of PEM certificates") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if cert is not None and key is not None:
        # For who may read it; it is read again below, by name.
        read_secret(key)
        try:
            # A passphrase would be asked for on the terminal, which an agent does not have.
            context.load_cert_chain(cert, secret_path(key), password="")
        except OSError as error:
            raise ConfigError(f"the certificate {cert} with the key {key}: {error.strerror or error}") from error
    return context


class Trust:
    """Whom the other end of a connection is verified by, and the certificate that it is shown.

    Files that change count from the next connection on: authorities and certificates are replaced without a restart.

    Raises: ConfigError: as `tls_context`.
    """

    def __init__(self, ca: Path | None = None, *, cert: Path | None = None, key: Path | None = None) -> None:
        self._files = (ca, cert, key)
        self._seen = self._signature()
        self._context = tls_context(ca, cert, key)

    def context(self) -> ssl.SSLContext:
        """For the next connection. Files that cannot be used leave what there was."""
        signature = self._signature()
        if signature != self._seen:
            try:
                self._context = tls_context(*self._files)
            except ConfigError as error:
                # Half written, perhaps: tried again at the next connection.
                log.warning("the certificates of before stay in use: %s", error)
            else:
                self._seen = signature
        return self._context

    def _signature(self) -> tuple[tuple[int, ...] | None, ...]:
        found: list[tuple[int, ...] | None] = []
        for path in self._files:
            try:
                stat = None if path is None else secret_path(path).stat()
            except (OSError, ConfigError):
                stat = None
            found.append(None if stat is None else (stat.st_dev, stat.st_ino, stat.st_mtime_ns, stat.st_size))
        return tuple(found)


class Link:
    """Posts to one server over a connection that is kept. One thread posts; any thread may `abort`.

    Args: trust: None: plain text.
    """

    def __init__(self, server: Server, *, trust: Trust | None, timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
        self._server = server
        self._trust = trust
        self._timeout_s = timeout_s
        self._connection = self._new()
        self._aborted = False
        # Bytes of closed connections and of the present one: replaced whole, so that any thread may read them.
        self._earlier = (0, 0)
        self._present = (0, 0)

    def traffic(self) -> tuple[int, int]:
        """Bytes received and sent through interfaces so far, headers counted; what stays on loopback is not."""
        earlier, present = self._earlier, self._present
        return earlier[0] + present[0], earlier[1] + present[1]

    def post(self, path: str, body: bytes, headers: Mapping[str, str]) -> Reply:
        """One request and its answer; once more, at once, where a kept connection turns out dead.

        Raises: UnreachableError: no connection, no trust, or no answer.
        """
        while True:
            kept = self._connection.sock is not None
            try:
                return self._post(path, body, headers)
            except TimeoutError as error:
                self.close()
                raise UnreachableError(f"{self._server}: no answer in time") from error
            except ssl.SSLCertVerificationError as error:
                self.close()
                raise UnreachableError(f"{self._server}: certificate refused: {error.verify_message}") from error
            except (OSError, http.client.HTTPException) as error:
                self.close()
                # The server may close an idle connection just when the next push is on its way.
                if not kept or self._aborted:
                    raise UnreachableError(f"{self._server}: {_reason(error)}") from error

    def abort(self) -> None:
        """Makes a post under way fail soon, and each later one."""
        self._aborted = True
        sock = self._connection.sock
        if sock is not None:
            try:
                # Not SSLSocket.shutdown: that takes the TLS state away under the thread that reads.
                socket.socket.shutdown(sock, socket.SHUT_RDWR)
            except OSError:
                return

    def close(self) -> None:
        """Closes the connection; the next post opens another."""
        self._count(self._connection.sock)
        self._earlier, self._present = self.traffic(), (0, 0)
        self._connection.close()

    def _post(self, path: str, body: bytes, headers: Mapping[str, str]) -> Reply:
        if self._aborted:
            raise UnreachableError(f"{self._server}: stopping")
        if self._connection.sock is None:
            self._connection = self._new()
            self._connection.connect()
        self._connection.request("POST", path, body, dict(headers))
        sock = self._connection.sock
        response = self._connection.getresponse()
        # Before the answer is read to its end: with `Connection: close` the socket is gone after that.
        self._count(sock)
        content = response.read(_MAX_REPLY_BYTES)
        retry_after = response.getheader("Retry-After")
        complete = response.isclosed() or response.read(1) == b""
        if response.will_close or not complete:
            self.close()
        return Reply(response.status, content, retry_after)

    def _new(self) -> http.client.HTTPConnection:
        host, port = self._server.host, self._server.port
        if self._trust is None:
            return http.client.HTTPConnection(host, port, timeout=self._timeout_s)
        return http.client.HTTPSConnection(host, port, context=self._trust.context(), timeout=self._timeout_s)

    def _count(self, sock: socket.socket | None) -> None:
        if sock is None:
            return
        try:
            if not stays_here(sock):
                self._present = wire_bytes(sock)
        except OSError:
            # The connection is gone, and the count of its last moments with it.
            return


def stays_here(sock: socket.socket) -> bool:
    """Whether a connection ends on this machine: its bytes pass no physical interface. Raises OSError."""
    peer, own = sock.getpeername()[0], sock.getsockname()[0]
    return peer == own or str(peer).startswith("127.")


def wire_bytes(sock: socket.socket) -> tuple[int, int]:
    """Bytes that a TCP connection received and sent so far, headers and handshakes counted. Raises OSError."""
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_OFFSET + _TCP_INFO.size)
    if len(info) < _TCP_INFO_OFFSET + _TCP_INFO.size:
        # A kernel before 4.2 does not count: then nothing is taken off.
        return 0, 0
    sent_bytes, received_bytes, segments_out, segments_in = _TCP_INFO.unpack_from(info, _TCP_INFO_OFFSET)
    header_bytes = _HEADER_BYTES.get(sock.family, 0)
    return received_bytes + segments_in * header_bytes, sent_bytes + segments_out * header_bytes


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return f"TLS: {error.reason or error}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
