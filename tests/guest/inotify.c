/* inotify: what is told of files and directories, in which order; limits and errors. F_NOTIFY: the same of directories, by signals. */
#include "check.h"
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#define DIR_ "/tmp/inotify-test"

static int fd;
static void *volatile bad = (void *)1;

static const struct {
	unsigned bit;
	const char *name;
} NAMES[] = {
	{ IN_ACCESS, "ACCESS" }, { IN_MODIFY, "MODIFY" }, { IN_ATTRIB, "ATTRIB" }, { IN_CLOSE_WRITE, "CLOSE_WRITE" },
	{ IN_CLOSE_NOWRITE, "CLOSE_NOWRITE" }, { IN_OPEN, "OPEN" }, { IN_MOVED_FROM, "MOVED_FROM" }, { IN_MOVED_TO, "MOVED_TO" },
	{ IN_CREATE, "CREATE" }, { IN_DELETE, "DELETE" }, { IN_DELETE_SELF, "DELETE_SELF" }, { IN_MOVE_SELF, "MOVE_SELF" },
	{ IN_Q_OVERFLOW, "Q_OVERFLOW" }, { IN_IGNORED, "IGNORED" }, { IN_ISDIR, "ISDIR" },
};

/* Prints all events that wait. Cookies are printed as the number of the pair. */
static void events(const char *what)
{
	_Alignas(struct inotify_event) char buffer[8192];
	unsigned cookies[16], pairs = 0;
	printf("-- %s\n", what);
	for (;;) {
		long n = read(fd, buffer, sizeof buffer);
		if (n <= 0)
			break;
		for (char *at = buffer; at < buffer + n;) {
			struct inotify_event *event = (void *)at;
			printf("%d", event->wd);
			for (unsigned i = 0; i < sizeof NAMES / sizeof *NAMES; i++)
				if (event->mask & NAMES[i].bit)
					printf(" %s", NAMES[i].name);
			if (event->cookie) {
				unsigned pair = 0;
				while (pair < pairs && cookies[pair] != event->cookie)
					pair++;
				if (pair == pairs)
					cookies[pairs++] = event->cookie;
				printf(" pair %u", pair);
			}
			if (event->len)
				printf(" '%s' %u", event->name, event->len);
			printf("\n");
			at += sizeof *event + event->len;
		}
	}
	fflush(stdout);
}

static void write_file(const char *path, const char *text)
{
	int file = open(path, O_WRONLY | O_CREAT, 0644);
	CHECK(file >= 0 && write(file, text, strlen(text)) == (long)strlen(text) && close(file) == 0);
}

static volatile sig_atomic_t told, told_code, told_fd, told_band;

static void on_signal(int number, siginfo_t *info, void *context)
{
	(void)number;
	(void)context;
	told++;
	told_code = info->si_code;
	told_fd = info->si_fd;
	told_band = info->si_band;
}

/* How often a signal came since the last time. */
static int times(void)
{
	int count = told;
	told = 0;
	return count;
}

