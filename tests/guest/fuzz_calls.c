/* System calls at random: all numbers, arguments by kind for those that are known, several processes with several threads.
 *
 * fuzz_calls SEED SECONDS PROCESSES THREADS
 *
 * The workers are killed and started anew every second. Whatever becomes of them, the supervisor must go on, its own calls must work, and once
 * all is cleaned up the machine must have its memory back. It runs in oxv only: on another machine it would do harm. */
#define _GNU_SOURCE
#include "free_kib.h"
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define LAST 470
#define ARENA (1 << 20)
#define ROOM "/tmp/fuzz"

struct random {
	uint64_t state;
};

static uint64_t next(struct random *r)
{
	uint64_t z = r->state += 0x9e3779b97f4a7c15;
	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
	z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
	return z ^ (z >> 31);
}

static uint64_t below(struct random *r, uint64_t limit)
{
	return next(r) % limit;
}

/* A call that needs nothing of the C library, whose data may be gone. */
static long call(long number, const uint64_t *a)
{
	long result;
	register uint64_t r10 __asm__("r10") = a[3], r8 __asm__("r8") = a[4], r9 __asm__("r9") = a[5];
	__asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a[0]), "S"(a[1]), "d"(a[2]), "r"(r10), "r"(r8), "r"(r9) : "rcx", "r11", "memory");
	return result;
}

static char *arena;

/* Kinds of arguments: fd, pointer to anything, path, length, flags, what a thread may have for itself, small number, address of memory, process,
 * signal, any, nothing. */
