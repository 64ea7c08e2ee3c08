/* The kernel log: /dev/kmsg, syslog(2). */
#include "check.h"
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sys/klog.h>
#include <sys/wait.h>

enum { READ = 2, READ_ALL, READ_CLEAR, CLEAR, CONSOLE_OFF, CONSOLE_ON, CONSOLE_LEVEL, SIZE_UNREAD, SIZE_BUFFER };

static char text[1 << 18];

/* Reads records until one has `part`; its priority, or -1 at the end of the log. */
static int find(int fd, const char *part)
{
	char record[8192];
	ssize_t n;
	while ((n = read(fd, record, sizeof record - 1)) > 0) {
		record[n] = 0;
		if (strstr(record, part))
			return atoi(record);
	}
	return -1;
}

/* Writes a line and waits until it is in the log: a thread of the kernel's own brings it there. */
static void put(const char *line, const char *part)
{
	int fd = open("/dev/kmsg", O_RDWR);
	CHECK(fd >= 0 && lseek(fd, 0, SEEK_END) == 0 && write(fd, line, strlen(line)) == (ssize_t)strlen(line));
	CHECK(find(fd, part) >= 0 && close(fd) == 0);
}

static void *reads(void *arg)
{
	return (void *)(long)find(*(int *)arg, "woken");
}

static void devices(void)
{
	char small[4];
	int fd = open("/dev/kmsg", O_RDWR | O_NONBLOCK);
	struct pollfd poller = { .fd = fd, .events = POLLIN };
	CHECK(fd >= 0 && find(fd, "kernel::boot: ") == 6);
	put("first", "first");
	CHECK(poll(&poller, 1, 1000) == 1 && find(fd, "first") == 12);
	put("<3>second\\\t", "second");
	CHECK(find(fd, ",-;second\\x5c\\x09\n") == 11);
	put("<29>third", "third");
	CHECK(find(fd, "third") == 29);
	while (find(fd, "no such line") != -1)
		;
	FAILS(read(fd, text, sizeof text), EAGAIN);
	CHECK(poll(&poller, 1, 0) == 0);
	CHECK(lseek(fd, 0, SEEK_SET) == 0 && find(fd, "first") == 12);
	CHECK(lseek(fd, 0, SEEK_END) == 0 && find(fd, "first") == -1);
	FAILS(lseek(fd, 1, SEEK_SET), ESPIPE);
	FAILS(lseek(fd, 0, SEEK_CUR), EINVAL);
	CHECK(lseek(fd, 0, SEEK_SET) == 0);
	FAILS(read(fd, small, sizeof small), EINVAL);
	FAILS(write(fd, text, 4096), EINVAL);
	FAILS(write(fd, (void *)1, 8), EFAULT);
	/* A reader waits for what comes. */
	int waiting = open("/dev/kmsg", O_RDONLY);
	CHECK(lseek(waiting, 0, SEEK_END) == 0);
	pthread_t thread;
	void *priority;
	pthread_create(&thread, NULL, reads, &waiting);
	put("<5>woken", "woken");
	CHECK(pthread_join(thread, &priority) == 0 && (long)priority == 13);
	/* Who is left behind is told so, once. */
	CHECK(lseek(fd, 0, SEEK_SET) == 0);
	char line[1000];
	memset(line, 'x', sizeof line);
	for (int i = 0; i < 400; i++)
		while (write(fd, line, sizeof line) != sizeof line)
			;
	put("filled", "filled");
	FAILS(read(fd, text, sizeof text), EPIPE);
	CHECK(find(fd, "filled") == 12);
	close(fd);
	close(waiting);
}

static void calls(void)
{
	put("<6>by call", "by call");
	CHECK(klogctl(SIZE_BUFFER, NULL, 0) >= 1 << 16);
	CHECK(klogctl(READ_ALL, text, sizeof text) > 0 && strstr(text, "] by call\n") && text[0] == '<');
	CHECK(klogctl(READ_ALL, text, 10) == 0);
	FAILS(klogctl(READ_ALL, NULL, 10), EINVAL);
	FAILS(klogctl(READ_ALL, text, -1), EINVAL);
	FAILS(klogctl(READ_ALL, (char *)1, 1 << 17), EFAULT);
	FAILS(klogctl(11, NULL, 0), EINVAL);
	CHECK(klogctl(READ_CLEAR, text, sizeof text) > 0);
	memset(text, 0, sizeof text);
	put("<6>after", "after");
	klogctl(READ_ALL, text, sizeof text);
	CHECK(strstr(text, "after") && !strstr(text, "by call"));
	CHECK(klogctl(CLEAR, NULL, 0) == 0 && klogctl(READ_ALL, text, sizeof text) == 0);
	/* One place for all. */
	CHECK(klogctl(SIZE_UNREAD, NULL, 0) > 0);
	while (klogctl(SIZE_UNREAD, NULL, 0) > 0)
		klogctl(READ, text, sizeof text);
	put("<6>unread", "unread");
	int unread = klogctl(SIZE_UNREAD, NULL, 0);
	memset(text, 0, sizeof text);
	CHECK(klogctl(READ, text, 5) == 5 && klogctl(SIZE_UNREAD, NULL, 0) == unread - 5);
	CHECK(klogctl(READ, text + 5, sizeof text - 5) == unread - 5 && strstr(text, "] unread\n"));
	CHECK(klogctl(CONSOLE_OFF, NULL, 0) == 0 && klogctl(CONSOLE_ON, NULL, 0) == 0);
	CHECK(klogctl(CONSOLE_LEVEL, NULL, 4) == 0);
	FAILS(klogctl(CONSOLE_LEVEL, NULL, 9), EINVAL);
	/* Others may read, and no more. */
	int status;
	pid_t child = fork();
	if (child == 0) {
		if (setuid(1000))
			_exit(1);
		if (klogctl(READ_ALL, text, sizeof text) < 0 || klogctl(SIZE_BUFFER, NULL, 0) < 0)
			_exit(2);
		if (klogctl(CLEAR, NULL, 0) != -1 || errno != EPERM || open("/dev/kmsg", O_WRONLY) != -1)
			_exit(3);
		_exit(open("/dev/kmsg", O_RDONLY) < 0);
	}
	CHECK(waitpid(child, &status, 0) == child && status == 0);
}

int main(void)
{
	devices();
	calls();
	return DONE();
}
