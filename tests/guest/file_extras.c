/* The less common calls on files: owners and SIGIO, packets, tee, splice, record locks and deadlocks, unnamed files, times, attributes. */
#include "check.h"
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <sys/xattr.h>

#define DIR_ "/tmp/file-extras"

static char buf[70000];
static volatile sig_atomic_t told, told_fd, told_code;

static void on_signal(int number, siginfo_t *info, void *context)
{
	(void)context;
	told = number;
	told_fd = info->si_fd;
	told_code = info->si_code;
}

/* Owners of descriptors, and the signals they get. */
static void owners(void)
{
	int ends[2];
	struct f_owner_ex owner;
	struct sigaction action = { .sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_RESTART };
	sigaction(SIGIO, &action, NULL);
	sigaction(SIGRTMIN, &action, NULL);
	CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);
	CHECK(fcntl(ends[0], F_GETOWN) == 0 && fcntl(ends[0], F_GETSIG) == 0);
	FAILS(fcntl(ends[0], F_SETOWN, 999999), ESRCH);
	FAILS(fcntl(ends[0], F_SETSIG, 65), EINVAL);
	CHECK(fcntl(ends[0], F_SETOWN, getpid()) == 0 && fcntl(ends[0], F_GETOWN) == getpid());
	CHECK(fcntl(ends[0], F_GETOWN_EX, &owner) == 0 && owner.type == F_OWNER_PID && owner.pid == getpid());
	CHECK(fcntl(ends[0], F_SETFL, O_ASYNC | O_NONBLOCK) == 0 && (fcntl(ends[0], F_GETFL) & O_ASYNC));
	CHECK(write(ends[1], "x", 1) == 1);
	while (!told)
		usleep(1000);
	CHECK(told == SIGIO && read(ends[0], buf, 10) == 1);
	told = 0;
	CHECK(fcntl(ends[0], F_SETSIG, SIGRTMIN) == 0 && fcntl(ends[0], F_GETSIG) == SIGRTMIN && write(ends[1], "y", 1) == 1);
	while (!told)
		usleep(1000);
	CHECK(told == SIGRTMIN && told_fd == ends[0] && told_code == POLL_IN && read(ends[0], buf, 10) == 1);
	told = 0;
	int off = 0, on = 1;
	CHECK(ioctl(ends[0], FIOASYNC, &off) == 0 && !(fcntl(ends[0], F_GETFL) & O_ASYNC) && write(ends[1], "z", 1) == 1);
	CHECK(told == 0);
	CHECK(ioctl(ends[0], FIOASYNC, &on) == 0 && (fcntl(ends[0], F_GETFL) & O_ASYNC));
	owner = (struct f_owner_ex){ F_OWNER_TID, gettid() };
	CHECK(fcntl(ends[0], F_SETOWN_EX, &owner) == 0 && fcntl(ends[0], F_GETOWN) == gettid());
	owner.type = 9;
	FAILS(fcntl(ends[0], F_SETOWN_EX, &owner), EINVAL);
	CHECK(fcntl(ends[0], F_SETOWN, -getpgrp()) == 0 && fcntl(ends[0], F_GETOWN_EX, &owner) == 0 && owner.type == F_OWNER_PGRP);
	CHECK(fcntl(ends[0], F_SETOWN, 0) == 0 && close(ends[0]) == 0 && close(ends[1]) == 0);
}

