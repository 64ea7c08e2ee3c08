/* Files and System V segments of large pages. A Linux without reserved pages refuses most of it: then only the errors are compared. */
#include "memory.h"
#include <fcntl.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/shm.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef MFD_HUGETLB
#define MFD_HUGETLB 4u
#endif
#ifndef SHM_HUGETLB
#define SHM_HUGETLB 04000
#endif
#define SIZE(log) ((unsigned)(log) << 26)

/* What the host is not asked is silent when it is right. */
static int well = 1;
#define WELL(cond) ((void)((cond) || (well = 0, fprintf(stderr, "line %d: " #cond ", errno %d\n", __LINE__, errno))))

static long total(void)
{
	return field("/proc/meminfo", "HugePages_Total");
}

static int all(const char *at, size_t len, char byte)
{
	for (size_t i = 0; i < len; i += 509)
		if (at[i] != byte)
			return 0;
	return 1;
}

static int child_ends_well(pid_t child)
{
	int status = -1;
	return waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

/* What needs no pages. */
static int file_without_pages(void)
{
	struct stat st;
	char byte = 1;
	FAILS(memfd_create("odd", MFD_HUGETLB | SIZE(13)), ENODEV);
	FAILS(memfd_create("small", SIZE(21)), EINVAL);
	int fd = memfd_create("huge", MFD_HUGETLB | MFD_ALLOW_SEALING | SIZE(21));
	CHECK(fd >= 0);
	CHECK(ftruncate(fd, 4 * L) == 0);
	FAILS(ftruncate(fd, L + P), EINVAL);
	FAILS(write(fd, &byte, 1), EINVAL);
	CHECK(fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_size == 4 * (off_t)L && st.st_blksize == (blksize_t)L && st.st_blocks == 0);
	CHECK(pread(fd, &byte, 1, 3 * L) == 1 && byte == 0);
	CHECK(pread(fd, &byte, 1, 4 * L) == 0);
	FAILS(mmap(NULL, L, RW, MAP_SHARED, fd, P), EINVAL);
	FAILS(fallocate(fd, FALLOC_FL_COLLAPSE_RANGE, 0, L), EOPNOTSUPP);
	return fd;
}

static void file_with_pages(int fd)
{
	char *a = mmap(NULL, 2 * L, RW, MAP_SHARED, fd, 0), *b = mmap(NULL, 2 * L, RW, MAP_SHARED | MAP_HUGETLB, fd, L);
	WELL(a != MAP_FAILED && b != MAP_FAILED && (uintptr_t)a % L == 0 && (uintptr_t)b % L == 0);
	WELL(total() == 3);
	WELL(nonzero(a, 2 * L) == 0);
	memset(a, 1, L);
	memset(b, 2, L);
	WELL(all(a, L, 1) && all(a + L, L, 2));
	char byte = 0;
	WELL(pread(fd, &byte, 1, L - 1) == 1 && byte == 1 && pread(fd, &byte, 1, L) == 1 && byte == 2);

	/* A private mapping copies, and what it has copied stays its own. */
	char *own = mmap(NULL, 2 * L, RW, MAP_PRIVATE, fd, 0);
	WELL(own != MAP_FAILED && all(own, L, 1));
	own[P] = 9;
	WELL(own[P] == 9 && own[0] == 1 && a[P] == 1 && total() == 4);
	a[0] = 3;
	WELL(own[0] == 1 && own[L] == 2);
	b[1] = 4;
	WELL(own[L + 1] == 4);

	/* Children share, or copy. */
	pid_t child = fork();
	if (child == 0) {
		int good = a[0] == 3 && own[P] == 9;
		a[5] = 5;
		own[5] = 6;
		_exit(good && own[5] == 6 && b[1] == 4 ? 0 : 1);
	}
	WELL(child_ends_well(child) && a[5] == 5 && own[5] == 1);

	/* A hole; its borders within pages become zeros. */
	WELL(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, P, 2 * L - P) == 0);
	WELL(a[0] == 3 && nonzero(a + P, 2 * L - P) == 0 && b[1] == 0 && own[P] == 9);
	WELL(own[L + 1] == 0);
	b[1] = 7;
	WELL(a[L + 1] == 7 && own[L + 1] == 7);

	/* The end: what lies behind is gone for all. */
	WELL(fcntl(fd, F_ADD_SEALS, F_SEAL_GROW) == 0);
	WELL(ftruncate(fd, 8 * L) == -1 && errno == EPERM);
	WELL(ftruncate(fd, L) == 0);
	WELL(a[0] == 3 && faults(a + L, 0) == SIGBUS && faults(b, 1) == SIGBUS && faults(own + L, 0) == SIGBUS && own[P] == 9);
	WELL(munmap(own, 2 * L) == 0 && munmap(b, 2 * L) == 0);
	WELL(total() == 1);
	WELL(munmap(a, P) == -1 && errno == EINVAL);
	WELL(munmap(a, 2 * L) == 0 && total() == 1);
	WELL(close(fd) == 0 && total() == 0);
}

static void segment(void)
{
	int id = shmget(IPC_PRIVATE, 3 * L - 5, IPC_CREAT | 0600 | SHM_HUGETLB);
	WELL(id >= 0 && total() == 3 && field("/proc/meminfo", "HugePages_Rsvd") == 3);
	char *p = shmat(id, NULL, 0), *q = shmat(id, NULL, SHM_RDONLY);
	WELL(p != (void *)-1 && q != (void *)-1 && (uintptr_t)p % L == 0);
	WELL(nonzero(p, 3 * L) == 0);
	struct shmid_ds ds;
	WELL(shmctl(id, IPC_STAT, &ds) == 0 && ds.shm_segsz == 3 * L - 5 && ds.shm_nattch == 2);
	p[2 * L] = 7;
	WELL(q[2 * L] == 7 && faults(q, 1) == SIGSEGV);
	pid_t child = fork();
	if (child == 0) {
		p[1] = 8;
		_exit(q[2 * L] == 7 ? 0 : 1);
	}
	WELL(child_ends_well(child) && q[1] == 8);
	WELL(shmctl(id, IPC_RMID, NULL) == 0);
	WELL(shmdt(p) == 0 && q[1] == 8 && total() == 3);
	WELL(shmdt(q) == 0 && total() == 0);
	WELL(shmget(IPC_PRIVATE, 1ul << 44, IPC_CREAT | 0600 | SHM_HUGETLB) == -1 && errno == ENOMEM);
	/* Rounded up to whole pages that is more than there are addresses. */
	WELL(shmget(IPC_PRIVATE, -(2ul << 24), IPC_CREAT | 0600 | SHM_HUGETLB | SIZE(30)) == -1 && (errno == ENOMEM || errno == EINVAL));
}

int main(void)
{
	catch_faults();
	int fd = file_without_pages();
	FAILS(shmget(IPC_PRIVATE, L, IPC_CREAT | 0600 | SHM_HUGETLB | SIZE(13)), EINVAL);
	if (in_oxv()) {
		file_with_pages(fd);
		segment();
	}
	CHECK(well);
	return DONE();
}
