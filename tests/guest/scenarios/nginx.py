"""nginx with four workers on a local socket: files small and large, many clients at once, a worker that is killed, a reload."""
import hashlib, os, shutil, signal, socket, subprocess, tempfile, threading, time

directory = tempfile.mkdtemp()
os.chmod(directory, 0o755)
path = directory + "/socket"
os.mkdir(directory + "/www")
files = {"small.txt": b"a small file\n", "large.bin": bytes(range(256)) * 8192, "huge.bin": bytes(range(255, -1, -1)) * 81920}
for name, content in files.items():
    with open(f"{directory}/www/{name}", "wb") as file:
        file.write(content)
temporary = "".join(
    f"{kind}_temp_path {directory}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
)
with open(directory + "/nginx.conf", "w") as file:
    file.write(f"""user root; worker_processes 4; pid {directory}/pid; error_log {directory}/error.log;
events {{ worker_connections 64; }}
http {{ access_log off; sendfile on; {temporary}
  server {{ listen unix:{path}; root {directory}/www;
    location = /who {{ return 200 "$pid\n"; }}
    location /again/ {{ proxy_pass http://unix:{path}:/; }}
    location = /old {{ return 301 /new; }} }} }}
""")
server = subprocess.Popen(["nginx", "-p", directory, "-c", directory + "/nginx.conf", "-e", directory + "/error.log", "-g", "daemon off;"])


def connect():
    while True:
        client = socket.socket(socket.AF_UNIX)
        try:
            client.connect(path)
            return client
        except OSError:
            assert server.poll() is None, open(directory + "/error.log").read()
            client.close()
            time.sleep(0.05)


def get(stream, client, target):
    client.sendall(f"GET {target} HTTP/1.1\r\nHost: here\r\n\r\n".encode())
    status = stream.readline().split()[1].decode()
    length = 0
    while (line := stream.readline()) != b"\r\n":
        name, value = line.split(b":", 1)
        if name.lower() == b"content-length":
            length = int(value)
    return status, stream.read(length)


def once(target):
    with connect() as client:
        return get(client.makefile("rb"), client, target)


def digest(content):
    return hashlib.sha256(content).hexdigest()[:16]


for target in ("/small.txt", "/large.bin", "/huge.bin", "/again/small.txt", "/again/large.bin", "/missing", "/old"):
    status, content = once(target)
    print(target, status, len(content), digest(content) if status == "200" else "")


def work(results, number):
    good = 0
    with connect() as client:
        stream = client.makefile("rb")
        for i in range(10):
            name = "large.bin" if i % 5 == 4 else "small.txt"
            good += get(stream, client, "/" + name) == ("200", files[name])
    results[number] = good


results = [0] * 8
threads = [threading.Thread(target=work, args=(results, number)) for number in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(results)


def worker():
    return int(once("/who")[1])


first = worker()
os.kill(first, signal.SIGKILL)
while first in {worker() for _ in range(3)}:
    time.sleep(0.05)
print("another worker answers:", once("/small.txt")[0])
old = worker()
server.send_signal(signal.SIGHUP)
while os.path.exists(f"/proc/{old}"):
    time.sleep(0.05)
print("after the reload:", once("/small.txt")[0])
server.send_signal(signal.SIGQUIT)
print("server:", server.wait())
shutil.rmtree(directory)
