/* Local sockets: streams, packets, names, passed files and credentials, options, what poll says. */
#include "check.h"
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <linux/sockios.h>
#include <sys/ioctl.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>

static char dir[64];
static char buf[4096];

/* The address of a name in the test's directory, or of an abstract one. */
static socklen_t address(struct sockaddr_un *sun, const char *name)
{
	memset(sun, 0, sizeof *sun);
	sun->sun_family = AF_UNIX;
	if (name[0] == '@') {
		int len = snprintf(sun->sun_path + 1, sizeof sun->sun_path - 1, "%s-%s", dir, name + 1);
		return offsetof(struct sockaddr_un, sun_path) + 1 + len;
	}
	snprintf(sun->sun_path, sizeof sun->sun_path, "%s/%s", dir, name);
	return sizeof *sun;
}
static int bind_to(int fd, const char *name)
{
	struct sockaddr_un sun;
	socklen_t len = address(&sun, name);
	return bind(fd, (void *)&sun, len);
}
static int connect_to(int fd, const char *name)
{
	struct sockaddr_un sun;
	socklen_t len = address(&sun, name);
	return connect(fd, (void *)&sun, len);
}
static int send_to(int fd, const char *name, const char *text)
{
	struct sockaddr_un sun;
	socklen_t len = address(&sun, name);
	return sendto(fd, text, strlen(text), 0, (void *)&sun, len);
}
static short events(int fd, short wanted)
{
	struct pollfd pfd = {fd, wanted, 0};
	return poll(&pfd, 1, 0) == 1 ? pfd.revents : 0;
}
static int option(int fd, int name)
{
	int value = -1;
	socklen_t len = sizeof value;
	return getsockopt(fd, SOL_SOCKET, name, &value, &len) == 0 && len == sizeof value ? value : -errno;
}
static int set(int fd, int name, int value)
{
	return setsockopt(fd, SOL_SOCKET, name, &value, sizeof value);
}

#define ALL (POLLIN | POLLOUT | POLLRDHUP | POLLPRI)

