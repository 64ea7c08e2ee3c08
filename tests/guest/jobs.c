/* Job control: stopping and continuing, what wait and SIGCHLD tell of it, process groups and sessions, orphans. */
#include "check.h"
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

#ifndef __WALL
#define __WALL 0x40000000
#endif

static volatile sig_atomic_t chld_count, chld_code, chld_status, chld_pid, cont_count;

static void on_chld(int signal, siginfo_t *info, void *context)
{
	(void)signal, (void)context;
	chld_code = info->si_code;
	chld_status = info->si_status;
	chld_pid = info->si_pid;
	chld_count++;
}

static void on_cont(int signal)
{
	(void)signal;
	cont_count++;
}

static void handle_chld(int flags)
{
	struct sigaction sa = { .sa_sigaction = on_chld, .sa_flags = SA_SIGINFO | flags };
	sigaction(SIGCHLD, &sa, NULL);
	chld_count = 0;
}

/* The signal may come after `wait` has told of what it is about. */
static int told(int count)
{
	for (int i = 0; i < 2000 && chld_count < count; i++)
		sleep_ms(5);
	return chld_count == count;
}

/* A child that waits for bytes on a pipe: each is a command. */
struct child {
	pid_t pid;
	int to, from;
};

static void serve(int in, int out)
{
	char c;
	while (read(in, &c, 1) == 1) {
		switch (c) {
		case 'p': /* are you there? */
			break;
		case 's':
			raise(SIGSTOP);
			break;
		case 't':
			kill(getpid(), SIGTSTP);
			break;
		case 'q':
			_exit(7);
		case 'c':
			c = '0' + cont_count;
			break;
		case 'g':
			c = getpgrp() == getpid() ? 'y' : 'n';
			break;
		}
		if (write(out, &c, 1) != 1)
			_exit(99);
	}
	_exit(0);
}

static struct child start(void (*before)(void))
{
	int a[2], b[2];
	struct child child;
	if (pipe(a) || pipe(b))
		exit(98);
	child.pid = fork();
	if (child.pid == 0) {
		close(a[1]);
		close(b[0]);
		signal(SIGCHLD, SIG_DFL);
		if (before)
			before();
		serve(a[0], b[1]);
	}
	close(a[0]);
	close(b[1]);
	child.to = a[1];
	child.from = b[0];
	return child;
}

static void tell(struct child *child, char what)
{
	if (write(child->to, &what, 1) != 1)
		exit(97);
}

static char ask(struct child *child, char what)
{
	char c = '?';
	tell(child, what);
	if (read(child->from, &c, 1) != 1)
		c = '!';
	return c;
}

static void end(struct child *child)
{
	close(child->to);
	close(child->from);
}

