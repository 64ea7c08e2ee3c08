/* What execve looks at besides the file: who has it open for writing, set-id bits, how many processes its user has; and RLIMIT_DATA. */
#include "check.h"
#include <fcntl.h>
#include <signal.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define OTHER 54321

static char directory[] = "/tmp/execs.XXXXXX", program[64], script[64];

/* Runs `child` in a process of its own; what it exits with. */
static int in_child(int (*child)(void))
{
	int status;
	pid_t pid = fork();
	if (pid == 0)
		_exit(child());
	return waitpid(pid, &status, 0) == pid && WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}
static int move_all(int from, int to)
{
	char buffer[4096];
	ssize_t n;
	while ((n = read(from, buffer, sizeof buffer)) > 0)
		if (write(to, buffer, n) != n)
			return -1;
	return n;
}
/* A copy of this program under `path`. */
static int copy(const char *path, mode_t mode)
{
	int from = open("/proc/self/exe", O_RDONLY), to = open(path, O_WRONLY | O_CREAT | O_TRUNC, mode);
	int ok = move_all(from, to) == 0 && fchmod(to, mode) == 0;
	return close(from) == 0 && close(to) == 0 && ok ? 0 : -1;
}
static int execute(const char *path, const char *what)
{
	execl(path, path, what, NULL);
	return errno;
}
static int run_program(void)
{
	return execute(program, "quiet");
}
static int run_script(void)
{
	return execute(script, NULL);
}
static int show_ids(void)
{
	return execute(program, "ids");
}
static int show_ids_without_privileges(void)
{
	return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 ? execute(program, "ids") : 99;
}
static int show_ids_as_other(void)
{
	return setresuid(OTHER, OTHER + 1, 0) == 0 ? execute(program, "ids") : 99;
}

static void open_for_writing(void)
{
	int fd, memory;
	void *text = NULL;
	char *empty[] = {NULL}, *quiet[] = {"self", "quiet", NULL};

	CHECK(copy(program, 0755) == 0 && in_child(run_program) == 42);
	CHECK((fd = open(program, O_WRONLY)) >= 0 && in_child(run_program) == ETXTBSY);
	CHECK(close(fd) == 0 && in_child(run_program) == 42);
	CHECK((fd = open(program, O_RDWR | O_APPEND)) >= 0 && in_child(run_program) == ETXTBSY);
	/* A duplicate is the same opening. */
	memory = dup(fd);
	CHECK(close(fd) == 0 && in_child(run_program) == ETXTBSY && close(memory) == 0 && in_child(run_program) == 42);
	CHECK((fd = open(program, O_RDONLY)) >= 0 && in_child(run_program) == 42 && close(fd) == 0);
	CHECK((fd = open(script, O_RDWR | O_CREAT, 0755)) >= 0 && dprintf(fd, "#!%s quiet\n", program) > 0);
	CHECK(in_child(run_script) == ETXTBSY && close(fd) == 0 && in_child(run_script) == 42);
	/* What is mapped stays open. */
	CHECK((fd = open(program, O_RDWR)) >= 0 && (text = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, fd, 0)) != MAP_FAILED && close(fd) == 0);
	CHECK(in_child(run_program) == ETXTBSY && munmap(text, 4096) == 0 && in_child(run_program) == 42);
	/* The interpreter counts, too. */
	CHECK((fd = open(program, O_WRONLY)) >= 0 && in_child(run_script) == ETXTBSY && close(fd) == 0);
	/* A program that runs is not written to. */
	FAILS(open("/proc/self/exe", O_WRONLY), ETXTBSY);
	FAILS(truncate("/proc/self/exe", 1), ETXTBSY);
	/* A memfd is no opening by name. */
	if ((fd = open("/proc/self/exe", O_RDONLY)) >= 0 && (memory = memfd_create("program", 0)) >= 0) {
		int status;
		char path[64];
		CHECK(move_all(fd, memory) == 0);
		pid_t pid = fork();
		if (pid == 0) {
			fexecve(memory, quiet, empty);
			_exit(errno);
		}
		CHECK(waitpid(pid, &status, 0) == pid && WEXITSTATUS(status) == 42);
		/* But this is one. */
		snprintf(path, sizeof path, "/proc/self/fd/%d", memory);
		int again = open(path, O_RDWR);
		if ((pid = fork()) == 0) {
			fexecve(memory, quiet, empty);
			_exit(errno);
		}
		CHECK(again >= 0 && waitpid(pid, &status, 0) == pid && WEXITSTATUS(status) == ETXTBSY);
		close(again);
		close(memory);
		close(fd);
	}
}

