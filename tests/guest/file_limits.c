/* What writing must not do: make a file larger than allowed, leave set-id bits where somebody else has written, change sealed memory. */
#include "check.h"
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/utsname.h>
#include <sys/wait.h>

static volatile int too_large;
static void on_too_large(int number)
{
	too_large += number == SIGXFSZ;
}

static int fails(long result, int error)
{
	return result == -1 && errno == error;
}

static int temporary(void)
{
	char path[] = "/tmp/limitsXXXXXX";
	int fd = mkstemp(path);
	unlink(path);
	return fd;
}

static long size(int fd)
{
	struct stat status;
	return fstat(fd, &status) == 0 ? (long)status.st_size : -1;
}

/* Large enough for where the output of this program may go. */
#define LIMIT (1L << 20)
#define BASE (LIMIT - 100)

static void file_size(void)
{
	static char bytes[200];
	struct rlimit old, limit;
	int fd = temporary(), source = temporary(), fds[2];
	signal(SIGXFSZ, on_too_large);
	CHECK(write(source, bytes, sizeof bytes) == sizeof bytes);
	CHECK(getrlimit(RLIMIT_FSIZE, &old) == 0);
	limit = old;
	limit.rlim_cur = LIMIT;
	CHECK(setrlimit(RLIMIT_FSIZE, &limit) == 0);
	CHECK(lseek(fd, BASE, SEEK_SET) == BASE && ftruncate(source, BASE) == 0);
	CHECK(write(fd, bytes, 60) == 60 && too_large == 0);
	CHECK(write(fd, bytes, 60) == 40 && too_large == 0);
	CHECK(fails(write(fd, bytes, 1), EFBIG) && too_large == 1);
	CHECK(write(fd, bytes, 0) == 0 && too_large == 1);
	CHECK(fails(pwrite(fd, bytes, 1, LIMIT), EFBIG) && too_large == 2);
	CHECK(pwrite(fd, bytes, 10, LIMIT - 5) == 5);
	struct iovec pieces[2] = { { bytes, 3 }, { bytes, 10 } };
	CHECK(pwritev(fd, pieces, 2, LIMIT - 10) == 10);
	CHECK(fails(ftruncate(fd, LIMIT + 1), EFBIG) && too_large == 3);
	CHECK(ftruncate(fd, LIMIT) == 0 && ftruncate(fd, 20) == 0);
	CHECK(fails(fallocate(fd, 0, 0, LIMIT + 1), EFBIG) && size(fd) == 20);
	too_large = 0;
	CHECK(lseek(fd, BASE, SEEK_SET) == BASE);
	off_t from = 0;
	CHECK(sendfile(fd, source, &from, 200) == 100 && from == 100);
	CHECK(size(fd) == LIMIT);
	/* Only files have a size; and what is larger already may be written to below the limit. */
	CHECK(pipe(fds) == 0 && write(fds[1], bytes, 200) == 200);
	CHECK(pwrite(source, bytes, 10, 0) == 10 && fails(pwrite(source, bytes, 1, LIMIT + 50), EFBIG));
	CHECK(fcntl(fd, F_SETFL, O_APPEND) == 0);
	too_large = 0;
	CHECK(fails(write(fd, bytes, 1), EFBIG) && too_large == 1);
	pid_t child = fork();
	if (child == 0) {
		signal(SIGXFSZ, SIG_DFL);
		_exit(write(fd, bytes, 1) == -1);
	}
	int status;
	CHECK(waitpid(child, &status, 0) == child && WIFSIGNALED(status) && WTERMSIG(status) == SIGXFSZ);
	limit.rlim_cur = old.rlim_cur;
	CHECK(setrlimit(RLIMIT_FSIZE, &limit) == 0);
	CHECK(write(fd, bytes, 50) == 50 && size(fd) == LIMIT + 50);
	close(fd);
	close(source);
	close(fds[0]);
	close(fds[1]);
}

