/* madvise beyond the usual: pages given up, holes, guards. Guards are new in Linux 6.13: one that lacks them counts as right. */
#include "memory.h"
#include <fcntl.h>
#include <pthread.h>
#include <sys/wait.h>
#ifndef MADV_COLD
#define MADV_COLD 20
#define MADV_PAGEOUT 21
#endif
#define GUARD_INSTALL 102
#define GUARD_REMOVE 103

static void giving_up(void)
{
	char *p = anon(16 * P, RW);
	memset(p, 7, 16 * P);
	CHECK(madvise(p, 16 * P, MADV_FREE) == 0);
	/* Either the old contents or zeros, as long as nobody writes. */
	int odd = 0;
	for (int i = 0; i < 16; i++)
		odd += p[i * P] != 7 && p[i * P] != 0;
	CHECK(odd == 0);
	p[3 * P] = 9;
	CHECK(p[3 * P] == 9);
	CHECK(mprotect(p, 16 * P, PROT_READ) == 0 && p[3 * P] == 9 && mprotect(p, 16 * P, RW) == 0 && p[3 * P] == 9);
	/* A child and its parent each see what they wrote. */
	memset(p, 5, 16 * P);
	CHECK(madvise(p, 8 * P, MADV_FREE) == 0);
	memset(p, 6, 8 * P);
	pid_t child = fork();
	if (child == 0)
		_exit(p[0] == 6 && p[9 * P] == 5 && madvise(p, 16 * P, MADV_FREE) == 0 ? 0 : 1);
	int status;
	CHECK(waitpid(child, &status, 0) == child && status == 0);
	CHECK(p[0] == 6 && p[7 * P] == 6 && p[15 * P] == 5);
	/* Private anonymous memory only. */
	char *s = mmap(NULL, P, RW, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	FAILS(madvise(s, P, MADV_FREE), EINVAL);
	int fd = open("/proc/self/exe", O_RDONLY);
	char *f = mmap(NULL, P, PROT_READ, MAP_PRIVATE, fd, 0);
	FAILS(madvise(f, P, MADV_FREE), EINVAL);
	munmap(p + 8 * P, P);
	FAILS(madvise(p, 16 * P, MADV_FREE), ENOMEM);
	CHECK(p[0] == 6 || p[0] == 0);
}

static void paging_out(void)
{
	char *p = anon(4 * P, RW);
	memset(p, 3, 4 * P);
	CHECK(madvise(p, 4 * P, MADV_COLD) == 0 && madvise(p, 4 * P, MADV_PAGEOUT) == 0 && p[0] == 3 && p[3 * P] == 3);
	CHECK(mlock(p, P) == 0);
	FAILS(madvise(p, 4 * P, MADV_COLD), EINVAL);
	FAILS(madvise(p, 4 * P, MADV_PAGEOUT), EINVAL);
	munlock(p, P);
	munmap(p + P, P);
	FAILS(madvise(p, 4 * P, MADV_COLD), ENOMEM);
	FAILS(madvise(p + 1, P, MADV_COLD), EINVAL);
}

static void holes(void)
{
	char *s = mmap(NULL, 8 * P, RW, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	memset(s, 1, 8 * P);
	pid_t child = fork();
	if (child == 0)
		_exit(madvise(s + 2 * P, 3 * P, MADV_REMOVE) == 0 && s[2 * P] == 0 && s[5 * P] == 1 ? 0 : 1);
	int status;
	CHECK(waitpid(child, &status, 0) == child && status == 0);
	CHECK(s[P] == 1 && s[2 * P] == 0 && s[4 * P] == 0 && s[5 * P] == 1);
	s[3 * P] = 2;
	CHECK(s[3 * P] == 2 && s[2 * P] == 0);
	int fd = memfd_create("holes", 0);
	CHECK(ftruncate(fd, 8 * P) == 0);
	char *f = mmap(NULL, 8 * P, RW, MAP_SHARED, fd, 0), *read_only = mmap(NULL, 8 * P, PROT_READ, MAP_PRIVATE, fd, 0);
	memset(f, 4, 8 * P);
	char byte = 1;
	CHECK(madvise(f + P, P, MADV_REMOVE) == 0 && pread(fd, &byte, 1, P) == 1 && byte == 0 && f[P] == 0 && f[0] == 4 && read_only[2 * P] == 4);
	FAILS(madvise(read_only, P, MADV_REMOVE), EACCES);
	char *p = anon(P, RW);
	FAILS(madvise(p, P, MADV_REMOVE), EINVAL);
	CHECK(mlock(s, P) == 0);
	FAILS(madvise(s, P, MADV_REMOVE), EINVAL);
}

static void guards(void)
{
	char *p = anon(8 * P, RW);
	memset(p, 1, 8 * P);
	int have = madvise(p + 2 * P, P, GUARD_INSTALL) == 0;
	CHECK(have || !in_oxv());
	CHECK(!have || (faults(p + 2 * P, 0) == SIGSEGV && faults(p + 2 * P, 1) == SIGSEGV));
	CHECK(faults(p + P, 1) == 0 && faults(p + 3 * P, 1) == 0 && p[3 * P] == 1);
	/* Twice is once; a page that was never there; several at once. */
	CHECK(!have || (madvise(p + 2 * P, P, GUARD_INSTALL) == 0 && faults(p + 2 * P, 0) == SIGSEGV));
	char *q = anon(8 * P, RW);
	CHECK(!have || (madvise(q + P, 3 * P, GUARD_INSTALL) == 0 && faults(q + P, 1) == SIGSEGV && faults(q + 3 * P, 0) == SIGSEGV && faults(q + 4 * P, 1) == 0));
	/* Rights, dropped pages and writes of the kernel do not matter to them. */
	CHECK(!have || (mprotect(p, 8 * P, PROT_READ) == 0 && mprotect(p, 8 * P, RW) == 0 && faults(p + 2 * P, 0) == SIGSEGV));
	CHECK(madvise(p, 8 * P, MADV_DONTNEED) == 0 && p[P] == 0 && (!have || faults(p + 2 * P, 0) == SIGSEGV));
	CHECK(!have || (madvise(p, 8 * P, MADV_FREE) == 0 && faults(p + 2 * P, 1) == SIGSEGV));
	int fd = open("/dev/zero", O_RDONLY);
	CHECK(!have || (read(fd, p + 2 * P, 1) == -1 && errno == EFAULT));
	CHECK(!have || (madvise(p, 8 * P, 23 /* MADV_POPULATE_WRITE */) == -1 && errno == EFAULT));
	/* A child has them, too; a moved mapping takes them along. */
	pid_t child = fork();
	if (child == 0)
		_exit(!have || (faults(p + 2 * P, 0) == SIGSEGV && faults(p + P, 1) == 0) ? 0 : 1);
	int status;
	CHECK(waitpid(child, &status, 0) == child && status == 0);
	char *to = mremap(p, 8 * P, 8 * P, MREMAP_MAYMOVE | MREMAP_FIXED, anon(8 * P, PROT_NONE));
	CHECK(to != MAP_FAILED && (!have || faults(to + 2 * P, 0) == SIGSEGV) && faults(to + 3 * P, 1) == 0);
	/* Removed, the page is new. */
	CHECK(!have || (madvise(to, 8 * P, GUARD_REMOVE) == 0 && faults(to + 2 * P, 1) == 0 && to[2 * P] == 0));
	CHECK(!have || (madvise(q, 8 * P, GUARD_INSTALL) == 0 && munmap(q + 2 * P, P) == 0 && mmap(q + 2 * P, P, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == q + 2 * P));
	CHECK(!have || (faults(q + 2 * P, 1) == 0 && faults(q + 3 * P, 0) == SIGSEGV));
	CHECK(!have || (mlock(to, P) == 0 && madvise(to, 8 * P, GUARD_INSTALL) == -1 && errno == EINVAL));
	/* In the middle of a large page. */
	char *large = anon(2 * L, RW), *start = (char *)(((uintptr_t)large + L - 1) & -L);
	madvise(start, L, MADV_HUGEPAGE);
	memset(start, 5, L);
	CHECK(!have || (madvise(start + 7 * P, 2 * P, GUARD_INSTALL) == 0 && faults(start + 7 * P, 0) == SIGSEGV && faults(start + 8 * P, 1) == SIGSEGV));
	CHECK(start[6 * P] == 5 && start[9 * P] == 5 && start[L - 1] == 5);
}

int main(void)
{
	catch_faults();
	giving_up();
	paging_out();
	holes();
	guards();
	return DONE();
}