static void streams(void)
{
	int s = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), c = socket(AF_UNIX, SOCK_STREAM, 0), a, n;
	struct sockaddr_un sun;
	socklen_t len;
	struct stat st;

	CHECK(s >= 0 && (fcntl(s, F_GETFD) & FD_CLOEXEC) && fstat(s, &st) == 0 && S_ISSOCK(st.st_mode));
	CHECK(events(s, ALL) == (POLLOUT | POLLHUP));
	FAILS(listen(s, 5), EINVAL);
	FAILS(accept(s, NULL, NULL), EINVAL);
	FAILS(read(s, buf, 1), EINVAL);
	FAILS(send(s, buf, 1, MSG_NOSIGNAL), ENOTCONN);
	FAILS(connect_to(c, "missing"), ENOENT);
	len = sizeof sun;
	CHECK(getsockname(s, (void *)&sun, &len) == 0 && len == 2 && sun.sun_family == AF_UNIX);
	FAILS(getpeername(s, (void *)&sun, &len), ENOTCONN);

	CHECK(bind_to(s, "stream") == 0);
	FAILS(bind_to(s, "other"), EINVAL);
	FAILS(bind_to(c, "stream"), EADDRINUSE);
	FAILS(connect_to(c, "stream"), ECONNREFUSED);
	len = address(&sun, "stream");
	CHECK(stat(sun.sun_path, &st) == 0 && S_ISSOCK(st.st_mode));
	FAILS(open(sun.sun_path, O_RDWR), ENXIO);
	len = sizeof sun;
	CHECK(getsockname(s, (void *)&sun, &len) == 0 && len == 2 + strlen(sun.sun_path) + 1);
	CHECK(option(s, SO_ACCEPTCONN) == 0 && listen(s, 1) == 0 && option(s, SO_ACCEPTCONN) == 1);
	CHECK(events(s, ALL) == 0);
	CHECK(option(s, SO_TYPE) == SOCK_STREAM && option(s, SO_DOMAIN) == AF_UNIX && option(s, SO_PROTOCOL) == 0);

	CHECK(connect_to(c, "stream") == 0);
	CHECK(events(s, ALL) == POLLIN && events(c, ALL) == POLLOUT);
	FAILS(connect_to(c, "stream"), EISCONN);
	CHECK(write(c, "early", 5) == 5);
	len = sizeof sun;
	CHECK((a = accept4(s, (void *)&sun, &len, SOCK_NONBLOCK)) >= 0 && len == 2 && (fcntl(a, F_GETFL) & O_NONBLOCK));
	CHECK(ioctl(a, FIONREAD, &n) == 0 && n == 5 && read(a, buf, sizeof buf) == 5 && !memcmp(buf, "early", 5));
	FAILS(read(a, buf, 1), EAGAIN);
	len = sizeof sun;
	CHECK(getpeername(c, (void *)&sun, &len) == 0 && strstr(sun.sun_path, "/stream"));
	FAILS(ioctl(s, FIONREAD, &n), EINVAL);
	FAILS(sendto(c, "x", 1, 0, (void *)&sun, len), EISCONN);
	fcntl(s, F_SETFL, O_NONBLOCK);
	FAILS(accept(s, NULL, NULL), EAGAIN);

	/* Both directions end one by one. */
	CHECK(shutdown(c, SHUT_WR) == 0 && read(a, buf, 1) == 0 && events(a, ALL) == (POLLIN | POLLOUT | POLLRDHUP));
	FAILS(send(c, "x", 1, MSG_NOSIGNAL), EPIPE);
	CHECK(write(a, "back", 4) == 4 && recv(c, buf, 2, MSG_PEEK) == 2 && recv(c, buf, 9, 0) == 4 && !memcmp(buf, "back", 4));
	CHECK(shutdown(a, SHUT_WR) == 0 && events(c, ALL) == (POLLIN | POLLOUT | POLLRDHUP | POLLHUP));
	CHECK(close(a) == 0 && read(c, buf, 1) == 0 && close(c) == 0);

	/* The backlog: one more than said. */
	int many[3];
	for (int i = 0; i < 3; i++)
		many[i] = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
	CHECK(connect_to(many[0], "stream") == 0 && connect_to(many[1], "stream") == 0);
	FAILS(connect_to(many[2], "stream"), EAGAIN);
	CHECK((a = accept(s, NULL, NULL)) >= 0 && connect_to(many[2], "stream") == 0);
	/* Closed with something unread, and never accepted: both are resets. */
	CHECK(write(many[0], "unread", 6) == 6 && close(a) == 0);
	CHECK(events(many[0], ALL) == (POLLIN | POLLOUT | POLLRDHUP | POLLHUP | POLLERR));
	FAILS(read(many[0], buf, 1), ECONNRESET);
	CHECK(read(many[0], buf, 1) == 0);
	CHECK(close(s) == 0 && option(many[1], SO_ERROR) == ECONNRESET && option(many[1], SO_ERROR) == 0);
	c = socket(AF_UNIX, SOCK_STREAM, 0);
	FAILS(connect_to(c, "stream"), ECONNREFUSED);
	for (int i = 0; i < 3; i++)
		close(many[i]);
	close(c);
}

static void packets(int type)
{
	int p[2];
	char small[3];
	struct iovec iov = {small, sizeof small};
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};

	CHECK(socketpair(AF_UNIX, type | SOCK_NONBLOCK, 0, p) == 0);
	CHECK(events(p[0], ALL) == POLLOUT);
	CHECK(send(p[0], "first", 5, 0) == 5 && send(p[0], "", 0, 0) == 0 && write(p[0], "third", 5) == 5);
	CHECK(events(p[1], ALL) == (POLLIN | POLLOUT));
	CHECK(recv(p[1], buf, 2, MSG_PEEK | MSG_TRUNC) == 5);
	CHECK(recvmsg(p[1], &msg, 0) == 3 && (msg.msg_flags & MSG_TRUNC) && !memcmp(small, "fir", 3));
	CHECK(recv(p[1], buf, 9, 0) == 0);
	CHECK(recv(p[1], buf, 9, 0) == 5);
	FAILS(recv(p[1], buf, 9, 0), EAGAIN);
	CHECK(option(p[0], SO_TYPE) == type);
	char *large = calloc(1, 1 << 20);
	FAILS(send(p[0], large, 1 << 20, 0), EMSGSIZE);
	free(large);
	CHECK(close(p[1]) == 0);
	FAILS(send(p[0], "x", 1, MSG_NOSIGNAL), type == SOCK_DGRAM ? ECONNREFUSED : EPIPE);
	CHECK(events(p[0], ALL) == (type == SOCK_DGRAM ? POLLOUT : POLLIN | POLLOUT | POLLRDHUP | POLLHUP));
	close(p[0]);
}