/* Pipes of packets; tee, splice, vmsplice. */
static void pipes(void)
{
	int a[2], b[2], file;
	struct iovec parts[2] = { { "one", 3 }, { "two", 3 } };
	CHECK(pipe2(a, O_DIRECT | O_NONBLOCK) == 0 && pipe2(b, O_NONBLOCK) == 0);
	CHECK(write(a[1], "first", 5) == 5 && write(a[1], "second", 6) == 6);
	CHECK(read(a[0], buf, 100) == 5 && read(a[0], buf, 2) == 2);
	FAILS(read(a[0], buf, 100), EAGAIN);
	CHECK(close(a[0]) == 0 && close(a[1]) == 0 && pipe2(a, O_NONBLOCK) == 0);
	FAILS(tee(a[0], b[1], 10, SPLICE_F_NONBLOCK), EAGAIN);
	FAILS(tee(a[0], a[1], 10, 0), EINVAL);
	FAILS(tee(a[0], b[1], 10, 0x100), EINVAL);
	CHECK(write(a[1], "0123456789", 10) == 10 && tee(a[0], b[1], 4, 0) == 4 && tee(a[0], b[1], 100, 0) == 10);
	CHECK(read(b[0], buf, 100) == 14 && !memcmp(buf, "01230123456789", 14) && read(a[0], buf, 100) == 10);
	CHECK(vmsplice(a[1], parts, 2, 0) == 6 && read(a[0], buf, 100) == 6 && !memcmp(buf, "onetwo", 6));
	CHECK((file = open("spliced", O_RDWR | O_CREAT | O_TRUNC, 0600)) >= 0);
	FAILS(vmsplice(file, parts, 2, 0), EBADF);
	FAILS(splice(file, NULL, file, NULL, 10, 0), EINVAL);
	FAILS(tee(file, b[1], 10, 0), EINVAL);
	off_t at = 2;
	CHECK(write(a[1], "abcdef", 6) == 6 && splice(a[0], NULL, file, &at, 6, 0) == 6 && at == 8 && lseek(file, 0, SEEK_CUR) == 0);
	FAILS(splice(a[0], &at, file, NULL, 10, 0), ESPIPE);
	at = 1;
	CHECK(splice(file, &at, b[1], NULL, 100, 0) == 7 && at == 8 && read(b[0], buf, 100) == 7 && !memcmp(buf, "\0abcdef", 7));
	CHECK(splice(file, NULL, b[1], NULL, 3, 0) == 3 && lseek(file, 0, SEEK_CUR) == 3 && read(b[0], buf, 100) == 3);
	CHECK(fcntl(a[0], F_SETPIPE_SZ, 5000) == 8192 && fcntl(a[1], F_GETPIPE_SZ) == 8192);
	CHECK(close(a[1]) == 0 && splice(a[0], NULL, file, NULL, 10, 0) == 0 && tee(a[0], b[1], 10, 0) == 0);
	CHECK(close(a[0]) == 0 && close(b[0]) == 0 && close(b[1]) == 0 && close(file) == 0 && unlink("spliced") == 0);
}

static int lock(int fd, int command, short kind, off_t start, off_t len)
{
	struct flock lock = { .l_type = kind, .l_whence = SEEK_SET, .l_start = start, .l_len = len };
	return fcntl(fd, command, &lock);
}

static void nothing(int number)
{
	(void)number;
}

