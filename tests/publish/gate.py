"""A gate before a server on loopback: shut, it cuts all connections and takes no new ones."""

import socket
import threading
from contextlib import contextmanager, suppress
from urllib.parse import urlparse


class Gate:
    def __init__(self, url):
        """url: of the server, http://HOST:PORT."""
        self._server = (urlparse(url).hostname, urlparse(url).port)
        self._lock, self._through = threading.Lock(), set()
        self._listening = None
        self.port = 0

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def open(self):
        self._listening = socket.create_server(("127.0.0.1", self.port))
        self.port = self._listening.getsockname()[1]
        threading.Thread(target=self._accept, args=(self._listening,), daemon=True).start()

    def shut(self):
        listening, self._listening = self._listening, None
        with suppress(OSError):
            listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        with self._lock:
            for connection in self._through:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            self._through.clear()

    def _accept(self, listening):
        while True:
            try:
                client, _ = listening.accept()
                server = socket.create_connection(self._server)
            except OSError:
                return
            with self._lock:
                self._through |= {client, server}
            for source, target in ((client, server), (server, client)):
                threading.Thread(target=self._carry, args=(source, target), daemon=True).start()

    def _carry(self, source, target):
        with suppress(OSError):
            while data := source.recv(1 << 16):
                target.sendall(data)
        for connection in (source, target):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


@contextmanager
def gate(url):
    found = Gate(url)
    found.open()
    try:
        yield found
    finally:
        if found._listening is not None:
            found.shut()
