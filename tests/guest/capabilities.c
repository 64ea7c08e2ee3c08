/* Capability sets as data: given up, not taken back, lost with the user id, inherited by children. */
#include "check.h"
#include <grp.h>
#include <linux/capability.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

struct sets {
	struct __user_cap_data_struct words[2];
};

static int get(struct sets *sets)
{
	struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
	return syscall(SYS_capget, &header, sets);
}

static int set(const struct sets *sets)
{
	struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
	return syscall(SYS_capset, &header, sets);
}

static int is_empty(void)
{
	struct sets sets = {{{1, 1, 1}, {1, 1, 1}}};
	return get(&sets) == 0 && !(sets.words[0].effective | sets.words[0].permitted | sets.words[1].effective | sets.words[1].permitted);
}

/* As the kernel shows them. */
static unsigned long shown(const char *name)
{
	FILE *file = fopen("/proc/self/status", "r");
	char line[256];
	unsigned long value = -1;
	while (file && fgets(line, sizeof line, file))
		if (strncmp(line, name, strlen(name)) == 0)
			value = strtoul(line + strlen(name) + 1, NULL, 16);
	if (file)
		fclose(file);
	return value;
}

static int child_does(int (*what)(void))
{
	int status;
	pid_t child = fork();
	if (child == 0)
		_exit(what() ? 7 : 1);
	return waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 7;
}

static int loses_them_with_the_user(void)
{
	return setresuid(1000, 1000, 1000) == 0 && is_empty() && shown("CapEff:") == 0;
}

static int keeps_permitted_ones(void)
{
	struct sets before, after;
	return get(&before) == 0 && seteuid(1000) == 0 && get(&after) == 0 && after.words[0].effective == 0 &&
	       after.words[0].permitted == before.words[0].permitted && seteuid(0) == 0 && get(&after) == 0 &&
	       after.words[0].effective == before.words[0].permitted;
}

/* As setpriv does it. */
static int changes_groups_by_capability(void)
{
	struct sets sets;
	if (prctl(PR_SET_KEEPCAPS, 1) || setresuid(1000, 1000, 1000) || setgroups(0, NULL) != -1 || errno != EPERM || get(&sets))
		return 0;
	for (int i = 0; i < 2; i++)
		sets.words[i].effective = sets.words[i].permitted;
	return set(&sets) == 0 && setgroups(0, NULL) == 0 && setresgid(2000, 2000, 2000) == 0 && setresuid(2000, 2000, 2000) == 0;
}

static int root_without_setuid_stays(void)
{
	struct sets sets;
	if (get(&sets))
		return 0;
	sets.words[0].effective &= ~(1u << CAP_SETUID);
	return set(&sets) == 0 && setuid(1000) == -1 && errno == EPERM && setuid(0) == 0 && setgroups(0, NULL) == 0;
}

int main(void)
{
	struct sets sets, none = {0};
	struct __user_cap_header_struct odd = {0x12345678, 0}, absent = {_LINUX_CAPABILITY_VERSION_3, 4000000};
	FAILS(syscall(SYS_capget, &odd, &sets), EINVAL);
	CHECK(odd.version == _LINUX_CAPABILITY_VERSION_3);
	odd.version = 1;
	CHECK(syscall(SYS_capget, &odd, NULL) == 0 && odd.version == _LINUX_CAPABILITY_VERSION_3);
	FAILS(syscall(SYS_capget, &absent, &sets), ESRCH);
	FAILS(syscall(SYS_capget, NULL, &sets), EFAULT);
	CHECK(get(&sets) == 0);
	CHECK((sets.words[0].effective & ~sets.words[0].permitted) == 0);
	CHECK(shown("CapPrm:") == (sets.words[0].permitted | (unsigned long)sets.words[1].permitted << 32));
	CHECK(set(&sets) == 0);
	CHECK(child_does(loses_them_with_the_user));
	CHECK(child_does(keeps_permitted_ones));
	CHECK(child_does(changes_groups_by_capability));
	CHECK(child_does(root_without_setuid_stays));
	sets.words[0].effective = 0;
	CHECK(set(&sets) == 0 && shown("CapEff:") == (unsigned long)sets.words[1].effective << 32);
	CHECK(set(&none) == 0);
	CHECK(is_empty());
	CHECK(child_does(is_empty));
	FAILS(set(&sets), EPERM);
	return DONE();
}