/* Record locks between processes: who is in the way, circles, interruption. */
static void locks(void)
{
	struct flock seen = { .l_type = F_WRLCK };
	int ready[2], go[2], status, fd;
	char byte = 0;
	CHECK((fd = open("locks", O_RDWR | O_CREAT, 0600)) >= 0 && write(fd, buf, 100) == 100);
	CHECK(pipe(ready) == 0 && pipe(go) == 0 && lock(fd, F_SETLK, F_WRLCK, 0, 10) == 0);
	pid_t child = fork();
	if (child == 0) {
		int own = open("locks", O_RDWR);
		int ok = lock(own, F_SETLK, F_WRLCK, 20, 10) == 0 && lock(own, F_SETLK, F_RDLCK, 5, 1) == -1;
		ok = write(ready[1], &byte, 1) == 1 && read(go[0], &byte, 1) == 1 && ok;
		/* Waits for the parent's bytes, which the parent gives up after its own request was refused. */
		ok = lock(own, F_SETLKW, F_WRLCK, 0, 1) == 0 && ok;
		_exit(ok ? 7 : 1);
	}
	CHECK(read(ready[0], &byte, 1) == 1);
	FAILS(lock(fd, F_SETLK, F_RDLCK, 25, 1), EAGAIN);
	seen.l_start = 25, seen.l_len = 1;
	CHECK(fcntl(fd, F_GETLK, &seen) == 0 && seen.l_type == F_WRLCK && seen.l_pid == child && seen.l_start == 20 && seen.l_len == 10);
	CHECK(write(go[1], &byte, 1) == 1);
	/* Until the child waits, the bytes would be waited for: look at what it does, not at the time. */
	char path[64], text[512];
	snprintf(path, sizeof path, "/proc/%d/stat", child);
	for (int tries = 0; tries < 5000; tries++) {
		FILE *stat = fopen(path, "r");
		char state = 0;
		if (stat && fgets(text, sizeof text, stat))
			state = strrchr(text, ')')[2];
		if (stat)
			fclose(stat);
		if (state == 'S' && tries > 200)
			break;
		usleep(1000);
	}
	FAILS(lock(fd, F_SETLKW, F_WRLCK, 20, 1), EDEADLK);
	CHECK(lock(fd, F_SETLK, F_UNLCK, 0, 0) == 0 && waitpid(child, &status, 0) == child && WEXITSTATUS(status) == 7);
	CHECK(lock(fd, F_SETLK, F_WRLCK, 0, 0) == 0);

	/* The locks of a description are its own; any other one's are in the way. */
	int other = open("locks", O_RDWR);
	CHECK(lock(fd, F_SETLK, F_UNLCK, 0, 0) == 0);
	struct flock whole = { .l_type = F_WRLCK };
	CHECK(fcntl(fd, F_OFD_SETLK, &whole) == 0 && fcntl(other, F_OFD_SETLK, &whole) == -1 && errno == EAGAIN);
	whole.l_pid = 1;
	FAILS(fcntl(fd, F_OFD_SETLK, &whole), EINVAL);
	whole = (struct flock){ .l_type = F_RDLCK };
	CHECK(fcntl(other, F_OFD_GETLK, &whole) == 0 && whole.l_type == F_WRLCK && whole.l_pid == -1);
	CHECK(flock(fd, LOCK_EX) == 0 && flock(other, LOCK_SH | LOCK_NB) == -1 && errno == EWOULDBLOCK);
	/* A handler without SA_RESTART ends the wait. */
	struct sigaction action = { .sa_handler = nothing };
	sigaction(SIGALRM, &action, NULL);
	alarm(1);
	FAILS(flock(other, LOCK_EX), EINTR);
	CHECK(flock(fd, LOCK_UN) == 0 && flock(other, LOCK_EX) == 0);
	FAILS(flock(other, 16), EINVAL);
	CHECK(close(fd) == 0 && close(other) == 0 && unlink("locks") == 0);
}

/* Files without a name, and names through descriptors. */
static void unnamed(void)
{
	struct stat st;
	char path[64];
	int fd;
	CHECK((fd = open(".", O_TMPFILE | O_RDWR, 0640)) >= 0 && fstat(fd, &st) == 0 && st.st_nlink == 0 && (st.st_mode & 0777) == 0640);
	CHECK(write(fd, "hidden", 6) == 6 && linkat(fd, "", AT_FDCWD, "named", AT_EMPTY_PATH) == 0 && stat("named", &st) == 0 && st.st_size == 6);
	CHECK(st.st_nlink == 1 && close(fd) == 0);
	CHECK((fd = open(".", O_TMPFILE | O_WRONLY, 0600)) >= 0);
	snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	CHECK(linkat(AT_FDCWD, path, AT_FDCWD, "by-proc", AT_SYMLINK_FOLLOW) == 0 && access("by-proc", F_OK) == 0 && close(fd) == 0);
	CHECK((fd = open(".", O_TMPFILE | O_WRONLY | O_EXCL, 0600)) >= 0);
	FAILS(linkat(fd, "", AT_FDCWD, "never", AT_EMPTY_PATH), ENOENT);
	CHECK(close(fd) == 0 && unlink("by-proc") == 0);
	CHECK((fd = open("named", O_RDONLY)) >= 0 && unlink("named") == 0);
	FAILS(linkat(fd, "", AT_FDCWD, "again", AT_EMPTY_PATH), ENOENT);
	CHECK(close(fd) == 0);
	FAILS(open(".", O_TMPFILE | O_RDONLY, 0600), EINVAL);
	FAILS(open("none", O_TMPFILE | O_RDWR, 0600), ENOENT);
}

