/* System V shared memory. */
#include "check.h"
#include <fcntl.h>
#include <signal.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/wait.h>

static unsigned long attached(int id)
{
	struct shmid_ds ds;
	return shmctl(id, IPC_STAT, &ds) == 0 ? ds.shm_nattch : 9999;
}

int main(void)
{
	const size_t P = 4096;
	const key_t key = 0x6f787600 + (getpid() & 0xff);
	struct shmid_ds ds;

	/* Keys. */
	FAILS(shmget(key, P, 0600), ENOENT);
	int id = shmget(key, 3 * P + 5, IPC_CREAT | IPC_EXCL | 0640);
	CHECK(id >= 0);
	CHECK(shmget(key, P, 0600) == id && shmget(key, 0, 0) == id);
	FAILS(shmget(key, P, IPC_CREAT | IPC_EXCL | 0600), EEXIST);
	FAILS(shmget(key, 5 * P, 0600), EINVAL);
	FAILS(shmget(IPC_PRIVATE, 0, 0600), EINVAL);
	int other = shmget(IPC_PRIVATE, P, 0600), third = shmget(IPC_PRIVATE, P, 0600);
	CHECK(other >= 0 && third >= 0 && other != third);

	/* What is known of it. */
	CHECK(shmctl(id, IPC_STAT, &ds) == 0);
	CHECK(ds.shm_segsz == 3 * P + 5 && ds.shm_nattch == 0 && ds.shm_cpid == getpid() && ds.shm_lpid == 0);
	CHECK((ds.shm_perm.mode & 0777) == 0640 && ds.shm_perm.__key == key && ds.shm_atime == 0 && ds.shm_ctime != 0);
	FAILS(shmctl(-1, IPC_STAT, &ds), EINVAL);
	FAILS(shmctl(id, 77, &ds), EINVAL);
	FAILS(shmctl(id, IPC_STAT, (void *)8), EFAULT);

	/* Two attachments see one memory. */
	char *a = shmat(id, NULL, 0), *b = shmat(id, NULL, 0);
	CHECK(a != (void *)-1 && b != (void *)-1 && a != b);
	CHECK(a[0] == 0 && (b[2 * P] = 7) == 7 && a[2 * P] == 7);
	CHECK(attached(id) == 2);
	/* A cut attachment counts as its parts, and goes as a whole. */
	CHECK(mprotect(a + P, P, PROT_READ) == 0 && attached(id) == 4);
	CHECK(shmdt(a) == 0 && attached(id) == 1);
	FAILS(shmdt(a), EINVAL);
	FAILS(shmdt(b + P), EINVAL);
	CHECK(b[2 * P] == 7);

	/* Addresses. */
	char *hole = mmap(NULL, 8 * P, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	munmap(hole, 8 * P);
	CHECK(shmat(id, hole, 0) == hole && shmdt(hole) == 0);
	CHECK(shmat(id, hole + 100, SHM_RND) == hole && shmdt(hole) == 0);
	FAILS(shmat(id, hole + 100, 0), EINVAL);
	CHECK(mmap(hole, P, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == hole);
	FAILS(shmat(id, hole, 0), EINVAL);
	CHECK(shmat(other, hole, SHM_REMAP) == hole && hole[0] == 0);
	CHECK(shmdt(hole) == 0);
	FAILS(shmat(id, NULL, SHM_REMAP), EINVAL);

	/* Read-only attachments. */
	char *r = shmat(id, NULL, SHM_RDONLY);
	CHECK(r != (void *)-1 && r[2 * P] == 7);
	FAILS(mprotect(r, P, PROT_READ | PROT_WRITE), EACCES);
	CHECK(shmdt(r) == 0);

	/* fork attaches, exit detaches, and memory is shared. */
	int pipes[2][2];
	CHECK(pipe(pipes[0]) == 0 && pipe(pipes[1]) == 0);
	pid_t child = fork();
	if (child == 0) {
		char byte;
		b[1] = 'c';
		if (write(pipes[0][1], "x", 1) != 1 || read(pipes[1][0], &byte, 1) != 1)
			_exit(1);
		_exit(b[1] == 'p' ? 5 : 6);
	}
	char byte;
	CHECK(read(pipes[0][0], &byte, 1) == 1 && b[1] == 'c' && attached(id) == 2);
	b[1] = 'p';
	CHECK(write(pipes[1][1], "y", 1) == 1);
	int status;
	CHECK(waitpid(child, &status, 0) == child && WEXITSTATUS(status) == 5);
	CHECK(attached(id) == 1);

	/* Ownership can be changed. */
	ds.shm_perm.mode = 0600;
	CHECK(shmctl(id, IPC_SET, &ds) == 0 && shmctl(id, IPC_STAT, &ds) == 0 && (ds.shm_perm.mode & 0777) == 0600);

	/* Removal: the key is free at once, the memory lives as long as an attachment. */
	CHECK(shmctl(id, IPC_RMID, NULL) == 0);
	FAILS(shmget(key, P, 0600), ENOENT);
	CHECK(shmctl(id, IPC_STAT, &ds) == 0 && (ds.shm_perm.mode & SHM_DEST) && ds.shm_perm.__key == IPC_PRIVATE);
	CHECK(b[2 * P] == 7);
	char *again = shmat(id, NULL, 0);
	CHECK(again != (void *)-1 && again[2 * P] == 7 && shmdt(again) == 0);
	CHECK(munmap(b, 4 * P) == 0);
	FAILS(shmctl(id, IPC_STAT, &ds), EINVAL);
	FAILS(shmat(id, NULL, 0), EINVAL);

	/* Limits and totals. */
	struct shminfo limits;
	struct shm_info totals;
	CHECK(shmctl(0, IPC_INFO, (void *)&limits) >= 0 && limits.shmmin == 1 && limits.shmmni == 4096);
	CHECK(shmctl(0, SHM_INFO, (void *)&totals) >= 0 && totals.used_ids >= 2 && totals.shm_tot >= 2);
	char line[256], found = 0;
	FILE *table = fopen("/proc/sysvipc/shm", "r");
	while (table && fgets(line, sizeof line, table)) {
		int k, i, perms, cpid;
		long size;
		if (sscanf(line, "%d %d %o %ld %d", &k, &i, &perms, &size, &cpid) == 5 && i == other)
			found = perms == 0600 && size == (long)P && cpid == getpid();
	}
	CHECK(found);
	CHECK(shmctl(other, IPC_RMID, NULL) == 0 && shmctl(third, IPC_RMID, NULL) == 0);
	FAILS(shmctl(other, IPC_RMID, NULL), EINVAL);
	return DONE();
}