static int mode_after(int way)
{
	char path[] = "/tmp/modesXXXXXX";
	struct stat status;
	int fd = mkstemp(path), result;
	if (write(fd, "text", 4) != 4 || fchown(fd, 1234, 1234) != 0 || fchmod(fd, 06777) != 0)
		return -1;
	pid_t child = fork();
	if (child == 0) {
		/* The last way is the owner's who may. */
		if (way != 3 && (setresgid(1234, 1234, 1234) != 0 || setresuid(1234, 1234, 1234) != 0))
			_exit(1);
		result = way == 1 ? ftruncate(fd, 2) : way == 2 ? truncate(path, 2) : way == 4 ? fchmod(fd, 02666) + pwrite(fd, "x", 1, 0) != 1 : pwrite(fd, "x", 1, 0) != 1;
		_exit(result != 0);
	}
	waitpid(child, &result, 0);
	if (fstat(fd, &status) != 0 || result != 0)
		return -2;
	unlink(path);
	close(fd);
	return status.st_mode & 07777;
}

static void set_id_bits(void)
{
	/* Where nobody may become another user there is nothing to see. */
	int status, may;
	pid_t child = fork();
	if (child == 0)
		_exit(setresgid(1234, 1234, 1234) == 0 && setresuid(1234, 1234, 1234) == 0);
	may = waitpid(child, &status, 0) == child && WEXITSTATUS(status) == 1;
	CHECK(!may || mode_after(0) == 0777);
	CHECK(!may || mode_after(1) == 0777);
	CHECK(!may || mode_after(2) == 0777);
	CHECK(!may || mode_after(3) == 06777);
	CHECK(!may || mode_after(4) == 02666);
}

static void sealed_memory(void)
{
	int fd = memfd_create("sealed", MFD_ALLOW_SEALING);
	CHECK(fd >= 0 && ftruncate(fd, 4096) == 0 && fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE) == 0);
	CHECK(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) == MAP_FAILED && errno == EPERM);
	void *private = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	CHECK(private != MAP_FAILED && (*(char *)private = 1) == 1);
	CHECK(fails(write(fd, "x", 1), EPERM));
	close(fd);
	fd = memfd_create("sealed", MFD_ALLOW_SEALING);
	CHECK(fd >= 0 && ftruncate(fd, 4096) == 0);
	char *early = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	CHECK(early != MAP_FAILED && fcntl(fd, F_ADD_SEALS, F_SEAL_FUTURE_WRITE) == 0);
	early[0] = 'e';
	CHECK(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) == MAP_FAILED && errno == EPERM);
	char *late = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
	CHECK(late != MAP_FAILED && late[0] == 'e');
	CHECK(fails(mprotect(late, 4096, PROT_READ | PROT_WRITE), EACCES));
	close(fd);
}

/* Some versions of Linux let programs be written to while they run. */
static int is_lax(void)
{
	struct utsname name;
	uname(&name);
	return (strncmp(name.release, "6.11.", 5) == 0 || strncmp(name.release, "6.12.", 5) == 0) && !strstr(name.release, "oxv");
}

static void running_program(void)
{
	char path[] = "/tmp/programXXXXXX", byte;
	int lax = is_lax(), status, to[2], from[2];
	int in = open("/proc/self/exe", O_RDONLY), out = mkstemp(path);
	CHECK(sendfile(out, in, NULL, 100 << 20) == size(in) && fchmod(out, 0700) == 0);
	close(in);
	close(out);
	CHECK(pipe(to) == 0 && pipe(from) == 0);
	pid_t child = fork();
	if (child == 0) {
		dup2(to[0], 0);
		dup2(from[1], 1);
		close(to[1]);
		execl(path, path, "wait", NULL);
		_exit(1);
	}
	CHECK(read(from[0], &byte, 1) == 1);
	CHECK(lax || fails(open(path, O_WRONLY), ETXTBSY));
	CHECK(lax || fails(open(path, O_RDONLY | O_TRUNC), ETXTBSY));
	CHECK(lax || fails(truncate(path, 0), ETXTBSY));
	int fd = open(path, O_RDONLY);
	CHECK(fd >= 0);
	close(fd);
	close(to[1]);
	CHECK(waitpid(child, &status, 0) == child && status == 4 << 8);
	fd = open(path, O_WRONLY);
	CHECK(fd >= 0);
	close(fd);
	unlink(path);
}

int main(int argc, char **argv)
{
	char byte;
	if (argc == 2 && strcmp(argv[1], "wait") == 0)
		return write(1, "r", 1) == 1 && read(0, &byte, 1) == 0 ? 4 : 1;
	running_program();
	file_size();
	set_id_bits();
	sealed_memory();
	return DONE();
}