static const struct grammar {
	int number;
	const char *kinds;
} grammar[] = {
	{SYS_read, "dpl"}, {SYS_write, "dpl"}, {SYS_open, "Pfs"}, {SYS_close, "d"}, {SYS_stat, "Pp"}, {SYS_fstat, "dp"}, {SYS_lstat, "Pp"},
	{SYS_poll, "pss"}, {SYS_lseek, "dls"}, {SYS_mmap, "mlsfdl"}, {SYS_mprotect, "mls"}, {SYS_munmap, "ml"}, {SYS_brk, "m"},
	{SYS_rt_sigaction, "gpps"}, {SYS_rt_sigprocmask, "spps"}, {SYS_ioctl, "dfp"}, {SYS_pread64, "dpll"}, {SYS_pwrite64, "dpll"},
	{SYS_readv, "dps"}, {SYS_writev, "dps"}, {SYS_access, "Ps"}, {SYS_pipe, "p"}, {SYS_select, "spppp"}, {SYS_mremap, "mllsm"},
	{SYS_msync, "mls"}, {SYS_mincore, "mlp"}, {SYS_madvise, "mls"}, {SYS_shmget, "sls"}, {SYS_shmat, "sms"}, {SYS_shmctl, "ssp"},
	{SYS_dup, "d"}, {SYS_dup2, "dd"}, {SYS_nanosleep, "pp"}, {SYS_getitimer, "sp"}, {SYS_setitimer, "spp"}, {SYS_sendfile, "ddpl"},
	{SYS_socket, "sss"}, {SYS_connect, "dps"}, {SYS_accept, "dpp"}, {SYS_sendto, "dplfps"}, {SYS_recvfrom, "dplfpp"},
	{SYS_sendmsg, "dpf"}, {SYS_recvmsg, "dpf"}, {SYS_shutdown, "ds"}, {SYS_bind, "dps"}, {SYS_listen, "ds"}, {SYS_getsockname, "dpp"},
	{SYS_getpeername, "dpp"}, {SYS_socketpair, "sssp"}, {SYS_setsockopt, "dssps"}, {SYS_getsockopt, "dsspp"}, {SYS_fork, ""},
	{SYS_wait4, "ipsp"}, {SYS_uname, "p"}, {SYS_semget, "sss"}, {SYS_semop, "sps"}, {SYS_semctl, "sssp"}, {SYS_msgget, "ss"},
	{SYS_msgsnd, "spls"}, {SYS_msgrcv, "splss"}, {SYS_msgctl, "ssp"}, {SYS_fcntl, "dsl"}, {SYS_flock, "ds"}, {SYS_fsync, "d"},
	{SYS_truncate, "Pl"}, {SYS_ftruncate, "dl"}, {SYS_getdents64, "dpl"}, {SYS_getcwd, "pl"}, {SYS_chdir, "P"}, {SYS_fchdir, "d"},
	{SYS_rename, "PP"}, {SYS_mkdir, "Ps"}, {SYS_rmdir, "P"}, {SYS_creat, "Ps"}, {SYS_link, "PP"}, {SYS_unlink, "P"}, {SYS_symlink, "PP"},
	{SYS_readlink, "Ppl"}, {SYS_chmod, "Ps"}, {SYS_fchmod, "ds"}, {SYS_chown, "Pss"}, {SYS_getrlimit, "sp"}, {SYS_getrusage, "sp"},
	{SYS_sysinfo, "p"}, {SYS_times, "p"}, {SYS_getgroups, "sp"}, {SYS_capget, "pp"}, {SYS_capset, "pp"}, {SYS_rt_sigpending, "ps"},
	{SYS_rt_sigtimedwait, "ppps"}, {SYS_sigaltstack, "pp"}, {SYS_utime, "Pp"}, {SYS_mknod, "Pfs"}, {SYS_statfs, "Pp"}, {SYS_fstatfs, "dp"},
	{SYS_getpriority, "si"}, {SYS_mlock, "ml"}, {SYS_munlock, "ml"}, {SYS_prctl, "spppp"}, {SYS_setxattr, "PPpls"}, {SYS_getxattr, "PPpl"},
	{SYS_listxattr, "Ppl"}, {SYS_fsetxattr, "dPpls"}, {SYS_fgetxattr, "dPpl"}, {SYS_futex, "psappa"}, {SYS_sched_setaffinity, "isp"},
	{SYS_sched_getaffinity, "isp"}, {SYS_epoll_create, "s"}, {SYS_epoll_ctl, "dsdp"}, {SYS_epoll_wait, "dpss"}, {SYS_timer_create, "spp"},
	{SYS_timer_settime, "sspp"}, {SYS_timer_gettime, "sp"}, {SYS_timer_delete, "s"}, {SYS_clock_gettime, "sp"}, {SYS_clock_getres, "sp"},
	{SYS_clock_nanosleep, "sspp"}, {SYS_utimes, "Pp"}, {SYS_mbind, "mlspss"}, {SYS_waitid, "sipsp"}, {SYS_inotify_init, ""},
	{SYS_inotify_add_watch, "dPf"}, {SYS_inotify_rm_watch, "ds"}, {SYS_openat, "dPfs"}, {SYS_mkdirat, "dPs"}, {SYS_newfstatat, "dPpf"},
	{SYS_unlinkat, "dPf"}, {SYS_renameat, "dPdP"}, {SYS_linkat, "dPdPf"}, {SYS_symlinkat, "PdP"}, {SYS_readlinkat, "dPpl"},
	{SYS_faccessat, "dPs"}, {SYS_pselect6, "spppPp"}, {SYS_ppoll, "psppl"}, {SYS_set_robust_list, "ps"}, {SYS_get_robust_list, "ipp"},
	{SYS_splice, "dpdplf"}, {SYS_tee, "ddlf"}, {SYS_vmsplice, "dpsf"}, {SYS_sync_file_range, "dllf"}, {SYS_move_pages, "isppps"},
	{SYS_utimensat, "dPpf"}, {SYS_epoll_pwait, "dpsspl"}, {SYS_signalfd, "dps"}, {SYS_timerfd_create, "sf"}, {SYS_eventfd, "s"},
	{SYS_fallocate, "dsll"}, {SYS_timerfd_settime, "dspp"}, {SYS_timerfd_gettime, "dp"}, {SYS_accept4, "dppf"}, {SYS_signalfd4, "dpsf"},
	{SYS_eventfd2, "sf"}, {SYS_epoll_create1, "f"}, {SYS_dup3, "ddf"}, {SYS_pipe2, "pf"}, {SYS_inotify_init1, "f"}, {SYS_preadv, "dpsll"},
	{SYS_pwritev, "dpsll"}, {SYS_recvmmsg, "dpsfp"}, {SYS_prlimit64, "ispp"}, {SYS_sendmmsg, "dpsf"}, {SYS_getcpu, "ppp"},
	{SYS_process_vm_readv, "ipspsf"}, {SYS_process_vm_writev, "ipspsf"}, {SYS_kcmp, "iisdd"}, {SYS_sched_getattr, "ipss"},
	{SYS_renameat2, "dPdPf"}, {SYS_seccomp, "sfp"}, {SYS_getrandom, "plf"}, {SYS_memfd_create, "Pf"}, {SYS_execveat, "dPppf"},
	{SYS_execve, "Ppp"}, {SYS_membarrier, "sfs"}, {SYS_mlock2, "mlf"}, {SYS_copy_file_range, "dpdplf"}, {SYS_preadv2, "dpsllf"},
	{SYS_pwritev2, "dpsllf"}, {SYS_statx, "dPffp"}, {SYS_rseq, "psfs"}, {SYS_pidfd_open, "if"}, {SYS_clone3, "ps"}, {SYS_close_range, "ddf"},
	{SYS_close_range, "ddu"}, {SYS_unshare, "u"}, {SYS_unshare, "f"}, {SYS_setresuid, "sss"}, {SYS_setfsuid, "s"}, {SYS_umask, "s"},
	{SYS_openat2, "dPps"}, {SYS_pidfd_getfd, "ddf"}, {SYS_faccessat2, "dPsf"}, {SYS_epoll_pwait2, "dpsppl"}, {SYS_vfork, ""},
	{SYS_mq_open, "Pfsp"}, {SYS_mq_unlink, "P"}, {SYS_mq_timedsend, "dplsp"}, {SYS_mq_timedreceive, "dplpp"}, {SYS_memfd_secret, "f"},
	{SYS_name_to_handle_at, "dPppf"}, {SYS_landlock_create_ruleset, "pls"}, {SYS_io_uring_setup, "sp"}, {SYS_bpf, "sps"},
	{SYS_perf_event_open, "psssf"}, {SYS_userfaultfd, "f"}, {SYS_keyctl, "sssss"}, {SYS_add_key, "PPpls"}, {SYS_ptrace, "sipp"},
};