static void stop_and_continue(void)
{
	int status;
	siginfo_t info;
	struct child child = start(NULL);
	CHECK(ask(&child, 'p') == 'p');
	CHECK(waitpid(child.pid, &status, WNOHANG | WUNTRACED | WCONTINUED) == 0);
	tell(&child, 's');
	CHECK(waitpid(child.pid, &status, WUNTRACED) == child.pid);
	CHECK(WIFSTOPPED(status) && WSTOPSIG(status) == SIGSTOP && !WIFEXITED(status) && !WIFSIGNALED(status));
	CHECK(waitpid(child.pid, &status, WNOHANG | WUNTRACED) == 0); /* told once */
	CHECK(kill(child.pid, SIGCONT) == 0);
	CHECK(waitpid(child.pid, &status, WCONTINUED) == child.pid && WIFCONTINUED(status));
	CHECK(waitpid(child.pid, &status, WNOHANG | WCONTINUED) == 0);
	char c;
	CHECK(read(child.from, &c, 1) == 1 && c == 's'); /* goes on where it stopped */
	/* From outside, while it waits in a system call; what it waits for goes on. */
	CHECK(kill(child.pid, SIGSTOP) == 0);
	memset(&info, 1, sizeof info);
	CHECK(waitid(P_PID, child.pid, &info, WSTOPPED | WNOWAIT) == 0);
	CHECK(info.si_signo == SIGCHLD && info.si_code == CLD_STOPPED && info.si_status == SIGSTOP && info.si_pid == child.pid);
	CHECK(waitid(P_PID, child.pid, &info, WSTOPPED) == 0 && info.si_code == CLD_STOPPED);
	CHECK(waitid(P_PID, child.pid, &info, WSTOPPED | WNOHANG) == 0 && info.si_pid == 0 && info.si_signo == 0);
	tell(&child, 'p');
	struct pollfd poller = { .fd = child.from, .events = POLLIN };
	CHECK(poll(&poller, 1, 100) == 0); /* it stands */
	kill(child.pid, SIGTERM); /* waits for it to go on */
	CHECK(waitpid(child.pid, &status, WNOHANG) == 0);
	kill(child.pid, SIGCONT);
	CHECK(waitpid(child.pid, &status, 0) == child.pid && WIFSIGNALED(status) && WTERMSIG(status) == SIGTERM);
	end(&child);
	/* SIGKILL needs no SIGCONT. */
	child = start(NULL);
	CHECK(ask(&child, 'p') == 'p');
	kill(child.pid, SIGSTOP);
	CHECK(waitpid(child.pid, &status, WUNTRACED) == child.pid && WIFSTOPPED(status));
	kill(child.pid, SIGKILL);
	CHECK(waitpid(child.pid, &status, WUNTRACED) == child.pid && WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
	end(&child);
}

static void what_sigchld_tells(void)
{
	int status;
	handle_chld(0);
	struct child child = start(NULL);
	CHECK(ask(&child, 'p') == 'p');
	kill(child.pid, SIGSTOP);
	while (waitpid(child.pid, &status, WUNTRACED) != child.pid)
		;
	CHECK(told(1) && chld_code == CLD_STOPPED && chld_status == SIGSTOP && chld_pid == child.pid);
	kill(child.pid, SIGCONT);
	while (waitpid(child.pid, &status, WCONTINUED) != child.pid)
		;
	CHECK(told(2) && chld_code == CLD_CONTINUED && chld_status == SIGCONT);
	tell(&child, 'q');
	while (waitpid(child.pid, &status, 0) != child.pid)
		;
	CHECK(told(3) && chld_code == CLD_EXITED && chld_status == 7);
	end(&child);
	/* SA_NOCLDSTOP: the end alone. */
	handle_chld(SA_NOCLDSTOP);
	child = start(NULL);
	CHECK(ask(&child, 'p') == 'p');
	kill(child.pid, SIGSTOP);
	while (waitpid(child.pid, &status, WUNTRACED) != child.pid)
		;
	kill(child.pid, SIGCONT);
	while (waitpid(child.pid, &status, WCONTINUED) != child.pid)
		;
	CHECK(chld_count == 0);
	kill(child.pid, SIGKILL);
	while (waitpid(child.pid, &status, 0) != child.pid)
		;
	CHECK(told(1) && chld_code == CLD_KILLED && chld_status == SIGKILL);
	end(&child);
	/* SA_NOCLDWAIT and SIG_IGN: no zombies. */
	handle_chld(SA_NOCLDWAIT | SA_RESTART);
	child = start(NULL);
	tell(&child, 'q');
	CHECK(waitpid(child.pid, &status, 0) == -1 && errno == ECHILD);
	CHECK(told(1));
	end(&child);
	signal(SIGCHLD, SIG_IGN);
	child = start(NULL);
	tell(&child, 'q');
	CHECK(waitpid(child.pid, &status, 0) == -1 && errno == ECHILD);
	end(&child);
	signal(SIGCHLD, SIG_DFL);
}

static void catch_cont(void)
{
	signal(SIGCONT, on_cont);
}

static void block_cont(void)
{
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, SIGCONT);
	sigprocmask(SIG_BLOCK, &set, NULL);
}