static void datagrams(void)
{
	int a = socket(AF_UNIX, SOCK_DGRAM, 0), b = socket(AF_UNIX, SOCK_DGRAM, 0), c = socket(AF_UNIX, SOCK_DGRAM, 0);
	struct sockaddr_un sun;
	socklen_t len = sizeof sun;

	CHECK(bind_to(a, "a") == 0 && bind_to(b, "@b") == 0);
	FAILS(bind_to(c, "@b"), EADDRINUSE);
	CHECK(send_to(a, "@b", "from a") == 6 && recvfrom(b, buf, 99, 0, (void *)&sun, &len) == 6);
	CHECK(len == 2 + strlen(sun.sun_path) + 1 && strstr(sun.sun_path, "/a"));
	len = sizeof sun;
	CHECK(send_to(c, "a", "from c") == 6 && recvfrom(a, buf, 99, 0, (void *)&sun, &len) == 6 && len == 0);
	FAILS(send(c, "x", 1, 0), ENOTCONN);
	CHECK(connect_to(a, "@b") == 0);
	FAILS(send_to(c, "a", "x"), EPERM);
	CHECK(send(a, "x", 1, 0) == 1 && recv(b, buf, 9, 0) == 1);
	sun.sun_family = AF_UNSPEC;
	CHECK(connect(a, (void *)&sun, 2) == 0);
	FAILS(send(a, "x", 1, 0), ENOTCONN);
	CHECK(send_to(c, "a", "now") == 3 && recv(a, buf, 9, 0) == 3);
	/* A name chosen by the system. */
	sun.sun_family = AF_UNIX;
	len = sizeof sun;
	CHECK(bind(c, (void *)&sun, 2) == 0 && getsockname(c, (void *)&sun, &len) == 0 && len == 8 && sun.sun_path[0] == 0);
	int s = socket(AF_UNIX, SOCK_STREAM, 0);
	FAILS(connect_to(s, "a"), EPROTOTYPE);
	FAILS(listen(a, 1), EOPNOTSUPP);
	FAILS(accept(a, NULL, NULL), EOPNOTSUPP);
	close(s), close(a), close(b), close(c);
}

/* Sends a byte with descriptors. */
static int send_fds(int to, int *fds, int count)
{
	char control[CMSG_SPACE(sizeof(int) * 300)] = {0};
	struct iovec iov = {"f", 1};
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control};
	msg.msg_controllen = CMSG_SPACE(sizeof(int) * count);
	struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(sizeof(int) * count);
	memcpy(CMSG_DATA(c), fds, sizeof(int) * count);
	return sendmsg(to, &msg, MSG_NOSIGNAL);
}
/* Receives with room for `room` descriptors; returns how many came. */
static int recv_fds(int from, int *fds, int room, int flags, int *msg_flags)
{
	char control[CMSG_SPACE(sizeof(int) * 300)];
	struct iovec iov = {buf, sizeof buf};
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control};
	msg.msg_controllen = room ? CMSG_LEN(sizeof(int) * room) : 0;
	if (recvmsg(from, &msg, flags) < 0)
		return -1;
	*msg_flags = msg.msg_flags;
	struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
	if (!c || c->cmsg_type != SCM_RIGHTS)
		return 0;
	int count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
	memcpy(fds, CMSG_DATA(c), count * sizeof(int));
	return count;
}