#define KNOWN (sizeof grammar / sizeof *grammar)

static uint64_t pointer(struct random *r)
{
	switch (below(r, 16)) {
	case 0: return 0;
	case 1: return below(r, 65536);
	case 2: return 0xffffffff80200000 + below(r, 1 << 20);
	case 3: return 0xffff800000000000 + below(r, 1 << 24);
	case 4: return 0x8000000000000000 + next(r) / 3;
	case 5: return 0x7ffffffff000 - below(r, 64);
	case 6: return (uint64_t)arena + ARENA - below(r, 64); /* runs into what is not mapped */
	case 7: return (uint64_t)arena + ARENA + below(r, 1 << 16);
	default: return (uint64_t)arena + below(r, ARENA);
	}
}

static uint64_t length(struct random *r)
{
	static const uint64_t some[] = {0, 1, 2, 7, 8, 16, 64, 128, 4095, 4096, 4097, 65536, 1 << 20, 1ull << 31, 1ull << 32, 1ull << 47, ~0ull};
	return below(r, 3) ? below(r, 8192) : some[below(r, sizeof some / sizeof *some)];
}

static uint64_t any(struct random *r)
{
	switch (below(r, 4)) {
	case 0: return below(r, 64);
	case 1: return 1ull << below(r, 64);
	case 2: return next(r);
	default: return -below(r, 200);
	}
}