static void handle_stop(int signal)
{
	(void)signal;
	cont_count++;
}

static void catch_tstp(void)
{
	signal(SIGTSTP, handle_stop);
}

static void own_group(void)
{
	setpgid(0, 0);
}

static void signals_and_stops(void)
{
	int status;
	char c;
	/* A caught SIGCONT continues and is delivered, once, however often the child was told while it stood. */
	struct child child = start(catch_cont);
	CHECK(ask(&child, 'p') == 'p');
	kill(child.pid, SIGSTOP);
	CHECK(waitpid(child.pid, &status, WUNTRACED) == child.pid);
	kill(child.pid, SIGCONT);
	CHECK(waitpid(child.pid, &status, WCONTINUED) == child.pid);
	CHECK(ask(&child, 'c') == '1');
	end(&child);
	waitpid(child.pid, &status, 0);
	/* A blocked one continues, too. */
	child = start(block_cont);
	CHECK(ask(&child, 'p') == 'p');
	kill(child.pid, SIGSTOP);
	CHECK(waitpid(child.pid, &status, WUNTRACED) == child.pid);
	kill(child.pid, SIGCONT);
	CHECK(waitpid(child.pid, &status, WCONTINUED) == child.pid);
	CHECK(ask(&child, 'p') == 'p');
	end(&child);
	waitpid(child.pid, &status, 0);
	/* A caught SIGTSTP does not stop. */
	child = start(catch_tstp);
	CHECK(ask(&child, 't') == 't' && ask(&child, 'c') == '1');
	CHECK(waitpid(child.pid, &status, WNOHANG | WUNTRACED) == 0);
	end(&child);
	waitpid(child.pid, &status, 0);
	/* In a group of its own whose parent is in the session, SIGTSTP stops by default. */
	child = start(own_group);
	CHECK(ask(&child, 'g') == 'y');
	tell(&child, 't');
	CHECK(waitpid(-child.pid, &status, WUNTRACED) == child.pid && WIFSTOPPED(status) && WSTOPSIG(status) == SIGTSTP);
	kill(-child.pid, SIGCONT);
	CHECK(waitpid(-child.pid, &status, WCONTINUED) == child.pid && WIFCONTINUED(status));
	CHECK(read(child.from, &c, 1) == 1 && c == 't');
	end(&child);
	waitpid(child.pid, &status, 0);
	/* A stop that waits is taken back by SIGCONT, and the other way round. */
	sigset_t set, pending;
	sigemptyset(&set);
	sigaddset(&set, SIGTSTP);
	sigaddset(&set, SIGCONT);
	sigprocmask(SIG_BLOCK, &set, NULL);
	signal(SIGCONT, on_cont);
	raise(SIGTSTP);
	sigpending(&pending);
	CHECK(sigismember(&pending, SIGTSTP));
	raise(SIGCONT);
	sigpending(&pending);
	CHECK(!sigismember(&pending, SIGTSTP) && sigismember(&pending, SIGCONT));
	kill(getpid(), SIGTSTP);
	sigpending(&pending);
	CHECK(sigismember(&pending, SIGTSTP) && !sigismember(&pending, SIGCONT));
	signal(SIGTSTP, SIG_IGN);
	sigpending(&pending);
	CHECK(!sigismember(&pending, SIGTSTP));
	signal(SIGTSTP, SIG_DFL);
	signal(SIGCONT, SIG_DFL);
	sigprocmask(SIG_UNBLOCK, &set, NULL);
}

static void *forever(void *arg)
{
	for (;;)
		arg ? (void)pause() : (void)sched_yield();
	return NULL;
}