static void rights(int type)
{
	int p[2], pipe_fds[2], got[300], flags, n;

	CHECK(socketpair(AF_UNIX, type, 0, p) == 0 && pipe(pipe_fds) == 0);
	CHECK(send_fds(p[0], pipe_fds, 2) == 1 && close(pipe_fds[0]) == 0 && close(pipe_fds[1]) == 0);
	CHECK(recv_fds(p[1], got, 2, MSG_CMSG_CLOEXEC, &flags) == 2 && flags == MSG_CMSG_CLOEXEC);
	CHECK((fcntl(got[0], F_GETFD) & FD_CLOEXEC) && write(got[1], "pipe", 4) == 4 && read(got[0], buf, 9) == 4);
	/* Room for one of two: the other is closed. */
	CHECK(send_fds(p[0], got, 2) == 1 && close(got[1]) == 0);
	CHECK(recv_fds(p[1], &n, 1, 0, &flags) == 1 && (flags & MSG_CTRUNC) && close(n) == 0 && read(got[0], buf, 9) == 0);
	CHECK(send_fds(p[0], got, 1) == 1 && recv_fds(p[1], &n, 0, 0, &flags) == 0 && (flags & MSG_CTRUNC));
	/* Looked at, then taken: two descriptors. */
	CHECK(send_fds(p[0], got, 1) == 1 && recv_fds(p[1], &n, 1, MSG_PEEK, &flags) == 1 && close(n) == 0);
	CHECK(recv_fds(p[1], &n, 1, 0, &flags) == 1 && close(n) == 0);
	n = -1;
	FAILS(send_fds(p[0], &n, 1), EBADF);
	int many[254];
	for (int i = 0; i < 254; i++)
		many[i] = got[0];
	FAILS(send_fds(p[0], many, 254), EINVAL);
	CHECK(send_fds(p[0], many, 253) == 1 && recv_fds(p[1], got, 253, 0, &flags) == 253 && !(flags & MSG_CTRUNC));
	for (int i = 0; i < 253; i++)
		close(got[i]);
	close(many[0]);
	/* Sent and never received: closed with the socket. Sockets in their own queues are lost for ever. */
	CHECK(pipe(pipe_fds) == 0 && send_fds(p[0], pipe_fds + 1, 1) == 1 && close(pipe_fds[1]) == 0);
	CHECK(close(p[1]) == 0 && close(p[0]) == 0 && read(pipe_fds[0], buf, 1) == 0 && close(pipe_fds[0]) == 0);
	int lost = 0;
	for (int i = 0; i < 50; i++) {
		if (socketpair(AF_UNIX, type, 0, p) == 0 && send_fds(p[0], p, 2) == 1 && send_fds(p[1], p, 2) == 1)
			lost++;
		close(p[0]), close(p[1]);
	}
	CHECK(lost == 50);
}

static void credentials(void)
{
	int p[2], status;
	struct ucred peer, *cred = NULL;
	socklen_t len = sizeof peer;
	char control[CMSG_SPACE(sizeof(struct ucred))];
	struct iovec iov = {buf, 5};
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};

	CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, p) == 0);
	CHECK(getsockopt(p[0], SOL_SOCKET, SO_PEERCRED, &peer, &len) == 0 && peer.pid == getpid() && peer.uid == geteuid());
	CHECK(option(p[1], SO_PASSCRED) == 0 && set(p[1], SO_PASSCRED, 1) == 0 && option(p[1], SO_PASSCRED) == 1);
	pid_t child = fork();
	if (child == 0)
		_exit(write(p[0], "child", 5) == 5 ? 0 : 1);
	CHECK(waitpid(child, &status, 0) == child && status == 0);
	CHECK(write(p[0], "parent", 6) == 6);
	CHECK(recvmsg(p[1], &msg, 0) == 5 && msg.msg_flags == 0 && msg.msg_controllen == sizeof control);
	cred = (void *)CMSG_DATA(CMSG_FIRSTHDR(&msg));
	CHECK(CMSG_FIRSTHDR(&msg)->cmsg_type == SCM_CREDENTIALS && cred->pid == child && cred->uid == getuid());
	iov.iov_len = 99;
	msg.msg_controllen = sizeof control;
	CHECK(recvmsg(p[1], &msg, 0) == 6 && cred->pid == getpid());
	/* Different senders' bytes do not come together. */
	child = fork();
	if (child == 0)
		_exit(write(p[0], "one", 3) == 3 ? 0 : 1);
	CHECK(waitpid(child, &status, 0) == child && status == 0 && write(p[0], "two", 3) == 3);
	msg.msg_controllen = sizeof control;
	CHECK(recvmsg(p[1], &msg, 0) == 3 && cred->pid == child && read(p[1], buf, 9) == 3);
	msg.msg_control = NULL;
	msg.msg_controllen = 0;
	CHECK(write(p[0], "x", 1) == 1 && recvmsg(p[1], &msg, 0) == 1 && (msg.msg_flags & MSG_CTRUNC));
	close(p[0]), close(p[1]);
	int s = socket(AF_UNIX, SOCK_STREAM, 0);
	CHECK(getsockopt(s, SOL_SOCKET, SO_PEERCRED, &peer, &len) == 0 && peer.pid == 0 && peer.uid == (uid_t)-1);
	close(s);
}

