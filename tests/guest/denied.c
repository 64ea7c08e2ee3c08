/* Calls that are not for programs in oxv answer as on a Linux where they are turned off or not permitted. Only for oxv: elsewhere they
 * may be permitted. */
#include "check.h"
#include <fcntl.h>
#include <sched.h>
#include <sys/syscall.h>

#define CALL(...) syscall(__VA_ARGS__, 0L, 0L, 0L, 0L)

int main(void)
{
	int fd = open("/dev/null", O_RDWR);
	FAILS(CALL(SYS_seccomp, 2L, 0L), ENOSYS);
	FAILS(CALL(SYS_keyctl, 0L), ENOSYS);
	FAILS(CALL(SYS_landlock_create_ruleset, 0L, 0L, 1L), EOPNOTSUPP);
	FAILS(CALL(SYS_bpf, 0L, 0L, 0L), EPERM);
	FAILS(CALL(SYS_perf_event_open, 0L, 0L, -1L), EACCES);
	FAILS(CALL(SYS_userfaultfd, 0L), EPERM);
	FAILS(CALL(SYS_io_uring_setup, 8L, 0L), EPERM);
	FAILS(CALL(SYS_io_uring_enter, -1L), EBADF);
	FAILS(CALL(SYS_io_uring_enter, (long)fd), EOPNOTSUPP);
	FAILS(CALL(SYS_ptrace, 0L), EPERM);
	FAILS(CALL(SYS_ptrace, 16L, 1L), EPERM);
	FAILS(CALL(SYS_ptrace, 16L, 4000000L), ESRCH);
	FAILS(CALL(SYS_reboot, 1L, 2L), EINVAL);
	FAILS(CALL(SYS_reboot, 0xfee1deadL, 672274793L), EPERM);
	FAILS(CALL(SYS_init_module, 0L), EPERM);
	FAILS(CALL(SYS_unshare, (long)CLONE_NEWNS), EPERM);
	FAILS(CALL(SYS_unshare, 1L), EINVAL);
	CHECK(CALL(SYS_unshare, (long)CLONE_FILES) == 0);
	FAILS(CALL(SYS_setns, -1L), EBADF);
	FAILS(CALL(SYS_setns, (long)fd), EPERM);
	CHECK(CALL(SYS_ioprio_get, 1L, 0L) == 0);
	FAILS(CALL(SYS_ioprio_get, 9L, 0L), EINVAL);
	FAILS(CALL(SYS_ioprio_set, 1L, 0L, 5L << 13), EINVAL);
	/* Neither a number of Linux's nor one that a kernel will ever have. */
	FAILS(CALL(511L), ENOSYS);
	FAILS(CALL(512L), ENOSYS);
	FAILS(CALL(0x40000001L), ENOSYS);
	FAILS(CALL(-1L), ENOSYS);
	return DONE();
}
