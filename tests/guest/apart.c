/* Threads of one process with descriptors, directories, semaphore adjustments and identities of their own. */
#include "check.h"
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/sem.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define OTHER 54321
#define OWN 60 /* a descriptor that only one table has */
#define ALL (CLONE_FS | CLONE_FILES | CLONE_SYSVSEM)
#ifndef CLOSE_RANGE_UNSHARE
#define CLOSE_RANGE_UNSHARE 2
#endif

static char directory[] = "/tmp/apart.XXXXXX";
static int go[2], back[2], is_root;

/* A thread without the C library's knowledge: it has the maker's errno, and may look at it while the maker waits. */
struct bare {
	char stack[65536] __attribute__((aligned(16)));
	volatile int tid;
};

static pid_t start(struct bare *bare, unsigned long flags, int (*run)(void *), void *argument)
{
	bare->tid = 1;
	flags |= CLONE_VM | CLONE_SIGHAND | CLONE_THREAD | CLONE_PARENT_SETTID | CLONE_CHILD_CLEARTID;
	return clone(run, bare->stack + sizeof bare->stack, flags, argument, &bare->tid, NULL, &bare->tid);
}

static void join(struct bare *bare)
{
	for (int tid; (tid = bare->tid) != 0;)
		syscall(SYS_futex, &bare->tid, FUTEX_WAIT, tid, NULL, NULL, 0);
}

static void tell(int fd)
{
	while (write(fd, "x", 1) != 1)
		;
}

static void wait_for(int fd)
{
	char byte;
	while (read(fd, &byte, 1) != 1)
		;
}

static int is_open(int fd)
{
	return syscall(SYS_fcntl, fd, F_GETFD) >= 0;
}

/* The link `name` of thread `tid`, or of the process. */
static const char *seen(pid_t tid, const char *name)
{
	static char path[64], text[256];
	if (tid)
		snprintf(path, sizeof path, "/proc/self/task/%d/%s", tid, name);
	else
		snprintf(path, sizeof path, "/proc/self/%s", name);
	ssize_t length = readlink(path, text, sizeof text - 1);
	text[length < 0 ? 0 : length] = 0;
	return text;
}

/* The line of `status` that begins with `name`. */
static const char *status(pid_t tid, const char *name)
{
	static char path[64], line[256];
	snprintf(path, sizeof path, "/proc/self/task/%d/status", tid);
	FILE *file = fopen(path, "r");
	while (file && fgets(line, sizeof line, file))
		if (strncmp(line, name, strlen(name)) == 0)
			break;
	if (file)
		fclose(file);
	line[strcspn(line, "\n")] = 0;
	return line;
}

static void *in_thread(void *(*run)(void *), void *argument)
{
	pthread_t thread;
	void *result = NULL;
	if (pthread_create(&thread, NULL, run, argument) == 0)
		pthread_join(thread, &result);
	return result;
}

/* The same in a process of its own; what it exits with. */
static int in_child(int (*run)(void))
{
	int word;
	pid_t child = fork();
	if (child == 0)
		_exit(run());
	return waitpid(child, &word, 0) == child && WIFEXITED(word) ? WEXITSTATUS(word) : -1;
}

static struct bare one;
static int given;

static int has_own_table(void *unused)
{
	(void)unused;
	int bad = !is_open(given) || close(given) != 0 || dup2(go[0], OWN) != OWN;
	tell(back[1]);
	wait_for(go[0]);
	/* What the others have opened meanwhile is not there. */
	return bad || is_open(given);
}

static void descriptors(void)
{
	given = open("/dev/null", O_RDONLY);
	pid_t tid = start(&one, CLONE_FS | CLONE_SYSVSEM, has_own_table, NULL);
	CHECK(tid > 0);
	wait_for(back[0]);
	CHECK(is_open(given) && !is_open(OWN));
	char own[16], path[64];
	snprintf(own, sizeof own, "fd/%d", OWN);
	CHECK(strncmp(seen(tid, own), "pipe:", 5) == 0 && seen(0, own)[0] == 0);
	snprintf(own, sizeof own, "fd/%d", given);
	CHECK(strcmp(seen(0, own), "/dev/null") == 0 && seen(tid, own)[0] == 0);
	snprintf(path, sizeof path, "/proc/self/task/%d/fdinfo/%d", tid, OWN);
	CHECK(access(path, R_OK) == 0);
	snprintf(path, sizeof path, "/proc/self/task/%d/fdinfo/%d", tid, given);
	CHECK(access(path, R_OK) != 0);
	tell(go[1]);
	join(&one);
	CHECK(close(given) == 0);
}

