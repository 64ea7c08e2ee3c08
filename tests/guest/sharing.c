/* Processes that have things in common without being threads of one: descriptors, directories, signal handlers. */
#include "check.h"
#include <fcntl.h>
#include <linux/kcmp.h>
#include <sched.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

/* A container may forbid these two to everybody. */
#ifndef CLOSE_RANGE_UNSHARE
#define CLOSE_RANGE_UNSHARE 2
#endif

static int no_kcmp, no_unshare;

static int same(pid_t a, pid_t b, int kind, int fd_a, int fd_b)
{
	return no_kcmp || syscall(SYS_kcmp, a, b, kind, fd_a, fd_b) == 0;
}

static int differs(pid_t a, pid_t b, int kind, int fd_a, int fd_b)
{
	return no_kcmp || syscall(SYS_kcmp, a, b, kind, fd_a, fd_b) > 0;
}

static int is_open(int fd)
{
	return fcntl(fd, F_GETFD) >= 0;
}

static int go[2];

static void wait_for(int fd)
{
	char byte;
	while (read(fd, &byte, 1) != 1)
		;
}

static void tell(int fd)
{
	while (write(fd, "x", 1) != 1)
		;
}

static pid_t begin(unsigned long flags)
{
	return (pid_t)syscall(SYS_clone, flags | SIGCHLD, NULL, NULL, NULL, NULL);
}

