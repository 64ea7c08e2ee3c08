/* Fork bombs and thread bombs: the limit of processes turns them into EAGAIN, nothing else fails, and afterwards everything works again. */
#include "check.h"
#include <grp.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>

#define MOST 40

/* Shared by all processes of a bomb. */
struct bomb {
	int alive, most, refused, other_errors, ended;
};

static struct bomb *bomb;

static void count(int *what, int n)
{
	__atomic_add_fetch(what, n, __ATOMIC_SEQ_CST);
}

static void born(void)
{
	int now = __atomic_add_fetch(&bomb->alive, 1, __ATOMIC_SEQ_CST), most = __atomic_load_n(&bomb->most, __ATOMIC_SEQ_CST);
	while (now > most && !__atomic_compare_exchange_n(&bomb->most, &most, now, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
		;
}

static int is_over(void)
{
	return __atomic_load_n(&bomb->ended, __ATOMIC_SEQ_CST);
}

static void note(int error)
{
	count(error == EAGAIN ? &bomb->refused : &bomb->other_errors, 1);
	/* The bomb is full: all that may be there are there, and many more were refused. */
	int refused = __atomic_load_n(&bomb->refused, __ATOMIC_SEQ_CST), most = __atomic_load_n(&bomb->most, __ATOMIC_SEQ_CST);
	if ((refused >= 500 && most >= MOST) || refused >= 20000)
		__atomic_store_n(&bomb->ended, 1, __ATOMIC_SEQ_CST);
	usleep(1000);
}

/* `:(){ :|:& };:` without the shell: all that are made make more. */
static void fork_bomb(void)
{
	while (!is_over()) {
		pid_t pid = fork();
		if (pid == 0)
			born();
		else if (pid < 0)
			note(errno);
	}
	while (wait(NULL) > 0 || errno == EINTR)
		;
	count(&bomb->alive, -1);
}

/* Children that have ended and that nobody has waited for count, too. */
static void zombies(void)
{
	int made = 0;
	pid_t pid;
	while (made < 2 * MOST && (pid = fork()) > 0)
		made++;
	if (made < 2 * MOST && pid == 0)
		_exit(0);
	bomb->refused = errno == EAGAIN ? 500 : 0;
	bomb->most = made + 1;
	while (wait(NULL) > 0)
		;
}

static void *thread_bomb(void *arg)
{
	pthread_t made[MOST];
	pthread_attr_t attributes;
	int n = 0;
	born();
	pthread_attr_init(&attributes);
	pthread_attr_setstacksize(&attributes, 65536);
	while (!is_over()) {
		int error = n < MOST ? pthread_create(&made[n], &attributes, thread_bomb, arg) : EAGAIN;
		if (error)
			note(error);
		else
			n++;
	}
	while (n > 0)
		pthread_join(made[--n], NULL);
	count(&bomb->alive, -1);
	return arg;
}

static void threads(void)
{
	thread_bomb(NULL);
}

static void processes(void)
{
	born();
	fork_bomb();
}

/* Becomes a user of its own with a limit. Exit codes: 61 as it should be, 99 not root. */
static int limited(void (*explode)(void))
{
	int status;
	memset(bomb, 0, sizeof *bomb);
	pid_t pid = fork();
	if (pid == 0) {
		struct rlimit limit = { MOST, MOST };
		if (setgroups(0, NULL) || setresgid(54322, 54322, 54322) || setresuid(54322, 54322, 54322))
			_exit(99);
		setrlimit(RLIMIT_NPROC, &limit);
		pid_t first = getpid();
		explode();
		if (getpid() != first)
			_exit(0);
		/* The limit is as free again as before. */
		pid_t again = fork();
		if (again == 0)
			_exit(62);
		_exit(again > 0 && waitpid(again, &status, 0) == again && WEXITSTATUS(status) == 62 ? 61 : 63);
	}
	return waitpid(pid, &status, 0) == pid && WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

int main(void)
{
	bomb = mmap(NULL, sizeof *bomb, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	void (*bombs[])(void) = { processes, threads, zombies };
	for (int i = 0; i < 3; i++) {
		int code = limited(bombs[i]);
		CHECK(code == 61 || code == 99);
		CHECK(code == 99 || (bomb->most == MOST && bomb->alive == 0));
		CHECK(code == 99 || (bomb->refused >= 500 && bomb->other_errors == 0));
	}
	return DONE();
}