static void *reader(void *fd)
{
	static char big[300000];
	long got = recv(*(int *)fd, big, sizeof big, MSG_WAITALL);
	return (void *)got;
}
static volatile int pipe_signals;
static void on_pipe(int signal)
{
	(void)signal;
	pipe_signals++;
}

static void transfer(void)
{
	int p[2], fd, pipe_fds[2], n;
	static char big[300000];
	pthread_t thread;
	void *result;
	struct sockaddr_un sun;

	CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, p) == 0);
	pthread_create(&thread, NULL, reader, &p[1]);
	CHECK(write(p[0], big, sizeof big) == sizeof big && pthread_join(thread, &result) == 0 && (long)result == sizeof big);
	/* Gathered, scattered, from a file, through a pipe. */
	struct iovec out[2] = {{"ab", 2}, {"cde", 3}}, in[2] = {{buf, 1}, {buf + 10, 9}};
	CHECK(writev(p[0], out, 2) == 5 && readv(p[1], in, 2) == 5 && buf[0] == 'a' && !memcmp(buf + 10, "bcde", 4));
	address(&sun, "file");
	CHECK((fd = open(sun.sun_path, O_RDWR | O_CREAT, 0600)) >= 0 && write(fd, "from a file", 11) == 11);
	off_t offset = 5;
	CHECK(sendfile(p[0], fd, &offset, 100) == 6 && offset == 11 && read(p[1], buf, 99) == 6 && !memcmp(buf, "a file", 6));
	CHECK(pipe(pipe_fds) == 0 && write(pipe_fds[1], "piped", 5) == 5);
	CHECK(splice(pipe_fds[0], NULL, p[0], NULL, 99, 0) == 5 && splice(p[1], NULL, pipe_fds[1], NULL, 99, 0) == 5);
	CHECK(read(pipe_fds[0], buf, 99) == 5 && !memcmp(buf, "piped", 5));
	close(fd), close(pipe_fds[0]), close(pipe_fds[1]);

	/* Many at once. */
	struct mmsghdr many[3] = {0};
	for (int i = 0; i < 3; i++) {
		many[i].msg_hdr.msg_iov = &out[i % 2];
		many[i].msg_hdr.msg_iovlen = 1;
	}
	int d[2];
	CHECK(socketpair(AF_UNIX, SOCK_DGRAM, 0, d) == 0 && sendmmsg(d[0], many, 3, 0) == 3 && many[1].msg_len == 3);
	struct iovec rooms[4] = {{buf, 9}, {buf + 10, 9}, {buf + 20, 9}, {buf + 30, 9}};
	struct mmsghdr back[4] = {0};
	for (int i = 0; i < 4; i++) {
		back[i].msg_hdr.msg_iov = &rooms[i];
		back[i].msg_hdr.msg_iovlen = 1;
	}
	CHECK(recvmmsg(d[1], back, 4, MSG_WAITFORONE, NULL) == 3 && back[0].msg_len == 2 && back[1].msg_len == 3);
	FAILS(recvmmsg(d[1], back, 4, MSG_DONTWAIT, NULL), EAGAIN);
	close(d[0]), close(d[1]);

	/* Limits, and what poll makes of them. */
	fcntl(p[0], F_SETFL, O_NONBLOCK);
	while (write(p[0], big, 1000) > 0)
		;
	CHECK(errno == EAGAIN && events(p[0], POLLOUT) == 0 && ioctl(p[0], TIOCOUTQ, &n) == 0 && n > 1000);
	fcntl(p[1], F_SETFL, O_NONBLOCK);
	while (read(p[1], big, sizeof big) > 0)
		;
	CHECK(errno == EAGAIN && events(p[0], POLLOUT) == POLLOUT && ioctl(p[0], TIOCOUTQ, &n) == 0 && n == 0);
	fcntl(p[1], F_SETFL, 0);
	struct timeval soon = {0, 20000}, bad = {0, 2000000};
	CHECK(setsockopt(p[1], SOL_SOCKET, SO_RCVTIMEO, &soon, sizeof soon) == 0);
	FAILS(read(p[1], buf, 1), EAGAIN);
	FAILS(setsockopt(p[1], SOL_SOCKET, SO_RCVTIMEO, &bad, sizeof bad), EDOM);

	/* A closed peer and the signal. */
	signal(SIGPIPE, on_pipe);
	close(p[1]);
	FAILS(send(p[0], "x", 1, MSG_NOSIGNAL), EPIPE);
	CHECK(pipe_signals == 0);
	FAILS(write(p[0], "x", 1), EPIPE);
	CHECK(pipe_signals == 1);
	FAILS(send(p[0], "x", 1, 0), EPIPE);
	CHECK(pipe_signals == 2);
	close(p[0]);
}

