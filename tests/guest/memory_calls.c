/* Locking, asking about, advising on and reaching into memory. */
#include "memory.h"
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>


/* kB in a line of /proc/self/status. */
static long status_kb(const char *name)
{
	char line[256];
	long kb = -1;
	FILE *file = fopen("/proc/self/status", "r");
	while (file && fgets(line, sizeof line, file))
		if (!strncmp(line, name, strlen(name)))
			kb = atol(line + strlen(name) + 1);
	if (file)
		fclose(file);
	return kb;
}

static void locking(void)
{
	unsigned char there[8];
	char *p = anon(8 * P, RW);
	long before = status_kb("VmLck");
	CHECK(mlock(p, 2 * P) == 0 && status_kb("VmLck") - before == 8);
	CHECK(mincore(p, 8 * P, there) == 0 && (there[0] & 1) && (there[1] & 1) && !(there[2] & 1));
	CHECK(syscall(SYS_mlock2, p + 2 * P, 2 * P, 1) == 0 && status_kb("VmLck") - before == 16);
	CHECK(mincore(p, 8 * P, there) == 0 && !(there[2] & 1));
	FAILS(syscall(SYS_mlock2, p, P, 2), EINVAL);
	/* Beyond the program's half nothing is mapped; only a range that wraps is none. */
	char *last = (char *)(INT64_MAX & -P);
	FAILS(mlock(last, 2 * P), ENOMEM);
	FAILS(munlock(last, 2 * P), ENOMEM);
	FAILS(munlock((char *)-P, 2 * P), EINVAL);
	FAILS(madvise(p, P, MADV_DONTNEED), EINVAL);
	p[0] = 5;
	CHECK(madvise(p, P, 24 /* MADV_DONTNEED_LOCKED */) == 0 && p[0] == 0);
	FAILS(msync(p, P, MS_INVALIDATE | MS_ASYNC), EBUSY);
	CHECK(munlock(p + 1, 4 * P - 2) == 0 && status_kb("VmLck") == before);
	CHECK(mlock(p, 0) == 0);
	munmap(p + 4 * P, P);
	FAILS(mlock(p, 8 * P), ENOMEM);
	CHECK(munlock(p, 4 * P) == 0);
	FAILS(munlock(p, 8 * P), ENOMEM);
	char *none = anon(P, PROT_NONE);
	FAILS(mlock(none, P), ENOMEM);
	CHECK(munlock(none, P) == 0);
	FAILS(mlockall(0), EINVAL);
	FAILS(mlockall(MCL_ONFAULT), EINVAL);
	FAILS(mlockall(64), EINVAL);
	CHECK(mlockall(MCL_FUTURE) == 0);
	char *q = anon(4 * P, RW);
	CHECK(mincore(q, 4 * P, there) == 0 && (there[0] & 1) && (there[3] & 1));
	CHECK(munlockall() == 0 && status_kb("VmLck") == 0);
	char *r = anon(4 * P, RW);
	CHECK(mincore(r, 4 * P, there) == 0 && !(there[0] & 1));
	char *l = mmap(NULL, 2 * P, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_LOCKED, -1, 0);
	CHECK(mincore(l, 2 * P, there) == 0 && (there[0] & 1) && (there[1] & 1) && status_kb("VmLck") == 8);
	munmap(l, 2 * P);
}

/* Without privileges the limit counts. */
static void lock_limit(void)
{
	pid_t child = fork();
	if (child == 0) {
		struct rlimit limit = { 4 * P, 4 * P };
		char *p = anon(8 * P, RW);
		int ok = setrlimit(RLIMIT_MEMLOCK, &limit) == 0 && setuid(65534) == 0;
		ok = ok && mlock(p, 3 * P) == 0 && mlock(p, 4 * P) == 0 && mlock(p, 5 * P) == -1 && errno == ENOMEM;
		ok = ok && munlock(p, 4 * P) == 0 && mlockall(MCL_CURRENT) == -1 && errno == ENOMEM;
		limit.rlim_cur = 0;
		ok = ok && setrlimit(RLIMIT_MEMLOCK, &limit) == 0 && mlock(p, P) == -1 && errno == EPERM;
		_exit(ok ? 3 : 4);
	}
	int status;
	CHECK(waitpid(child, &status, 0) == child && WEXITSTATUS(status) == 3);
}

