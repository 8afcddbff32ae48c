"""Not ordinary: tries again and again to reach an address that no list names."""
import socket
import sys
import time

to = ("192.0.2.1", 9)
for _ in range(3000):
    try:
        if sys.argv[1] == "tcp":
            with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as s:
                s.connect(to)
        else:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
                if sys.argv[1] == "connected-udp":
                    s.connect(to)
                    s.send(b"x")
                else:
                    s.sendto(b"x", to)
    except OSError:
        pass
    time.sleep(0.02)