static int end(pid_t child)
{
	int status;
	return waitpid(child, &status, 0) == child && WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void descriptors(void)
{
	int first = open("/dev/null", O_RDONLY);
	pid_t child = begin(CLONE_FILES);
	if (child == 0) {
		dup2(first, 60);
		close(first);
		wait_for(go[0]);
		/* What the other one has opened meanwhile. */
		_exit(is_open(61) ? 5 : 1);
	}
	while (!is_open(60) || is_open(first))
		usleep(1000);
	dup2(60, 61);
	CHECK(same(getpid(), child, KCMP_FILES, 0, 0));
	CHECK(same(getpid(), child, KCMP_FILE, 60, 61));
	CHECK(differs(getpid(), child, KCMP_FILE, 60, go[0]));
	CHECK(differs(getpid(), child, KCMP_FS, 0, 0) && differs(getpid(), child, KCMP_VM, 0, 0));
	tell(go[1]);
	CHECK(end(child) == 5);
	CHECK(is_open(60) && is_open(61) && is_open(go[0]));
	close(60);
	close(61);
}

/* The last of two who share a pipe's end closes it. */
static void last_user(void)
{
	int fds[2];
	char byte;
	CHECK(pipe(fds) == 0);
	pid_t keeper = fork();
	if (keeper == 0) {
		close(fds[0]);
		pid_t child = begin(CLONE_FILES);
		if (child == 0) {
			wait_for(go[0]);
			_exit(write(fds[1], "b", 1) == 1 ? 0 : 1);
		}
		_exit(0);
	}
	close(fds[1]);
	CHECK(end(keeper) == 0);
	tell(go[1]);
	CHECK(read(fds[0], &byte, 1) == 1 && byte == 'b');
	CHECK(read(fds[0], &byte, 1) == 0);
	close(fds[0]);
}

static void directories(void)
{
	char where[64];
	mode_t mask = umask(022);
	pid_t child = begin(CLONE_FS);
	if (child == 0) {
		umask(077);
		_exit(chdir("/tmp") == 0 ? 6 : 1);
	}
	CHECK(end(child) == 6);
	CHECK(getcwd(where, sizeof where) != NULL && strcmp(where, "/tmp") == 0);
	CHECK(umask(mask) == 077);
	child = begin(0);
	if (child == 0)
		_exit(chdir("/") == 0 ? 6 : 1);
	CHECK(end(child) == 6);
	CHECK(getcwd(where, sizeof where) != NULL && strcmp(where, "/tmp") == 0);
}

static volatile int handled;
static void handler(int number)
{
	handled += number == SIGUSR1;
}

static int sets_handler(void *arg)
{
	struct sigaction action = { .sa_handler = handler };
	(void)arg;
	return sigaction(SIGUSR1, &action, NULL) == 0 && same(getpid(), getppid(), KCMP_SIGHAND, 0, 0) ? 7 : 1;
}

static void handlers(void)
{
	static char stack[65536] __attribute__((aligned(16)));
	pid_t child = clone(sets_handler, stack + sizeof stack, CLONE_VM | CLONE_SIGHAND | SIGCHLD, NULL);
	CHECK(end(child) == 7);
	raise(SIGUSR1);
	CHECK(handled == 1);
	errno = 0;
	CHECK(begin(CLONE_SIGHAND) == -1 && errno == EINVAL);
}

/* Who unshares, or runs another program, goes on with a copy. */
static void apart(const char *self)
{
	int kept = open("/dev/null", O_RDONLY | O_CLOEXEC), mine = open("/dev/null", O_RDONLY);
	char number[16];
	pid_t child = begin(CLONE_FILES | CLONE_FS);
	if (child == 0) {
		int bad = unshare(CLONE_FILES | CLONE_FS) != 0;
		close(mine);
		bad += chdir("/") != 0 || !differs(getpid(), getppid(), KCMP_FILES, 0, 0);
		_exit(bad == 0 ? 8 : 1);
	}
	CHECK(no_unshare ? end(child) != -1 : end(child) == 8);
	CHECK(no_unshare || is_open(mine));
	snprintf(number, sizeof number, "%d", kept);
	child = begin(CLONE_FILES);
	if (child == 0) {
		execl(self, self, number, NULL);
		_exit(1);
	}
	CHECK(end(child) == 9);
	CHECK(is_open(kept));
	close(kept);
	close(mine);
}

static void wrong_arguments(void)
{
	int self = getpid();
	CHECK(no_kcmp || (syscall(SYS_kcmp, self, self, 99, 0, 0) == -1 && errno == EINVAL));
	CHECK(no_kcmp || (syscall(SYS_kcmp, self, self, KCMP_FILE, 0, 999) == -1 && errno == EBADF));
	CHECK(no_kcmp || (syscall(SYS_kcmp, self, 0x3ffff000, KCMP_VM, 0, 0) == -1 && errno == ESRCH));
	CHECK(no_unshare || (unshare(1) == -1 && errno == EINVAL));
}

/* A program that replaces another one goes on with the directories that this shared, but not with the descriptors. */
static void across_exec(void)
{
	char before[256], after[256];
	CHECK(getcwd(before, sizeof before) != NULL && chdir("/") == 0);
	pid_t child = begin(CLONE_FS);
	if (child == 0) {
		execl("/proc/self/exe", "sharing", "go to", "/proc", NULL);
		_exit(8);
	}
	CHECK(end(child) == 5 && getcwd(after, sizeof after) != NULL && strcmp(after, "/proc") == 0);
	CHECK(access("self/stat", F_OK) == 0 && chdir(before) == 0);
}

/* CLOSE_RANGE_UNSHARE parts with the table first. */
static void closed_apart(void)
{
	int fd = dup(0);
	pid_t child = begin(CLONE_FILES);
	if (child == 0) {
		int parted = syscall(SYS_close_range, fd, fd, CLOSE_RANGE_UNSHARE) == 0;
		_exit(parted && !is_open(fd) ? 6 : 7);
	}
	CHECK(end(child) == 6 && is_open(fd) && close(fd) == 0);
}

int main(int argc, char **argv)
{
	if (argc == 3)
		return chdir(argv[2]) == 0 ? 5 : 9;
	if (argc == 2)
		return is_open(atoi(argv[1])) ? 1 : 9;
	no_kcmp = syscall(SYS_kcmp, getpid(), getpid(), KCMP_VM, 0, 0) != 0 && (errno == EPERM || errno == ENOSYS);
	no_unshare = unshare(CLONE_FS) != 0 && errno == EPERM;
	CHECK(pipe(go) == 0);
	descriptors();
	last_user();
	directories();
	handlers();
	apart("/proc/self/exe");
	across_exec();
	closed_apart();
	wrong_arguments();
	return DONE();
}