static long open_how(const char *path, unsigned long flags, unsigned long mode, unsigned long resolve)
{
	struct {
		unsigned long flags, mode, resolve;
	} how = { flags, mode, resolve };
	return syscall(SYS_openat2, AT_FDCWD, path, &how, sizeof how);
}

/* openat2, O_PATH, statx, access. */
static void places(void)
{
	struct stat st;
	struct statx stx;
	int fd, file;
	CHECK(mkdir("d", 0755) == 0 && mkdir("d/e", 0755) == 0 && symlink("..", "d/up") == 0 && symlink("/proc/self/exe", "magic") == 0);
	FAILS(open_how("d", O_RDONLY, 0600, 0), EINVAL);
	FAILS(open_how("d", O_RDONLY, 0, 0x1000), EINVAL);
	FAILS(open_how("d", 1ul << 40, 0, 0), EINVAL);
	FAILS(open_how("d/../x", O_RDONLY, 0, 8), ENOENT);
	FAILS(open_how("../file-extras", O_RDONLY, 0, 8), EXDEV);
	FAILS(open_how("/tmp", O_RDONLY, 0, 8), EXDEV);
	FAILS(open_how("d/up", O_RDONLY, 0, 4), ELOOP);
	FAILS(open_how("magic", O_RDONLY, 0, 2), ELOOP);
	FAILS(open_how("/proc/self", O_PATH, 0, 1), EXDEV);
	CHECK((fd = open_how("/d/e", O_PATH, 0, 16)) >= 0 && close(fd) == 0);
	CHECK((fd = open("d", O_PATH)) >= 0 && fstat(fd, &st) == 0 && S_ISDIR(st.st_mode) && fchdir(fd) == 0 && chdir("..") == 0);
	CHECK(fcntl(fd, F_GETFL) == O_PATH);
	FAILS(read(fd, buf, 1), EBADF);
	FAILS(fchmod(fd, 0700), EBADF);
	FAILS(fsetxattr(fd, "user.x", "", 0, 0), EBADF);
	FAILS(ioctl(fd, FIONREAD, &file), EBADF);
	CHECK((file = openat(fd, "f", O_CREAT | O_RDWR, 0600)) >= 0 && close(file) == 0 && fstatat(fd, "", &st, AT_EMPTY_PATH) == 0 && close(fd) == 0);
	CHECK((fd = open("d/f", O_PATH | O_NOFOLLOW)) >= 0);
	FAILS(mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, fd, 0), EBADF);
	CHECK(close(fd) == 0);
	CHECK((fd = open("d/up", O_PATH | O_NOFOLLOW)) >= 0 && fstat(fd, &st) == 0 && S_ISLNK(st.st_mode));
	CHECK(readlinkat(fd, "", buf, 100) == 2 && close(fd) == 0);
	CHECK(statx(AT_FDCWD, "d/f", 0, STATX_BASIC_STATS | STATX_MNT_ID, &stx) == 0 && (stx.stx_mask & STATX_BASIC_STATS) == STATX_BASIC_STATS);
	CHECK((stx.stx_mask & STATX_MNT_ID) && stx.stx_mnt_id > 0 && !(stx.stx_attributes & STATX_ATTR_MOUNT_ROOT));
	CHECK(statx(AT_FDCWD, "/proc", 0, STATX_BASIC_STATS, &stx) == 0 && (stx.stx_attributes & stx.stx_attributes_mask & STATX_ATTR_MOUNT_ROOT));
	FAILS(statx(AT_FDCWD, "d/f", 0x80000, STATX_BASIC_STATS, &stx), EINVAL);
	FAILS(statx(AT_FDCWD, "d/f", 0, 0x80000000, &stx), EINVAL);
	FAILS(syscall(SYS_faccessat2, AT_FDCWD, "d/f", 8, 0), EINVAL);
	FAILS(syscall(SYS_faccessat2, AT_FDCWD, "d/f", 0, 0x10), EINVAL);
	CHECK(syscall(SYS_faccessat2, AT_FDCWD, "d/up", F_OK, AT_SYMLINK_NOFOLLOW) == 0);
	CHECK(unlink("d/f") == 0 && unlink("d/up") == 0 && rmdir("d/e") == 0 && rmdir("d") == 0 && unlink("magic") == 0);
}

