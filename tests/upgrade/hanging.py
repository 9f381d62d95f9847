"""A successor that takes the daemon's sockets and hangs then: hanging.py FILE run --take-over SOCKET ...

It writes its number into FILE.
"""

import json
import os
import signal
import socket
import struct
import sys

REQUEST = (
    b"POST /take-over HTTP/1.1\r\nHost: localhost\r\nConnection: upgrade\r\n"
    b"Upgrade: spliceway-take-over\r\nContent-Length: 0\r\n\r\n"
)


def say(line, message):
    encoded = json.dumps(message).encode()
    line.sendall(struct.pack(">II", len(encoded), 0) + encoded)


def read_exactly(line, count):
    received = b""
    while len(received) < count:
        # Descriptors that come along are closed by the kernel, as there is no room for them.
        part = line.recv(count - len(received))
        if not part:
            raise EOFError
        received += part
    return received


def hear(line):
    length, _ = struct.unpack(">II", read_exactly(line, 8))
    return json.loads(read_exactly(line, length))


def hear_until(line, last):
    while hear(line)["type"] != last:
        pass


def main():
    path, control = sys.argv[1], sys.argv[sys.argv.index("--take-over") + 1]
    with open(path, "w") as file:
        print(os.getpid(), file=file)
    line = socket.socket(socket.AF_UNIX)
    line.connect(control)
    line.sendall(REQUEST)
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += read_exactly(line, 1)
    say(line, {"type": "hello", "schema": 1, "version": "0.1.0", "pid": os.getpid()})
    hear_until(line, "offered")
    say(line, {"type": "ready", "takes": [0], "clients": []})
    hear_until(line, "yours")
    while True:
        signal.pause()


main()
