"""A FastCGI responder of one process, as scripts have them: one connection at a time, to its end.

It knows requests and nothing else: FCGI_GET_VALUES is thrown away. Each answer says which request of
this process it is, what was asked for, and what came as the body.
"""

import itertools
import socket
import struct
import sys

BEGIN_REQUEST, END_REQUEST, PARAMS, STDIN, STDOUT = 1, 3, 4, 5, 6
KEEP_CONN = 1


def read_exactly(stream, count):
    data = stream.read(count)
    if len(data) < count:
        raise EOFError
    return data


def read_record(stream):
    _, kind, request, length, padding, _ = struct.unpack(">BBHHBB", read_exactly(stream, 8))
    content = read_exactly(stream, length)
    read_exactly(stream, padding)
    return kind, request, content


def record(kind, request, content):
    return struct.pack(">BBHHBB", 1, kind, request, len(content), 0, 0) + content


def pairs(data):
    at = 0

    def length():
        nonlocal at
        if data[at] < 128:
            at += 1
            return data[at - 1]
        at += 4
        return struct.unpack(">I", data[at - 4 : at])[0] & 0x7FFFFFFF

    while at < len(data):
        name, value = length(), length()
        yield data[at : at + name], data[at + name : at + name + value]
        at += name + value


def serve(connection, numbers):
    """Serves the requests of one connection until one does not keep it."""
    stream = connection.makefile("rb")
    params, body, keep = b"", b"", False
    while True:
        kind, request, content = read_record(stream)
        if kind == BEGIN_REQUEST:
            params, body, keep = b"", b"", bool(content[2] & KEEP_CONN)
        elif kind == PARAMS:
            params += content
        elif kind == STDIN and content:
            body += content
        elif kind == STDIN:
            asked = dict(pairs(params)).get(b"REQUEST_URI", b"?")
            text = b"Content-Type: text/plain\r\n\r\n%d %s %s" % (next(numbers), asked, body)
            answer = record(STDOUT, request, text) + record(STDOUT, request, b"")
            connection.sendall(answer + record(END_REQUEST, request, bytes(8)))
            if not keep:
                return


def main():
    listener = socket.create_server((sys.argv[1], int(sys.argv[2])), backlog=128)
    print("ready", file=sys.stderr, flush=True)
    numbers = itertools.count(1)
    while True:
        connection, _ = listener.accept()
        with connection:
            try:
                serve(connection, numbers)
            except (EOFError, ConnectionError):
                pass


main()