/* Holes, ranges, copies. */
static void ranges(void)
{
	struct stat st;
	int fd, to;
	memset(buf, 'r', 65536);
	CHECK((fd = open("ranges", O_RDWR | O_CREAT, 0600)) >= 0 && write(fd, buf, 65536) == 65536);
	CHECK(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 8192, 16384) == 0 && lseek(fd, 0, SEEK_HOLE) == 8192);
	CHECK(lseek(fd, 8192, SEEK_DATA) == 24576 && pread(fd, buf, 10, 10000) == 10 && buf[0] == 0 && lseek(fd, 30000, SEEK_HOLE) == 65536);
	FAILS(lseek(fd, 65536, SEEK_DATA), ENXIO);
	FAILS(lseek(fd, -1, SEEK_DATA), ENXIO);
	FAILS(fallocate(fd, FALLOC_FL_PUNCH_HOLE, 0, 4096), EOPNOTSUPP);
	FAILS(fallocate(fd, 0, 0, 0), EINVAL);
	FAILS(fallocate(fd, 0, -1, 1), EINVAL);
	FAILS(fallocate(fd, 0, LONG_MAX, 1), EFBIG);
	CHECK(fallocate(fd, FALLOC_FL_KEEP_SIZE, 65536, 4096) == 0 && fstat(fd, &st) == 0 && st.st_size == 65536);
	CHECK(fallocate(fd, 0, 65536, 4096) == 0 && fstat(fd, &st) == 0 && st.st_size == 69632);
	CHECK((to = open("copy", O_RDWR | O_CREAT, 0600)) >= 0);
	loff_t from_at = 8000, to_at = 100;
	CHECK(copy_file_range(fd, &from_at, to, &to_at, 500, 0) == 500 && from_at == 8500 && to_at == 600);
	CHECK(fstat(to, &st) == 0 && st.st_size == 600 && pread(to, buf, 300, 100) == 300 && buf[0] == 'r' && buf[191] == 'r' && buf[192] == 0);
	FAILS(copy_file_range(fd, NULL, to, NULL, 1, 1), EINVAL);
	from_at = 0, to_at = 10;
	FAILS(copy_file_range(fd, &from_at, fd, &to_at, 100, 0), EINVAL);
	off_t at = 65000;
	CHECK(sendfile(to, fd, &at, 100000) == 4632 && at == 69632);
	CHECK(close(to) == 0 && (to = open("copy", O_WRONLY | O_APPEND)) >= 0);
	FAILS(sendfile(to, fd, NULL, 10), EINVAL);
	FAILS(copy_file_range(fd, NULL, to, NULL, 1, 0), EBADF);
	CHECK(close(to) == 0 && close(fd) == 0 && unlink("copy") == 0 && unlink("ranges") == 0);
}

/* A time in nanoseconds. */
static long long ns(struct timespec time)
{
	return time.tv_sec * 1000000000ll + time.tv_nsec;
}