static void by_signals(void)
{
	struct sigaction action = { .sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_RESTART };
	int dir = -1, file, copy;
	char byte;
	CHECK(sigaction(SIGIO, &action, NULL) == 0 && sigaction(SIGRTMIN, &action, NULL) == 0);
	CHECK(mkdir(DIR_, 0755) == 0 && chdir(DIR_) == 0 && mkdir("sub", 0755) == 0);
	write_file("f", "text");
	CHECK((file = open("f", O_RDWR)) >= 0 && (dir = open(".", O_PATH)) >= 0);
	FAILS(fcntl(file, F_NOTIFY, DN_MODIFY), ENOTDIR);
	FAILS(fcntl(dir, F_NOTIFY, DN_MODIFY), EBADF);
	CHECK(fcntl(file, F_NOTIFY, 0) == 0 && close(dir) == 0 && (dir = open(".", O_RDONLY | O_DIRECTORY)) >= 0);

	CHECK(fcntl(dir, F_NOTIFY, DN_CREATE) == 0 && fcntl(dir, F_GETOWN) == getpid() && times() == 0);
	write_file("a", "");
	CHECK(times() == 1 && told_code == SI_KERNEL);
	write_file("b", "");
	CHECK(times() == 0);

	CHECK(fcntl(dir, F_SETSIG, SIGRTMIN) == 0);
	CHECK(fcntl(dir, F_NOTIFY, DN_CREATE | DN_DELETE | DN_MULTISHOT) == 0 && fcntl(dir, F_NOTIFY, DN_MODIFY | DN_ATTRIB | DN_ACCESS | DN_MULTISHOT) == 0);
	write_file("c", "x");
	CHECK(times() == 2 && told_code == POLL_MSG && told_fd == dir && told_band == (POLLIN | POLLRDNORM | 0x400));
	CHECK(chmod("c", 0600) == 0 && times() == 1);
	CHECK(read(file, &byte, 1) == 1 && times() == 1);
	CHECK(ftruncate(file, 1) == 0 && times() == 1);
	CHECK(unlink("c") == 0 && times() == 1);
	CHECK(rename("a", "c") == 0 && times() == 2);
	CHECK(rename("c", "sub/c") == 0 && times() == 1);
	CHECK(unlink("sub/c") == 0 && times() == 0);

	CHECK(fcntl(dir, F_NOTIFY, 0) == 0 && unlink("b") == 0 && times() == 0);
	CHECK(fcntl(dir, F_NOTIFY, DN_RENAME | DN_MULTISHOT) == 0);
	write_file("a", "");
	CHECK(times() == 0 && rename("a", "b") == 0 && times() == 1 && rename("b", "sub/b") == 0 && times() == 0);
	/* Closing any descriptor of it ends it. */
	CHECK(rename("f", "g") == 0 && times() == 1 && (copy = dup(dir)) >= 0 && close(copy) == 0 && rename("g", "f") == 0 && times() == 0);
	CHECK(fcntl(dir, F_NOTIFY, DN_DELETE | DN_MULTISHOT) == 0 && unlink("sub/b") == 0 && times() == 0 && unlink("f") == 0 && times() == 1);
	CHECK(close(dir) == 0 && close(file) == 0 && rmdir("sub") == 0 && chdir("/") == 0 && rmdir(DIR_) == 0 && times() == 0);
}

