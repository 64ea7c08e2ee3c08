"""Loops like those of Python's own benchmark collection: milliseconds, the lesser of two rounds each."""
import json, math, pickle, re, subprocess, sys, time


def floats():
    """The planets, 2,000 steps."""
    bodies = [[float(i), i * 0.5, 0.0, 0.0, 0.1 * i, 0.01, 1.0 + i] for i in range(5)]
    for _ in range(2000):
        for i, (x, y, z, *_, mass) in enumerate(bodies):
            for other in bodies[i + 1 :]:
                dx, dy, dz = x - other[0], y - other[1], z - other[2]
                pull = 0.001 / (math.sqrt(dx * dx + dy * dy + dz * dz) ** 3 + 1e-9)
                bodies[i][3] -= dx * other[6] * pull
                other[3] += dx * mass * pull
        for body in bodies:
            body[0] += 0.001 * body[3]
            body[1] += 0.001 * body[4]
            body[2] += 0.001 * body[5]


DATA = {f"key {n}": [n, n / 3, "text " * (n % 7), None, {"inner": n % 2 == 0}] for n in range(1000)}
TEXT = " ".join(f"user{n}@host{n % 17}.example.org wrote {n * 7919} bytes in 12:{n % 60:02}:{n % 59:02}" for n in range(1500))


def json_both_ways():
    for _ in range(8):
        assert json.loads(json.dumps(DATA)) == DATA


def pickle_both_ways():
    for _ in range(25):
        assert pickle.loads(pickle.dumps(DATA)) == DATA


def regular_expressions():
    for _ in range(4):
        assert len(re.findall(r"(\w+)@([\w.]+)\s+wrote\s+(\d+)", TEXT)) == 1500
        assert len(re.sub(r"(\d\d):(\d\d):(\d\d)", r"\3-\2-\1", TEXT)) == len(TEXT)


def starts():
    for _ in range(3):
        assert subprocess.run([sys.executable, "-c", "print(6 * 7)"], capture_output=True).stdout == b"42\n"


def children():
    for _ in range(20):
        subprocess.run(["/bin/true"], check=True)


def measure(name, function, count=1):
    least = math.inf
    for _ in range(2):
        start = time.perf_counter()
        function()
        least = min(least, time.perf_counter() - start)
    print(f"RESULT {name} {least * 1000 / count:.1f}", flush=True)


measure("python_floats", floats)
measure("python_json", json_both_ways)
measure("python_pickle", pickle_both_ways)
measure("python_regex", regular_expressions)
measure("python_start", starts, 3)
measure("python_child", children, 20)