/* Access times as relatime keeps them; hints. */
static void times(void)
{
	struct stat first, second;
	uint64_t hint = 3;
	int fd;
	CHECK((fd = open("times", O_RDWR | O_CREAT, 0600)) >= 0 && write(fd, "x", 1) == 1);
	struct timespec old[2] = { { 1000000000, 5 }, { 1000000001, 6 } };
	CHECK(futimens(fd, old) == 0 && fstat(fd, &first) == 0 && ns(first.st_atim) == 1000000000000000005 && ns(first.st_mtim) == 1000000001000000006);
	CHECK(pread(fd, buf, 1, 0) == 1 && fstat(fd, &second) == 0 && ns(second.st_atim) > ns(first.st_atim));
	CHECK(ns(second.st_mtim) == ns(first.st_mtim) && ns(second.st_ctim) == ns(first.st_ctim));
	CHECK(pread(fd, buf, 1, 0) == 1 && fstat(fd, &first) == 0 && ns(first.st_atim) == ns(second.st_atim));
	/* Mapping counts as reading, the first write through a shared mapping as writing. */
	CHECK(futimens(fd, old) == 0 && fstat(fd, &first) == 0);
	char *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	CHECK(page != MAP_FAILED && fstat(fd, &second) == 0 && ns(second.st_atim) > ns(first.st_atim) && ns(second.st_mtim) == ns(first.st_mtim));
	page[0] = 'y';
	CHECK(msync(page, 4096, MS_SYNC) == 0 && fstat(fd, &second) == 0 && ns(second.st_mtim) > ns(first.st_mtim) && munmap(page, 4096) == 0);
	CHECK(fcntl(fd, F_SET_RW_HINT, &hint) == 0 && (hint = 9) && fcntl(fd, F_GET_RW_HINT, &hint) == 0 && hint == 3);
	hint = 77;
	FAILS(fcntl(fd, F_SET_RW_HINT, &hint), EINVAL);
	old[0].tv_nsec = 1000000000;
	FAILS(futimens(fd, old), EINVAL);
	CHECK(close(fd) == 0 && unlink("times") == 0);
}

/* Extended attributes. */
static void attributes(void)
{
	static char big[70000];
	int fd;
	CHECK((fd = open("x", O_RDWR | O_CREAT, 0600)) >= 0);
	CHECK(fsetxattr(fd, "user.a", "value", 5, 0) == 0 && fgetxattr(fd, "user.a", buf, 100) == 5 && !memcmp(buf, "value", 5));
	CHECK(fgetxattr(fd, "user.a", NULL, 0) == 5);
	FAILS(fgetxattr(fd, "user.a", buf, 4), ERANGE);
	FAILS(fgetxattr(fd, "user.b", buf, 4), ENODATA);
	FAILS(fgetxattr(fd, "nothing.b", buf, 4), EOPNOTSUPP);
	FAILS(fgetxattr(fd, "", buf, 4), ERANGE);
	FAILS(fsetxattr(fd, "user.a", "", 0, XATTR_CREATE), EEXIST);
	FAILS(fsetxattr(fd, "user.b", "", 0, XATTR_REPLACE), ENODATA);
	FAILS(fsetxattr(fd, "user.b", "", 0, 8), EINVAL);
	FAILS(fsetxattr(fd, "user.b", big, 70000, 0), E2BIG);
	memset(big, 'n', 300);
	memcpy(big, "user.", 5);
	FAILS(fsetxattr(fd, big, "", 0, 0), ERANGE);
	CHECK(fsetxattr(fd, "user.a", "", 0, XATTR_REPLACE) == 0 && fgetxattr(fd, "user.a", buf, 100) == 0);
	CHECK(setxattr("x", "user.c", "1", 1, 0) == 0 && removexattr("x", "user.a") == 0);
	FAILS(removexattr("x", "user.a"), ENODATA);
	CHECK(symlink("x", "link") == 0);
	FAILS(lsetxattr("link", "user.a", "", 0, 0), EPERM);
	FAILS(lgetxattr("link", "user.a", buf, 10), ENODATA);
	CHECK(getxattr("link", "user.c", buf, 10) == 1);
	CHECK(close(fd) == 0 && unlink("x") == 0 && unlink("link") == 0);
}

/* Whoever closes each descriptor that /proc/self/fd shows must be shown all of them. */
static void closing_while_listing(void)
{
	struct entry {
		unsigned long ino, next;
		unsigned short length;
		unsigned char type;
		char name[237];
	} entry;
	int status;
	pid_t pid = fork();
	if (pid == 0) {
		int listing = open("/proc/self/fd", O_RDONLY | O_DIRECTORY), left = 0;
		for (int fd = 30; fd < 60; fd++)
			dup2(listing, fd);
		/* Room for one entry or two. */
		while (syscall(SYS_getdents64, listing, &entry, 24) > 0)
			if (atoi(entry.name) >= 30)
				close(atoi(entry.name));
		for (int fd = 30; fd < 60; fd++)
			left += fcntl(fd, F_GETFD) >= 0;
		_exit(left);
	}
	CHECK(waitpid(pid, &status, 0) == pid && WIFEXITED(status));
	CHECK(WEXITSTATUS(status) == 0);
}

