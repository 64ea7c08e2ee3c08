"""sqlite3 with eight threads on one file: writers that take turns, readers that see whole transactions."""
import os, shutil, sqlite3, tempfile, threading

directory = tempfile.mkdtemp()
path = directory + "/data.db"
with sqlite3.connect(path) as setup:
    print(setup.execute("pragma journal_mode = wal").fetchone())
    setup.execute("create table entries(thread integer, n integer, text text, primary key(thread, n))")
    setup.execute("create table total(sum integer)")
    setup.execute("insert into total values (0)")
broken = []


def connect():
    connection = sqlite3.connect(path, timeout=120, isolation_level=None)
    connection.execute("pragma synchronous = off")
    return connection


def write(number):
    connection = connect()
    for n in range(60):
        connection.execute("begin immediate")
        connection.execute("insert into entries values (?, ?, ?)", (number, n, f"entry {n}" * 20))
        connection.execute("update total set sum = sum + ?", (n,))
        connection.execute("commit")
    connection.close()


def read():
    connection = connect()
    for _ in range(60):
        connection.execute("begin")
        (rows,) = connection.execute("select coalesce(sum(n), 0) from entries").fetchone()
        (total,) = connection.execute("select sum from total").fetchone()
        connection.execute("commit")
        if rows != total:
            broken.append((rows, total))
    connection.close()


threads = [threading.Thread(target=write, args=(number,)) for number in range(4)] + [threading.Thread(target=read) for _ in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
check = connect()
print(broken, check.execute("select count(*), sum(n) from entries").fetchone(), check.execute("select sum from total").fetchone())
print(check.execute("pragma wal_checkpoint(truncate)").fetchone()[0], check.execute("pragma integrity_check").fetchone())
check.close()
print(sorted(os.listdir(directory)))
shutil.rmtree(directory)