static int moves(void *unused)
{
	(void)unused;
	int bad = chdir("/proc") != 0;
	umask(077);
	tell(back[1]);
	wait_for(go[0]);
	return bad;
}

static void directories(void)
{
	char before[256], after[256];
	mode_t mask = umask(022);
	CHECK(getcwd(before, sizeof before) != NULL);
	pid_t tid = start(&one, CLONE_FILES | CLONE_SYSVSEM, moves, NULL);
	wait_for(back[0]);
	CHECK(getcwd(after, sizeof after) != NULL && strcmp(before, after) == 0);
	CHECK(strcmp(seen(tid, "cwd"), "/proc") == 0 && strcmp(seen(0, "cwd"), before) == 0);
	CHECK(strcmp(status(tid, "Umask"), "Umask:\t0077") == 0 && strcmp(status(getpid(), "Umask"), "Umask:\t0022") == 0);
	tell(go[1]);
	join(&one);
	CHECK(umask(mask) == 022);
	/* The others share theirs. */
	tid = start(&one, ALL, moves, NULL);
	wait_for(back[0]);
	CHECK(getcwd(after, sizeof after) != NULL && strcmp(after, "/proc") == 0);
	tell(go[1]);
	join(&one);
	CHECK(umask(mask) == 077 && chdir(before) == 0);
}

static int waits(void *unused)
{
	(void)unused;
	tell(back[1]);
	wait_for(go[0]);
	return 0;
}

/* What only a thread's table keeps open is closed when the thread ends. */
static void last_holder(void)
{
	int ends[2], set = epoll_create1(0);
	char byte;
	struct epoll_event event = { .events = EPOLLIN };
	CHECK(pipe(ends) == 0 && epoll_ctl(set, EPOLL_CTL_ADD, ends[0], &event) == 0);
	start(&one, CLONE_FS, waits, NULL);
	wait_for(back[0]);
	close(ends[1]);
	CHECK(epoll_wait(set, &event, 1, 0) == 0);
	tell(go[1]);
	CHECK(epoll_wait(set, &event, 1, -1) == 1 && event.events == EPOLLHUP);
	CHECK(read(ends[0], &byte, 1) == 0);
	join(&one);
	close(ends[0]), close(set);
}

static void *parts(void *unused)
{
	(void)unused;
	long bad = syscall(SYS_close_range, 3, ~0u, CLOSE_RANGE_UNSHARE) != 0;
	for (int fd = 3; fd < 100; fd++)
		bad += is_open(fd);
	/* Nothing is shared any more: a second time changes nothing. */
	bad += open("/dev/null", O_RDONLY) != 3 || syscall(SYS_close_range, 50, 60, CLOSE_RANGE_UNSHARE) != 0 || !is_open(3);
	/* Forgotten with the thread. */
	return (void *)bad;
}

static void *unshares(void *unused)
{
	(void)unused;
	long bad = unshare(CLONE_FILES | CLONE_FS | CLONE_SYSVSEM) != 0;
	if (bad)
		return (void *)(long)(errno != EPERM); /* a container may forbid it */
	bad += close(given) != 0 || chdir("/") != 0;
	return (void *)bad;
}

static void parted(void)
{
	char before[256], after[256];
	given = open("/dev/zero", O_RDONLY);
	CHECK(in_thread(parts, NULL) == NULL);
	CHECK(is_open(given) && is_open(go[0]) && is_open(back[1]));
	CHECK(getcwd(before, sizeof before) != NULL && in_thread(unshares, NULL) == NULL);
	CHECK(getcwd(after, sizeof after) != NULL && strcmp(before, after) == 0 && is_open(given));
	FAILS(syscall(SYS_unshare, 1), EINVAL);
	close(given);
}

static int file;

static int lock(int command, short type, off_t start, struct flock *found)
{
	struct flock what = { .l_type = type, .l_whence = SEEK_SET, .l_start = start, .l_len = 1 };
	int result = fcntl(file, command, &what);
	if (found)
		*found = what;
	return result;
}

/* Whether the byte `start` is locked by anybody but the caller's table. */
static int is_locked(off_t start)
{
	struct flock found;
	return lock(F_GETLK, F_WRLCK, start, &found) == 0 && found.l_type != F_UNLCK;
}

