/* A child from its making to its end, in guest instructions: one that ends at once, and this static program started anew by three ways. */
#include "../bench.h"
#include <spawn.h>
#include <string.h>
#include <sys/wait.h>

#define COUNT 20
#define BATCHES 10

extern char **environ;
static char *arguments[] = {"/proc/self/exe", "child", NULL};

static void reap(pid_t child, int code)
{
	int status;
	check(child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == code, "child");
}

static void fork_exit(void)
{
	pid_t child = fork();
	if (child == 0)
		_exit(3);
	reap(child, 3);
}

static void fork_exec(void)
{
	pid_t child = fork();
	if (child == 0) {
		execve(arguments[0], arguments, environ);
		_exit(127);
	}
	reap(child, 5);
}

static void vfork_exec(void)
{
	pid_t child = vfork();
	if (child == 0) {
		execve(arguments[0], arguments, environ);
		_exit(127);
	}
	reap(child, 5);
}

static void spawn(void)
{
	pid_t child = -1;
	check(posix_spawn(&child, arguments[0], NULL, NULL, arguments, environ) == 0, "posix_spawn");
	reap(child, 5);
}

static void measure(const char *name, void (*make)(void))
{
	uint64_t best = UINT64_MAX;
	for (int batch = 0; batch < BATCHES; batch++) {
		uint64_t start = counter();
		for (int i = 0; i < COUNT; i++)
			make();
		best = smaller(best, counter() - start);
	}
	result(name, (double)best / COUNT);
}

int main(int count, char **given)
{
	if (count > 1 && strcmp(given[1], "child") == 0)
		_exit(5);
	measure("fork_exit_wait", fork_exit);
	measure("fork_exec_wait", fork_exec);
	measure("vfork_exec_wait", vfork_exec);
	measure("posix_spawn_wait", spawn);
	return 0;
}