/* How much may be mapped in all. */
static void size_limit(void)
{
	pid_t child = fork();
	if (child == 0) {
		struct rlimit limit = { (status_kb("VmSize") << 10) + 64 * P, RLIM_INFINITY };
		char *p = anon(8 * P, RW);
		int ok = setrlimit(RLIMIT_AS, &limit) == 0 && mmap(NULL, 128 * P, RW, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED && errno == ENOMEM;
		ok = ok && sbrk(128 * P) == (void *)-1 && errno == ENOMEM && mremap(p, 8 * P, 128 * P, MREMAP_MAYMOVE) == MAP_FAILED && errno == ENOMEM;
		ok = ok && mmap(p, 8 * P, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == p && munmap(anon(32 * P, RW), 32 * P) == 0;
		limit.rlim_cur = P;
		ok = ok && setrlimit(RLIMIT_AS, &limit) == 0 && mmap(NULL, P, RW, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED && munmap(p, P) == 0;
		_exit(ok ? 3 : 4);
	}
	int status;
	CHECK(waitpid(child, &status, 0) == child && WEXITSTATUS(status) == 3);
}

static void asking(void)
{
	unsigned char there[4];
	char *p = anon(4 * P, RW);
	p[P] = 1;
	CHECK(mincore(p, 4 * P, there) == 0 && !(there[0] & 1) && (there[1] & 1) && !(there[3] & 1));
	FAILS(mincore(p + 1, P, there), EINVAL);
	FAILS(mincore((void *)0x500000000000, P, there), ENOMEM);
	FAILS(mincore(p, 4 * P, (void *)8), EFAULT);
	FAILS(msync(p + 1, P, MS_SYNC), EINVAL);
	FAILS(msync(p, P, MS_SYNC | MS_ASYNC), EINVAL);
	FAILS(msync(p, P, 64), EINVAL);
	CHECK(msync(p, 4 * P, MS_ASYNC) == 0 && msync(p, 4 * P, MS_SYNC) == 0);
	munmap(p + 2 * P, P);
	FAILS(msync(p, 4 * P, MS_ASYNC), ENOMEM);
	FAILS(msync(p, 4 * P, MS_SYNC), ENOMEM);
}

/* Which pages are there, as /proc/self/pagemap tells. */
static void pagemap(void)
{
	uint64_t words[4];
	char *p = anon(4 * P, RW);
	p[P] = 1;
	int fd = open("/proc/self/pagemap", O_RDONLY);
	off_t at = (uintptr_t)p / P * 8;
	CHECK(pread(fd, words, sizeof words, at) == sizeof words);
	CHECK(words[0] >> 63 == 0 && words[1] >> 63 == 1 && words[2] >> 63 == 0 && words[3] >> 63 == 0);
	CHECK((words[1] >> 61 & 1) == 0 && (words[1] >> 56 & 1) == 1);
	FAILS(pread(fd, words, 8, at + 1), EINVAL);
	FAILS(pread(fd, words, 7, at), EINVAL);
	char *s = mmap(NULL, P, RW, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	s[0] = 1;
	CHECK(pread(fd, words, 8, (uintptr_t)s / P * 8) == 8 && words[0] >> 63 == 1 && (words[0] >> 61 & 1) == 1);
	CHECK(munmap(p, 4 * P) == 0 && pread(fd, words, sizeof words, at) == sizeof words && words[1] >> 63 == 0);
	close(fd);
}

static void reaching(void)
{
	char *p = anon(3 * P, RW), buffer[100], other[3000];
	for (size_t i = 0; i < 3 * P; i++)
		p[i] = (char)(i * 7);
	struct iovec local[2] = { { buffer, sizeof buffer }, { other, sizeof other } };
	struct iovec remote[2] = { { p + P - 50, 100 }, { p + P + 3000, 3000 } };
	CHECK(process_vm_readv(getpid(), local, 2, remote, 2, 0) == 3100);
	CHECK(!memcmp(buffer, p + P - 50, 100) && !memcmp(other, p + P + 3000, 3000));
	memset(buffer, 'w', sizeof buffer);
	CHECK(process_vm_writev(getpid(), local, 1, remote, 1, 0) == 100 && p[P - 50] == 'w' && p[P + 49] == 'w' && p[P + 50] != 'w');
	/* The first bad remote page ends it. */
	munmap(p + 2 * P, P);
	struct iovec broken = { p + P, 2 * P };
	struct iovec big = { malloc(2 * P), 2 * P };
	CHECK(process_vm_readv(getpid(), &big, 1, &broken, 1, 0) == (ssize_t)P);
	broken.iov_base = p + 2 * P;
	FAILS(process_vm_readv(getpid(), &big, 1, &broken, 1, 0), EFAULT);
	FAILS(process_vm_readv(getpid(), local, 1, remote, 1, 1), EINVAL);
	FAILS(process_vm_readv(0x3ffff0, local, 1, remote, 1, 0), ESRCH);
	mprotect(p, P, PROT_READ);
	struct iovec fixed = { p, 10 };
	FAILS(process_vm_writev(getpid(), local, 1, &fixed, 1, 0), EFAULT);
	/* A child's memory. */
	int ends[2][2];
	CHECK(pipe(ends[0]) == 0 && pipe(ends[1]) == 0);
	char *word = anon(P, RW);
	strcpy(word, "parent");
	pid_t child = fork();
	char byte;
	if (child == 0) {
		strcpy(word, "child");
		if (write(ends[0][1], "x", 1) != 1 || read(ends[1][0], &byte, 1) != 1)
			_exit(1);
		_exit(strcmp(word, "written") ? 2 : 7);
	}
	struct iovec mine = { buffer, 8 }, theirs = { word, 8 };
	CHECK(read(ends[0][0], &byte, 1) == 1);
	CHECK(process_vm_readv(child, &mine, 1, &theirs, 1, 0) == 8 && !strcmp(buffer, "child"));
	strcpy(buffer, "written");
	CHECK(process_vm_writev(child, &mine, 1, &theirs, 1, 0) == 8 && !strcmp(word, "parent"));
	CHECK(write(ends[1][1], "y", 1) == 1);
	int status;
	CHECK(waitpid(child, &status, 0) == child && WEXITSTATUS(status) == 7);
}

static void advising(void)
{
	char *p = anon(8 * P, RW);
	memset(p, 3, 8 * P);
	struct iovec parts[2] = { { p, 2 * P }, { p + 4 * P, P } };
	int self = syscall(SYS_pidfd_open, getpid(), 0);
	CHECK(self >= 0);
	CHECK(syscall(SYS_process_madvise, self, parts, 2, 20 /* MADV_COLD */, 0) == (long)(3 * P) && p[0] == 3);
	FAILS(syscall(SYS_process_madvise, self, parts, 2, 20, 1), EINVAL);
	FAILS(syscall(SYS_process_madvise, self, parts, 2, 9999, 0), EINVAL);
	FAILS(syscall(SYS_process_madvise, -1, parts, 2, 20, 0), EBADF);
	FAILS(syscall(SYS_process_madvise, self, (void *)8, 2, 20, 0), EFAULT);
	munmap(p + 4 * P, P);
	CHECK(syscall(SYS_process_madvise, self, parts, 2, 20, 0) == (long)(2 * P));
	parts[0] = parts[1];
	FAILS(syscall(SYS_process_madvise, self, parts, 1, 20, 0), ENOMEM);
	close(self);
}

static void counting(void)
{
	/* Cutting the middle out makes two of one; the end cut off makes none more. */
	char limit[32] = "";
	int fd = open("/proc/sys/vm/max_map_count", O_RDONLY);
	CHECK(read(fd, limit, sizeof limit - 1) > 0 && atol(limit) >= 65530);
	close(fd);
	/* Thousands of mappings, of which every other one goes. */
	enum { N = 4000 };
	char *all = anon(2 * N * P, RW);
	int bad = 0;
	for (int i = 0; i < N; i++)
		bad += munmap(all + (2 * i + 1) * P, P) != 0;
	for (int i = 0; i < N; i++)
		all[2 * i * P] = (char)i;
	for (int i = 0; i < N; i++)
		bad += all[2 * i * P] != (char)i;
	CHECK(bad == 0);
	/* The holes are too small for two pages, and right for one. */
	char *two = anon(2 * P, RW), *one = anon(P, RW);
	CHECK(two < all || two >= all + 2 * N * P);
	CHECK(one != MAP_FAILED && one[0] == 0);
	CHECK(munmap(all, 2 * N * P) == 0);
}

int main(void)
{
	locking();
	lock_limit();
	size_limit();
	asking();
	pagemap();
	reaching();
	advising();
	counting();
	return DONE();
}
