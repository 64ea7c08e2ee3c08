"""Python's ways to start and talk to other processes: subprocess, multiprocessing by fork and by spawn, shared memory, pseudo terminals, signals."""
import multiprocessing, os, pty, select, signal, subprocess, sys, tempfile, time
from multiprocessing import shared_memory


def subprocesses():
    run = subprocess.run
    done = run(["/bin/sh", "-c", "cat; echo problem >&2; exit 3"], input=b"in", capture_output=True)
    print("run:", done.returncode, done.stdout, done.stderr)
    print("pipeline:", run("seq 1 1000 | sort -r | head -3 | tr '\\n' ' '", shell=True, capture_output=True, text=True).stdout)
    print("environment:", run(["/bin/sh", "-c", "echo $A; pwd"], env={"A": "b"}, cwd="/usr", capture_output=True, text=True).stdout.split())
    try:
        run(["/bin/sleep", "60"], timeout=0.2)
    except subprocess.TimeoutExpired as error:
        print("timeout:", type(error).__name__)
    try:
        run(["/no/such/program"])
    except FileNotFoundError as error:
        print("missing:", error.filename)
    try:
        subprocess.check_call(["/bin/sh", "-c", "kill -USR1 $$"])
    except subprocess.CalledProcessError as error:
        print("signal:", error.returncode)
    first = subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    second = subprocess.Popen(["/usr/bin/tr", "a-z", "A-Z"], stdin=first.stdout, stdout=subprocess.PIPE)
    first.stdout.close()
    first.stdin.write(b"line\n" * 20_000)
    first.stdin.close()
    out = second.communicate()[0]
    print("through two:", len(out), out[:10], first.wait(), second.returncode)
    reading, writing = os.pipe()
    run(["/bin/sh", "-c", f"echo passed >&{writing}"], pass_fds=[writing])
    print("passed:", os.read(reading, 99))
    group = subprocess.Popen(["/bin/sh", "-c", "sleep 60 & echo ready; wait"], stdout=subprocess.PIPE, start_new_session=True)
    print(group.stdout.readline(), os.getsid(group.pid) == group.pid)
    os.killpg(group.pid, signal.SIGTERM)
    print("group:", group.wait(), group.stdout.read())
    many = [subprocess.Popen([sys.executable, "-S", "-c", f"print({n} ** 2)"], stdout=subprocess.PIPE) for n in range(4)]
    print("many:", [child.communicate()[0] for child in many])


def put(queue, number):
    for i in range(50):
        queue.put((number, i, "x" * i * 50))
    queue.put(None)


def count(value, lock_array):
    for _ in range(200):
        with value.get_lock():
            value.value += 1
    lock_array[os.getpid() % len(lock_array)] += 0


def answer(pipe):
    while (message := pipe.recv()) is not None:
        pipe.send(message[::-1])
    pipe.close()


def cube(n):
    return n ** 3


def fail(n):
    raise ValueError(n)


