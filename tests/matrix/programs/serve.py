"""Runs app.py with the server that the command line names, on the socket that is open as number 0."""

import sys

from app import application


def server(name):
    match name:
        case "flup-threads":
            from flup.server.fcgi import WSGIServer
        case "flup-fork":
            from flup.server.fcgi_fork import WSGIServer
        case "flipflop":
            from flipflop import WSGIServer
    return WSGIServer


server(sys.argv[1])(application).run()