static void options(void)
{
	int s = socket(AF_UNIX, SOCK_STREAM, 0), p[2];
	char byte;
	socklen_t len = 1;

	CHECK(option(s, SO_SNDBUF) > 4096 && set(s, SO_SNDBUF, 10000) == 0 && option(s, SO_SNDBUF) == 20000);
	CHECK(set(s, SO_RCVBUF, 1) == 0 && option(s, SO_RCVBUF) == 2304 && set(s, SO_SNDBUF, 1) == 0 && option(s, SO_SNDBUF) == 4608);
	CHECK(set(s, SO_REUSEADDR, 1) == 0 && option(s, SO_REUSEADDR) == 1 && option(s, SO_KEEPALIVE) == 0);
	FAILS(set(s, SO_TYPE, 1), ENOPROTOOPT);
	FAILS(setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &byte, 1), EINVAL);
	FAILS(setsockopt(s, 6, 1, &len, sizeof len), EOPNOTSUPP);
	FAILS(getsockopt(s, 6, 1, &byte, &len), EOPNOTSUPP);
	CHECK(getsockopt(s, SOL_SOCKET, SO_TYPE, &byte, &len) == 0 && len == 1 && byte == SOCK_STREAM);
	FAILS(getsockopt(0, SOL_SOCKET, SO_TYPE, &byte, &len), ENOTSOCK);
	FAILS(getsockopt(-1, SOL_SOCKET, SO_TYPE, &byte, &len), EBADF);
	FAILS(shutdown(s, 3), EINVAL);
	FAILS(socket(AF_UNIX, 7, 0), ESOCKTNOSUPPORT);
	FAILS(socket(AF_UNIX, SOCK_STREAM, 7), EPROTONOSUPPORT);
	FAILS(socket(99, SOCK_STREAM, 0), EAFNOSUPPORT);
	FAILS(socket(AF_UNIX, SOCK_STREAM | 0x100, 0), EINVAL);
	CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, p) == 0 && set(p[1], SO_PEEK_OFF, 0) == 0 && write(p[0], "abcdef", 6) == 6);
	CHECK(recv(p[1], buf, 2, MSG_PEEK) == 2 && recv(p[1], buf, 2, MSG_PEEK) == 2 && buf[0] == 'c');
	CHECK(recv(p[1], buf, 1, 0) == 1 && buf[0] == 'a' && recv(p[1], buf, 9, MSG_PEEK) == 2 && buf[0] == 'e');
	FAILS(send(p[0], (void *)8, 5, 0), EFAULT);
	FAILS(recv(p[1], (void *)8, 5, 0), EFAULT);
	CHECK(recv(p[1], buf, 9, 0) == 5 && buf[0] == 'b');
	FAILS(lseek(p[0], 0, SEEK_SET), ESPIPE);
	close(s), close(p[0]), close(p[1]);
}

