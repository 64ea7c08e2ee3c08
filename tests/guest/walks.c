/* Threads that walk paths while others change what a walk starts with: the directory, the identity. */
#include "check.h"
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sched.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define WALKERS 3
#define CHANGES 3000

static atomic_int over;
static atomic_long walks, wrong;

/* Both directories have a file of this name; the walker is a group member of nothing but may search both. */
static void *walk(void *unused)
{
	(void)unused;
	struct stat status;
	while (!over) {
		if (stat("file", &status) != 0 || stat("./sub/file", &status) != 0 || status.st_size != 3)
			wrong++;
		walks++;
	}
	return NULL;
}

static void make(const char *path)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
	if (fd < 0 || write(fd, "abc", 3) != 3)
		wrong++;
	close(fd);
}

/* A directory of another group, so that the walker's groups are looked through. */
static void make_directory(const char *path)
{
	mkdir(path, 0755);
	if (chown(path, 7, 7) != 0)
		wrong++;
	chmod(path, 0755);
}

static int change(void)
{
	pthread_t threads[WALKERS];
	if (chdir("one") != 0)
		return 1;
	for (int i = 0; i < WALKERS; i++)
		pthread_create(&threads[i], NULL, walk, NULL);
	while (walks < 10)
		sched_yield();
	for (int i = 0; i < CHANGES; i++) {
		/* The plain calls: those of the C library would stop the other threads to change them all. */
		uid_t uid = 1000 + i % 2;
		if (syscall(SYS_setresuid, uid, uid, 0) != 0 || syscall(SYS_setresuid, 0, 0, 0) != 0)
			wrong++;
		gid_t groups[64];
		for (int k = 0; k < 64; k++)
			groups[k] = 1000 + k;
		if (syscall(SYS_setgroups, 1 + i % 64, groups) != 0)
			wrong++;
		if (chdir(i % 2 ? "../one" : "../two") != 0)
			wrong++;
	}
	over = 1;
	for (int i = 0; i < WALKERS; i++)
		pthread_join(threads[i], NULL);
	return wrong != 0;
}

int main(void)
{
	char room[] = "/tmp/walks.XXXXXX";
	if (!CHECK(mkdtemp(room) != NULL && chmod(room, 0755) == 0 && chdir(room) == 0))
		return DONE();
	make_directory("one"), make_directory("two"), make_directory("one/sub"), make_directory("two/sub");
	make("one/file"), make("two/file"), make("one/sub/file"), make("two/sub/file");
	int status;
	pid_t child = fork();
	if (child == 0)
		_exit(change());
	CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
	/* Alone again, with its own directory. */
	CHECK(access("one/file", R_OK) == 0);
	return DONE();
}
