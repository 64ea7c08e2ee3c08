/* MAP_HUGETLB. A Linux without reserved pages refuses most of it: then only the errors are compared. */
#include "memory.h"
#include <sys/wait.h>
#include <unistd.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>

#define G (1ul << 30)
#define HUGE (MAP_ANONYMOUS | MAP_HUGETLB)
#define SIZE(log) ((unsigned)(log) << 26)

static int exit_code(pid_t child)
{
	int status = -1;
	waitpid(child, &status, 0);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static int set_pool(const char *pages)
{
	FILE *file = fopen("/proc/sys/vm/nr_hugepages", "w");
	return file && fputs(pages, file) >= 0 && fclose(file) == 0;
}
static int pool_is(long total, long free, long surplus)
{
	return field("/proc/meminfo", "HugePages_Total") == total && field("/proc/meminfo", "HugePages_Free") == free &&
	       field("/proc/meminfo", "HugePages_Surp") == surplus;
}

/* Pages that are set aside beforehand. In oxv only: a host's are not ours to change, and count as right. */
static void pool(int oxv)
{
	char *p, *q;
	CHECK(!oxv || (set_pool("4") && pool_is(4, 4, 0)));
	p = oxv ? mmap(NULL, 3 * L, RW, MAP_PRIVATE | HUGE, -1, 0) : MAP_FAILED;
	CHECK(!oxv || (p != MAP_FAILED && pool_is(4, 4, 0) && field("/proc/meminfo", "HugePages_Rsvd") == 3));
	if (p != MAP_FAILED)
		memset(p, 1, 3 * L);
	CHECK(!oxv || (pool_is(4, 1, 0)));
	q = oxv ? mmap(NULL, 2 * L, RW, MAP_PRIVATE | HUGE, -1, 0) : MAP_FAILED;
	CHECK(!oxv || (q != MAP_FAILED && nonzero(q, 2 * L) == 0 && pool_is(5, 0, 1)));
	CHECK(!oxv || (munmap(p, 3 * L) == 0 && pool_is(4, 2, 0)));
	p = oxv ? mmap(NULL, L, RW, MAP_PRIVATE | HUGE, -1, 0) : MAP_FAILED;
	CHECK(!oxv || (p != MAP_FAILED && nonzero(p, L) == 0 && pool_is(4, 1, 0)));
	CHECK(!oxv || (set_pool("1") && pool_is(3, 0, 2)));
	CHECK(!oxv || (munmap(p, L) == 0 && munmap(q, 2 * L) == 0 && pool_is(1, 1, 0)));
	CHECK(!oxv || (set_pool("0\n") && pool_is(0, 0, 0)));
	CHECK(!oxv || (!set_pool("many")));
}

int main(void)
{
	catch_faults();
	int oxv = in_oxv();

	/* Errors that need no pages. */
	FAILS(mmap(NULL, L, RW, MAP_PRIVATE | HUGE | SIZE(13), -1, 0), EINVAL);
	FAILS(mmap(NULL, 0, RW, MAP_PRIVATE | HUGE, -1, 0), EINVAL);

	/* Two pages and a bit are three. */
	char *p = mmap(NULL, 2 * L + 1, RW, MAP_PRIVATE | HUGE, -1, 0);
	int have = p != MAP_FAILED;
	CHECK(have || !oxv);
	CHECK(!have || (uintptr_t)p % L == 0);
	CHECK(!oxv || (field("/proc/meminfo", "HugePages_Total") == 3 && field("/proc/meminfo", "HugePages_Rsvd") == 3));
	CHECK(!have || nonzero(p, 3 * L) == 0);
	if (have)
		memset(p, 5, 3 * L);
	CHECK(!oxv || (field("/proc/meminfo", "HugePages_Total") == 3 && field("/proc/meminfo", "HugePages_Free") == 0));

	/* It cannot be cut. */
	CHECK(!have || (munmap(p + P, L) == -1 && errno == EINVAL));
	CHECK(!have || (mprotect(p, P, PROT_READ) == -1 && errno == EINVAL));
	CHECK(!have || (mprotect(p + L, L, PROT_READ) == 0 && faults(p + L, 1) == SIGSEGV && faults(p + 2 * L, 1) == 0));
	CHECK(!have || (mprotect(p + L, L, RW) == 0 && faults(p + L, 1) == 0 && p[2 * L - 1] == 5));
	CHECK(!have || (munmap(p, L) == 0 && faults(p, 0) == SIGSEGV && p[L] == 5));
	CHECK(!have || (mmap(p + P, L, RW, MAP_PRIVATE | HUGE | MAP_FIXED, -1, 0) == MAP_FAILED && errno == EINVAL));

	/* A private page is copied whole by fork, a shared one is shared, touched before or not. */
	char *shared = have ? mmap(NULL, 2 * L, RW, MAP_SHARED | HUGE, -1, 0) : NULL;
	CHECK(!have || shared != MAP_FAILED);
	int forked = 1, woken = 1;
	if (have) {
		shared[0] = 1;
		pid_t child = fork();
		if (child == 0) {
			int good = p[L + P] == 5 && shared[0] == 1;
			p[L + P] = 9;
			shared[P] = 2;
			shared[L + 17] = 3;
			_exit(good && p[L + P] == 9 && p[2 * L - 1] == 5 ? 0 : 1);
		}
		forked = exit_code(child) == 0 && p[L + P] == 5 && shared[P] == 2 && shared[L + 17] == 3;
		forked = forked && faults(p + L, 1) == 0 && p[2 * L - 1] == 5;
	}
	CHECK(forked);
	/* A futex in a page that two processes share. */
	if (have) {
		uint32_t *word = (uint32_t *)(shared + L + 64);
		*word = 0;
		pid_t child = fork();
		if (child == 0) {
			struct timespec limit = { 20, 0 };
			while (__atomic_load_n(word, __ATOMIC_ACQUIRE) == 0)
				if (syscall(SYS_futex, word, FUTEX_WAIT, 0, &limit, NULL, 0) == -1 && errno == ETIMEDOUT)
					_exit(1);
			_exit(0);
		}
		sleep_ms(20);
		__atomic_store_n(word, 1, __ATOMIC_RELEASE);
		syscall(SYS_futex, word, FUTEX_WAKE, 1, NULL, NULL, 0);
		woken = exit_code(child) == 0;
		munmap(shared, 2 * L);
		munmap(p + L, 2 * L);
	}
	CHECK(woken);
	CHECK(!oxv || field("/proc/meminfo", "HugePages_Total") == 0);

	/* Without reservation; more than there is. */
	p = mmap(NULL, 2 * L, RW, MAP_PRIVATE | HUGE | MAP_NORESERVE, -1, 0);
	CHECK(p == MAP_FAILED || !oxv || (p[L] = 7) == 7);
	CHECK(p == MAP_FAILED || !oxv || madvise(p + L, L, MADV_DONTNEED) == 0);
	CHECK(p == MAP_FAILED || !oxv || (p[L] == 0 && munmap(p, 2 * L) == 0));
	FAILS(mmap(NULL, 1ul << 44, RW, MAP_PRIVATE | HUGE, -1, 0), ENOMEM);

	/* 1 GiB pages where the machine has that much. */
	p = mmap(NULL, G, RW, MAP_PRIVATE | HUGE | SIZE(30), -1, 0);
	if (p != MAP_FAILED && oxv) {
		p[G - 1] = 3;
		if (!((uintptr_t)p % G == 0 && p[0] == 0 && p[G / 2] == 0))
			failures++;
		if (!(munmap(p, L) == -1 && errno == EINVAL && munmap(p, G) == 0))
			failures++;
	}
	pool(oxv);
	return DONE();
}