static void threads_stop_together(void)
{
	int status;
	pid_t pid = fork();
	if (pid == 0) {
		pthread_t thread;
		for (long i = 0; i < 4; i++)
			pthread_create(&thread, NULL, forever, (void *)(i & 1));
		raise(SIGSTOP);
		pthread_create(&thread, NULL, forever, NULL);
		raise(SIGSTOP);
		_exit(3);
	}
	for (int i = 0; i < 2; i++) {
		CHECK(waitpid(pid, &status, WUNTRACED) == pid && WIFSTOPPED(status));
		kill(pid, SIGCONT);
	}
	CHECK(waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 3);
}

/* Sleeps go on for what was left of them; they do not end early, nor fail. */
static void waits_go_on(void)
{
	int status;
	pid_t pid = fork();
	if (pid == 0) {
		struct timespec start, now, time = { .tv_nsec = 300000000 };
		struct pollfd none = { .fd = -1 };
		clock_gettime(CLOCK_MONOTONIC, &start);
		int slept = nanosleep(&time, NULL);
		clock_gettime(CLOCK_MONOTONIC, &now);
		long ms = (now.tv_sec - start.tv_sec) * 1000 + (now.tv_nsec - start.tv_nsec) / 1000000;
		int polled = poll(&none, 1, 300);
		_exit(slept == 0 && ms >= 300 && polled == 0 ? 5 : 6);
	}
	for (int i = 0; i < 6; i++) {
		sleep_ms(50);
		kill(pid, SIGSTOP);
		waitpid(pid, &status, WUNTRACED);
		if (!WIFSTOPPED(status))
			break;
		kill(pid, SIGCONT);
	}
	if (!WIFEXITED(status))
		waitpid(pid, &status, 0);
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 5);
}

static void groups_and_sessions(void)
{
	int status;
	FAILS(setpgid(999999, 0), ESRCH);
	FAILS(setpgid(0, -1), EINVAL);
	FAILS(setpgid(0, 999999), EPERM);
	FAILS(getpgid(999999), ESRCH);
	FAILS(getsid(999999), ESRCH);
	FAILS(waitpid(-999999, &status, 0), ECHILD);
	FAILS(waitpid(999999, &status, 0), ECHILD);
	FAILS(waitpid(-1, &status, 0x1000), EINVAL);
	siginfo_t info;
	FAILS(waitid(P_ALL, 0, &info, 0), EINVAL);
	FAILS(waitid(P_ALL, 0, &info, WNOHANG), EINVAL);
	FAILS(waitid(P_PID, 0, &info, WEXITED), EINVAL);
	FAILS(waitid(77, 0, &info, WEXITED), EINVAL);
	FAILS(waitid(P_PIDFD, 99, &info, WEXITED), EBADF);
	struct child a = start(NULL), b = start(NULL);
	CHECK(getpgid(a.pid) == getpgrp() && getsid(a.pid) == getsid(0));
	CHECK(setpgid(a.pid, a.pid) == 0 && getpgid(a.pid) == a.pid);
	CHECK(setpgid(b.pid, a.pid) == 0 && getpgid(b.pid) == a.pid);
	CHECK(ask(&a, 'g') == 'y' && ask(&b, 'g') == 'n');
	CHECK(waitpid(-a.pid, &status, WNOHANG) == 0);
	FAILS(waitpid(0, &status, WNOHANG), ECHILD); /* nobody is left in the own group */
	kill(-a.pid, SIGKILL);
	CHECK(waitpid(-a.pid, &status, 0) > 0 && waitpid(-a.pid, &status, 0) > 0);
	FAILS(waitpid(-a.pid, &status, 0), ECHILD);
	FAILS(kill(-a.pid, 0), ESRCH);
	end(&a);
	end(&b);
	/* A session of its own; its group cannot be changed any more, nor joined from outside. */
	pid_t pid = fork();
	if (pid == 0) {
		int ok = setsid() == getpid() && getsid(0) == getpid() && getpgrp() == getpid();
		ok &= setsid() == -1 && errno == EPERM;
		ok &= setpgid(0, 0) == -1 && errno == EPERM;
		raise(SIGSTOP);
		_exit(ok ? 0 : 1);
	}
	CHECK(waitpid(pid, &status, WUNTRACED) == pid && WIFSTOPPED(status));
	FAILS(setpgid(pid, pid), EPERM);
	FAILS(setpgid(0, pid), EPERM);
	kill(pid, SIGCONT);
	CHECK(waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 0);
	/* A child that has run another program keeps its group. */
	int pipes[2];
	if (pipe2(pipes, O_CLOEXEC))
		exit(96);
	pid = fork();
	if (pid == 0) {
		execl("/proc/self/exe", "jobs", "wait", NULL);
		_exit(1);
	}
	close(pipes[1]);
	char c;
	CHECK(read(pipes[0], &c, 1) == 0); /* the program runs */
	close(pipes[0]);
	FAILS(setpgid(pid, pid), EACCES);
	kill(pid, SIGKILL);
	waitpid(pid, &status, 0);
}