static int sees_locks(void)
{
	return is_locked(0) | is_locked(1) << 1 | is_locked(2) << 2;
}

static int locks(void *unused)
{
	struct flock found;
	(void)unused;
	/* Another table's lock, of the same process. */
	int bad = lock(F_GETLK, F_WRLCK, 0, &found) != 0 || found.l_type != F_WRLCK || found.l_pid != getpid();
	bad += lock(F_SETLK, F_WRLCK, 0, NULL) != -1 || errno != EAGAIN;
	bad += lock(F_SETLK, F_WRLCK, 1, NULL) != 0;
	tell(back[1]);
	wait_for(go[0]);
	given = bad;
	return 0;
}

static void *closes_a_copy(void *unused)
{
	close(dup(file));
	return unused;
}

static void record_locks(void)
{
	file = open("locks", O_RDWR | O_CREAT, 0600);
	CHECK(file >= 0 && lock(F_SETLK, F_WRLCK, 0, NULL) == 0);
	start(&one, CLONE_FS, locks, NULL);
	wait_for(back[0]);
	CHECK(is_locked(1) && !is_locked(0) && in_child(sees_locks) == 3);
	tell(go[1]);
	/* What the thread had locked is free once it has ended; what others have is not. */
	struct flock wanted = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 1, .l_len = 1 };
	CHECK(fcntl(file, F_SETLKW, &wanted) == 0);
	join(&one);
	CHECK(given == 0 && in_child(sees_locks) == 3);
	/* Of one table, whoever closes. */
	in_thread(closes_a_copy, NULL);
	CHECK(in_child(sees_locks) == 0);
	/* Processes may have a table in common, too, and the lock outlives its maker. */
	int word;
	pid_t child = syscall(SYS_clone, CLONE_FILES | SIGCHLD, NULL, NULL, NULL, 0);
	if (child == 0)
		_exit(lock(F_SETLK, F_WRLCK, 2, NULL));
	CHECK(waitpid(child, &word, 0) == child && word == 0);
	CHECK(!is_locked(2) && in_child(sees_locks) == 4);
	close(file);
}

static int set;

static int change(short by, short flags)
{
	struct sembuf operation = { 0, by, flags };
	return semop(set, &operation, 1);
}

static int takes(void *unused)
{
	(void)unused;
	given = change(-3, SEM_UNDO);
	tell(back[1]);
	wait_for(go[0]);
	return 0;
}

static void *takes_with_others(void *unused)
{
	given = change(-2, SEM_UNDO);
	return unused;
}

static int gives_at_the_end(void)
{
	in_thread(takes_with_others, NULL);
	int left = semctl(set, 0, GETVAL);
	return given == 0 ? left : -1;
}

static void semaphores(void)
{
	set = semget(IPC_PRIVATE, 1, 0600);
	CHECK(set >= 0 && semctl(set, 0, SETVAL, 5) == 0);
	start(&one, CLONE_FS | CLONE_FILES, takes, NULL);
	wait_for(back[0]);
	CHECK(given == 0 && semctl(set, 0, GETVAL) == 2);
	tell(go[1]);
	/* Given back by the thread's end. */
	CHECK(change(-5, 0) == 0 && semctl(set, 0, SETVAL, 5) == 0);
	join(&one);
	/* In common with the others: by the end of the last one. */
	CHECK(in_child(gives_at_the_end) == 3);
	CHECK(semctl(set, 0, GETVAL) == 5 && semctl(set, 0, IPC_RMID) == 0);
}

static int sets_flag(void *flag)
{
	*(volatile int *)flag = 1;
	return 0;
}

/* The maker goes on when the thread has ended. */
static void one_after_the_other(void)
{
	volatile int flag = 0;
	CHECK(start(&one, ALL | CLONE_VFORK, sets_flag, (void *)&flag) > 0 && flag == 1);
	join(&one);
	struct bare *unused = &one;
	FAILS(clone(sets_flag, unused->stack + 4096, CLONE_THREAD | CLONE_VM, NULL), EINVAL);
	FAILS(clone(sets_flag, unused->stack + 4096, CLONE_THREAD | CLONE_SIGHAND, NULL), EINVAL);
}