def fill(name, at):
    memory = shared_memory.SharedMemory(name)
    memory.buf[at : at + 1000] = bytes([at // 1000]) * 1000
    memory.close()


def meet(barrier, event, semaphore, queue):
    barrier.wait()
    event.wait()
    with semaphore:
        queue.put("met")


def workers(context):
    queue = context.Queue()
    writers = [context.Process(target=put, args=(queue, number)) for number in range(2)]
    [writer.start() for writer in writers]
    got, ends = [], 0
    while ends < 2:
        item = queue.get()
        ends += item is None
        got += [item] if item else []
    [writer.join() for writer in writers]
    print("queue:", len(got), sum(len(text) for _, _, text in got), all([i for n, i, _ in got if n == number] == list(range(50)) for number in range(2)))

    value, array = context.Value("i", 0), context.Array("d", 4)
    counters = [context.Process(target=count, args=(value, array)) for _ in range(3)]
    [counter.start() for counter in counters]
    [counter.join() for counter in counters]
    print("value:", value.value, [counter.exitcode for counter in counters])

    here, there = context.Pipe()
    process = context.Process(target=answer, args=(there,))
    process.start()
    here.send("hello")
    print("pipe:", here.recv())
    here.send(list(range(5)))
    print("pipe:", here.recv())
    here.send(None)
    process.join()

    with context.Pool(3) as pool:
        print("pool:", sum(pool.map(cube, range(100), chunksize=7)), pool.apply_async(cube, (9,)).get(), sorted(pool.imap_unordered(cube, range(4))))
        try:
            pool.apply(fail, (5,))
        except ValueError as error:
            print("fails:", error)

    memory = shared_memory.SharedMemory(create=True, size=4000)
    fillers = [context.Process(target=fill, args=(memory.name, 1000 * n)) for n in range(4)]
    [filler.start() for filler in fillers]
    [filler.join() for filler in fillers]
    print("shared memory:", [memory.buf[1000 * n + 999] for n in range(4)])
    memory.close()
    memory.unlink()

    barrier, event, semaphore, queue = context.Barrier(3), context.Event(), context.Semaphore(1), context.Queue()
    both = [context.Process(target=meet, args=(barrier, event, semaphore, queue)) for _ in range(2)]
    [process.start() for process in both]
    barrier.wait()
    event.set()
    print("met:", [queue.get() for _ in both])
    [process.join() for process in both]
    killed = context.Process(target=time.sleep, args=(60,))
    killed.start()
    killed.terminate()
    killed.join()
    print("terminated:", killed.exitcode, killed.is_alive())


def terminals():
    pid, master = pty.fork()
    if pid == 0:
        os.execv("/bin/sh", ["sh", "-c", "test -t 0 && stty size && read line && echo \"<$line>\" && kill -STOP $$ && exit 5"])
    shown = b""
    os.write(master, b"typed\n")
    while b"<typed>" not in shown:
        shown += os.read(master, 1024)
    print("terminal:", shown.replace(b"0 0\r\n", b"").split())
    print("stopped:", os.WIFSTOPPED(os.waitpid(pid, os.WUNTRACED)[1]))
    os.kill(pid, signal.SIGCONT)
    print("ended:", os.WEXITSTATUS(os.waitpid(pid, 0)[1]))
    pid, master = pty.fork()
    if pid == 0:
        os.execv("/bin/cat", ["cat"])
    os.write(master, b"abc\n")
    shown = b""
    while shown.count(b"abc") < 2:
        shown += os.read(master, 1024)
    os.write(master, b"\x03")
    print("interrupted:", os.WTERMSIG(os.waitpid(pid, 0)[1]))


def signals():
    seen = []
    signal.signal(signal.SIGCHLD, lambda number, frame: seen.append(number))
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing)
    pid = os.fork()
    if pid == 0:
        os._exit(7)
    print("wake-up:", select.select([reading], [], [], 60)[0] == [reading], os.read(reading, 9) == bytes([signal.SIGCHLD]))
    print("child:", os.WEXITSTATUS(os.waitpid(pid, 0)[1]), seen == [signal.SIGCHLD])
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    print("spawned:", os.waitstatus_to_exitcode(os.waitpid(os.posix_spawn("/bin/sh", ["sh", "-c", "exit 9"], {}), 0)[1]))
    sent = subprocess.Popen(["/bin/sleep", "60"])
    descriptor = os.pidfd_open(sent.pid)
    signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    print("pidfd:", select.select([descriptor], [], [], 60)[0] == [descriptor], sent.wait())


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)
    subprocesses()
    for method in ("fork", "spawn"):
        print("==", method)
        workers(multiprocessing.get_context(method))
    terminals()
    signals()
    with tempfile.NamedTemporaryFile("w+") as file:
        subprocess.run(["/bin/ls", "-d", "/"], stdout=file)
        file.seek(0)
        print("to a file:", file.read())
