/* Pointers that are not the program's: every call answers EFAULT and the kernel goes on. */
#include "check.h"
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>

/* All through syscall(2): the C library would touch some of these itself. */
#define TRY(nr, ...) FAILS(syscall(nr, __VA_ARGS__), EFAULT)

int main(void)
{
	static const struct { const char *name; uintptr_t address; } bad[] = {
		{ "low", 0x1000 }, { "unmapped", 0x600000000000 }, { "non-canonical", 0xdead000000000000 },
		{ "kernel image", 0xffffffff80200000 }, { "direct map", 0xffff800000100000 }, { "top", 0xfffffffffffffff0 },
		{ "end of the low half", 0x00007ffffffff000 }, { "just past it", 0x0000800000000000 },
	};
	int pipes[2], ep = epoll_create1(0), file = open("/tmp/efault", O_RDWR | O_CREAT | O_TRUNC, 0600);
	char path[] = "/tmp", byte[64] = "x";
	(void)!pipe(pipes);
	(void)!write(file, "0123456789", 10);
	for (unsigned i = 0; i < sizeof bad / sizeof *bad; i++) {
		void *p = (void *)bad[i].address;
		printf("-- %s\n", bad[i].name);
		TRY(SYS_write, file, p, 10);
		TRY(SYS_write, pipes[1], p, 10);
		(void)!write(pipes[1], "abc", 3);
		TRY(SYS_read, pipes[0], p, 3);
		(void)!read(pipes[0], byte, 3);
		TRY(SYS_pread64, file, p, 5, 0);
		TRY(SYS_open, p, O_RDONLY);
		TRY(SYS_openat, AT_FDCWD, p, O_RDONLY, 0);
		TRY(SYS_stat, p, byte);
		TRY(SYS_stat, path, p);
		TRY(SYS_fstat, file, p);
		TRY(SYS_newfstatat, AT_FDCWD, path, p, 0);
		TRY(SYS_readlink, "/proc/self/exe", p, 10);
		TRY(SYS_getcwd, p, 100);
		TRY(SYS_chdir, p);
		TRY(SYS_mkdir, p, 0700);
		TRY(SYS_rename, path, p);
		TRY(SYS_unlink, p);
		TRY(SYS_access, p, 0);
		TRY(SYS_pipe2, p, 0);
		TRY(SYS_readv, file, p, 2);
		TRY(SYS_writev, file, p, 2);
		struct iovec iov = { p, 4 };
		TRY(SYS_writev, file, &iov, 1);
		TRY(SYS_poll, p, 1, 0);
		TRY(SYS_select, 10, p, NULL, NULL, NULL);
		struct epoll_event e = { .events = EPOLLIN };
		syscall(SYS_epoll_ctl, ep, EPOLL_CTL_ADD, pipes[1], &e);
		e.events = EPOLLOUT;
		syscall(SYS_epoll_ctl, ep, EPOLL_CTL_MOD, pipes[1], &e);
		TRY(SYS_epoll_ctl, ep, EPOLL_CTL_MOD, pipes[1], p);
		TRY(SYS_epoll_wait, ep, p, 1, 0);
		TRY(SYS_clock_gettime, CLOCK_MONOTONIC, p);
		TRY(SYS_nanosleep, p, NULL);
		TRY(SYS_gettimeofday, p, NULL);
		TRY(SYS_rt_sigaction, SIGUSR1, p, NULL, 8);
		TRY(SYS_rt_sigaction, SIGUSR1, NULL, p, 8);
		TRY(SYS_rt_sigprocmask, SIG_BLOCK, p, NULL, 8);
		TRY(SYS_rt_sigpending, p, 8);
		TRY(SYS_sigaltstack, p, NULL);
		TRY(SYS_getrlimit, RLIMIT_STACK, p);
		TRY(SYS_prlimit64, 0, RLIMIT_STACK, p, NULL);
		TRY(SYS_getrusage, RUSAGE_SELF, p);
		TRY(SYS_uname, p);
		TRY(SYS_sysinfo, p);
		TRY(SYS_getrandom, p, 16, 0);
		TRY(SYS_getdents64, open("/tmp", O_RDONLY), p, 1000);
		TRY(SYS_futex, p, 0 /* FUTEX_WAIT */, 0, NULL, NULL, 0);
		TRY(SYS_sched_getaffinity, 0, 128, p);
		TRY(SYS_ioctl, pipes[0], 0x541b /* FIONREAD */, p);
		TRY(SYS_mincore, path - ((uintptr_t)path & 4095), 4096, p);
		close(lseek(file, 0, SEEK_CUR) >= 0 ? 99 : 98);
	}
	/* Half good, half bad: as much as fits is done. */
	char *edge = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	munmap(edge + 4096, 4096);
	memset(edge, 'e', 4096);
	lseek(file, 0, SEEK_SET);
	CHECK(write(pipes[1], edge + 4000, 96) == 96 && read(pipes[0], byte, 10) == 10 && byte[0] == 'e');
	CHECK(syscall(SYS_write, file, edge + 4090, 100) == 6 || errno == EFAULT);
	CHECK(syscall(SYS_pread64, file, edge + 4094, 10, 0) == 2 || errno == EFAULT);
	strcpy(edge + 4096 - 5, "/tmp");
	CHECK(access(edge + 4096 - 5, F_OK) == 0);
	/* A read-only page as a destination. */
	mprotect(edge, 4096, PROT_READ);
	TRY(SYS_pread64, file, edge, 5, 0);
	TRY(SYS_clock_gettime, CLOCK_MONOTONIC, edge);
	TRY(SYS_uname, edge);
	mprotect(edge, 4096, PROT_NONE);
	TRY(SYS_write, file, edge, 5);
	unlink("/tmp/efault");
	return DONE();
}
