/* clone and clone3 between fork and thread: shared memory, siblings, descriptors, chosen numbers, signals at the end, limits. */
#include "check.h"
#include <fcntl.h>
#include <linux/sched.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#ifndef __WALL
#define __WALL 0x40000000
#endif

static volatile int shared;
static int fds[2];

static pid_t clone3(struct clone_args *args)
{
	return syscall(SYS_clone3, args, sizeof *args);
}

static int set_shared(void *value)
{
	shared = (long)value;
	return 5;
}

static void memory(void)
{
	int status;
	char *stack = mmap(NULL, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	pid_t pid = clone(set_shared, stack + 65536, CLONE_VM | SIGCHLD, (void *)7L);
	CHECK(pid > 0 && waitpid(pid, &status, 0) == pid && WEXITSTATUS(status) == 5 && shared == 7);
	pid = clone(set_shared, stack + 65536, SIGCHLD, (void *)8L);
	CHECK(pid > 0 && waitpid(pid, &status, 0) == pid && shared == 7);
	pid = clone(set_shared, stack + 65536, CLONE_VM | CLONE_VFORK | SIGCHLD, (void *)9L);
	CHECK(pid > 0 && shared == 9 && waitpid(pid, &status, 0) == pid);
	/* The maker ends, the child lives on in its memory. */
	pid = fork();
	if (pid == 0) {
		if (clone(set_shared, stack + 65536, CLONE_VM | CLONE_PARENT, (void *)10L) > 0)
			_exit(11);
		_exit(12);
	}
	CHECK(waitpid(pid, &status, 0) == pid && WEXITSTATUS(status) == 11);
	CHECK(wait(&status) > 0 && WEXITSTATUS(status) == 5); /* the sibling, with SIGCHLD at its end */
	munmap(stack, 65536);
}

static void siblings(void)
{
	int status;
	pid_t pid = fork();
	if (pid == 0) {
		pid_t other = syscall(SYS_clone, CLONE_PARENT, NULL, NULL, NULL, 0);
		if (other == 0)
			_exit(getppid() == *(volatile pid_t *)&shared ? 21 : 22);
		_exit(waitpid(other, &status, __WALL) == -1 && errno == ECHILD ? 23 : 24);
	}
	int codes = 0;
	for (int i = 0; i < 2; i++)
		if (wait(&status) > 0)
			codes += WEXITSTATUS(status);
	CHECK(codes == 22 + 23 || codes == 21 + 23);
	FAILS(wait(&status), ECHILD);
}

static void descriptors(void)
{
	int fd = -1, status;
	struct clone_args args = { .flags = CLONE_PIDFD, .pidfd = (uintptr_t)&fd, .exit_signal = SIGCHLD };
	pid_t pid = clone3(&args);
	if (pid == 0)
		_exit(31);
	CHECK(pid > 0 && fd >= 0 && (fcntl(fd, F_GETFD) & FD_CLOEXEC));
	CHECK(poll(&(struct pollfd) { .fd = fd, .events = POLLIN }, 1, 20000) == 1);
	siginfo_t info;
	CHECK(waitid(P_PIDFD, fd, &info, WEXITED) == 0 && info.si_status == 31);
	close(fd);
	fd = -1;
	pid = syscall(SYS_clone, CLONE_PIDFD | SIGCHLD, NULL, &fd, NULL, 0);
	if (pid == 0)
		_exit(32);
	CHECK(pid > 0 && fd >= 0 && waitpid(pid, &status, 0) == pid && WEXITSTATUS(status) == 32);
	close(fd);
	FAILS(syscall(SYS_clone, CLONE_PIDFD | CLONE_PARENT_SETTID | SIGCHLD, NULL, &fd, NULL, 0), EINVAL);
}

static void handler(int signal)
{
	(void)signal;
}

static void bad_arguments(void)
{
	struct clone_args args = { .exit_signal = 65 };
	FAILS(clone3(&args), EINVAL);
	args = (struct clone_args) { .flags = CLONE_THREAD };
	FAILS(clone3(&args), EINVAL);
	args = (struct clone_args) { .flags = CLONE_SIGHAND, .exit_signal = SIGCHLD };
	FAILS(clone3(&args), EINVAL);
	args = (struct clone_args) { .flags = CLONE_PARENT, .exit_signal = SIGCHLD };
	FAILS(clone3(&args), EINVAL);
	args = (struct clone_args) { .stack = 4096, .exit_signal = SIGCHLD };
	FAILS(clone3(&args), EINVAL);
	args = (struct clone_args) { .stack_size = 4096, .exit_signal = SIGCHLD };
	FAILS(clone3(&args), EINVAL);
	args = (struct clone_args) { .set_tid_size = 1, .exit_signal = SIGCHLD };
	FAILS(clone3(&args), EINVAL);
	FAILS(syscall(SYS_clone3, &args, 8), EINVAL);
	FAILS(syscall(SYS_clone3, NULL, sizeof args), EFAULT);
}

static void actions(void)
{
	int status;
	signal(SIGUSR1, handler);
	signal(SIGUSR2, SIG_IGN);
	struct clone_args args = { .flags = CLONE_CLEAR_SIGHAND, .exit_signal = SIGCHLD };
	pid_t pid = clone3(&args);
	if (pid == 0) {
		struct sigaction one, two;
		sigaction(SIGUSR1, NULL, &one);
		sigaction(SIGUSR2, NULL, &two);
		_exit(one.sa_handler == SIG_DFL && two.sa_handler == SIG_IGN ? 41 : 42);
	}
	CHECK(waitpid(pid, &status, 0) == pid && WEXITSTATUS(status) == 41);
	signal(SIGUSR1, SIG_DFL);
	signal(SIGUSR2, SIG_DFL);
}

/* A user cannot have more processes than its limit says. */
static void limits(void)
{
	int status, made = 0;
	pid_t pid = fork();
	if (pid == 0) {
		if (setresgid(54321, 54321, 54321) || setresuid(54321, 54321, 54321))
			_exit(99); /* not root: nothing to see */
		struct rlimit limit = { 8, 8 };
		setrlimit(RLIMIT_NPROC, &limit);
		if (pipe(fds))
			_exit(98);
		char c;
		while (made < 20) {
			pid_t child = fork();
			if (child < 0)
				break;
			if (child == 0) {
				close(fds[1]);
				_exit(read(fds[0], &c, 1));
			}
			made++;
		}
		int refused = errno == EAGAIN;
		close(fds[1]);
		while (wait(&status) > 0)
			;
		_exit(made == 7 && refused ? 51 : 52);
	}
	CHECK(waitpid(pid, &status, 0) == pid && (WEXITSTATUS(status) == 51 || WEXITSTATUS(status) == 99));
}

/* Who waits for its vfork child can be killed; the child goes on in the memory they share. */
static void killed_while_it_waits(void)
{
	int status = 0, to_child[2];
	pid_t child = 0;
	char c;
	CHECK(pipe(fds) == 0 && pipe(to_child) == 0);
	pid_t pid = fork();
	if (pid == 0) {
		if (vfork() == 0) {
			pid_t self = getpid();
			if (write(fds[1], &self, sizeof self) == sizeof self && read(to_child[0], &c, 1) == 1)
				(void)!write(fds[1], &self, sizeof self);
			_exit(0);
		}
		_exit(1);
	}
	CHECK(read(fds[0], &child, sizeof child) == sizeof child && kill(pid, SIGKILL) == 0);
	CHECK(waitpid(pid, &status, 0) == pid && WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
	CHECK(write(to_child[1], "x", 1) == 1 && read(fds[0], &pid, sizeof pid) == sizeof pid && pid == child);
	close(fds[0]);
	close(fds[1]);
	close(to_child[0]);
	close(to_child[1]);
}

int main(void)
{
	signal(SIGCHLD, SIG_DFL);
	memory();
	siblings();
	descriptors();
	bad_arguments();
	actions();
	limits();
	killed_while_it_waits();
	return DONE();
}
