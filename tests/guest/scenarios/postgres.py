"""PostgreSQL over a local socket: initdb, pgbench with four clients, the postmaster killed, and what is there after the recovery."""
import glob, os, pwd, shutil, signal, subprocess, tempfile, time

programs = sorted(glob.glob("/usr/lib/postgresql/*/bin"))[-1]
directory = tempfile.mkdtemp()
user = pwd.getpwnam("postgres")
os.chown(directory, user.pw_uid, user.pw_gid)
data = directory + "/data"
environment = {"PATH": programs + ":/usr/bin:/bin", "LANG": "C", "LC_ALL": "C", "HOME": directory, "TZ": "UTC", "PGHOST": directory, "PGUSER": "postgres", "PGDATABASE": "postgres"}
as_user = dict(user=user.pw_uid, group=user.pw_gid, extra_groups=[], env=environment, cwd=directory)
options = ["-D", data, "-k", directory, "-c", "listen_addresses=", "-c", "fsync=off", "-c", "shared_buffers=16MB", "-c", "autovacuum=off", "-c", "max_wal_size=64MB"]


def run(*command):
    done = subprocess.run(command, capture_output=True, text=True, **as_user)
    if done.returncode:
        print(command, done.returncode, done.stdout, done.stderr)
    return done.stdout


def start(others=lambda log: False):
    """Starts the server, again as long as what it says of its end is `others`' fault."""
    with open(directory + "/log", "ab") as log:
        begin = log.tell()
        server = subprocess.Popen([programs + "/postgres", *options], stdout=log, stderr=log, **as_user)
    while subprocess.run([programs + "/pg_isready", "-q"], **as_user).returncode:
        if server.poll() is not None:
            with open(directory + "/log") as log:
                log.seek(begin)
                said = log.read()
            if others(said):
                time.sleep(0.2)
                return start(others)
            print(said)
            raise SystemExit(1)
        time.sleep(0.2)
    return server


def sql(text):
    return run("psql", "-X", "-A", "-t", "-q", "-c", text).strip()


print("initdb:", "Success" in run(programs + "/initdb", "-D", data, "-A", "trust", "-U", "postgres", "-N"))
server = start()
print(sql("select 6 * 7, version() like 'PostgreSQL%'"))
run("pgbench", "-i", "-q", "-s", "1")
print(sql("select count(*), sum(abalance) from pgbench_accounts"))
report = run("pgbench", "-n", "-c", "4", "-j", "2", "-t", "25")
print([line for line in report.splitlines() if "actually processed" in line])
sums = "select (select sum(abalance) from pgbench_accounts) = (select sum(delta) from pgbench_history), (select count(*) from pgbench_history)"
print(sql(sums))
sql("create table kept as select n, md5(n::text) as text from generate_series(1, 2000) as n")
sql("create index on kept(text)")
server.send_signal(signal.SIGKILL)
server.wait()
# Its children notice, and end by themselves.
while b"postgres: " in b"".join(open(path, "rb").read() for path in glob.glob("/proc/[0-9]*/cmdline") if os.path.exists(path)):
    time.sleep(0.2)
if os.path.exists(data + "/postmaster.pid"):
    os.remove(data + "/postmaster.pid")
# One that ends just now has no command line any more, but still the shared memory.
server = start(lambda log: "is still in use" in log)
print("recovered:", sql(sums), sql("select count(*), min(text) from kept"))
print("by index:", sql("select n from kept where text = md5('1234')"))
server.send_signal(signal.SIGINT)
print("server:", server.wait())
print("recovery in the log:", "automatic recovery in progress" in open(directory + "/log").read())
shutil.rmtree(directory)