static uint64_t path(struct random *r)
{
	static const char *const paths[] = {"a", "b", "c/d", "c", "../fuzz/a", ".", "..", "", "/", "/proc/self/maps", "/proc/self/fd/5", "/dev/zero",
		"/dev/null", "/proc/self/status", "/proc/meminfo", "/sys/devices/system/cpu/online", "/proc/self/fd", "/dev/full", "/dev/urandom",
		"user.x", "/none/at/all", "e/f/g", "/dev/shm/s", "/proc/self/comm"};
	return below(r, 10) ? (uint64_t)paths[below(r, sizeof paths / sizeof *paths)] : pointer(r);
}

static uint64_t argument(struct random *r, char kind, long self)
{
	switch (kind) {
	case 'd': return below(r, 12) ? 3 + below(r, 40) : any(r);
	case 'p': return pointer(r);
	case 'P': return path(r);
	case 'l': return length(r);
	case 'f': return below(r, 3) ? next(r) & next(r) & next(r) & 0xffffffff : any(r);
	case 'u': return below(r, 8) ? (const uint64_t[]){CLONE_FILES, CLONE_FS, CLONE_SYSVSEM, CLONE_FILES | CLONE_FS, 2, 6}[below(r, 6)] : any(r);
	case 's': return below(r, 6) ? below(r, 40) : any(r);
	case 'm': return below(r, 6) ? ((uint64_t)arena + below(r, 4 * ARENA)) & ~0xfffull : pointer(r);
	case 'i': return below(r, 3) ? 0 : self;
	case 'g': return below(r, 70);
	default: return any(r);
	}
}

/* Calls that would end the experiment rather than be one. */
static int is_allowed(long number, uint64_t *a, long self)
{
	switch (number) {
	case SYS_kill: case SYS_tkill: case SYS_tgkill: case SYS_rt_sigqueueinfo: case SYS_rt_tgsigqueueinfo: case SYS_pidfd_send_signal:
		a[0] = self; /* others are not ours to kill */
		return number != SYS_pidfd_send_signal;
	case SYS_exit: case SYS_exit_group: case SYS_pause: case SYS_rt_sigsuspend: case SYS_vhangup: case SYS_reboot: case SYS_chroot:
	case SYS_sched_setscheduler: case SYS_sched_setparam: case SYS_sched_setattr: /* a real-time loop would starve the supervisor */
	case SYS_settimeofday: case SYS_clock_settime: case SYS_setpriority: case SYS_rt_sigreturn:
	case SYS_migrate_pages: case SYS_modify_ldt: case SYS_umount2: case SYS_mount:
		return 0;
	case SYS_arch_prctl:
		return a[0] != 0x1001; /* GS */
	case SYS_clone: /* a stack of the kernel's is not protected from the program: see doc/status.md */
		a[0] &= 0xff | 0x7e000000 * (a[0] & 1);
		a[1] = 0;
		return !(a[0] & 0x100);
	case SYS_clone3:
		return 0;
	case SYS_prlimit64:
		a[0] = 0;
		return 1;
	}
	return 1;
}

static void fill(struct random *r)
{
	for (int i = 0; i < 64; i++)
		((uint64_t *)arena)[below(r, ARENA / 8)] = below(r, 2) ? pointer(r) : below(r, 3) ? below(r, 256) : any(r);
}

static __attribute__((noreturn)) int fuzz(void *seed)
{
	struct random r = {(uint64_t)seed};
	uint64_t none[6] = {0};
	long self = call(SYS_getpid, none);
	for (long count = 0;; count++) {
		uint64_t a[6];
		long number;
		if (count % 16 == 0)
			fill(&r);
		for (int i = 0; i < 6; i++)
			a[i] = below(&r, 2) ? pointer(&r) : any(&r);
		if (below(&r, 4) == 0) {
			number = below(&r, 200) ? (long)below(&r, LAST) : (long)any(&r);
		} else {
			const struct grammar *g = &grammar[below(&r, KNOWN)];
			number = g->number;
			for (int i = 0; g->kinds[i]; i++)
				a[i] = argument(&r, g->kinds[i], self);
		}
		if (!is_allowed(number, a, self))
			continue;
		long result = call(number, a);
		if (result == 0 && (number == SYS_fork || number == SYS_vfork || number == SYS_clone)) {
			none[0] = 3;
			call(SYS_exit_group, none);
		}
	}
}

