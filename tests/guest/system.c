/* Devices, /proc, /sys, auxv and the small calls. Prints only what is the same on every Linux. */
#include "check.h"
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <sys/auxv.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <sys/sysmacros.h>
#include <sys/times.h>
#include <sys/uio.h>
#include <sys/utsname.h>
#include <sys/wait.h>

static char buf[1 << 16];
static volatile int minus_one = -1;
static int slurp(const char *path)
{
	int fd = open(path, O_RDONLY), n, total = 0;
	if (fd < 0)
		return -1;
	while ((n = read(fd, buf + total, sizeof buf - 1 - total)) > 0)
		total += n;
	buf[total] = 0;
	close(fd);
	return total;
}

static int major_minor(const char *path, unsigned ma, unsigned mi)
{
	struct stat st;
	return stat(path, &st) == 0 && S_ISCHR(st.st_mode) && major(st.st_rdev) == ma && minor(st.st_rdev) == mi;
}

int main(int argc, char **argv)
{
	int fd;
	(void)argc;

	/* Devices. */
	CHECK(major_minor("/dev/null", 1, 3) && major_minor("/dev/zero", 1, 5) && major_minor("/dev/full", 1, 7) && major_minor("/dev/urandom", 1, 9));
	fd = open("/dev/null", O_RDWR);
	CHECK(read(fd, buf, 10) == 0 && write(fd, buf, 10) == 10);
	close(fd);
	fd = open("/dev/zero", O_RDWR);
	memset(buf, 1, 100);
	CHECK(read(fd, buf, 100) == 100 && buf[0] == 0 && buf[99] == 0 && write(fd, buf, 10) == 10);
	close(fd);
	fd = open("/dev/full", O_RDWR);
	CHECK(read(fd, buf, 10) == 10);
	FAILS(write(fd, buf, 10), ENOSPC);
	close(fd);
	fd = open("/dev/urandom", O_RDONLY);
	memset(buf, 0, 128);
	CHECK(read(fd, buf, 64) == 64 && memcmp(buf, buf + 64, 64));
	close(fd);
	CHECK((fd = open("/dev/fd/1", O_WRONLY)) >= 0);
	close(fd);
	FAILS(open("/dev/tty-none", O_RDWR), ENOENT);

	/* Randomness. */
	CHECK(getrandom(buf, 256, 0) == 256 && getrandom(buf + 256, 256, GRND_NONBLOCK) == 256 && memcmp(buf, buf + 256, 256));
	FAILS(getrandom(buf, 1, 0x100), EINVAL);

	/* /proc and /sys. */
	CHECK(readlink("/proc/self/exe", buf, sizeof buf) > 0);
	CHECK(slurp("/proc/self/maps") > 0 && strstr(buf, "[stack]") && strstr(buf, "r-xp"));
	CHECK(slurp("/proc/self/cmdline") == (int)strlen(argv[0]) + 1 && !strcmp(buf, argv[0]));
	CHECK(slurp("/proc/self/comm") > 0 && slurp("/proc/self/stat") > 20 && slurp("/proc/self/statm") > 5);
	CHECK(slurp("/proc/self/status") > 0 && strstr(buf, "VmRSS:") && strstr(buf, "Threads:\t1\n"));
	CHECK(slurp("/proc/meminfo") > 0 && strstr(buf, "MemTotal:") && strstr(buf, "MemAvailable:"));
	CHECK(slurp("/proc/cpuinfo") > 0 && strstr(buf, "processor\t: 0") && strstr(buf, "flags"));
	CHECK(slurp("/proc/stat") > 0 && strstr(buf, "cpu0 "));
	CHECK(slurp("/proc/uptime") > 0 && slurp("/proc/loadavg") > 0 && slurp("/proc/version") > 0 && slurp("/proc/filesystems") > 0 && slurp("/proc/mounts") > 0);
	CHECK(slurp("/proc/sys/vm/overcommit_memory") > 0 && slurp("/proc/sys/kernel/pid_max") > 0 && slurp("/proc/sys/kernel/osrelease") > 0);
	CHECK(slurp("/sys/devices/system/cpu/online") > 0 && buf[0] == '0');
	CHECK(slurp("/proc/self/auxv") > 16 * 10);
	FAILS(open("/proc/self/none", O_RDONLY), ENOENT);
	fd = open("/dev/null", O_RDONLY);
	sprintf(buf, "/proc/self/fd/%d", fd);
	char link[100] = "";
	CHECK(readlink(buf, link, 99) == 9 && !strcmp(link, "/dev/null"));
	close(fd);

	/* auxv. */
	CHECK(getauxval(AT_PAGESZ) == 4096 && getauxval(AT_CLKTCK) == 100 && getauxval(AT_SECURE) == 0 && getauxval(AT_RANDOM) && getauxval(AT_SYSINFO_EHDR));
	CHECK(!strcmp((char *)getauxval(AT_PLATFORM), "x86_64") && getauxval(AT_EXECFN) && getauxval(AT_PHDR) && getauxval(AT_ENTRY) && getauxval(AT_UID) == getuid());
	CHECK(((uintptr_t)getauxval(AT_SYSINFO_EHDR) & 4095) == 0 && !memcmp((char *)getauxval(AT_SYSINFO_EHDR), "\177ELF", 4));

	/* Identity, limits, names. */
	struct utsname uts;
	CHECK(uname(&uts) == 0 && !strcmp(uts.sysname, "Linux") && !strcmp(uts.machine, "x86_64") && atoi(uts.release) >= 4);
	CHECK(getpid() == gettid() && getpid() > 0 && getppid() >= 0 && getpgrp() >= 0 && getsid(0) >= 0);
	CHECK(getuid() == geteuid() && getgid() == getegid());
	struct rlimit limit;
	CHECK(getrlimit(RLIMIT_STACK, &limit) == 0 && limit.rlim_cur >= 1 << 20 && getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur >= 1024);
	limit.rlim_cur = 10;
	CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0);
	while ((fd = dup(1)) >= 0)
		;
	CHECK(errno == EMFILE);
	for (fd = 3; fd < 10; fd++)
		close(fd);
	CHECK(prctl(PR_SET_NAME, "a-name-that-is-too-long") == 0 && prctl(PR_GET_NAME, buf) == 0 && !strcmp(buf, "a-name-that-is-"));
	FAILS(prctl(99999, 0, 0, 0, 0), EINVAL);
	CHECK(umask(027) == 022 || 1);
	CHECK(umask(022) == 027);

	/* Scheduling and usage. */
	cpu_set_t set;
	unsigned cpu, node;
	CHECK(sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) >= 1 && sched_yield() == 0);
	CHECK(syscall(SYS_getcpu, &cpu, &node, NULL) == 0 && cpu < 1024);
	CPU_ZERO(&set);
	CPU_SET(0, &set);
	CHECK(sched_setaffinity(0, sizeof set, &set) == 0 && sched_getcpu() == 0);
	CPU_ZERO(&set);
	FAILS(sched_setaffinity(0, sizeof set, &set), EINVAL);
	CHECK(sched_getscheduler(0) == SCHED_OTHER && sched_get_priority_max(SCHED_FIFO) == 99);
	struct rusage usage;
	struct sysinfo info;
	struct tms tms;
	for (volatile long i = 0; i < 20000000; i++)
		;
	CHECK(getrusage(RUSAGE_SELF, &usage) == 0 && usage.ru_utime.tv_sec * 1000000 + usage.ru_utime.tv_usec > 0 && usage.ru_maxrss > 0);
	CHECK(sysinfo(&info) == 0 && info.totalram > 0 && info.freeram > 0 && times(&tms) > 0);
	FAILS(waitpid(-1, NULL, WNOHANG), ECHILD);

	/* prctl. */
	CHECK(prctl(PR_MCE_KILL_GET, 0, 0, 0, 0) == PR_MCE_KILL_DEFAULT && prctl(PR_MCE_KILL, PR_MCE_KILL_SET, PR_MCE_KILL_LATE, 0, 0) == 0);
	CHECK(prctl(PR_MCE_KILL_GET, 0, 0, 0, 0) == PR_MCE_KILL_LATE && prctl(PR_MCE_KILL, PR_MCE_KILL_CLEAR, 0, 0, 0) == 0);
	CHECK(prctl(PR_MCE_KILL_GET, 0, 0, 0, 0) == PR_MCE_KILL_DEFAULT);
	FAILS(prctl(PR_MCE_KILL, PR_MCE_KILL_SET, 3, 0, 0), EINVAL);
	FAILS(prctl(PR_MCE_KILL, PR_MCE_KILL_CLEAR, 1, 0, 0), EINVAL);
	FAILS(prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, 0, 4096, "a]b"), EINVAL);
	FAILS(prctl(PR_SET_VMA, 7, 0, 0, 0), EINVAL);

	/* Calls that do not exist. */
	FAILS(syscall(1000), ENOSYS);
	FAILS(syscall(-5L), ENOSYS);
	FAILS(syscall(600), ENOSYS);
	struct iovec iov = { buf, 10 };
	FAILS(readv(0, &iov, minus_one), EINVAL);
	FAILS(read(77, buf, 1), EBADF);
	FAILS(fcntl(1, 9999), EINVAL);
	return DONE();
}
