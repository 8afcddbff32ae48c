"""Name resolution as programs do it: several addresses, with and without a service; and what they do beside it."""
import socket
import sys

name, port = sys.argv[1], int(sys.argv[2])
# RFC 6724: glibc connects a UDP socket to each of several addresses, at the service's port, or at port 0.
for service in (port, 0, None):
    for kind in (0, socket.SOCK_STREAM, socket.SOCK_DGRAM):
        assert len(socket.getaddrinfo(name, service, type=kind)) >= 2
socket.getaddrinfo("localhost", port)
# To learn one's own address.
for family, outside in ((socket.AF_INET, "8.8.8.8"), (socket.AF_INET6, "2001:4860:4860::8888")):
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as s:
            s.connect((outside, 80))
            s.getsockname()
    except OSError as error:
        assert error.errno in (101, 99, 97), error  # no route or no such family here
# The loopback addresses as a resolver probes them.
for family, here in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as s:
            s.connect((here, 65535))
    except OSError as error:
        assert error.errno in (99, 97), error
with socket.create_connection((name, port), timeout=20):
    pass