/* Descriptors of every kind from 3 on. */
static void open_things(void)
{
	int ends[2];
	open("a", O_RDWR | O_CREAT, 0600), open("b", O_RDWR | O_CREAT | O_APPEND, 0600), mkdir("c", 0700), open("c", O_RDONLY | O_DIRECTORY);
	open("/dev/zero", O_RDWR), open("/dev/null", O_RDWR), open("/proc/self/maps", O_RDONLY), open("/proc", O_RDONLY | O_DIRECTORY);
	for (int i = 0; i < 3; i++)
		if (pipe2(ends, O_NONBLOCK * (i & 1)) != 0)
			break;
	eventfd(0, EFD_NONBLOCK), eventfd(3, EFD_SEMAPHORE), epoll_create1(0), timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
	memfd_create("m", MFD_ALLOW_SEALING);
	for (int type = 1; type <= 5; type++)
		if (socketpair(AF_UNIX, type | SOCK_NONBLOCK * (type & 1), 0, ends) != 0)
			continue;
	socket(AF_UNIX, SOCK_STREAM, 0);
}

static void on_alarm(int sig)
{
	(void)sig;
}

static void work(uint64_t seed, int threads)
{
	struct random r = {seed};
	for (int fd = 0; fd < 3; fd++)
		dup2(open("/dev/null", O_RDWR), fd);
	close_range(3, ~0u, 0);
	if (chdir(ROOM) != 0)
		_exit(2);
	open_things();
	struct rlimit limit = {1 << 20, 1 << 20};
	setrlimit(RLIMIT_FSIZE, &limit);
	limit = (struct rlimit){64, 64};
	setrlimit(RLIMIT_NPROC, &limit);
	limit = (struct rlimit){192 << 20, 192 << 20};
	setrlimit(RLIMIT_AS, &limit);
	limit = (struct rlimit){128, 128};
	setrlimit(RLIMIT_NOFILE, &limit);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	arena = mmap(NULL, 5 * ARENA, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	mprotect(arena, ARENA, PROT_READ | PROT_WRITE);
	sigaction(SIGALRM, &(struct sigaction){.sa_handler = on_alarm, .sa_flags = SA_NODEFER}, NULL);
	/* What waits is woken. */
	setitimer(ITIMER_REAL, &(struct itimerval){{0, 20000}, {0, 20000}}, NULL);
	if (next(&r) & 1 && setresgid(1000, 1000, 1000) + setresuid(1000, 1000, 1000) != 0)
		_exit(2);
	for (int i = 1; i < threads; i++) {
		char *stack = mmap(NULL, 1 << 16, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		/* Some have everything in common with the first, some have a part of it for themselves. */
		int own = below(&r, 2) ? 0 : next(&r) & (CLONE_FS | CLONE_FILES | CLONE_SYSVSEM);
		clone(fuzz, stack + (1 << 16), (CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM) & ~own, (void *)next(&r));
	}
	fuzz((void *)next(&r));
}

static int remove_one(const char *name, const struct stat *status, int kind, struct FTW *where)
{
	(void)status, (void)kind;
	return where->level ? remove(name) : 0;
}

static void clean_up(void)
{
	nftw(ROOM, remove_one, 16, FTW_DEPTH | FTW_PHYS);
	nftw("/dev/shm", remove_one, 16, FTW_DEPTH | FTW_PHYS);
	struct shmid_ds segment;
	int last = shmctl(0, SHM_INFO, &segment);
	for (int i = 0; i <= last; i++)
		shmctl(shmctl(i, SHM_STAT, &segment), IPC_RMID, NULL);
	struct seminfo semaphores;
	last = semctl(0, 0, SEM_INFO, &semaphores);
	struct semid_ds set;
	for (int i = 0; i <= last; i++)
		semctl(semctl(i, 0, SEM_STAT, &set), 0, IPC_RMID);
	struct msqid_ds queue;
	last = msgctl(0, MSG_INFO, &queue);
	for (int i = 0; i <= last; i++)
		msgctl(msgctl(i, MSG_STAT, &queue), IPC_RMID, NULL);
}

/* What holds the memory, to be printed if some of it is lost. */
static void note_memory(char *text, size_t size)
{
	int fd = open("/proc/meminfo", O_RDONLY);
	ssize_t length = read(fd, text, size - 1);
	text[length > 0 ? length : 0] = 0;
	close(fd);
}

static uint64_t now_ms(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000ull + now.tv_nsec / 1000000;
}

static void a_round(uint64_t seed, int processes, int threads)
{
	pid_t workers[processes];
	for (int i = 0; i < processes; i++) {
		workers[i] = fork();
		if (workers[i] == 0)
			work(seed * 64 + i, threads);
	}
	usleep(900000);
	for (int i = 0; i < processes; i++)
		if (workers[i] > 0)
			kill(workers[i], SIGKILL);
	/* Orphans are ours, too; those that do not end are killed. */
	uint64_t start = now_ms();
	while (waitpid(-1, NULL, WNOHANG) != -1) {
		if (now_ms() - start > 2000)
			kill(-1, SIGKILL);
		usleep(2000);
	}
	clean_up();
}

/* The supervisor's own work still does what it should. */
static int works(void)
{
	int ends[2], status;
	char byte = 0;
	if (pipe(ends) != 0)
		return 0;
	pid_t child = fork();
	if (child == 0) {
		char *memory = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		memset(memory, 7, 1 << 20);
		_exit(write(ends[1], memory, 1) == 1 ? 5 : 1);
	}
	int good = waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 5 && read(ends[0], &byte, 1) == 1 && byte == 7;
	close(ends[0]), close(ends[1]);
	int fd = open(ROOM "/proof", O_RDWR | O_CREAT, 0600);
	good &= fd >= 0 && write(fd, "proof", 5) == 5 && lseek(fd, 0, SEEK_END) == 5 && unlink(ROOM "/proof") == 0;
	close(fd);
	return good;
}

int main(int argc, char **argv)
{
	if (argc != 5 || access("/proc/oxv/calls", F_OK) != 0) {
		fprintf(stderr, "fuzz_calls SEED SECONDS PROCESSES THREADS, in oxv\n");
		return 2;
	}
	uint64_t seed = strtoull(argv[1], NULL, 0), seconds = strtoull(argv[2], NULL, 0), start = now_ms();
	int processes = atoi(argv[3]), threads = atoi(argv[4]);
	/* A thread may take what is free for caches of its own once; not again. */
	const long slack_kib = 6 << 10;
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	umask(0);
	mkdir(ROOM, 0777);
	static char first[4096], last[4096];
	long at_first = -1;
	for (uint64_t i = 0; i < 3 || now_ms() - start < seconds * 1000; i++) {
		a_round(seed + i, processes, threads);
		if (!works()) {
			printf("broken after round %lu\n", i);
			return 1;
		}
		long now = free_kib();
		if (i == 1)
			at_first = now, note_memory(first, sizeof first);
		if (i % 60 < 3)
			printf("round %lu: %ld KiB free\n", i, now), fflush(stdout);
	}
	/* What is freed late is freed by now. */
	sleep(1);
	long lost = at_first - free_kib();
	if (lost > slack_kib)
		note_memory(last, sizeof last), printf("%s\n%s", first, last);
	printf(lost > slack_kib ? "lost %ld KiB\n" : "done, %ld KiB less\n", lost);
	return lost > slack_kib;
}
