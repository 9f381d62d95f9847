"""What README.md says, as a WSGI application."""

import os
import signal
import time

PIECE = 65536


def pattern(args, start, size):
    with open(args["dir"] + "/pattern.bin", "rb") as file:
        file.seek(start)
        while size > 0:
            piece = file.read(min(size, PIECE))
            size -= len(piece)
            yield piece


def body(environ):
    """All of it, also where its length was not announced."""
    source = environ["wsgi.input"]
    length = environ.get("CONTENT_LENGTH")
    return source.read(int(length)) if length else source.read()


def wait_for(path):
    for _ in range(5000):
        if os.path.exists(path):
            return True
        time.sleep(0.001)
    return False


def slow(args):
    for number in range(1, int(args["pieces"]) + 1):
        yield b"piece %d\n" % number
        if not wait_for("%s/seen-%d" % (args["dir"], number)):
            yield b"nobody has seen it\n"
            return


def stderr(args, errors):
    for number in range(20):
        yield from pattern(args, 1000 * number, 1000)
        errors.write("something on stderr %d\n" % number)
        errors.flush()


def die(args):
    if "size" in args:
        yield from pattern(args, 0, int(args["size"]))
    os.kill(os.getpid(), signal.SIGKILL)


def application(environ, start_response):
    args = dict(pair.split("=", 1) for pair in environ["QUERY_STRING"].split("&"))
    status, headers, answer = "200 OK", [("Content-Type", "text/plain")], []
    match args["do"]:
        case "page":
            answer = pattern(args, int(args["from"]), int(args["size"]))
        case "echo":
            answer = [body(environ)]
        case "slow":
            headers = [("Content-Type", "text/event-stream"), ("X-Accel-Buffering", "no")]
            answer = slow(args)
        case "status":
            status = {"204": "204 No Content", "304": "304 Not Modified"}[args["code"]]
        case "headers":
            value = "h" * int(args["length"])
            headers += [("X-Many-%d" % i, value) for i in range(int(args["count"]))]
            answer = [b"headers\n"]
        case "stderr":
            answer = stderr(args, environ["wsgi.errors"])
        case "early":
            answer = [b"early\n"]
        case "die":
            answer = die(args)
    start_response(status, headers)
    return answer