/* When the last one who could continue a stopped group ends, the group gets SIGHUP and SIGCONT. */
static void orphaned_groups(void)
{
	int pipes[2], status;
	char buffer[64];
	if (pipe(pipes))
		exit(95);
	pid_t pid = fork();
	if (pid == 0) {
		setsid();
		pid_t inner = fork();
		if (inner == 0) {
			setpgid(0, 0);
			signal(SIGHUP, SIG_DFL);
			raise(SIGTSTP);
			(void)!write(pipes[1], "went on", 7);
			_exit(0);
		}
		setpgid(inner, inner);
		waitpid(inner, &status, WUNTRACED);
		_exit(WIFSTOPPED(status) ? 11 : 12);
	}
	close(pipes[1]);
	CHECK(waitpid(pid, &status, 0) == pid && WEXITSTATUS(status) == 11);
	CHECK(read(pipes[0], buffer, sizeof buffer) == 0); /* SIGHUP killed it */
	close(pipes[0]);
	/* In an orphaned group the terminal's stop signals do not stop. */
	pid = fork();
	if (pid == 0) {
		setsid();
		raise(SIGTSTP);
		raise(SIGTTIN);
		raise(SIGTTOU);
		_exit(13);
	}
	CHECK(waitpid(pid, &status, WUNTRACED) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 13);
}

static void reapers_and_deaths(void)
{
	int pipes[2], status;
	if (pipe(pipes))
		exit(94);
	CHECK(prctl(PR_SET_CHILD_SUBREAPER, 1) == 0);
	int reaper = 0;
	CHECK(prctl(PR_GET_CHILD_SUBREAPER, &reaper) == 0 && reaper == 1);
	pid_t pid = fork();
	if (pid == 0) {
		pid_t inner = fork();
		if (inner == 0) {
			prctl(PR_SET_PDEATHSIG, SIGUSR1);
			sigset_t set;
			sigemptyset(&set);
			sigaddset(&set, SIGUSR1);
			sigprocmask(SIG_BLOCK, &set, NULL);
			(void)!write(pipes[1], "x", 1);
			int signal = 0;
			sigwait(&set, &signal);
			_exit(signal == SIGUSR1 ? 21 : 22);
		}
		char c;
		(void)!read(pipes[0], &c, 1);
		_exit(inner & 0x7f);
	}
	CHECK(waitpid(pid, &status, 0) == pid);
	int inner = WEXITSTATUS(status);
	pid = wait(&status); /* adopted */
	CHECK(pid > 0 && (pid & 0x7f) == inner && WIFEXITED(status) && WEXITSTATUS(status) == 21);
	CHECK(prctl(PR_SET_CHILD_SUBREAPER, 0) == 0);
	/* Without one, nobody here hears of it. */
	pid = fork();
	if (pid == 0) {
		if (fork() == 0)
			_exit(23);
		_exit(24);
	}
	CHECK(waitpid(pid, &status, 0) == pid && WEXITSTATUS(status) == 24);
	FAILS(wait(&status), ECHILD);
	close(pipes[0]);
	close(pipes[1]);
}

