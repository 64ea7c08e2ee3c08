"""Python's own users of local sockets: asyncio servers and clients, multiprocessing's listeners, queues and managers, passed files."""
import array, asyncio, multiprocessing, multiprocessing.connection, os, selectors, shutil, socket, socketserver, tempfile, threading

directory = tempfile.mkdtemp()


async def serve():
    path = directory + "/asyncio"

    async def upper(reader, writer):
        while line := await reader.readline():
            writer.write(line.upper())
            await writer.drain()
        writer.close()

    async def client(number):
        reader, writer = await asyncio.open_unix_connection(path)
        got = []
        for i in range(20):
            writer.write(f"client {number} line {i}\n".encode())
            got.append((await reader.readline()).decode())
        writer.write_eof()
        rest = await reader.read()
        writer.close()
        return got == [f"CLIENT {number} LINE {i}\n" for i in range(20)] and rest == b""

    server = await asyncio.start_unix_server(upper, path)
    print("asyncio:", await asyncio.gather(*(client(number) for number in range(10))))
    reader, writer = await asyncio.open_unix_connection(path)
    line = b"x" * 60_000 + b"\n"
    writer.write(line * 8)
    writer.write_eof()
    print("large:", len(await reader.read()))
    server.close()
    process = await asyncio.create_subprocess_exec("/bin/sh", "-c", "read a; echo got $a", stdin=-1, stdout=-1)
    print(await process.communicate(b"input\n"), process.returncode)
    loop = asyncio.get_running_loop()
    try:
        await loop.sock_connect(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK), directory + "/no")
    except FileNotFoundError as error:
        print("missing:", error.errno)


def child(address, key):
    with multiprocessing.connection.Client(address, "AF_UNIX", authkey=key) as connection:
        connection.send(sum(connection.recv()))
        connection.send_bytes(b"bytes")


def square(n):
    return n * n


def processes():
    address, key = directory + "/listener", b"secret"
    with multiprocessing.connection.Listener(address, "AF_UNIX", authkey=key) as listener:
        process = multiprocessing.Process(target=child, args=(address, key))
        process.start()
        with listener.accept() as connection:
            connection.send(list(range(100)))
            print("listener:", connection.recv(), connection.recv_bytes())
        process.join()
        print("child:", process.exitcode)
    with multiprocessing.Pool(3) as pool:
        print("pool:", sum(pool.map(square, range(200))))
    with multiprocessing.Manager() as manager:
        shared = manager.dict()
        workers = [multiprocessing.Process(target=shared.__setitem__, args=(i, i * i)) for i in range(3)]
        [worker.start() for worker in workers]
        [worker.join() for worker in workers]
        print("manager:", sorted(shared.items()))


def passed():
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    reading, writing = os.pipe()
    socket.send_fds(left, [b"two"], [reading, writing])
    message, (r, w), flags, _ = socket.recv_fds(right, 9, 5)
    os.write(w, b"through")
    print("passed:", message, os.read(r, 99), flags & socket.MSG_CTRUNC)


class Reverse(socketserver.StreamRequestHandler):
    def handle(self):
        for line in self.rfile:
            self.wfile.write(line.strip()[::-1] + b"\n")


def threads():
    path = directory + "/threads"
    with socketserver.ThreadingUnixStreamServer(path, Reverse) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,)).start()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(path)
            client.sendall(b"abc\ndef\n")
            client.shutdown(socket.SHUT_WR)
            print("socketserver:", b"".join(iter(lambda: client.recv(99), b"")))
        server.shutdown()


asyncio.run(serve())
processes()
passed()
threads()
shutil.rmtree(directory)
print("done")