int main(void)
{
	char buf[4096];
	int wd, dir, file, pending;

	FAILS(inotify_init1(1), EINVAL);
	CHECK((fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC)) >= 0);
	CHECK(fcntl(fd, F_GETFD) == FD_CLOEXEC && (fcntl(fd, F_GETFL) & O_NONBLOCK));
	CHECK(mkdir(DIR_, 0755) == 0 && chdir(DIR_) == 0 && mkdir("sub", 0755) == 0 && mkdir("other", 0755) == 0);
	FAILS(read(fd, buf, sizeof buf), EAGAIN);
	FAILS(inotify_add_watch(fd, "none", IN_ALL_EVENTS), ENOENT);
	FAILS(inotify_add_watch(fd, ".", 0), EINVAL);
	FAILS(inotify_add_watch(0, ".", IN_OPEN), EINVAL);
	FAILS(inotify_add_watch(99, ".", IN_OPEN), EBADF);
	FAILS(inotify_add_watch(fd, bad, IN_OPEN), EFAULT);
	FAILS(inotify_rm_watch(fd, 77), EINVAL);
	FAILS(write(fd, buf, 1), EBADF);

	CHECK((dir = inotify_add_watch(fd, ".", IN_ALL_EVENTS)) == 1);
	write_file("a", "text");
	events("make and write");
	CHECK((file = open("a", O_RDWR)) >= 0 && read(file, buf, 2) == 2 && pwrite(file, "x", 1, 0) == 1 && ftruncate(file, 1) == 0);
	CHECK(fchmod(file, 0600) == 0 && futimens(file, NULL) == 0 && close(file) == 0);
	events("an open file");
	CHECK((file = open("a", O_WRONLY | O_TRUNC)) >= 0 && close(file) == 0 && truncate("a", 9) == 0);
	events("truncate");
	CHECK(mkdir("d", 0755) == 0 && rmdir("d") == 0 && symlink("a", "s") == 0 && mkfifo("p", 0600) == 0 && link("a", "l") == 0);
	events("other kinds");
	CHECK(rename("l", "m") == 0 && rename("m", "sub/m") == 0 && rename("sub/m", "n") == 0);
	events("renames");

	CHECK((wd = inotify_add_watch(fd, "a", IN_ALL_EVENTS)) == 2);
	CHECK(inotify_add_watch(fd, "a", IN_ALL_EVENTS) == 2);
	FAILS(inotify_add_watch(fd, "a", IN_OPEN | IN_MASK_CREATE), EEXIST);
	FAILS(inotify_add_watch(fd, "a", IN_OPEN | IN_MASK_CREATE | IN_MASK_ADD), EINVAL);
	FAILS(inotify_add_watch(fd, "a", IN_OPEN | IN_ONLYDIR), ENOTDIR);
	CHECK(chmod("a", 0644) == 0);
	events("file and directory");
	CHECK(rename("n", "a") == 0);
	events("two names of one file");
	write_file("b", "b");
	CHECK(rename("b", "a") == 0);
	CHECK(unlink("n") == 0);
	events("a watched file is replaced, then its other name goes");
	CHECK((file = open("a", O_RDONLY)) >= 0 && (wd = inotify_add_watch(fd, "a", IN_ALL_EVENTS)) == 3 && unlink("a") == 0);
	events("unlinked while open");
	CHECK(read(file, buf, 1) == 1 && close(file) == 0);
	events("its end");
	FAILS(inotify_rm_watch(fd, wd), EINVAL);

	CHECK((wd = inotify_add_watch(fd, "sub", IN_ALL_EVENTS)) == 4);
	CHECK(rename("sub", "other/sub") == 0);
	events("a watched directory moves");
	CHECK(rmdir("other/sub") == 0);
	events("and goes");
	CHECK((wd = inotify_add_watch(fd, "s", IN_ATTRIB | IN_DELETE_SELF | IN_DONT_FOLLOW)) == 5 && unlink("s") == 0);
	events("a symbolic link");

	CHECK(inotify_add_watch(fd, ".", IN_CREATE) == dir && inotify_add_watch(fd, ".", IN_DELETE | IN_MASK_ADD) == dir);
	write_file("c", "");
	CHECK(unlink("c") == 0);
	events("masks");
	CHECK(inotify_add_watch(fd, ".", IN_CREATE | IN_ONESHOT) == dir);
	write_file("c", "");
	write_file("e", "");
	events("one shot");

	CHECK((dir = inotify_add_watch(fd, ".", IN_CREATE | IN_MODIFY)) == 6);
	write_file("long-name-of-a-file-that-needs-more", "");
	CHECK((file = open("c", O_WRONLY)) >= 0 && write(file, "1", 1) == 1 && write(file, "2", 1) == 1 && close(file) == 0);
	CHECK(ioctl(fd, FIONREAD, &pending) == 0 && pending == 64 + 32);
	struct pollfd ready = { fd, POLLIN, 0 };
	CHECK(poll(&ready, 1, 0) == 1 && ready.revents == POLLIN);
	FAILS(read(fd, buf, 63), EINVAL);
	FAILS(read(fd, bad, 64), EFAULT);
	events("merged");
	CHECK(poll(&ready, 1, 0) == 0);
	CHECK(inotify_rm_watch(fd, dir) == 0);
	events("removed");
	CHECK(inotify_add_watch(fd, ".", IN_OPEN | IN_CLOSE | IN_EXCL_UNLINK) == 7 && (file = open("c", O_RDONLY)) >= 0 && unlink("c") == 0);
	CHECK(close(file) == 0);
	events("not of unlinked children");
	CHECK(close(fd) == 0);

	CHECK((fd = inotify_init()) >= 0 && inotify_add_watch(fd, ".", IN_CREATE | IN_ISDIR) == 1 && mkdir("d", 0755) == 0);
	CHECK(read(fd, buf, sizeof buf) == 32);
	CHECK(close(fd) == 0 && unlink("e") == 0 && unlink("p") == 0 && unlink("long-name-of-a-file-that-needs-more") == 0);
	CHECK(rmdir("d") == 0 && rmdir("other") == 0 && chdir("/") == 0 && rmdir(DIR_) == 0);
	by_signals();
	return DONE();
}
