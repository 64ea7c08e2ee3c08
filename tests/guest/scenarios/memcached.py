"""memcached over a local socket: four threads of clients, each with keys of its own and one counter that all share."""
import os, shutil, socket, subprocess, tempfile, threading, time

directory = tempfile.mkdtemp()
path = directory + "/socket"
server = subprocess.Popen(["memcached", "-s", path, "-u", "root", "-m", "32", "-t", "4", "-c", "64"])


def connect():
    while True:
        client = socket.socket(socket.AF_UNIX)
        try:
            client.connect(path)
            return client, client.makefile("rb")
        except OSError:
            assert server.poll() is None
            client.close()
            time.sleep(0.05)


def ask(client, request, lines=1):
    client[0].sendall(request)
    return [client[1].readline() for _ in range(lines)]


def work(number, results):
    client = connect()
    good = 0
    for i in range(200):
        value = b"%d-%d" % (number, i * i) * (1 + i % 40)
        stored = ask(client, b"set key-%d-%d 7 0 %d\r\n%s\r\n" % (number, i, len(value), value))
        got = ask(client, b"get key-%d-%d\r\n" % (number, i), 3)
        good += stored == [b"STORED\r\n"] and got[1] == value + b"\r\n" and got[2] == b"END\r\n"
        ask(client, b"incr shared 1\r\n")
    client[0].close()
    results[number] = good


main = connect()
print(ask(main, b"set shared 0 0 1\r\n0\r\n"))
results = [0] * 4
threads = [threading.Thread(target=work, args=(number, results)) for number in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(results, ask(main, b"get shared\r\n", 3)[1])
print(ask(main, b"get nothing\r\n"), ask(main, b"delete shared\r\n"), ask(main, b"bogus\r\n"))
large = os.urandom(500_000)
print(ask(main, b"set large 0 0 500000\r\n" + large + b"\r\n"))
main[0].sendall(b"get large\r\n")
header = main[1].readline()
print(header, main[1].read(500_000) == large, main[1].readline(), main[1].readline())
main[0].sendall(b"stats\r\n")
stats = {}
while (line := main[1].readline()) != b"END\r\n":
    _, name, value = line.split(None, 2)
    stats[name.decode()] = value.strip().decode()
print({name: stats[name] for name in ("threads", "cmd_set", "get_misses", "curr_items")})
server.terminate()
print("server:", server.wait())
shutil.rmtree(directory)