/* Runs a program that looks for what only the thread had. */
static int runs(void *unused)
{
	(void)unused;
	if (dup2(go[0], OWN) == OWN && chdir("/proc") == 0)
		execl(seen(0, "exe"), "apart", "look", NULL);
	_exit(9);
}

static int execute(void)
{
	start(&one, 0, runs, NULL);
	while (pause())
		;
	return 1;
}

static int look(void)
{
	return is_open(OWN) && strcmp(seen(0, "cwd"), "/proc") == 0 && getpid() == gettid() ? 3 : 4;
}

/* ---- identities: everything here is said by a thread that is another user ---- */

static long raw(long number, long a, long b, long c)
{
	return syscall(number, a, b, c);
}

static int has_capability(int number)
{
	struct __user_cap_header_struct header = { _LINUX_CAPABILITY_VERSION_3, 0 };
	struct __user_cap_data_struct data[2];
	return syscall(SYS_capget, &header, data) == 0 && data[0].effective >> number & 1;
}

static pid_t victim;

static void *is_other(void *tid)
{
	struct ucred cred;
	socklen_t length = sizeof cred;
	int ends[2];
	long bad = raw(SYS_setresuid, -1, OTHER, -1) != 0;
	*(pid_t *)tid = gettid();
	bad |= (open("secret", O_RDONLY) != -1 || errno != EACCES) << 1;
	bad |= (raw(SYS_geteuid, 0, 0, 0) != OTHER || raw(SYS_getuid, 0, 0, 0) != 0) << 2;
	bad |= (has_capability(CAP_SETUID) != 0) << 3;
	bad |= (socketpair(AF_UNIX, SOCK_STREAM, 0, ends) != 0 || getsockopt(ends[0], SOL_SOCKET, SO_PEERCRED, &cred, &length) != 0 || cred.uid != OTHER) << 4;
	close(ends[0]), close(ends[1]);
	tell(back[1]);
	wait_for(go[0]);
	/* The real user may still be had again. */
	bad |= (raw(SYS_setresuid, OTHER, OTHER, OTHER) != 0) << 5;
	bad |= (kill(victim, 0) != -1 || errno != EPERM) << 6;
	bad |= (raw(SYS_setresuid, 0, 0, 0) != -1 || errno != EPERM) << 7;
	return (void *)bad;
}

static void *is_other_to_files(void *unused)
{
	(void)unused;
	struct stat status;
	long bad = raw(SYS_setfsuid, OTHER, 0, 0) != 0 || raw(SYS_setfsuid, -1, 0, 0) != OTHER;
	bad |= (raw(SYS_geteuid, 0, 0, 0) != 0) << 1;
	bad |= (open("secret", O_RDONLY) != -1 || errno != EACCES) << 2;
	bad |= (has_capability(CAP_DAC_OVERRIDE) != 0) << 3;
	int fd = open("theirs", O_WRONLY | O_CREAT, 0600);
	bad |= (fstat(fd, &status) != 0 || status.st_uid != OTHER) << 4;
	close(fd);
	bad |= (raw(SYS_setfsuid, 0, 0, 0) != OTHER || open("secret", O_RDONLY | O_CLOEXEC) < 0) << 5;
	return (void *)bad;
}

static void *keeps(void *unused)
{
	long bad = prctl(PR_SET_KEEPCAPS, 1) != 0 || prctl(PR_GET_KEEPCAPS) != 1;
	bad |= (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 || prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) != 1) << 1;
	(void)unused;
	return (void *)bad;
}

static void *is_crowded(void *unused)
{
	(void)unused;
	pthread_t thread;
	/* Alone of its user, of whom there may be one. */
	long bad = raw(SYS_setresuid, OTHER + 1, OTHER + 1, OTHER + 1) != 0;
	bad |= (pthread_create(&thread, NULL, keeps, NULL) != EAGAIN) << 1;
	return (void *)bad;
}

static int crowds(void)
{
	struct rlimit limit = { 1, 1 };
	setrlimit(RLIMIT_NPROC, &limit);
	/* One after the other: the first leaves no trace. */
	return in_thread(is_crowded, NULL) == NULL && in_thread(is_crowded, NULL) == NULL && in_thread(keeps, NULL) == NULL ? 5 : 6;
}

static int can_be_other(void)
{
	return setresuid(-1, OTHER, -1) == 0 ? 7 : 8;
}

