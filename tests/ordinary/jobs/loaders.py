"""Data loaders: workers, a queue, shared memory and semaphores, started in both ways that PyTorch offers."""
import multiprocessing
from multiprocessing import shared_memory


def work(name, todo, done, ready):
    block = shared_memory.SharedMemory(name=name)
    with ready:
        pass
    for at in iter(todo.get, None):
        block.buf[at] = at % 251
        done.put(at)
    block.close()


if __name__ == "__main__":
    for way in ("fork", "spawn"):
        context = multiprocessing.get_context(way)
        block = shared_memory.SharedMemory(create=True, size=1 << 20)
        todo, done, ready = context.Queue(), context.Queue(), context.Semaphore(2)
        workers = [context.Process(target=work, args=(block.name, todo, done, ready)) for _ in range(4)]
        for worker in workers:
            worker.start()
        for at in range(256):
            todo.put(at)
        for _ in workers:
            todo.put(None)
        assert sorted(done.get(timeout=60) for _ in range(256)) == list(range(256))
        for worker in workers:
            worker.join(60)
            assert worker.exitcode == 0
        assert bytes(block.buf[:256]) == bytes(at % 251 for at in range(256))
        block.close()
        block.unlink()
