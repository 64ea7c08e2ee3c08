"""What the issue names for python3: json, re, hashlib, threading, sqlite3, decimal, zlib; and a few more."""
import base64, collections, datetime, decimal, hashlib, json, math, os, queue, random, re, signal, sqlite3, struct, sys, tempfile, threading, time, zlib

print(sys.version_info[:2], sys.argv[1:], sys.byteorder)
text = json.dumps({"b": [1, 2.5, None, True], "a": "grüße"}, sort_keys=True)
print(text, json.loads(text)["b"])
print(re.findall(r"(\w+)@(\w+)\.org", "ann@one.org, bob@two.org"), re.sub(r"(?<=a)b+", "-", "abbb ab b"))
for name in ("md5", "sha1", "sha256", "sha512", "sha3_256", "blake2b"):
    print(name, hashlib.new(name, b"oxv" * 1000).hexdigest()[:32])
data = bytes(range(256)) * 4000
packed = zlib.compress(data, 9)
print(len(packed), zlib.crc32(data), zlib.decompress(packed) == data)
decimal.getcontext().prec = 60
print(decimal.Decimal(2).sqrt(), decimal.Decimal(1) / 7)

counter, lock, results = 0, threading.Lock(), queue.Queue()
barrier = threading.Barrier(50)
def work(n):
    global counter
    barrier.wait()
    for _ in range(200):
        with lock:
            counter += 1
    results.put(n * n)
threads = [threading.Thread(target=work, args=(n,)) for n in range(50)]
for t in threads: t.start()
for t in threads: t.join()
print("threads", counter, sum(results.get() for _ in range(50)))
event = threading.Event()
timer = threading.Timer(0.02, event.set); timer.start()
print("event", event.wait(10), event.wait(0))

path = os.path.join(tempfile.gettempdir(), f"script-{os.getpid()}.db")
db = sqlite3.connect(path)
db.execute("create table t (id integer primary key, name text, value real)")
with db:
    db.executemany("insert into t (name, value) values (?, ?)", ((f"n{i}", i / 3) for i in range(2000)))
db.execute("create index i on t (name)")
db.commit()
print(db.execute("select count(*), sum(id), round(avg(value), 6) from t where name like 'n1%'").fetchone())
db.execute("pragma journal_mode=wal")
with db: db.execute("delete from t where id % 2")
print(db.execute("select count(*) from t").fetchone(), db.execute("pragma integrity_check").fetchone())
db.close()
for end in ("", "-wal", "-shm"):
    if os.path.exists(path + end): os.unlink(path + end)

random.seed(42)
print([random.randrange(1000) for _ in range(8)], math.fsum([0.1] * 10), struct.pack("<Id", 7, 1.5).hex())
print(datetime.datetime(2024, 2, 29, tzinfo=datetime.timezone.utc).isoformat(), collections.Counter("mississippi").most_common(2))
print(base64.b64encode(os.urandom(30)) != base64.b64encode(os.urandom(30)))
hits = []
signal.signal(signal.SIGALRM, lambda s, f: hits.append(s))
signal.setitimer(signal.ITIMER_REAL, 0.01)
time.sleep(0.05)
print("signals", hits)
def deep(n): return 0 if n == 0 else 1 + deep(n - 1)
try: deep(10**6)
except RecursionError: print("recursion stopped")
print(sum(len(line) for line in sys.stdin))
print({'0', '1', '2'} <= set(os.listdir('/proc/self/fd')), os.getcwd())
sys.stderr.write("done\n")
sys.exit(5)