/* Urgent bytes, where the system has been built with them. */
static void urgent(void)
{
	int s[2], mark = -1;
	char byte = 0;
	CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, s) == 0);
	ssize_t sent = send(s[0], "hello", 5, MSG_OOB);
	int without = sent == -1 && errno == EOPNOTSUPP;
	struct pollfd poller = { s[1], POLLIN | POLLPRI, 0 };
	CHECK(without || (sent == 5 && poll(&poller, 1, 0) == 1 && poller.revents == (POLLIN | POLLPRI)));
	CHECK(without || (recv(s[1], &byte, 1, MSG_OOB) == 1 && byte == 'o'));
	CHECK(without || (recv(s[1], &byte, 1, MSG_OOB) == -1 && errno == EINVAL));
	CHECK(without || (recv(s[1], buf, sizeof buf, 0) == 4 && memcmp(buf, "hell", 4) == 0));
	CHECK(without || (send(s[0], "!", 1, MSG_OOB) == 1 && send(s[0], "after", 5, 0) == 5));
	CHECK(without || (ioctl(s[1], SIOCATMARK, &mark) == 0 && mark == 1));
	CHECK(without || (recv(s[1], buf, sizeof buf, 0) == 5 && memcmp(buf, "after", 5) == 0));
	/* Whoever owns the socket hears of it; nobody but for urgent bytes. */
	sigset_t urg;
	siginfo_t info = {0};
	struct timespec none = {0, 0};
	sigemptyset(&urg);
	sigaddset(&urg, SIGURG);
	sigprocmask(SIG_BLOCK, &urg, NULL);
	CHECK(without || (send(s[0], "!", 1, MSG_OOB) == 1 && sigtimedwait(&urg, &info, &none) == -1 && errno == EAGAIN));
	CHECK(fcntl(s[1], F_SETOWN, getpid()) == 0 && send(s[0], "x", 1, 0) == 1 && sigtimedwait(&urg, &info, &none) == -1);
	CHECK(without || (send(s[0], "!", 1, MSG_OOB) == 1 && sigtimedwait(&urg, &info, &none) == SIGURG && info.si_code == SI_KERNEL));
	CHECK(without || (fcntl(s[1], F_SETOWN, -getpgrp()) == 0 && send(s[0], "!", 1, MSG_OOB) == 1 && sigtimedwait(&urg, &info, &none) == SIGURG));
	CHECK(without || (fcntl(s[1], F_SETOWN, 0) == 0 && send(s[0], "!", 1, MSG_OOB) == 1 && sigtimedwait(&urg, &info, &none) == -1));
	sigprocmask(SIG_UNBLOCK, &urg, NULL);
	close(s[0]);
	close(s[1]);
}

static int listed(const char *name, const char *how)
{
	char line[300];
	int found = 0;
	struct sockaddr_un sun;
	address(&sun, name);
	if (name[0] == '@')
		sun.sun_path[0] = '@';
	FILE *file = fopen("/proc/net/unix", "r");
	while (file && fgets(line, sizeof line, file)) {
		line[strcspn(line, "\n")] = 0;
		char *path = strchr(line, '/') ? strrchr(line, ' ') + 1 : line;
		found += strcmp(path, sun.sun_path) == 0 && strstr(line, how);
	}
	if (file)
		fclose(file);
	return found;
}

static void table(void)
{
	int file = socket(AF_UNIX, SOCK_STREAM, 0), abstract = socket(AF_UNIX, SOCK_DGRAM, 0);
	struct sockaddr_un sun;
	CHECK(bind_to(file, "listed") == 0 && listen(file, 3) == 0 && bind_to(abstract, "@listed") == 0);
	CHECK(listed("listed", " 00010000 0001 01 ") == 1);
	CHECK(listed("@listed", " 00000000 0002 01 ") == 1);
	close(file);
	close(abstract);
	CHECK(listed("listed", "") == 0);
	address(&sun, "listed");
	CHECK(unlink(sun.sun_path) == 0);
}

int main(void)
{
	struct sockaddr_un sun;
	snprintf(dir, sizeof dir, "/tmp/unix-sockets-XXXXXX");
	if (!mkdtemp(dir))
		return 1;
	streams();
	packets(SOCK_DGRAM);
	packets(SOCK_SEQPACKET);
	datagrams();
	rights(SOCK_STREAM);
	rights(SOCK_DGRAM);
	rights(SOCK_SEQPACKET);
	credentials();
	transfer();
	options();
	urgent();
	table();
	for (int i = 0; i < 4; i++) {
		address(&sun, (const char *[]){"stream", "a", "file", "."}[i]);
		if (i < 3)
			CHECK(unlink(sun.sun_path) == 0);
		else
			CHECK(rmdir(dir) == 0);
	}
	return DONE();
}