/* waitid leaves, wait4 counts, children of another kind need __WALL or __WCLONE. */
static void kinds_of_waiting(void)
{
	int status;
	siginfo_t info;
	pid_t pid = fork();
	if (pid == 0)
		_exit(33);
	CHECK(waitid(P_ALL, 0, &info, WEXITED | WNOWAIT) == 0 && info.si_pid == pid && info.si_status == 33);
	CHECK(waitid(P_PGID, 0, &info, WEXITED | WNOWAIT) == 0 && info.si_code == CLD_EXITED);
	struct rusage usage;
	CHECK(wait4(pid, &status, 0, &usage) == pid && WEXITSTATUS(status) == 33);
	FAILS(waitid(P_ALL, 0, &info, WEXITED), ECHILD);
	pid = syscall(SYS_clone, 0, NULL, NULL, NULL, 0); /* no signal at its end */
	if (pid == 0)
		_exit(34);
	FAILS(waitpid(-1, &status, 0), ECHILD);
	CHECK(waitpid(pid, &status, __WALL) == pid && WEXITSTATUS(status) == 34);
	signal(SIGUSR1, SIG_IGN);
	pid = syscall(SYS_clone, SIGUSR1, NULL, NULL, NULL, 0);
	if (pid == 0)
		_exit(35);
	CHECK(waitpid(-1, &status, __WCLONE) == pid && WEXITSTATUS(status) == 35);
	signal(SIGUSR1, SIG_DFL);
}

static int pipes_of_threads[2];
static pid_t child_of_thread;
static void *makes_child(void *unused)
{
	(void)unused;
	char c;
	if ((child_of_thread = fork()) == 0) {
		prctl(PR_SET_PDEATHSIG, SIGUSR1);
		sigset_t set;
		sigemptyset(&set);
		sigaddset(&set, SIGUSR1);
		sigprocmask(SIG_BLOCK, &set, NULL);
		(void)!write(pipes_of_threads[1], "x", 1);
		int signal = 0;
		sigwait(&set, &signal);
		_exit(signal == SIGUSR1 ? 36 : 37);
	}
	(void)!read(pipes_of_threads[0], &c, 1);
	return NULL;
}

/* A child is that of a thread, whose end it hears of; another one takes it over. */
static void children_of_threads(void)
{
	int status;
	siginfo_t info;
	pthread_t thread;
	if (pipe(pipes_of_threads))
		exit(94);
	pid_t own = fork();
	if (own == 0)
		_exit(38);
	CHECK(pthread_create(&thread, NULL, makes_child, NULL) == 0 && pthread_join(thread, NULL) == 0);
	/* Joined is not quite gone: until it is, the child is still its. */
	pid_t found;
	while ((found = waitpid(child_of_thread, &status, __WNOTHREAD)) == -1 && errno == ECHILD)
		sleep_ms(1);
	CHECK(found == child_of_thread && WEXITSTATUS(status) == 36);
	CHECK(waitid(P_PID, own, &info, WEXITED | WNOWAIT | __WNOTHREAD) == 0 && info.si_status == 38);
	CHECK(waitpid(own, &status, __WNOTHREAD) == own);
	close(pipes_of_threads[0]);
	close(pipes_of_threads[1]);
}

static void *waits_without_children(void *unused)
{
	int status;
	(void)unused;
	return (void *)(long)(waitpid(-1, &status, __WNOTHREAD) == -1 && errno == ECHILD);
}

static void children_of_others(void)
{
	int status;
	void *none;
	pthread_t thread;
	pid_t pid = fork();
	if (pid == 0)
		_exit(39);
	CHECK(pthread_create(&thread, NULL, waits_without_children, NULL) == 0 && pthread_join(thread, &none) == 0 && none != NULL);
	CHECK(waitpid(pid, &status, 0) == pid && WEXITSTATUS(status) == 39);
}