static void set_id_bits(void)
{
	CHECK(chown(program, OTHER, OTHER + 1) == 0 && chmod(program, 0755) == 0 && in_child(show_ids) == 0);
	CHECK(in_child(show_ids_as_other) == 0);
	CHECK(chmod(program, 04755) == 0 && in_child(show_ids) == 0 && in_child(show_ids_without_privileges) == 0);
	CHECK(in_child(show_ids_as_other) == 0);
	CHECK(chmod(program, 06755) == 0 && in_child(show_ids) == 0);
	/* Without x for the group it means something else. */
	CHECK(chmod(program, 02745) == 0 && in_child(show_ids) == 0);
	CHECK(chown(program, 0, 0) == 0 && chmod(program, 0755) == 0);
}

/* Two processes of a user who may have none: the second may not execute. */
static int crowd(void)
{
	struct rlimit none = {0, 0}, some = {10, 10};
	int ready[2], go[2], ok;
	char byte;
	if (pipe(ready) != 0 || pipe(go) != 0)
		return 1;
	pid_t first = fork();
	if (first == 0) {
		ok = setuid(OTHER) == 0 && write(ready[1], "x", 1) == 1 && read(go[0], &byte, 1) == 1;
		_exit(!ok);
	}
	if (read(ready[0], &byte, 1) != 1)
		return 2;
	pid_t second = fork();
	if (second == 0) {
		/* Not yet one of that user's: no limit holds setuid back. */
		ok = setrlimit(RLIMIT_NPROC, &none) == 0 && setuid(OTHER) == 0;
		ok = ok && execute(program, "quiet") == EAGAIN && execute(program, "quiet") == EAGAIN;
		if (!ok)
			_exit(7);
		/* The first goes: there is still one too many, so it stays refused. */
		_exit(execute(program, "quiet") == EAGAIN ? 42 : 8);
	}
	int status, status3;
	if (waitpid(second, &status, 0) != second)
		return 3;
	pid_t third = fork();
	if (third == 0) {
		ok = setrlimit(RLIMIT_NPROC, &some) == 0 && setuid(OTHER) == 0;
		_exit(ok ? execute(program, "quiet") : 9);
	}
	if (waitpid(third, &status3, 0) != third || write(go[1], "x", 1) != 1)
		return 4;
	return waitpid(first, &ok, 0) == first && ok == 0 && WEXITSTATUS(status) == 42 && WEXITSTATUS(status3) == 42 ? 42 : 5;
}

static int limited_data(void)
{
	enum { MIB = 1 << 20 };
	struct rlimit limit;
	char *shared, *readonly, *private;
	int fails = 0;
	getrlimit(RLIMIT_DATA, &limit);
	limit.rlim_cur = 64 * MIB;
	fails += setrlimit(RLIMIT_DATA, &limit) != 0;
	/* What is shared or cannot be written to is no data. */
	shared = mmap(NULL, 128 * MIB, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	readonly = mmap(NULL, 128 * MIB, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	fails += 2 * (shared == MAP_FAILED || readonly == MAP_FAILED);
	fails += 4 * (mmap(NULL, 128 * MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) != MAP_FAILED || errno != ENOMEM);
	fails += 8 * (mprotect(readonly, 128 * MIB, PROT_READ | PROT_WRITE) != -1 || errno != ENOMEM);
	private = mmap(NULL, 32 * MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	fails += 16 * (private == MAP_FAILED || mprotect(readonly, 4 * MIB, PROT_READ | PROT_WRITE) != 0);
	fails += 32 * (mremap(private, 32 * MIB, 100 * MIB, MREMAP_MAYMOVE) != MAP_FAILED || errno != ENOMEM);
	/* In place of what counted already. */
	fails += 64 * (mmap(private, 32 * MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != private);
	fails += 128 * (sbrk(64 * MIB) != (void *)-1 || errno != ENOMEM);
	return fails;
}

int main(int argc, char **argv)
{
	if (argc > 1 && strcmp(argv[1], "quiet") == 0)
		return 42;
	if (argc > 1 && strcmp(argv[1], "ids") == 0) {
		uid_t r, e, s;
		gid_t rg, eg, sg;
		getresuid(&r, &e, &s);
		getresgid(&rg, &eg, &sg);
		printf("ids %u %u %u, %u %u %u, secure %lu, dumpable %d\n", r, e, s, rg, eg, sg, getauxval(AT_SECURE), prctl(PR_GET_DUMPABLE, 0, 0, 0, 0));
		return 0;
	}
	CHECK(mkdtemp(directory) && chmod(directory, 0755) == 0);
	snprintf(program, sizeof program, "%s/program", directory);
	snprintf(script, sizeof script, "%s/script", directory);
	open_for_writing();
	set_id_bits();
	CHECK(in_child(crowd) == 42);
	CHECK(in_child(limited_data) == 0);
	CHECK(unlink(program) == 0 && unlink(script) == 0 && rmdir(directory) == 0);
	return DONE();
}
