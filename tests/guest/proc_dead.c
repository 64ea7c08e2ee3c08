/* What is in /proc of processes that have ended: nothing of them may stay, not even if they stood there themselves. */
#include "check.h"
#include "free_kib.h"
#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>

#define CHILDREN 600

static int child_in(const char *directory)
{
	int status;
	pid_t child = fork();
	if (child == 0)
		_exit(chdir(directory) == 0 && open("/proc/self/maps", O_RDONLY) >= 0 ? 0 : 1);
	return waitpid(child, &status, 0) == child && status == 0;
}

int main(void)
{
	char name[64], target[64];
	/* Those of a process that has not been waited for are there, its directories are not. */
	pid_t child = fork();
	if (child == 0)
		_exit(0);
	siginfo_t info;
	CHECK(waitid(P_PID, child, &info, WEXITED | WNOWAIT) == 0);
	snprintf(name, sizeof name, "/proc/%d/stat", child);
	CHECK(access(name, F_OK) == 0);
	static const char *const links[] = {"cwd", "root", "exe"};
	for (int i = 0; i < 3; i++) {
		snprintf(name, sizeof name, "/proc/%d/%s", child, links[i]);
		FAILS(readlink(name, target, sizeof target), ENOENT);
	}
	CHECK(waitpid(child, NULL, 0) == child);

	int good = 1;
	for (int i = 0; i < CHILDREN / 10; i++)
		good &= child_in("/proc/self/task");
	long before = free_kib();
	for (int i = 0; i < CHILDREN; i++)
		good &= child_in(i % 2 ? "/proc/self" : "/proc/self/fd");
	CHECK(good);
	/* A machine that does other things, too, says nothing by that. */
	int lost = access("/proc/oxv/calls", F_OK) == 0 && before - free_kib() > 2048;
	CHECK(!lost);
	return DONE();
}