static void pidfds(void)
{
	siginfo_t info;
	pid_t pid = fork();
	if (pid == 0)
		for (;;)
			pause();
	int fd = syscall(SYS_pidfd_open, pid, 0);
	CHECK(fd >= 0 && (fcntl(fd, F_GETFD) & FD_CLOEXEC));
	struct pollfd poller = { .fd = fd, .events = POLLIN };
	CHECK(poll(&poller, 1, 0) == 0);
	char c, path[40], line[80];
	int shown = -1;
	snprintf(path, sizeof path, "/proc/self/fdinfo/%d", fd);
	FILE *facts = fopen(path, "r");
	while (facts && shown == -1 && fgets(line, sizeof line, facts))
		sscanf(line, "Pid:\t%d", &shown);
	CHECK(facts && fclose(facts) == 0 && shown == pid);
	FAILS(read(fd, &c, 1), EINVAL);
	CHECK(syscall(SYS_pidfd_send_signal, fd, 0, NULL, 0) == 0);
	FAILS(syscall(SYS_pidfd_send_signal, fd, 0, NULL, 8), EINVAL);
	FAILS(syscall(SYS_pidfd_send_signal, 0, 0, NULL, 0), EBADF);
	char name[32];
	snprintf(name, sizeof name, "/proc/%d", pid);
	int directory = open(name, O_RDONLY | O_DIRECTORY), proc = open("/proc", O_RDONLY | O_DIRECTORY);
	CHECK(syscall(SYS_pidfd_send_signal, directory, 0, NULL, 0) == 0);
	FAILS(syscall(SYS_pidfd_send_signal, proc, 0, NULL, 0), EBADF);
	int copy = syscall(SYS_pidfd_getfd, fd, 1, 0);
	CHECK(copy >= 0 && copy != 1);
	close(copy);
	FAILS(syscall(SYS_pidfd_getfd, fd, 99, 0), EBADF);
	CHECK(syscall(SYS_pidfd_send_signal, directory, SIGKILL, NULL, 0) == 0);
	CHECK(poll(&poller, 1, -1) == 1 && (poller.revents & POLLIN));
	CHECK(waitid(P_PIDFD, fd, &info, WEXITED) == 0 && info.si_pid == pid && info.si_code == CLD_KILLED);
	FAILS(syscall(SYS_pidfd_send_signal, fd, 0, NULL, 0), ESRCH);
	FAILS(syscall(SYS_pidfd_send_signal, directory, 0, NULL, 0), ESRCH);
	close(directory);
	close(proc);
	FAILS(waitid(P_PIDFD, fd, &info, WEXITED), ECHILD);
	FAILS(syscall(SYS_pidfd_open, 999999, 0), ESRCH);
	FAILS(syscall(SYS_pidfd_open, -1, 0), EINVAL);
	FAILS(syscall(SYS_pidfd_open, getpid(), 77), EINVAL);
	close(fd);
}

int main(int argc, char **argv)
{
	if (argc > 1 && strcmp(argv[1], "wait") == 0)
		for (;;)
			pause();
	signal(SIGCHLD, SIG_DFL);
	/* A child of its own, so that neither the session nor the group hangs on how the test was started. */
	int status;
	pid_t pid = fork();
	if (pid == 0) {
		setsid();
		pid_t inner = fork();
		if (inner == 0) {
			setpgid(0, 0);
			stop_and_continue();
			what_sigchld_tells();
			signals_and_stops();
			threads_stop_together();
			waits_go_on();
			groups_and_sessions();
			orphaned_groups();
			reapers_and_deaths();
			kinds_of_waiting();
	children_of_threads();
	children_of_others();
			pidfds();
			exit(DONE());
		}
		waitpid(inner, &status, 0);
		_exit(WIFEXITED(status) ? WEXITSTATUS(status) : 100 + WTERMSIG(status));
	}
	waitpid(pid, &status, 0);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 200;
}
