"""A rendezvous and a ring all-reduce over sockets, in the way of torchrun and NCCL: a store that ranks register at by name, then
each rank listens, and connects to the next."""
import json
import multiprocessing
import socket
import struct

RANKS, SIZE = 4, 4096


def message(s):
    size = struct.unpack("!I", s.recv(4, socket.MSG_WAITALL))[0]
    return s.recv(size, socket.MSG_WAITALL)


def send(s, data):
    s.sendall(struct.pack("!I", len(data)) + data)


def rank(n, store):
    # The interface's address, as NCCL and Gloo find it.
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("127.0.0.1", store[1]))
        own = probe.getsockname()[0]
    listener = socket.create_server((own, 0))
    with socket.create_connection(("localhost", store[1]), timeout=20) as s:
        send(s, json.dumps([n, own, listener.getsockname()[1]]).encode())
        places = {int(k): v for k, v in json.loads(message(s)).items()}
    right = socket.create_connection(tuple(places[(n + 1) % RANKS]), timeout=20)
    left, _ = listener.accept()
    values = [n + 1] * SIZE
    total = list(values)
    for _ in range(RANKS - 1):
        send(right, struct.pack(f"!{SIZE}I", *values))
        values = struct.unpack(f"!{SIZE}I", message(left))
        total = [a + b for a, b in zip(total, values)]
    assert total == [sum(range(1, RANKS + 1))] * SIZE


if __name__ == "__main__":
    listener = socket.create_server(("127.0.0.1", 0))
    ranks = [multiprocessing.Process(target=rank, args=(n, listener.getsockname())) for n in range(RANKS)]
    for process in ranks:
        process.start()
    joined, places = [], {}
    while len(joined) < RANKS:
        s, _ = listener.accept()
        n, host, port = json.loads(message(s))
        places[n] = (host, port)
        joined.append(s)
    for s in joined:
        send(s, json.dumps(places).encode())
    for process in ranks:
        process.join(60)
        assert process.exitcode == 0, process.exitcode
