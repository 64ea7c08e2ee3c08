/* MAP_HUGETLB. A Linux without reserved pages refuses most of it: then only the errors are compared. */
#include "check.h"
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>

#define P 4096ul
#define L (2ul << 20)
#define G (1ul << 30)
#define RW (PROT_READ | PROT_WRITE)
#define HUGE (MAP_ANONYMOUS | MAP_HUGETLB)
#define SIZE(log) ((unsigned)(log) << 26)

static sigjmp_buf back;
static void on_fault(int signal)
{
	siglongjmp(back, signal);
}
static int faults(volatile char *p, int write)
{
	int signal = sigsetjmp(back, 1);
	if (signal)
		return signal;
	if (write)
		*p = *p;
	else
		(void)*p;
	return 0;
}
static long nonzero(char *p, size_t len)
{
	long count = 0;
	for (size_t i = 0; i < len; i += 8)
		count += *(uint64_t *)(p + i) != 0;
	return count;
}
static long field(const char *path, const char *name)
{
	char line[256];
	long sum = 0;
	FILE *file = fopen(path, "r");
	while (file && fgets(line, sizeof line, file))
		if (!strncmp(line, name, strlen(name)) && line[strlen(name)] == ':')
			sum += atol(line + strlen(name) + 1);
	if (file)
		fclose(file);
	return sum;
}
static int in_oxv(void)
{
	char text[256] = "";
	FILE *file = fopen("/proc/version", "r");
	if (file) {
		text[fread(text, 1, sizeof text - 1, file)] = 0;
		fclose(file);
	}
	return strstr(text, "(oxv)") != NULL;
}
static int exit_code(pid_t child)
{
	int status = -1;
	waitpid(child, &status, 0);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

int main(void)
{
	signal(SIGSEGV, on_fault);
	signal(SIGBUS, on_fault);
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
	return DONE();
}