/* The old way of listing, in which an entry's kind is its last byte. */
static void old_listing(void)
{
	struct {
		unsigned long ino, next;
		unsigned short length;
		char name[];
	} *entry;
	char buffer[4096] __attribute__((aligned(8)));
	int seen = 0, wrong = 0;
	CHECK(mkdir("list", 0755) == 0 && mkdir("list/d", 0755) == 0 && symlink("x", "list/link") == 0 && close(creat("list/a-file", 0644)) == 0);
	int fd = open("list", O_RDONLY | O_DIRECTORY);
	long n = syscall(SYS_getdents, fd, buffer, sizeof buffer);
	for (long at = 0; at < n; at += entry->length) {
		entry = (void *)(buffer + at);
		int kind = buffer[at + entry->length - 1];
		struct stat st;
		wrong += entry->length % 8 != 0 || fstatat(fd, entry->name, &st, AT_SYMLINK_NOFOLLOW) != 0;
		wrong += kind != (int)((st.st_mode & S_IFMT) >> 12);
		wrong += entry->name[0] != '.' && st.st_ino != entry->ino;
		seen++;
	}
	CHECK(n > 0 && seen == 5 && wrong == 0 && syscall(SYS_getdents, fd, buffer, sizeof buffer) == 0);
	CHECK(lseek(fd, 0, SEEK_SET) == 0);
	FAILS(syscall(SYS_getdents, fd, buffer, 8), EINVAL);
	FAILS(syscall(SYS_getdents, -1, buffer, sizeof buffer), EBADF);
	CHECK(close(fd) == 0 && rmdir("list/d") == 0 && unlink("list/link") == 0 && unlink("list/a-file") == 0 && rmdir("list") == 0);
}

/* Seals: not against writing while a shared mapping may be written to, in whatever process. */
static void seals(void)
{
	int fd, ready[2], reader, status;
	char *memory, byte = 0;
	CHECK((fd = memfd_create("sealed", MFD_ALLOW_SEALING)) >= 0 && ftruncate(fd, 8192) == 0 && pipe(ready) == 0);
	CHECK((memory = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)) != MAP_FAILED);
	FAILS(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_GROW), EBUSY);
	CHECK(fcntl(fd, F_GET_SEALS) == 0 && munmap(memory, 4096) == 0 && mprotect(memory + 4096, 4096, PROT_READ) == 0);
	FAILS(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE), EBUSY);
	pid_t child = fork();
	if (child == 0) {
		close(ready[1]);
		_exit(read(ready[0], &byte, 1) == 0 ? 5 : 6);
	}
	CHECK(munmap(memory + 4096, 4096) == 0);
	FAILS(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE), EBUSY);
	CHECK(close(ready[1]) == 0 && waitpid(child, &status, 0) == child && WEXITSTATUS(status) == 5);
	CHECK(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0) != MAP_FAILED);
	char path[64];
	snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	CHECK((reader = open(path, O_RDONLY)) >= 0);
	FAILS(fcntl(reader, F_ADD_SEALS, F_SEAL_GROW), EPERM);
	FAILS(fcntl(fd, F_ADD_SEALS, 0x1000), EINVAL);
	CHECK(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE) == 0 && fcntl(fd, F_GET_SEALS) == F_SEAL_WRITE);
	CHECK(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) == MAP_FAILED && errno == EPERM);
	FAILS(write(fd, "x", 1), EPERM);
	CHECK(close(reader) == 0 && close(ready[0]) == 0 && close(fd) == 0);
}

int main(void)
{
	setbuf(stdout, NULL);
	CHECK(mkdir(DIR_, 0755) == 0 && chdir(DIR_) == 0);
	old_listing();
	owners();
	pipes();
	locks();
	unnamed();
	places();
	ranges();
	times();
	attributes();
	closing_while_listing();
	seals();
	CHECK(chdir("/") == 0 && rmdir(DIR_) == 0);
	return DONE();
}