static void identities(void)
{
	pid_t tid = 0;
	pthread_t thread;
	void *result = (void *)1;
	CHECK(in_thread(keeps, NULL) == NULL && prctl(PR_GET_KEEPCAPS) == 0 && prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 0);
	is_root = geteuid() == 0 && in_child(can_be_other) == 7 && has_capability(CAP_DAC_OVERRIDE);
	int had = has_capability(CAP_SETUID);
	close(open("secret", O_WRONLY | O_CREAT, 0600));
	chmod(directory, 0777);
	if (is_root) {
		victim = fork();
		if (victim == 0)
			for (;;)
				pause();
		pthread_create(&thread, NULL, is_other, &tid);
		wait_for(back[0]);
	}
	CHECK(!is_root || strstr(status(tid, "Uid"), "0\t54321\t0\t54321") != NULL);
	CHECK(!is_root || strstr(status(getpid(), "Uid"), "0\t0\t0\t0") != NULL);
	CHECK(!is_root || (raw(SYS_geteuid, 0, 0, 0) == 0 && open("secret", O_RDONLY | O_CLOEXEC) >= 0));
	CHECK(had == has_capability(CAP_SETUID));
	if (is_root) {
		tell(go[1]);
		pthread_join(thread, &result);
	}
	CHECK(!is_root || result == NULL);
	CHECK(!is_root || (kill(victim, SIGKILL) == 0 && waitpid(victim, NULL, 0) == victim));
	CHECK(!is_root || in_thread(is_other_to_files, NULL) == NULL);
	CHECK(!is_root || has_capability(CAP_DAC_OVERRIDE));
	CHECK(!is_root || in_child(crowds) == 5);
}

/* ---- many at a time ---- */

#define CROWD 4
#define TURNS 150

static void *hurries(void *unused)
{
	long bad = 0;
	int ends[2];
	(void)unused;
	for (int i = 0; i < TURNS; i++) {
		int fd = open("/dev/null", O_WRONLY);
		bad += fd < 0 || write(fd, "abc", 3) != 3;
		bad += pipe(ends) != 0 || write(ends[1], "x", 1) != 1 || close(ends[1]) != 0 || close(ends[0]) != 0;
		bad += dup2(fd, fd) != fd || close(fd) != 0;
	}
	return (void *)bad;
}

static void *parts_and_makes(void *unused)
{
	(void)unused;
	long bad = 0;
	pthread_t others[2];
	bad += syscall(SYS_close_range, 300, 310, CLOSE_RANGE_UNSHARE) != 0;
	/* They share the table that their maker has now. */
	for (int i = 0; i < 2; i++)
		bad += pthread_create(&others[i], NULL, hurries, NULL) != 0;
	bad += syscall(SYS_close_range, 300, 310, CLOSE_RANGE_UNSHARE) != 0 || hurries(NULL) != NULL;
	for (int i = 0; i < 2; i++) {
		void *result;
		bad += pthread_join(others[i], &result) != 0 || result != NULL;
	}
	return (void *)bad;
}

static int open_descriptors(void)
{
	int count = 0;
	for (int fd = 0; fd < 300; fd++)
		count += is_open(fd);
	return count;
}

static void crowd(void)
{
	pthread_t threads[2 * CROWD];
	int before = open_descriptors();
	long bad = 0;
	for (int round = 0; round < 3; round++) {
		for (int i = 0; i < 2 * CROWD; i++)
			bad += pthread_create(&threads[i], NULL, i % 2 ? hurries : parts_and_makes, NULL) != 0;
		pid_t child = fork();
		if (child == 0)
			_exit(0);
		bad += waitpid(child, NULL, 0) != child;
		for (int i = 0; i < 2 * CROWD; i++) {
			void *result;
			bad += pthread_join(threads[i], &result) != 0 || result != NULL;
		}
	}
	CHECK(bad == 0 && open_descriptors() == before);
}

int main(int argc, char **argv)
{
	(void)argv;
	if (argc == 2)
		return look();
	if (!CHECK(mkdtemp(directory) != NULL && chdir(directory) == 0 && pipe(go) == 0 && pipe(back) == 0))
		return DONE();
	descriptors();
	directories();
	last_holder();
	parted();
	record_locks();
	semaphores();
	one_after_the_other();
	CHECK(in_child(execute) == 3);
	identities();
	crowd();
	CHECK(unlink("locks") == 0 && unlink("secret") == 0 && (unlink("theirs") == 0 || !is_root) && rmdir(directory) == 0);
	return DONE();
}
